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

A window is decided only while ``program_busy`` is 0; a READ that finds it 1 waits. ``hold``, a register, is high from the cycle
after that decision to the convert strobe: with ``hdl.pulse_gen`` no pulse overlaps a window (proven).

Stages: accept: registers take the command | decoded: clear, start, first address | of a DRIVE: data, without its sign | |v|,
shifted by fours | shifted, limited | lines. The last word of lines comes with ``ready``: a command does nothing while accepted.

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
    phase_* (accept cycle in phase_drive, phase_window, phase_fire, phase_trim, which come a cycle late; waiting in none),
    line_cycles (at the strobe: sum of magnitudes loaded; the PWM cycles driven if no code exceeds ``steps``), line_saturations,
    conversions_* (at the strobe); fires, fired_codes, trims, ramps (at the end).

Timing
------
From accept to ready: DRIVE words + 4; POINT 2; SEED 2; FIRE slots + 3; TRIM steps + 3, RESET + reset_gap_cycles; READ 2 + steps +
convert_cycles + words. All windows wait for ``program_busy``, looked at a cycle after the accept, READ for ``codes.valid``
(convert_cycles is the tile's: from the strobe to the first word; then a word a cycle).
READ accepted in cycle t: window t + 2 .. t + steps + 1, strobe t + steps + 2.

Source: design choice.
"""
from amaranth import Assert, Cat, Const, Module, Mux, Signal, signed
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
        # of a DRIVE with capacitors: its shift before bounds, bits of dither below the shift; of a TRIM: silence after it
        self.total_shift, self.dither_mask = Signal(signed(9)), Signal(DITHER_BITS)
        self.gap = Signal(range(u.reset_gap_cycles + 1))
        self.idle = Signal(init=1)                      # the state is IDLE: the sequencer waits for it
        self.command = Signal(LinesCommand(u))          # the one that runs
        self.total = Signal(range(u.n_lines * u.line_max + 1))         # sum of the magnitudes loaded
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
        u, command, lines, width = self.u, self.command, self.lines, self.u.vector_width
        idle, op = self.idle, command.op
        drives, points, reads, fires, trims = (op == one for one in (
            LinesOp.DRIVE, LinesOp.POINT, LinesOp.READ, LinesOp.FIRE, LinesOp.TRIM))
        seeds = op == LinesOp.SEED if u.capacitor else 0

        # the words of a DRIVE and of a READ, counted a word ahead
        left = Signal(signed(u.n_lines.bit_length() + 1))       # elements after this word
        valid, final, advance = Signal(width), Signal(), Signal()       # elements of this word that count; it is the last one
        address = Signal.like(self.vector.addr)         # vector word: DRIVE: next to fetch; READ: next to store
        outputs, index = Signal(range(u.n_lines + 1)), Signal(range(u.n_lines + 1))     # READ: how many; those of the words taken
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(left > k for k in range(width))), final.eq(left <= width), left.eq(left - width)]
        with m.If(self.vector.en | self.w.en):
            m.d.sync += address.eq(address + 1)

        # data without its sign | |v|, shifted by fours | shifted, limited: what the line drivers take. Whether a word is there
        parted, reduced = Signal(), Signal()
        shift = Signal(5) if u.capacitor else command.shift
        added, fine = Signal(DITHER_BITS), Signal(2)
        limited, begins, load = Signal(width), Signal(), Signal()       # begins, load: the state is BEGIN, LOAD
        m.d.sync += [parted.eq(load), reduced.eq(parted), lines.en.eq(reduced), fine.eq(shift)]
        place_bits = width.bit_length() - 1
        for k in range(width):
            value, sign = self.vector.data[k], self.vector.data[k][-1]
            distance, signs = Signal(u.element_bits, name=f"distance{k}"), Signal(2, name=f"signs{k}")
            below = Signal(name=f"below{k}")            # negative, and it counts
            # what the fine shift can bring into a line code, and whether there are bits beyond that
            coarse, beyond = Signal(u.line_bits + 3, name=f"coarse{k}"), Signal(name=f"beyond{k}")
            absolute = Signal(u.element_bits + u.capacitor, name=f"absolute{k}")
            magnitude = Signal(u.element_bits + u.capacitor, name=f"magnitude{k}")
            shifted, over = Signal(u.line_bits + 3, name=f"shifted{k}"), Signal(name=f"over{k}")
            if u.capacitor:                             # the sign is the adder's carry in
                m.d.comb += absolute.eq(Cat(1, distance) + Cat(below, added) >> 1)
            else:
                m.d.comb += absolute.eq(distance + below)
            m.d.comb += [magnitude.eq(absolute >> Cat(Const(0, 2), shift[2:])), shifted.eq(coarse >> fine),
                         over.eq(beyond | shifted[u.line_bits:].any())]
            m.d.sync += [
                distance.eq(Mux(valid[k], value ^ sign.replicate(len(value)), 0)), below.eq(sign & valid[k]),
                signs.eq(Cat(sign, signs)), lines.polarity[k].eq(signs[1] & ~begins),
                coarse.eq(magnitude), beyond.eq(magnitude[len(coarse):].any()), limited[k].eq(over & ~begins),
                lines.magnitude[k].eq(Mux(over, u.line_max, shifted[:u.line_bits])),
            ]
            with m.If(begins):                          # for POINT
                m.d.sync += lines.magnitude[k].eq(Mux(command.first[:place_bits] == k, command.steps, 0))
        with m.If(begins):
            m.d.sync += [lines.en.eq(points), lines.addr.eq(command.first[place_bits:])]
        with m.Elif(lines.en):
            m.d.sync += lines.addr.eq(lines.addr + 1)

        # sum of magnitudes, for the window's event; a DRIVE of the train drivers leaves it as it is
        word_sum, total, summed = Signal(range(width * u.line_max + 1)), self.total, Signal()
        m.d.sync += summed.eq(lines.en & ~lines.columns if u.capacitor else lines.en)
        with m.If(lines.en):
            m.d.sync += word_sum.eq(_sum(lines.magnitude))
            m.d.comb += self.events.line_saturations.eq(_sum(limited))
        with m.If(lines.clear & ~lines.columns if u.capacitor else lines.clear):
            m.d.sync += total.eq(0)
        with m.Elif(summed):
            m.d.sync += total.eq(total + word_sum)

        taken, reading, came = Signal(), Signal(), Signal()     # reading: the state is READOUT; a code word has come
        asks, waits = Signal(), Signal()                # for a window; for the end of a pulse
        # phases are counted a cycle late, that of the accept with ``begins``; counted: the last cycle was one
        phase, counted, counts = Signal(), Signal(), Signal()
        m.d.comb += [
            self.active.eq(self.i.valid | ~idle | counted | summed | self.w.en), self.i.ready.eq(idle),
            self.vector.addr.eq(address), self.w.addr.eq(address),
            lines.steps.eq(command.steps), lines.clear.eq(begins & (drives | points)),
            self.vector.en.eq((begins & drives) | (load & ~final)), lines.start.eq(asks & ~self.program_busy),
            asks.eq(waits | (begins & ~(drives | points | seeds))),
            self.codes.ready.eq(reading), taken.eq(reading & self.codes.valid),
            self.code_stb.eq(taken), self.code_word.eq(self.codes.payload), self.code_index.eq(index),
            self.out_count.eq(outputs), phase.eq(begins | counted),
            self.events.phase_drive.eq(phase & (drives | points)), self.events.phase_window.eq(phase & reads),
        ]
        m.d.sync += [counted.eq(counts), waits.eq(asks & self.program_busy)]
        # a word is stored a cycle after it came; the last one while idle: whatever comes next reads a cycle after its accept
        m.d.sync += [self.w.en.eq(taken & command.store), self.w.mask.eq(valid),
                     *(kept.eq(code) for kept, code in zip(self.w.data, self.codes.payload, strict=True))]
        if u.capacitor:
            self._shift(m, shift, added, begins, load)
            self._trains(m, begins, phase)

        def window():
            """Begin the window now, or when no pulse runs."""
            m.next = "WAIT"
            with m.If(~self.program_busy):
                m.d.sync += self.hold.eq(1)
                m.next = "WINDOW"

        with m.FSM(name="ctl") as ctl:
            with m.State("IDLE"):                       # ``valid`` comes late: it only tells that there is a command
                m.d.sync += [command.eq(self.i.payload), left.eq(self.i.payload.count), address.eq(self.i.payload.address)]
                with m.If(self.i.valid):
                    m.d.sync += [idle.eq(0), begins.eq(1)]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += [advance.eq(1), counts.eq(1)]
                m.d.sync += begins.eq(0)
                with m.Switch(op):
                    with m.Case(LinesOp.DRIVE):
                        m.d.sync += load.eq(1)
                        m.next = "LOAD"
                    with m.Case(LinesOp.POINT, *([LinesOp.SEED] if u.capacitor else [])):
                        m.d.sync += idle.eq(1)
                        m.next = "IDLE"
                    if u.capacitor:
                        with m.Case(LinesOp.FIRE, LinesOp.TRIM):
                            m.d.sync += [self.tile.eq(command.tile), self.transpose.eq(command.transpose)]
                            window()
                    with m.Default():
                        m.d.sync += [
                            self.tile.eq(command.tile), self.transpose.eq(command.transpose), self.half.eq(command.half),
                            self.range.eq(command.range), self.out_first.eq(command.first), outputs.eq(left), index.eq(0),
                        ]
                        window()
            with m.State("LOAD"):                       # a word of the vector is on vector.data
                m.d.comb += [advance.eq(1), counts.eq(1)]
                with m.If(final):
                    m.d.sync += load.eq(0)
                    m.next = "PASS"
            with m.State("PASS"):                       # the last words are on their way; the lines take the last one in IDLE
                m.d.comb += counts.eq(1)
                with m.If(~parted):
                    m.d.sync += idle.eq(1)
                    m.next = "IDLE"
            with m.State("WAIT"):
                window()
            with m.State("WINDOW"):
                m.d.comb += counts.eq(1)
                if u.capacitor:
                    m.d.comb += [self.fire.eq(fires), self.trim.eq(trims)]
                with m.If(self.last):
                    m.next = "CONVERT"
                    if u.capacitor:
                        with m.If(fires | trims):
                            m.next = "SETTLE"
            if u.capacitor:
                with m.State("SETTLE"):
                    m.d.comb += counts.eq(1)
                    self._settle(m)
            with m.State("CONVERT"):
                m.d.comb += [self.convert.eq(1), self.events.phase_convert.eq(1), self.events.line_cycles.eq(total)]
                with m.If((self.half == Half.POSITIVE) | (self.half == Half.NEGATIVE)):
                    m.d.comb += self.events.conversions_scan.eq(outputs)
                with m.Elif(self.transpose):
                    m.d.comb += self.events.conversions_transpose.eq(outputs)
                with m.Else():
                    m.d.comb += self.events.conversions_forward.eq(outputs)
                m.d.sync += [reading.eq(1), came.eq(0), self.hold.eq(0)]
                m.next = "READOUT"
            with m.State("READOUT"):
                m.d.comb += [self.events.phase_convert.eq(~taken & ~came), self.events.phase_readout.eq(taken | came)]
                with m.If(taken):
                    m.d.comb += advance.eq(1)
                    m.d.sync += [came.eq(1), index.eq(index + width)]
                    with m.If(final):
                        m.d.sync += [idle.eq(1), reading.eq(0)]
                        m.next = "IDLE"
        moving = ctl.ongoing("LOAD") | ctl.ongoing("PASS")
        held = Cat(ctl.ongoing(state) for state in ("WINDOW", "CONVERT", *(["SETTLE"] if u.capacitor else []))).any()
        m.d.sync += [Assert(idle == ctl.ongoing("IDLE"), "idle and the state differ"),
                     Assert(begins == ctl.ongoing("BEGIN"), "begins and the state differ"),
                     Assert(load == ctl.ongoing("LOAD"), "load and the state differ"),
                     Assert(waits == ctl.ongoing("WAIT"), "waits and the state differ"),
                     Assert(reading == ctl.ongoing("READOUT"), "reading and the state differ"),
                     Assert(self.hold == held, "hold and the state differ"),
                     Assert(~moving | drives, "words of another command"),
                     Assert(moving | ~(parted | reduced), "a word on its way and the state differ"),
                     Assert(moving | idle | ~lines.en, "a word written and the state differ")]
        return m

    def _shift(self, m, shift, added, begins, load):
        """Shift of a DRIVE, less the exponent where it asks for that, within bounds, of the train drivers less what divides the
        steps; and what is added before it. From the second cycle after its first on.
        """
        command, total, to_trains = self.command, self.total_shift, self.lines.columns
        with m.If(begins):
            m.d.sync += total.eq(command.shift - Mux(command.scaled, self.exponents[command.e], 0))
        over, fine, left = Signal(signed(10)), Signal(3), Signal(signed(10))
        m.d.comb += [
            over.eq(total - self.u.line_bits), fine.eq(Mux(over < 0, 0, Mux(over > command.fine, command.fine, over[:3]))),
            left.eq(total - Mux(to_trains, fine, 0)), added.eq(Mux(command.dither, self.dither & self.dither_mask, 0)),
        ]
        m.d.sync += [shift.eq(Mux(left < 0, 0, Mux(left > 31, 31, left[:5]))),
                     self.dither_mask.eq(Cat(left > bit for bit in range(DITHER_BITS)))]
        with m.If(load & to_trains):
            m.d.sync += self.step_shift.eq(fine)

    def _trains(self, m, begins, phase):
        """What only FIRE, TRIM and SEED need."""
        command, lines, op = self.command, self.lines, self.command.op
        m.d.comb += [
            lines.columns.eq((op == LinesOp.DRIVE) & command.trains), lines.train.eq(op == LinesOp.FIRE),
            lines.sequence.eq(command.sequence), lines.negative.eq(command.rows),
            lines.load.eq(begins & (op == LinesOp.SEED)), lines.seed.eq(command.seed),
            self.events.phase_fire.eq(phase & (op == LinesOp.FIRE)), self.events.phase_trim.eq(phase & (op == LinesOp.TRIM)),
        ]
        with m.If(begins & ((op == LinesOp.FIRE) | (op == LinesOp.TRIM))):
            m.d.sync += [self.down.eq(command.down), self.trim_kind.eq(command.kind), self.trim_line.eq(command.line),
                         self.gap.eq(Mux((op == LinesOp.TRIM) & (command.kind == Trim.RESET), self.u.reset_gap_cycles, 0))]

    def _settle(self, m):
        """After the window of a FIRE or TRIM."""
        fires, trims = self.command.op == LinesOp.FIRE, self.command.op == LinesOp.TRIM
        m.d.sync += self.gap.eq(self.gap - 1)
        with m.If(self.gap == 0):
            m.d.comb += [self.events.fires.eq(fires), self.events.trims.eq(trims),
                         self.events.ramps.eq(trims & (self.trim_kind == Trim.RAMP)),
                         self.events.fired_codes.eq(Mux(fires, self.total, 0))]
            m.d.sync += [self.idle.eq(1), self.hold.eq(0)]
            m.next = "IDLE"


def _sum(values):
    """Sum as a balanced tree: ``sum`` is a chain."""
    values = list(values)
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + values[len(values) & ~1:]
    return values[0]
