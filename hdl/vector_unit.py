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

from amaranth import Assert, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.ports import LutWriteSignature, VectorCommand, VectorReadSignature, VectorWriteSignature, WordStream
from hdl.vector_alu import VectorAlu
from model.isa import N_EXPONENTS, BKind, VectorOp
from model.params import UnitParams

__all__ = ["VectorUnit"]


def _Place(u: UnitParams):
    """Layout of the fetch state: word addresses, words left; GATHER's element, row start, counts left, position in the word."""
    return data.StructLayout({
        "a": range(u.vector_words), "b": range(u.vector_words), "left": 13, "element": 18, "row": 18, "left0": 12, "left1": 12,
        "pos": range(u.vector_width), "count0": 12, "stride0": signed(16), "stride1": signed(16)})


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
        m.d.comb += [self.i.ready.eq(~busy), start.eq(self.i.valid & ~busy), op.eq(setup.op), alu.setup.eq(setup)]
        new_is = {kind: Signal(name=f"new_is_{kind.name.lower()}") for kind in (
            VectorOp.SHL, VectorOp.SCALE, VectorOp.SET_EXPONENT, VectorOp.GATHER, VectorOp.EMIT)}
        m.d.comb += [signal.eq(new.op == kind) for kind, signal in new_is.items()]
        has_b = new.op <= VectorOp.COMPARE
        with m.If(start):
            m.d.sync += [
                busy.eq(~new_is[VectorOp.SET_EXPONENT]), e_dst.eq(new.e_dst), e_src.eq(new.e_src), setup.op.eq(new.op),
                setup.lut.eq(new.lut), setup.tail.eq(new.count - 1), setup.b_vector.eq(has_b & (new.b_kind == BKind.VECTOR)),
                setup.b_element.eq(has_b & (new.b_kind == BKind.ELEMENT)),
                setup.shift.eq(Mux(new_is[VectorOp.SHL], 0, new.shift)),
                setup.scalar.eq(Mux(new_is[VectorOp.SHL], 1 << new.shift[:4], new.imm)),
            ]
        with m.Elif(done):
            m.d.sync += busy.eq(0)

        # Place: what is fetched next; ``now`` is the command's own in its first cycle, else what the last cycle left.
        now, after, kept = Signal(_Place(u)), Signal(_Place(u)), Signal(_Place(u))
        issue, last, running, measure = Signal(), Signal(), Signal(), Signal()
        now_gather, now_emit = Signal(), Signal()
        m.d.comb += [
            now_gather.eq(Mux(start, new_is[VectorOp.GATHER], op == VectorOp.GATHER)),
            now_emit.eq(Mux(start, new_is[VectorOp.EMIT], op == VectorOp.EMIT)),
            last.eq(Mux(now_gather, ~(now.left0.any() | now.left1.any()), ~now.left.any())),
            after.eq(now),
        ]
        with m.If(start):
            m.d.comb += [
                now.a.eq(new.a), now.b.eq(new.b), now.left.eq((new.count - 1) >> lane_bits), now.element.eq(new.element),
                now.row.eq(new.element), now.left0.eq(new.count0 - 1), now.left1.eq(new.count1 - 1), now.pos.eq(0),
                now.count0.eq(new.count0), now.stride0.eq(new.stride0), now.stride1.eq(new.stride1),
                issue.eq(~new_is[VectorOp.SET_EXPONENT]),
            ]
        with m.Else():
            m.d.comb += [now.eq(kept), issue.eq(running & ~self.host_stall)]
        with m.If(issue):
            m.d.comb += [after.a.eq(now.a + 1), after.b.eq(now.b + 1), after.left.eq(now.left - 1), after.pos.eq(now.pos + 1)]
            with m.If(now.left0.any()):
                m.d.comb += [after.element.eq(now.element + now.stride0), after.left0.eq(now.left0 - 1)]
            with m.Else():
                row = now.row + now.stride1
                m.d.comb += [after.element.eq(row), after.row.eq(row)]
                m.d.comb += [after.left0.eq(now.count0 - 1), after.left1.eq(now.left1 - 1)]
        with m.If(start | issue):
            m.d.sync += [kept.eq(after), running.eq(~(start & new_is[VectorOp.SET_EXPONENT]) & ~(issue & last))]
        with m.If(issue & last & now_gather):
            m.d.sync += setup.tail.eq(now.pos)

        # Fetch, then one cycle later the step of the lanes.
        step = Signal(alu.step.shape())
        reads_b = Mux(start, has_b & (new.b_kind != BKind.IMMEDIATE), setup.b_vector)
        m.d.comb += [
            self.a.en.eq(issue), self.a.addr.eq(Mux(now_gather, now.element >> lane_bits, now.a)),
            self.b.en.eq(issue & reads_b), self.b.addr.eq(now.b),
            alu.a.eq(self.a.data), alu.b.eq(self.b.data), alu.step.eq(step),
        ]
        m.d.sync += step.valid.eq(issue & ~now_emit)
        with m.If(issue):
            m.d.sync += [step.last.eq(last), step.lane.eq(now.element), step.pos.eq(now.pos)]

        # Output packets: the memory holds the word while it waits.
        with m.If(issue & now_emit):
            m.d.sync += self.o.valid.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.comb += [
            self.o.payload.elements.eq(self.a.data), self.o.payload.last.eq(step.last),
            self.o.payload.count.eq(Mux(step.last, setup.tail + 1, u.vector_width)),
            self.host_stall.eq(self.o.valid & ~self.o.ready),
        ]

        # Results.
        dst = Signal.like(self.w.addr)
        m.d.comb += [
            self.w.en.eq(alu.o.valid), self.w.addr.eq(dst), self.w.mask.eq(alu.o.mask), self.w.data.eq(alu.o.data),
            done.eq(Mux(op == VectorOp.EMIT, self.o.valid & self.o.ready & self.o.payload.last, alu.o.valid & alu.o.last)),
        ]
        with m.If(start):
            m.d.sync += dst.eq(new.dst)
        with m.Elif(self.w.en):
            m.d.sync += dst.eq(dst + 1)

        # Peak: taken from the written word one cycle later.
        peak, pending = Signal(u.element_bits), Signal()
        written = [Signal(signed(u.element_bits), name=f"written_{lane}", reset_less=True) for lane in range(u.vector_width)]
        m.d.sync += pending.eq(self.w.en & (op <= VectorOp.PEAK_MAX))
        with m.If(self.w.en & (op <= VectorOp.PEAK_MAX)):
            lanes = zip(written, self.w.mask, self.w.data, strict=True)
            m.d.sync += [signal.eq(Mux(keep, value, 0)) for signal, keep, value in lanes]
        with m.If(start & (new.op <= VectorOp.PEAK_MAX)):
            m.d.sync += peak.eq(0)
        with m.Elif(pending):
            m.d.sync += peak.eq(reduce(or_, (abs(value)[:u.element_bits] for value in written), peak))

        # Exponents; SCALE measures peak in the cycle after its acceptance.
        n = Signal(signed(6))
        for bit in range(u.element_bits):
            with m.If(peak[bit]):
                m.d.comb += n.eq(bit + 1 - u.line_bits)
        m.d.sync += measure.eq(start & new_is[VectorOp.SCALE])
        with m.If(start & new_is[VectorOp.SET_EXPONENT]):
            m.d.sync += self.exponents[new.e_dst].eq(new.imm)
        with m.If(measure):
            m.d.sync += [
                self.exponents[e_dst].eq(self.exponents[e_src] + n), setup.shift.eq(Mux(n < 0, 0, n)),
                setup.scalar.eq(Mux(n < 0, 1 << (-n)[:4], 1)),
            ]

        m.d.comb += [
            self.active.eq(self.i.valid | busy | pending | self.lut_write.en),
            self.events.phase_vector.eq(start | (busy & ~self.host_stall)), self.events.vector_words.eq(self.w.en),
            self.events.vector_saturations.eq(sum(alu.clipped)),
        ]
        m.d.sync += [
            Assert(busy | ~(self.o.valid | (running & (op == VectorOp.EMIT))), "emitting after the end of the command"),
            Assert(~self.o.valid | (op == VectorOp.EMIT), "output word of a command other than EMIT"),
            Assert(~(self.o.valid & self.o.payload.last & running), "fetching after the last word"),
        ]
        return m
