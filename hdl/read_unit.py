"""Read unit: loads the line drivers and performs reads of a tile.

``words = max(1, ceil(count / vector_width))``. Commands (``LinesCommand``, ``LinesOp``):

DRIVE   defines all lines: line first + e (e < count; first a multiple of vector_width) = element e of the vector words from
        ``address`` on: magnitude min(|v| >> shift, line_max), polarity = sign; all others 0.
POINT   all lines 0 but ``first``, which gets code ``steps`` (positive, at most line_max).
READ    a window of ``steps`` (1 to line_max) PWM steps, then ``convert`` for one cycle, then the codes of outputs
        first .. first + count - 1 (any first, count >= 1), word by word, sign-extended into the vector words from ``address`` on
        if ``store``. ``tile, transpose, half, range, out_first, out_count`` hold from the accept of a READ to the next.

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
program_busy, hold : In(1), Out(1)
    From and to the pulse generator.
code_stb, code_index, code_word : Out(1), Out(13), Out(CodeWord(u))
    A word of codes is taken in this cycle: element offset within the read, codes.
active : Out(1)
    Must be clocked in this cycle.
events : Out(StructLayout)
    phase_* (accept cycle in phase_drive, phase_window; waiting in none), line_cycles (at the strobe: sum of magnitudes loaded;
    the PWM cycles driven if no code exceeds ``steps``), line_saturations, conversions_* (at the strobe).

Timing
------
From accept to ready: DRIVE words + 2; POINT 2; READ 1 + steps + convert_cycles + words, plus waiting for ``program_busy`` and for
``codes.valid`` (convert_cycles is the tile's: from the strobe to the first word; then a word a cycle).
READ accepted in cycle t: window t + 1 .. t + steps, strobe t + steps + 1.

Source: design choice.
"""
from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.line_driver import LineWriteSignature
from hdl.ports import CodeWord, LinesCommand, VectorReadSignature, VectorWriteSignature
from model.commands import LinesOp
from model.isa import Half
from model.params import UnitParams

__all__ = ["ReadUnit"]


