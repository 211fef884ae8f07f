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

from amaranth import Array, Assert, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.arith import highest, places_above
from hdl.ports import LutWriteSignature, VectorCommand, VectorReadSignature, VectorWriteSignature, WordStream
from hdl.vector_alu import VectorAlu, asks_of
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

        # Command: while idle, registers take what is offered, valid or not; ``valid`` comes late and reaches only what tells that
        # there is a command. ``setup`` holds for the lanes what stays constant. ``begun``: the cycle after acceptance; ``ready``:
        # not ``busy``, apart from its loads.
        busy, ready, begun, stays, done = Signal(), Signal(init=1), Signal(), Signal(), Signal()
        setup, emit, keeps_peak = Signal(alu.setup.shape()), Signal(), Signal()
        e_dst, e_src = Signal.like(new.e_dst), Signal.like(new.e_src)
        op, sets, emits, has_b = Signal(range(len(VectorOp))), Signal(), Signal(), Signal()
        asks = {name: Signal(name=f"new_{name}") for name in asks_of(op)}
        is_gather = asks["is_gather"]
        m.d.comb += [
            op.eq(new.op), sets.eq(op == VectorOp.SET_EXPONENT), emits.eq(op == VectorOp.EMIT), has_b.eq(op <= VectorOp.COMPARE),
            *(asks[name].eq(asked) for name, asked in asks_of(op).items() if u.gather or name != "is_gather"),
            stays.eq(Mux(busy, ~done, self.i.valid & ~sets)), self.i.ready.eq(ready), alu.setup.eq(setup),
        ]
        m.d.sync += [busy.eq(stays), ready.eq(~stays), begun.eq(~busy & stays)]
        with m.If(~busy):
            m.d.sync += [
                emit.eq(emits), keeps_peak.eq(op <= VectorOp.PEAK_MAX), e_dst.eq(new.e_dst), e_src.eq(new.e_src),
                *(setup[name].eq(asked) for name, asked in asks.items()), setup.lut.eq(new.lut), setup.tail.eq(new.count - 1),
                setup.b_vector.eq(has_b & (new.b_kind == BKind.VECTOR)),
                setup.b_element.eq(has_b & (new.b_kind == BKind.ELEMENT)),
                # a reduction begins with 0 or -32768
                setup.scalar.eq(Mux(asks["is_reduction"], Cat(Const(0, u.element_bits - 1), asks["is_peak"]), new.imm)),
                setup.shift.eq(Mux(is_gather, 0, Mux(op == VectorOp.SHL, 16 - new.shift[:4], new.shift))),
            ]

        # Place of the word fetched last: every operation is a GATHER, with one word to a row but for GATHER itself. Elements are
        # counted modulo the memory. ``left0``, ``left1``: elements of the row and rows left, this one included.
        size = u.vector_words * u.vector_width
        element, row, next_element = Signal(range(size)), Signal(range(size)), Signal(range(size))
        stride0, stride1 = Signal(range(size)), Signal(range(size))
        # In registers: there is one element to a row, one left in it (``row_end``), one row left (``row_last``).
        left0, count0, left1 = Signal(12), Signal(12), Signal(13)
        single, row_last = Signal(), Signal()
        b, pos = Signal(range(u.vector_words)), Signal(range(u.vector_width))     # pos: GATHER's place in the word
        row_end, last, advance = Signal(), Signal(), Signal()
        m.d.comb += [
            last.eq(row_end & row_last), advance.eq(~last & ~self.host_stall),
            next_element.eq(Mux(busy, Mux(row_end, row, element) + Mux(row_end, stride1, stride0),
                                Mux(is_gather, new.element, new.a << lane_bits))),
        ]
        with m.If(~busy):
            m.d.sync += [row.eq(next_element), pos.eq(0), left0.eq(new.count0), count0.eq(new.count0), stride0.eq(new.stride0)]
            if u.gather:
                m.d.sync += [single.eq(~is_gather | (new.count0 == 1)), row_end.eq(~is_gather | (new.count0 == 1))]
            with m.If(is_gather):
                m.d.sync += [left1.eq(new.count1), stride1.eq(new.stride1), row_last.eq(new.count1 == 1)]
            with m.Else():
                m.d.sync += [left1.eq((new.count + u.vector_width - 1) >> lane_bits), stride1.eq(u.vector_width),
                             row_last.eq(new.count <= u.vector_width)]
        with m.Elif(advance):
            m.d.sync += [pos.eq(pos + 1), left0.eq(Mux(row_end, count0, left0 - 1))]
            if u.gather:
                m.d.sync += row_end.eq(single | (~row_end & (left0 == 2)))
            with m.If(row_end):
                m.d.sync += [left1.eq(left1 - 1), row_last.eq(left1 == 2), row.eq(next_element)]
        if not u.gather:
            m.d.comb += row_end.eq(1)
        with m.If(~busy | advance):
            m.d.sync += [element.eq(next_element), b.eq(self.b.addr)]

        # Fetch, then one cycle later the step of the lanes.
        fetched = Signal()
        m.d.comb += [
            self.a.en.eq(Mux(busy, advance, self.i.valid & ~sets)), self.a.addr.eq(next_element >> lane_bits),
            self.b.en.eq(Mux(busy, advance & setup.b_vector, self.i.valid & has_b & (new.b_kind != BKind.IMMEDIATE))),
            self.b.addr.eq(Mux(busy, b + 1, new.b)),
            alu.a.eq(self.a.data), alu.b.eq(self.b.data), alu.step.valid.eq(fetched & ~emit), alu.step.last.eq(last),
            alu.step.lane.eq(element), alu.step.pos.eq(pos),
        ]
        m.d.sync += fetched.eq(self.a.en)
        with m.If(alu.step.valid & last & setup.is_gather):
            m.d.sync += setup.tail.eq(pos)

        # Output packets: the memory holds the word while it waits.
        m.d.sync += self.o.valid.eq(Mux(busy, emit & (~last | self.host_stall), self.i.valid & emits))
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
        with m.If(~busy):
            m.d.sync += dst.eq(new.dst)
        with m.Elif(self.w.en):
            m.d.sync += dst.eq(dst + 1)

        # Peak: taken one cycle after a word was written.
        peak, pending = Signal(u.element_bits), Signal()
        written = [Signal(u.element_bits, name=f"written_{lane}", reset_less=True) for lane in range(u.vector_width)]
        m.d.sync += pending.eq(self.w.en & keeps_peak)
        m.d.sync += [kept.eq(Mux(keep, value, 0)) for kept, value, keep in zip(written, self.w.data, self.w.mask, strict=True)]
        with m.If(begun & keeps_peak):
            m.d.sync += peak.eq(0)
        with m.Elif(pending):
            signs = (value[-1] for value in written)
            magnitudes = (((value ^ sign.replicate(u.element_bits)) + sign)[:u.element_bits]
                          for value, sign in zip(written, signs, strict=True))
            m.d.sync += peak.eq(reduce(or_, magnitudes, peak))

        # Exponents; SCALE measures peak in the cycle after its acceptance.
        measured, n, measuring = Signal(), Signal(signed(6)), Signal()
        m.d.comb += measuring.eq(begun & setup.is_scale)
        m.d.sync += measured.eq(measuring)
        with m.If(measuring):
            lengths = Array(Const(place + 1 - u.line_bits, signed(6)) for place in range(u.element_bits))
            m.d.sync += n.eq(Mux(peak.any(), lengths[highest(m, peak)], 0))
        with m.If(measured):
            m.d.sync += setup.shift.eq(16 + n)
        if u.vector_width > 1:                          # a cycle ahead of the words
            m.d.sync += alu.above.eq(places_above(Mux(measured, 16 + n, setup.shift)[:len(setup.shift)], len(alu.above)))
        else:                                           # one lane is not worth the registers
            m.d.comb += alu.above.eq(places_above(setup.shift, len(alu.above)))
        for k, exponent in enumerate(self.exponents):
            with m.If((measured & (e_dst == k)) | (self.i.valid & (~busy & sets & (new.e_dst == k)))):
                m.d.sync += exponent.eq(Mux(busy, self.exponents[e_src] + n, new.imm))

        m.d.comb += [
            self.active.eq(self.i.valid | busy | pending | self.lut_write.en),
            self.events.phase_vector.eq(Mux(busy, ~self.host_stall, self.i.valid)), self.events.vector_words.eq(self.w.en),
            self.events.vector_saturations.eq(sum(alu.clipped)),
        ]
        m.d.sync += [
            Assert(busy | ~self.o.valid, "emitting after the end of the command"),
            Assert(~self.o.valid | emit, "output word of a command other than EMIT"),
        ]
        return m
