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
    ADD to SHL, SCALE              N + 6
    LUT                            N + 8
    SUM, PEAK_MAX                  N + 5 + R
    GATHER                         count0 * count1 + 6
    EMIT                           N + 2, and the cycles of ``host_stall``
    SET_EXPONENT                   1
The command's first word is read in the cycle after its acceptance; the last one is written in the cycle before ``ready``.

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
        # there is a command. ``setup`` holds for the lanes what stays constant; what takes more than a choice is made of the
        # registers in the cycle after acceptance, ``begun``. ``ready``: not ``busy``, apart from its loads.
        busy, ready, begun, stays, done = Signal(), Signal(init=1), Signal(), Signal(), Signal()
        setup, emit, keeps_peak = Signal(alu.setup.shape()), Signal(), Signal()
        e_dst, e_src = Signal.like(new.e_dst), Signal.like(new.e_src)
        op, sets, has_b = Signal(range(len(VectorOp))), Signal(), Signal()
        asks = {name: Signal(name=f"new_{name}") for name in asks_of(op)}
        is_gather = asks["is_gather"]
        m.d.comb += [
            op.eq(new.op), sets.eq(op == VectorOp.SET_EXPONENT), has_b.eq(op <= VectorOp.COMPARE),
            *(asks[name].eq(asked) for name, asked in asks_of(op).items() if u.gather or name != "is_gather"),
            stays.eq(Mux(busy, ~done, self.i.valid & ~sets)), self.i.ready.eq(ready), alu.setup.eq(setup),
        ]
        m.d.sync += [busy.eq(stays), ready.eq(~stays), begun.eq(~busy & stays)]
        with m.If(~busy):
            m.d.sync += [
                emit.eq(op == VectorOp.EMIT), keeps_peak.eq(op <= VectorOp.PEAK_MAX), e_dst.eq(new.e_dst), e_src.eq(new.e_src),
                *(setup[name].eq(asked) for name, asked in asks.items()), setup.lut.eq(new.lut), setup.tail.eq(new.count - 1),
                setup.b_vector.eq(has_b & (new.b_kind == BKind.VECTOR)),
                setup.b_element.eq(has_b & (new.b_kind == BKind.ELEMENT)),
                setup.scalar.eq(new.imm), setup.shift.eq(new.shift),
            ]

        # Place of the element fetched last: every operation is a GATHER, with one word to a row but for GATHER itself. Elements
        # are counted modulo the memory. ``left0``, ``left1``: elements of the row and rows left, the next one included; left1 is
        # one less where the last word is not ``whole``. ``more``: there is a next one.
        size = u.vector_words * u.vector_width
        element, row, next_element, start = Signal(range(size)), Signal(range(size)), Signal(range(size)), Signal(range(size))
        stride0, stride1 = Signal(range(size)), Signal(range(size))
        left0, count0, left1 = Signal(12), Signal(12), Signal(13)
        b, pos = Signal(range(u.vector_words)), Signal(range(u.vector_width))     # b: the next; pos: GATHER's place in its word
        more, whole, row_ends, ends, row_end, last = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            start.eq(Mux(is_gather, new.element, new.a << lane_bits)),
            next_element.eq(Mux(row_end, row, element) + Mux(begun, 0, Mux(row_end, stride1, stride0))),
            row_ends.eq(~setup.is_gather | (left0 == 1)), ends.eq(row_ends & (left1[1:] == 0) & (left1[0] == whole)),
        ]
        with m.If(~busy):
            m.d.sync += [
                more.eq(stays), last.eq(0), element.eq(start), row.eq(start), b.eq(new.b), pos.eq(u.vector_width - 1),
                left0.eq(new.count0), count0.eq(new.count0), stride0.eq(new.stride0),
                left1.eq(Mux(is_gather, new.count1, new.count >> lane_bits)), whole.eq(is_gather | ~new.count[:lane_bits].any()),
            ]
            if u.gather:
                m.d.sync += stride1.eq(Mux(is_gather, new.stride1, u.vector_width))
        with m.Elif(self.a.en):
            m.d.sync += [more.eq(~ends), element.eq(next_element), b.eq(b + 1), pos.eq(pos + 1), last.eq(ends),
                         left0.eq(Mux(row_ends, count0, left0 - 1))]
            if u.gather:
                m.d.sync += row_end.eq(row_ends)
            with m.If(row_end):
                m.d.sync += row.eq(next_element)
            with m.If(row_ends):
                m.d.sync += left1.eq(left1 - 1)
        if not u.gather:
            m.d.comb += [row_end.eq(1), stride1.eq(u.vector_width)]

        # Fetch, then one cycle later the step of the lanes.
        fetched = Signal()
        m.d.comb += [
            self.a.en.eq(more & ~self.host_stall), self.a.addr.eq(next_element >> lane_bits),
            self.b.en.eq(more & (setup.b_vector | (setup.b_element & begun))), self.b.addr.eq(b),
            alu.a.eq(self.a.data), alu.b.eq(self.b.data), alu.step.valid.eq(fetched), alu.step.last.eq(last),
            alu.step.lane.eq(element), alu.step.pos.eq(pos),
        ]
        m.d.sync += fetched.eq(more & ~emit)
        with m.If(fetched & last & setup.is_gather):
            m.d.sync += setup.tail.eq(pos)

        # Output packets: the memory holds the word while it waits.
        m.d.sync += self.o.valid.eq(emit & (more | self.host_stall))
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

        # The cycle after acceptance. SCALE measures peak, and in the next cycle knows its shift, peak = 2^n below 2^line_bits.
        measured, there, place, n = Signal(), Signal(), Signal(range(u.element_bits)), Signal(signed(6))
        lengths = Array(Const(length + 1 - u.line_bits, signed(6)) for length in range(u.element_bits))
        m.d.comb += n.eq(Mux(there, lengths[place], 0))
        m.d.sync += measured.eq(begun & setup.is_scale)
        with m.If(begun):
            m.d.sync += [there.eq(peak.any()), place.eq(highest(m, peak))]
            with m.If(setup.is_gather):
                m.d.sync += setup.shift.eq(0)
            with m.Elif(setup.is_raised):
                m.d.sync += setup.shift.eq(16 - setup.shift[:4])
            with m.If(setup.is_scale):
                m.d.sync += setup.scalar.eq(self.exponents[e_src])
            with m.Elif(setup.is_reduction | setup.is_gather | setup.is_lut):   # begins with 0 or -32768; adds 0
                m.d.sync += setup.scalar.eq(Cat(Const(0, u.element_bits - 1), setup.is_peak))
        with m.If(measured):
            m.d.sync += setup.shift.eq(16 + n)
        if u.vector_width > 1:
            m.d.sync += alu.above.eq(places_above(setup.shift, len(alu.above)))
        else:                                           # one lane is not worth the registers
            m.d.comb += alu.above.eq(places_above(setup.shift, len(alu.above)))
        for k, exponent in enumerate(self.exponents):
            with m.If((measured & (e_dst == k)) | (self.i.valid & (~busy & sets & (new.e_dst == k)))):
                m.d.sync += exponent.eq(Mux(busy, setup.scalar + n, new.imm))

        m.d.comb += [
            self.active.eq(self.i.valid | busy | pending | self.lut_write.en),
            self.events.phase_vector.eq(Mux(busy, ~self.host_stall, self.i.valid)), self.events.vector_words.eq(self.w.en),
            self.events.vector_saturations.eq(sum(alu.clipped)),
        ]
        m.d.sync += [
            Assert(busy | ~self.o.valid, "emitting after the end of the command"),
            Assert(~self.o.valid | emit, "output word of a command other than EMIT"),
            Assert(~more | (~last & (busy | ~emit)), "fetching after the end of the command"),
        ]
        return m