class ReadUnit(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "i": In(stream.Signature(LinesCommand(u))),
            "vector": Out(VectorReadSignature(u)), "w": Out(VectorWriteSignature(u)),
            "lines": Out(LineWriteSignature(u)), "last": In(1),
            "tile": Out(4), "transpose": Out(1), "half": Out(2), "range": Out(2), "out_first": Out(13), "out_count": Out(13),
            "convert": Out(1), "codes": In(stream.Signature(CodeWord(u))),
            "program_busy": In(1), "hold": Out(1),
            "code_stb": Out(1), "code_index": Out(13), "code_word": Out(CodeWord(u)), "active": Out(1),
            "events": Out(data.StructLayout({
                "phase_drive": 1, "phase_window": 1, "phase_convert": 1, "phase_readout": 1,
                "line_cycles": range(u.n_lines * u.line_max + 1), "line_saturations": range(u.vector_width + 1),
                "conversions_forward": 13, "conversions_transpose": 13, "conversions_scan": 13,
            })),
        })

    def elaborate(self, platform):
        m = Module()
        u, command, lines, width = self.u, self.i.payload, self.lines, self.u.vector_width

        left = Signal(13)                               # elements of this word and all later ones
        address = Signal(12)                            # vector word: DRIVE: next to fetch; READ: next to store
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
        loading, phase_drive, idle = Signal(), Signal(), Signal()
        shifted = [Signal(u.element_bits, name=f"shifted{k}") for k in range(width)]
        over = Signal(width)
        m.d.comb += [lines.en.eq(loading), over.eq(Cat(value[u.line_bits:].any() for value in shifted))]
        for k in range(width):
            m.d.comb += shifted[k].eq(absolute[k] >> shift)
            m.d.comb += lines.magnitude[k].eq(Mux(over[k], u.line_max, shifted[k][:u.line_bits]))

        # sum of magnitudes, for the window's event: ready for a strobe two cycles after the accept of its READ
        magnitude, limited = Signal.like(lines.magnitude), Signal(width)
        word_sum, total = Signal(range(width * u.line_max + 1)), Signal(range(u.n_lines * u.line_max + 1))
        loaded, summed = Signal(), Signal()             # magnitude, word_sum hold a word not yet in total
        m.d.sync += [loaded.eq(loading), summed.eq(loaded & ~lines.clear)]
        with m.If(loading):
            m.d.sync += [magnitude.eq(lines.magnitude), limited.eq(over)]
        with m.If(loaded):
            m.d.sync += word_sum.eq(_sum(magnitude))
            m.d.comb += self.events.line_saturations.eq(_sum(limited))
        with m.If(lines.clear):
            m.d.sync += total.eq(0)
        with m.Elif(summed):
            m.d.sync += total.eq(total + word_sum)

        taken = Signal()
        m.d.comb += [
            self.active.eq(self.i.valid | ~idle | loaded | summed), self.i.ready.eq(idle),
            self.vector.addr.eq(Mux(idle, command.address, address)),
            lines.steps.eq(Mux(idle, command.steps, steps)),
            self.w.en.eq(taken & store), self.w.addr.eq(address), self.w.mask.eq(valid),
            self.code_stb.eq(taken), self.code_word.eq(self.codes.payload), self.events.phase_drive.eq(phase_drive),
            *(self.w.data[k].eq(self.codes.payload[k]) for k in range(width)),
        ]

        with m.FSM(name="ctl"):
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [left.eq(command.count), shift.eq(command.shift), steps.eq(command.steps),
                                 store.eq(command.store), line_word.eq(first_word), address.eq(command.address)]
                    with m.Switch(command.op):
                        with m.Case(LinesOp.DRIVE):
                            m.d.comb += [lines.clear.eq(1), self.vector.en.eq(1), phase_drive.eq(1)]
                            m.d.sync += address.eq(command.address + 1)
                            m.next = "LOAD"
                        with m.Case(LinesOp.POINT):
                            m.d.comb += [lines.clear.eq(1), phase_drive.eq(1)]
                            m.d.sync += [loading.eq(1), lines.addr.eq(first_word), lines.polarity.eq(0), shift.eq(0)]
                            m.d.sync += [absolute[k].eq(Mux(first_place == k, command.steps, 0)) for k in range(width)]
                            m.next = "STORE"
                        with m.Default():
                            m.d.sync += [
                                self.tile.eq(command.tile), self.transpose.eq(command.transpose), self.half.eq(command.half),
                                self.range.eq(command.range), self.out_first.eq(command.first), self.out_count.eq(command.count),
                                self.code_index.eq(0), first_seen.eq(0),
                            ]
                            m.d.comb += [lines.start.eq(~self.program_busy), self.events.phase_window.eq(1)]
                            m.next = "WAIT"
                            with m.If(~self.program_busy):
                                m.next = "WINDOW"
            with m.State("LOAD"):                       # a word of the vector is on vector.data
                m.d.comb += [phase_drive.eq(1), self.vector.en.eq(~final)]
                m.d.sync += [loading.eq(1), lines.addr.eq(line_word), line_word.eq(line_word + 1), address.eq(address + 1),
                             left.eq(left - width)]
                for k in range(width):
                    value = Mux(fetched[k] < 0, -fetched[k], fetched[k])[:u.element_bits]
                    m.d.sync += [absolute[k].eq(Mux(valid[k], value, 0)), lines.polarity[k].eq(fetched[k] < 0)]
                with m.If(final):
                    m.next = "STORE"
            with m.State("STORE"):                      # the last word enters the line drivers
                m.d.comb += phase_drive.eq(1)
                m.d.sync += loading.eq(0)
                m.next = "IDLE"
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
                with m.If(self.half != Half.DIFFERENCE):
                    m.d.comb += self.events.conversions_scan.eq(self.out_count)
                with m.Elif(self.transpose):
                    m.d.comb += self.events.conversions_transpose.eq(self.out_count)
                with m.Else():
                    m.d.comb += self.events.conversions_forward.eq(self.out_count)
                m.next = "READOUT"
            with m.State("READOUT"):
                m.d.comb += [
                    self.codes.ready.eq(1), taken.eq(self.codes.valid), self.events.phase_convert.eq(~taken & ~first_seen),
                    self.events.phase_readout.eq(taken | first_seen),
                ]
                with m.If(taken):
                    m.d.sync += [first_seen.eq(1), left.eq(left - width), address.eq(address + 1),
                                 self.code_index.eq(self.code_index + width)]
                    with m.If(final):
                        m.next = "IDLE"
        return m


def _sum(values):
    """Sum as a balanced tree: ``sum`` is a chain."""
    values = list(values)
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + values[len(values) & ~1:]
    return values[0]
