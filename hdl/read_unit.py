"""Read unit: loads the line drivers and performs reads of a tile.

``words = max(1, ceil(count / vector_width))``. Commands (``LinesCommand``, ``LinesOp``):

DRIVE   defines all lines: line first + e (e < count; first a multiple of vector_width) = element e of the vector words from
        ``address`` on: magnitude min(|v| >> shift, line_max), polarity = sign; all others 0. ``scaled``: the shift is less E[e],
        limited to 0 to 31. ``dither``: bits of the shift register below those left are added to |v| before the shift.
        ``trains``: the train drivers instead of the lines; then what the shift exceeds line_bits by, at most ``fine``, is taken
        off it and becomes ``step_shift``, which holds to the next such DRIVE.
POINT   all lines 0 but ``first``, which gets code ``steps`` (positive, at most line_max).
READ    a window of ``steps`` (1 to line_max) PWM steps, then ``convert`` for one cycle, then the codes of outputs
        first .. first + count - 1 (any first, count 1 to n_lines), word by word, sign-extended into the vector words from
        ``address`` on if ``store``. ``tile, transpose, half, range, out_first, out_count`` hold from the accept of a READ to the
        next.
FIRE    a train: a window of ``slots`` slots of row and train drivers at once; the tile sees ``fire``.
TRIM    a window of ``steps`` steps in which the lines program the cells of ``trim_line``; the tile sees ``trim``. After RESET
        reset_gap_cycles of silence.
SEED    sets the shift register of random trains.

FIRE and TRIM, and the parts of DRIVE that serve them, are there in builds with ``capacitor`` only.

The line drivers stand beside this unit (``hdl.line_driver``), so that they can have their own clock.

A window is decided only while ``program_busy`` is 0; a READ that finds it 1 waits. ``hold`` is high from the cycle after that
decision to the convert strobe: with ``hdl.pulse_gen`` no pulse overlaps a window (proven).

Ports
-----
i : In(stream.Signature(LinesCommand(u)))
vector, w : Out(VectorReadSignature(u)), Out(VectorWriteSignature(u))
    Vector memory: operands of DRIVE; stored codes.
lines, window, last : Out(LineWriteSignature(u)), In(1), In(1)
    To ``LineDriver.i``; from its ``integrate`` and ``last``.
tile, transpose, half, range, out_first, out_count, convert, codes
    The read half of the tile port (``hdl.ports.TileSignature``); ``integrate, drive, polarity`` are the line drivers'.
exponents, dither : In
    E registers; of the line drivers' shift register.
fire, step_shift, down, trim, trim_kind, trim_line : Out
    The capacitor half of the tile port.
program_busy, hold : In(1), Out(1)
    From and to the pulse generator.
code_stb, code_index, code_word : Out(1), Out(13), Out(CodeWord(u))
    A word of codes is taken in this cycle: element offset within the read, codes.
active : Out(1)
    Must be clocked in this cycle.
events : Out(StructLayout)
    phase_* (accept cycle in phase_drive, phase_window; waiting in none), line_cycles (at the strobe: sum of magnitudes loaded;
    the PWM cycles driven if no code exceeds ``steps``), line_saturations, conversions_* (at the strobe); fires, fired_codes,
    trims, ramps (at the end).

Timing
------
From accept to ready: DRIVE words + 2; POINT 2; SEED 1; FIRE slots + 2; TRIM steps + 2, RESET + reset_gap_cycles; READ 1 + steps +
convert_cycles + words. All windows wait for ``program_busy``, READ for ``codes.valid`` (convert_cycles is the tile's: from the
strobe to the first word; then a word a cycle).
READ accepted in cycle t: window t + 1 .. t + steps, strobe t + steps + 1.

Source: design choice.
"""
from amaranth import Assert, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.line_driver import LineWriteSignature
from hdl.ports import CodeWord, LinesCommand, VectorReadSignature, VectorWriteSignature
from hdl.shift_register import DITHER_BITS
from model.commands import LinesOp
from model.isa import N_EXPONENTS, Half, Trim
from model.params import UnitParams

__all__ = ["ReadUnit"]


