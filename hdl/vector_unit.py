"""The vector unit: elementwise operations, tables, reductions, shared-exponent scaling, strided copies, output packets.

A command (``VectorCommand``, operations ``VectorOp`` of ``model/isa.py``) reads words of the vector memory on ``a`` and ``b``,
sends them through the lanes (``hdl/vector_alu.py``) and writes the results on ``w``; a partial last word under a mask.
``dst`` may equal ``a`` or ``b`` or lie below them; ranges that overlap with ``dst`` above an operand are not supported. GATHER's
ranges must not overlap; its source wraps around the memory. ELEMENT's b is read once, before anything is written.

``peak`` is the OR of |r| over the elements of the last elementwise, LUT, SUM or PEAK_MAX command; its bit length, all that SCALE
uses, is the bit length of max |r|. So SCALE needs no pass of its own. EMIT puts the words on ``o``; elements beyond ``count``
in its last word are undefined. Required: count, count0, count1 >= 1, operands inside the memory, lut < n_luts, a defined op.

Ports: ``i`` In(stream of VectorCommand), ``a``, ``b`` Out(VectorReadSignature), ``w`` Out(VectorWriteSignature),
``o`` Out(WordStream), ``exponents`` Out(8 x signed(8)), ``lut_write`` In(LutWriteSignature), ``active`` Out(1): must be clocked
in this cycle, ``host_stall`` Out(1): a word waits on ``o``, ``events`` Out (vector_saturations comes one cycle after its word).

Timing [cycles], N = ceil(count / vector_width), R = log2(vector_width) + 1; one word per cycle
    ADD to SHL, LUT, SCALE         N + 4
    SUM, PEAK_MAX                  N + 3 + R
    GATHER                         count0 * count1 + 4
    EMIT                           N + 1, and the cycles of ``host_stall``
    SET_EXPONENT                   1
The command's first word is read in the cycle of its acceptance.

Twin: ``model/digital/vector_unit.py``. Source: design choice.
"""
from functools import reduce
from operator import or_

from amaranth import Array, Assert, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.arith import highest
from hdl.ports import LutWriteSignature, VectorCommand, VectorReadSignature, VectorWriteSignature, WordStream
from hdl.vector_alu import VectorAlu
from model.isa import N_EXPONENTS, BKind, VectorOp
from model.params import UnitParams

__all__ = ["VectorUnit"]