class ReadUnit(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        # of a DRIVE with capacitors: its shift before bounds, what may divide the steps, bits of dither below the shift
        self.total_shift, self.most_fine, self.dither_mask = Signal(signed(9)), Signal(3), Signal(DITHER_BITS)
        self.idle = Signal(init=1)                      # the state is IDLE: the sequencer waits for it
        self.total = Signal(range(u.n_lines * u.line_max + 1))         # sum of the magnitudes loaded
        # of a FIRE or TRIM under way
        self.firing, self.sequence, self.rows, self.gap = Signal(), Signal(), Signal(), Signal(range(u.reset_gap_cycles + 1))
        capacitor = {"phase_fire": 1, "fires": 1, "fired_codes": range(u.n_lines * u.line_max + 1),
                     "phase_trim": 1, "trims": 1, "ramps": 1}
        super().__init__({
            "i": In(stream.Signature(LinesCommand(u))),
            "vector": Out(VectorReadSignature(u)), "w": Out(VectorWriteSignature(u)),
            "lines": Out(LineWriteSignature(u)), "last": In(1),
            "tile": Out(4), "transpose": Out(1), "half": Out(2), "range": Out(2), "out_first": Out(13), "out_count": Out(13),
            "convert": Out(1), "codes": In(stream.Signature(CodeWord(u))),
            "program_busy": In(1), "hold": Out(1),
            "code_stb": Out(1), "code_index": Out(13), "code_word": Out(CodeWord(u)), "active": Out(1),
            "dither": In(DITHER_BITS), "exponents": In(data.ArrayLayout(signed(8), N_EXPONENTS)),
            "fire": Out(1), "step_shift": Out(3), "down": Out(1), "trim": Out(1), "trim_kind": Out(2), "trim_line": Out(13),
            "events": Out(data.StructLayout({
                "phase_drive": 1, "phase_window": 1, "phase_convert": 1, "phase_readout": 1,
                "line_cycles": range(u.n_lines * u.line_max + 1), "line_saturations": range(u.vector_width + 1),
                **{f"conversions_{kind}": range(u.n_lines + 1) for kind in ("forward", "transpose", "scan")},
                **(capacitor if u.capacitor else {}),
            })),
        })

    def elaborate(self, platform):
        m = Module()
        u, command, lines, width = self.u, self.i.payload, self.lines, self.u.vector_width

        idle = self.idle
        left = Signal(range(u.n_lines + 1))             # elements of this word and all later ones
        address = Signal.like(self.vector.addr)         # vector word: DRIVE: next to fetch; READ: next to store
        outputs, index = Signal.like(left), Signal.like(left)   # READ: how many, and those of the words taken
        shift, steps, store = Signal(5), Signal(u.line_bits), Signal()
        line_word = Signal(lines.addr.shape())          # word of lines of the elements on ``vector.data``
        first_seen = Signal()                           # READ: a code word has come
        valid = Signal(width)                           # elements of this word that count
        final = Signal()                                # last word
        place_bits = width.bit_length() - 1
        first_place, first_word = command.first[:place_bits], command.first[place_bits:]
        m.d.comb += [valid.eq(Cat(left > k for k in range(width))), final.eq(left <= width)]

        # |v|, then shifted and limited to line_max on its way to the line drivers
        fetched = self.vector.data
        absolute = Signal(data.ArrayLayout(unsigned(u.element_bits), width))
        loading, phase_drive = Signal(), Signal()
        shifted = [Signal(u.element_bits + u.capacitor, name=f"shifted{k}") for k in range(width)]
        over, added = Signal(width), Signal(DITHER_BITS)
        m.d.comb += [lines.en.eq(loading), over.eq(Cat(value[u.line_bits:].any() for value in shifted))]
        for k in range(width):
            m.d.comb += shifted[k].eq(absolute[k] + added >> shift if u.capacitor else absolute[k] >> shift)
            m.d.comb += lines.magnitude[k].eq(Mux(over[k], u.line_max, shifted[k][:u.line_bits]))

        # sum of magnitudes, for the window's event: ready for a strobe two cycles after the accept of its READ
        magnitude, limited = Signal.like(lines.magnitude), Signal(width)
        word_sum, total = Signal(range(width * u.line_max + 1)), self.total
        loaded, summed = Signal(), Signal()             # magnitude, word_sum hold a word not yet in total
        # the lines were cleared in the cycle before; a DRIVE of the train drivers leaves the sum as it is
        cleared, to_trains = Signal(), Signal()
        m.d.sync += [cleared.eq(lines.clear & ~(lines.columns if u.capacitor else 0)), loaded.eq(loading),
                     summed.eq(loaded & ~to_trains)]
        with m.If(loading):
            m.d.sync += [magnitude.eq(lines.magnitude), limited.eq(over)]
        with m.If(loaded):
            m.d.sync += word_sum.eq(_sum(magnitude))
            m.d.comb += self.events.line_saturations.eq(_sum(limited))
        with m.If(cleared):
            m.d.sync += total.eq(0)
        with m.Elif(summed):
            m.d.sync += total.eq(total + word_sum)

        taken, reading = Signal(), Signal()             # reading: the state is READOUT
        m.d.comb += [
            self.active.eq(self.i.valid | ~idle | loaded | summed), self.i.ready.eq(idle),
            self.vector.addr.eq(Mux(idle, command.address, address)),
            lines.steps.eq(Mux(idle, command.steps, steps)),
            self.w.en.eq(taken & store), self.w.addr.eq(address), self.w.mask.eq(valid),
            self.codes.ready.eq(reading), taken.eq(reading & self.codes.valid),
            self.code_stb.eq(taken), self.code_word.eq(self.codes.payload), self.code_index.eq(index),
            self.out_count.eq(outputs), self.events.phase_drive.eq(phase_drive),
            *(self.w.data[k].eq(self.codes.payload[k]) for k in range(width)),
        ]

        if u.capacitor:
            dithers = Signal()
            mask = self.dither_mask
            m.d.comb += added.eq(Mux(dithers, self.dither & mask, 0))
            with m.If(~idle):
                m.d.comb += lines.columns.eq(to_trains)
        with m.FSM(name="ctl") as ctl:
            with m.State("IDLE"):                       # ``valid`` comes late: it decides no more than it must
                m.d.sync += [left.eq(command.count), shift.eq(command.shift), steps.eq(command.steps), store.eq(command.store),
                             line_word.eq(first_word), address.eq(command.address + (command.op == LinesOp.DRIVE)),
                             index.eq(0), first_seen.eq(0), to_trains.eq(0)]
                if u.capacitor:
                    m.d.sync += dithers.eq(0)
                with m.If(self.i.valid):
                    m.d.sync += idle.eq(0)
                    with m.Switch(command.op):
                        with m.Case(LinesOp.DRIVE):
                            m.d.comb += [lines.clear.eq(1), self.vector.en.eq(1), phase_drive.eq(1)]
                            if u.capacitor:
                                m.d.comb += lines.columns.eq(command.trains)
                                m.d.sync += [to_trains.eq(command.trains), dithers.eq(command.dither)]
                                self._total(m, command)
                            m.next = "LOAD"
                        with m.Case(LinesOp.POINT):
                            m.d.comb += [lines.clear.eq(1), phase_drive.eq(1)]
                            m.d.sync += [loading.eq(1), lines.addr.eq(first_word), lines.polarity.eq(0), shift.eq(0)]
                            m.d.sync += [absolute[k].eq(Mux(first_place == k, command.steps, 0)) for k in range(width)]
                            m.next = "STORE"
                        if u.capacitor:
                            self._start_window(m, command)
                        with m.Default():
                            m.d.sync += [
                                self.tile.eq(command.tile), self.transpose.eq(command.transpose), self.half.eq(command.half),
                                self.range.eq(command.range), self.out_first.eq(command.first), outputs.eq(command.count),
                            ]
                            m.d.comb += [lines.start.eq(~self.program_busy), self.events.phase_window.eq(1)]
                            m.next = "WAIT"
                            with m.If(~self.program_busy):
                                m.next = "WINDOW"
            with m.State("LOAD"):                       # a word of the vector is on vector.data
                if u.capacitor:
                    self._shift(m, shift, to_trains)
                m.d.comb += [phase_drive.eq(1), self.vector.en.eq(~final)]
                m.d.sync += [loading.eq(1), lines.addr.eq(line_word), line_word.eq(line_word + 1), address.eq(address + 1),
                             left.eq(left - width)]
                for k in range(width):
                    sign = fetched[k][-1]
                    distance = (fetched[k] ^ sign.replicate(u.element_bits)) + sign
                    m.d.sync += [absolute[k].eq(Mux(valid[k], distance, 0)), lines.polarity[k].eq(sign)]
                with m.If(final):
                    m.next = "STORE"
            with m.State("STORE"):                      # the last word enters the line drivers
                m.d.comb += phase_drive.eq(1)
                m.d.sync += loading.eq(0)
                m.d.sync += self.idle.eq(1)
                m.next = "IDLE"
            if u.capacitor:
                self._windows(m)
            with m.State("WAIT"):
                with m.If(~self.program_busy):
                    m.d.comb += lines.start.eq(1)
                    m.next = "WINDOW"
            with m.State("WINDOW"):
                m.d.comb += [self.hold.eq(1), self.events.phase_window.eq(1)]
                with m.If(self.last):
                    m.next = "CONVERT"
            with m.State("CONVERT"):
                m.d.comb += [self.hold.eq(1), self.convert.eq(1)]
                m.d.comb += [self.events.phase_convert.eq(1), self.events.line_cycles.eq(total)]
                with m.If((self.half == Half.POSITIVE) | (self.half == Half.NEGATIVE)):
                    m.d.comb += self.events.conversions_scan.eq(outputs)
                with m.Elif(self.transpose):
                    m.d.comb += self.events.conversions_transpose.eq(outputs)
                with m.Else():
                    m.d.comb += self.events.conversions_forward.eq(outputs)
                m.d.sync += reading.eq(1)
                m.next = "READOUT"
            with m.State("READOUT"):
                m.d.comb += [
                    self.events.phase_convert.eq(~taken & ~first_seen),
                    self.events.phase_readout.eq(taken | first_seen),
                ]
                with m.If(taken):
                    m.d.sync += [first_seen.eq(1), left.eq(left - width), address.eq(address + 1),
                                 index.eq(index + width)]
                    with m.If(final):
                        m.d.sync += [idle.eq(1), reading.eq(0)]
                        m.next = "IDLE"
        m.d.sync += [Assert(idle == ctl.ongoing("IDLE"), "idle and the state differ"),
                     Assert(reading == ctl.ongoing("READOUT"), "reading and the state differ")]
        return m

    def _total(self, m, command):
        """Shift of a DRIVE, less the exponent where it asks for that."""
        m.d.sync += [self.total_shift.eq(command.shift - Mux(command.scaled, self.exponents[command.e], 0)),
                     self.most_fine.eq(command.fine)]

    def _shift(self, m, shift, to_trains):
        """Its shift within bounds, of the train drivers less what divides the steps: a cycle before its first element."""
        total, over, fine, left = self.total_shift, Signal(signed(10)), Signal(3), Signal(signed(10))
        m.d.comb += [
            over.eq(total - self.u.line_bits), fine.eq(Mux(over < 0, 0, Mux(over > self.most_fine, self.most_fine, over[:3]))),
            left.eq(total - Mux(to_trains, fine, 0)),
        ]
        m.d.sync += [shift.eq(Mux(left < 0, 0, Mux(left > 31, 31, left[:5]))),
                     self.dither_mask.eq(Cat(left > bit for bit in range(DITHER_BITS)))]
        with m.If(to_trains):
            m.d.sync += self.step_shift.eq(fine)

    def _start_window(self, m, command):
        """Accept FIRE or TRIM: the window begins now, or when no pulse runs."""
        for op in (LinesOp.FIRE, LinesOp.TRIM):
            with m.Case(op):
                m.d.sync += [self.tile.eq(command.tile), self.transpose.eq(command.transpose), self.down.eq(command.down),
                             self.trim_kind.eq(command.kind), self.trim_line.eq(command.line),
                             self.firing.eq(op == LinesOp.FIRE), self.gap.eq(0)]
                if op == LinesOp.FIRE:
                    m.d.comb += [self.lines.train.eq(1), self.lines.sequence.eq(command.sequence),
                                 self.lines.negative.eq(command.rows), self.events.phase_fire.eq(1)]
                    m.d.sync += [self.sequence.eq(command.sequence), self.rows.eq(command.rows)]
                else:
                    m.d.comb += self.events.phase_trim.eq(1)
                    with m.If(command.kind == Trim.RESET):
                        m.d.sync += self.gap.eq(self.u.reset_gap_cycles)
                m.d.comb += self.lines.start.eq(~self.program_busy)
                m.next = "WAIT_PROGRAM"
                with m.If(~self.program_busy):
                    m.next = "PROGRAM"
        with m.Case(LinesOp.SEED):
            m.d.comb += [self.lines.load.eq(1), self.lines.seed.eq(command.seed)]
            m.d.sync += self.idle.eq(1)

    def _windows(self, m):
        """States of FIRE and TRIM."""
        phase = [self.events.phase_fire.eq(self.firing), self.events.phase_trim.eq(~self.firing)]
        with m.State("WAIT_PROGRAM"):
            m.d.comb += [self.lines.train.eq(self.firing), self.lines.sequence.eq(self.sequence),
                         self.lines.negative.eq(self.rows)]
            with m.If(~self.program_busy):
                m.d.comb += self.lines.start.eq(1)
                m.next = "PROGRAM"
        with m.State("PROGRAM"):
            m.d.comb += [self.hold.eq(1), *phase]
            m.d.comb += [self.fire.eq(self.firing), self.trim.eq(~self.firing)]
            with m.If(self.last):
                m.next = "SETTLE"
        with m.State("SETTLE"):
            m.d.comb += [self.hold.eq(1), *phase]
            m.d.sync += self.gap.eq(self.gap - 1)
            with m.If(self.gap == 0):
                m.d.comb += [self.events.fires.eq(self.firing), self.events.trims.eq(~self.firing),
                             self.events.ramps.eq(~self.firing & (self.trim_kind == Trim.RAMP)),
                             self.events.fired_codes.eq(Mux(self.firing, self.total, 0))]
                m.d.sync += self.idle.eq(1)
                m.next = "IDLE"


def _sum(values):
    """Sum as a balanced tree: ``sum`` is a chain."""
    values = list(values)
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + values[len(values) & ~1:]
    return values[0]