class VectorUnit(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "i": In(stream.Signature(VectorCommand(u))), "a": Out(VectorReadSignature(u)), "b": Out(VectorReadSignature(u)),
            "w": Out(VectorWriteSignature(u)), "o": Out(WordStream(u)), "lut_write": In(LutWriteSignature(u)),
            "exponents": Out(data.ArrayLayout(signed(8), N_EXPONENTS)), "active": Out(1), "host_stall": Out(1),
            "events": Out(data.StructLayout({
                "phase_vector": 1, "vector_words": 1, "vector_saturations": range(u.vector_width + 1)})),
        })

    def elaborate(self, platform):
        u, new = self.u, self.i.payload
        m = Module()
        m.submodules.alu = alu = VectorAlu(u)
        connect(m, flipped(self.lut_write), alu.lut_write)
        lane_bits = (u.vector_width - 1).bit_length()

        # Command: taken when idle; ``setup`` holds for the lanes what stays constant.
        busy, start, done = Signal(), Signal(), Signal()
        op, setup = Signal(5), Signal(alu.setup.shape())
        e_dst, e_src = Signal.like(new.e_dst), Signal.like(new.e_src)
        m.d.comb += [self.i.ready.eq(~busy), start.eq(self.i.valid & ~busy), op.eq(setup.op)]
        m.d.comb += alu.setup.eq(setup)
        new_is = {kind: Signal(name=f"new_is_{kind.name.lower()}") for kind in (
            VectorOp.SHL, VectorOp.SCALE, VectorOp.SET_EXPONENT, VectorOp.GATHER, VectorOp.EMIT)}
        m.d.comb += [signal.eq(new.op == kind) for kind, signal in new_is.items() if u.gather or kind != VectorOp.GATHER]
        has_b = new.op <= VectorOp.COMPARE
        with m.If(start):
            m.d.sync += [
                busy.eq(~new_is[VectorOp.SET_EXPONENT]), e_dst.eq(new.e_dst), e_src.eq(new.e_src), setup.op.eq(new.op),
                setup.lut.eq(new.lut), setup.tail.eq(new.count - 1), setup.b_vector.eq(has_b & (new.b_kind == BKind.VECTOR)),
                setup.b_element.eq(has_b & (new.b_kind == BKind.ELEMENT)), setup.scalar.eq(new.imm),
                setup.shift.eq(Mux(new_is[VectorOp.GATHER], 0, Mux(new_is[VectorOp.SHL], 16 - new.shift[:4], new.shift))),
            ]
        with m.Elif(done):
            m.d.sync += busy.eq(0)

        # Place of the word fetched last: every operation is a GATHER, with one word to a row but for GATHER itself. Elements are
        # counted modulo the memory. ``left0``, ``left1``: elements of the row and rows left, this one included.
        size = u.vector_words * u.vector_width
        element, row, next_element = Signal(range(size)), Signal(range(size)), Signal(range(size))
        stride0, stride1 = Signal(range(size)), Signal(range(size))
        # In registers: there is one element to a row, one left in it (``row_end``), one row left (``row_last``).
        left0, count0, left1 = Signal(12), Signal(12), Signal(13)
        single, row_last = Signal(), Signal()
        b, pos = Signal(range(u.vector_words)), Signal(range(u.vector_width))     # pos: GATHER's place in the word
        issue, gather, emit, row_end, last, measure = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            last.eq(row_end & row_last),
            issue.eq(Mux(busy, ~last & ~self.host_stall, self.i.valid & ~new_is[VectorOp.SET_EXPONENT])),
            # ``start`` comes late: what only counts with ``issue`` is chosen by ``busy``
            next_element.eq(Mux(busy, Mux(row_end, row, element) + Mux(row_end, stride1, stride0),
                                Mux(new_is[VectorOp.GATHER], new.element, new.a << lane_bits))),
        ]
        with m.If(start):
            m.d.sync += [gather.eq(new_is[VectorOp.GATHER]), emit.eq(new_is[VectorOp.EMIT]), row.eq(next_element), pos.eq(0),
                         left0.eq(new.count0), count0.eq(new.count0), stride0.eq(new.stride0)]
            if u.gather:
                m.d.sync += [single.eq(~new_is[VectorOp.GATHER] | (new.count0 == 1)),
                             row_end.eq(~new_is[VectorOp.GATHER] | (new.count0 == 1))]
            with m.If(new_is[VectorOp.GATHER]):
                m.d.sync += [left1.eq(new.count1), stride1.eq(new.stride1), row_last.eq(new.count1 == 1)]
            with m.Else():
                m.d.sync += [left1.eq((new.count + u.vector_width - 1) >> lane_bits), stride1.eq(u.vector_width),
                             row_last.eq(new.count <= u.vector_width)]
        with m.Elif(issue):
            m.d.sync += [pos.eq(pos + 1), left0.eq(Mux(row_end, count0, left0 - 1))]
            if u.gather:
                m.d.sync += row_end.eq(single | (~row_end & (left0 == 2)))
            with m.If(row_end):
                m.d.sync += [left1.eq(left1 - 1), row_last.eq(left1 == 2), row.eq(next_element)]
        if not u.gather:
            m.d.comb += row_end.eq(1)
        with m.If(issue):
            m.d.sync += [element.eq(next_element), b.eq(self.b.addr)]

        # Fetch, then one cycle later the step of the lanes.
        fetched = Signal()
        reads_b = Mux(busy, setup.b_vector, has_b & (new.b_kind != BKind.IMMEDIATE))
        m.d.comb += [
            self.a.en.eq(issue), self.a.addr.eq(next_element >> lane_bits),
            self.b.en.eq(issue & reads_b), self.b.addr.eq(Mux(busy, b + 1, new.b)),
            alu.a.eq(self.a.data), alu.b.eq(self.b.data), alu.step.valid.eq(fetched & ~emit), alu.step.last.eq(last),
            alu.step.lane.eq(element), alu.step.pos.eq(pos),
        ]
        m.d.sync += fetched.eq(issue)
        with m.If(alu.step.valid & last & gather):
            m.d.sync += setup.tail.eq(pos)

        # Output packets: the memory holds the word while it waits.
        with m.If(issue & Mux(busy, emit, new_is[VectorOp.EMIT])):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.comb += [
            self.o.payload.elements.eq(self.a.data), self.o.payload.last.eq(last),
            self.o.payload.count.eq(Mux(last, setup.tail + 1, u.vector_width)),
            self.host_stall.eq(self.o.valid & ~self.o.ready),
        ]

        # Results.
        dst = Signal.like(self.w.addr)
        m.d.comb += [
            self.w.en.eq(alu.o.valid), self.w.addr.eq(dst), self.w.mask.eq(alu.o.mask), self.w.data.eq(alu.o.data),
            done.eq(Mux(emit, self.o.valid & self.o.ready & last, alu.o.valid & alu.o.last)),
        ]
        with m.If(start):
            m.d.sync += dst.eq(new.dst)
        with m.Elif(self.w.en):
            m.d.sync += dst.eq(dst + 1)

        # Peak: taken from the written word one cycle later, as v or ~v and its sign.
        peak, pending, has_peak = Signal(u.element_bits), Signal(), Signal()
        written = [Signal(u.element_bits, name=f"written_{lane}", reset_less=True) for lane in range(u.vector_width)]
        negative = Signal(u.vector_width, reset_less=True)
        m.d.comb += has_peak.eq(self.w.en & (op <= VectorOp.PEAK_MAX))
        m.d.sync += pending.eq(has_peak)
        with m.If(has_peak):
            for lane, (value, keep) in enumerate(zip(self.w.data, self.w.mask, strict=True)):
                sign = value[-1]
                m.d.sync += [written[lane].eq(Mux(keep, value ^ sign.replicate(len(value)), 0)), negative[lane].eq(sign & keep)]
        with m.If(start & (new.op <= VectorOp.PEAK_MAX)):
            m.d.sync += peak.eq(0)
        with m.Elif(pending):
            magnitudes = ((value + sign)[:u.element_bits] for value, sign in zip(written, negative, strict=True))
            m.d.sync += peak.eq(reduce(or_, magnitudes, peak))

        # Exponents; SCALE measures peak in the cycle after its acceptance.
        measured, n, exponent = Signal(), Signal(signed(6)), Signal(range(N_EXPONENTS))
        m.d.comb += exponent.eq(Mux(busy, e_dst, new.e_dst))
        m.d.sync += [measure.eq(start & new_is[VectorOp.SCALE]), measured.eq(measure)]
        with m.If(measure):
            lengths = Array(Const(place + 1 - u.line_bits, signed(6)) for place in range(u.element_bits))
            m.d.sync += n.eq(Mux(peak.any(), lengths[highest(m, peak)], 0))
        with m.If(measured):
            m.d.sync += setup.shift.eq(16 + n)
        with m.If(measured | (start & new_is[VectorOp.SET_EXPONENT])):
            m.d.sync += self.exponents[exponent].eq(Mux(busy, self.exponents[e_src] + n, new.imm))

        m.d.comb += [
            self.active.eq(self.i.valid | busy | pending | self.lut_write.en),
            self.events.phase_vector.eq(start | (busy & ~self.host_stall)), self.events.vector_words.eq(self.w.en),
            self.events.vector_saturations.eq(sum(alu.clipped)),
        ]
        m.d.sync += [
            Assert(busy | ~self.o.valid, "emitting after the end of the command"),
            Assert(~self.o.valid | emit, "output word of a command other than EMIT"),
        ]
        return m
