"""The lanes of the vector unit: one word of ``vector_width`` elements per cycle through the arithmetic pipeline.

``setup`` says what is done and is constant while words of a command are in the pipeline; ``step`` accompanies the word that
is on ``a`` and ``b`` in this cycle. Per lane (VectorOp)

    stage 0  operands into registers: a; b = b[lane] when ``setup.b_vector``, else b[0] when ``setup.b_element``
             SUM, PEAK_MAX: a = 0 or -32768 in lanes behind ``tail`` of the last word
    stage 1  f = a + b | a - b | a * b | max(a, b) | a > b         b = ``setup.scalar`` with neither flag
             f = a * b                                             SHL and SCALE: scalar = 2^left shift, both flags 0
    (tree)   SUM, PEAK_MAX: pairwise over the lanes, a register after every level, then into the accumulator; after the last
             word the accumulator goes on as lane 0
    stage 2  f (LUT: a) >> setup.shift with its rounding bit, clipped to 17 bit
    stage 3  + rounding bit, clipped: to 16 bit; SCALE to +-line_max; LUT to an index of lut_bits bits
    stage 4  LUT only: the table's entry
    GATHER   stage 1: element ``a[step.lane]``; stage 2: stored in lane ``step.pos`` of a word, which goes on when full or last

Ports: ``setup`` In, ``step`` In (``valid``, ``last``: last word, GATHER: last element, ``lane``, ``pos``), ``a``, ``b`` In,
``o`` Out (``valid``, ``last``, ``mask``, ``data``: a result word in this cycle; the last word has elements up to ``setup.tail``),
``clipped`` Out (per lane, one cycle after ``o``: its element was clipped to 16 bit), ``lut_write`` In.
Timing: a step in cycle t gives its result in cycle t + 3; SUM and PEAK_MAX: the last step in cycle t gives it in cycle t + 2 + R,
R = log2(vector_width) + 1. One step per cycle. From the cycle after a result (``clipped`` falls to 0) to the next step no
register changes, tables apart.
The tables are one memory with a read port per lane; synthesis makes a copy for each. Their content is undefined until written.

Twin: ``model/digital/vector_alu.py``. Source: design choice (``model/isa.py``).
"""
from amaranth import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.arith import fits, saturate
from hdl.ports import LutWriteSignature
from model.isa import VectorOp
from model.params import UnitParams

__all__ = ["AluSetup", "AluStep", "VectorAlu", "lanes_up_to"]

_F_BITS = 33
_SHIFTED_BITS = 17
_SPECIAL = (VectorOp.LUT, VectorOp.SCALE, VectorOp.GATHER, VectorOp.SUM, VectorOp.PEAK_MAX)


def AluSetup(u: UnitParams):
    """Layout of ``setup``; ``tail`` is the last lane of the last word."""
    return data.StructLayout({
        "op": 5, "b_vector": 1, "b_element": 1, "scalar": signed(u.element_bits + 1), "shift": 5, "lut": 3,
        "tail": range(u.vector_width)})


def AluStep(u: UnitParams):
    """Layout of ``step``."""
    return data.StructLayout({"valid": 1, "last": 1, "lane": range(u.vector_width), "pos": range(u.vector_width)})


def lanes_up_to(position, n_lanes):
    """Mask of lanes 0..position."""
    return Cat(position >= lane for lane in range(n_lanes))


def _combine(is_max, x, y):
    return Mux(is_max, Mux(x > y, x, y), x + y)


class VectorAlu(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        word = data.ArrayLayout(signed(u.element_bits), u.vector_width)
        super().__init__({
            "setup": In(AluSetup(u)), "step": In(AluStep(u)), "a": In(word), "b": In(word),
            "o": Out(data.StructLayout({"valid": 1, "last": 1, "mask": u.vector_width, "data": word})),
            "clipped": Out(u.vector_width), "lut_write": In(LutWriteSignature(u)),
        })

    def elaborate(self, platform):
        u, setup = self.u, self.setup
        m = Module()
        width, bits = u.vector_width, u.element_bits
        is_lut, is_scale, is_gather, is_sum, is_max = (Signal(name=f"is_{op.name.lower()}") for op in _SPECIAL)
        is_reduction, has_b, tail_mask = Signal(), Signal(), Signal(width)
        m.d.comb += [
            is_reduction.eq(is_sum | is_max), has_b.eq(setup.b_vector | setup.b_element),
            tail_mask.eq(lanes_up_to(setup.tail, width)),
        ]
        with m.If(self.step.valid):                  # in registers for the clock: valid from stage 1 on
            signals = (is_lut, is_scale, is_gather, is_sum, is_max)
            m.d.sync += [signal.eq(setup.op == op) for signal, op in zip(signals, _SPECIAL, strict=True)]

        # Stage 0: operands.
        valid0, last0, pos0, lane0 = Signal(), Signal(), Signal(range(width)), Signal(range(width))
        lefts = [Signal(signed(bits), name=f"a_{lane}", reset_less=True) for lane in range(width)]
        rights = [Signal(signed(bits), name=f"b_{lane}", reset_less=True) for lane in range(width)]
        left_out, absent = Signal(width), Mux(setup.op == VectorOp.PEAK_MAX, -1 << bits - 1, 0)
        with m.If(self.step.last & ((setup.op == VectorOp.SUM) | (setup.op == VectorOp.PEAK_MAX))):
            m.d.comb += left_out.eq(~tail_mask)
        m.d.sync += valid0.eq(self.step.valid)
        with m.If(self.step.valid):
            m.d.sync += [last0.eq(self.step.last), pos0.eq(self.step.pos), lane0.eq(self.step.lane)]
            m.d.sync += [left.eq(Mux(leave, absent, a)) for left, leave, a in zip(lefts, left_out, self.a, strict=True)]
            with m.If(setup.b_vector):
                m.d.sync += [right.eq(b) for right, b in zip(rights, self.b, strict=True)]
            with m.Elif(setup.b_element):
                m.d.sync += [right.eq(self.b[0]) for right in rights]

        # Stage 1: f of both operands.
        valid1, last1, pos1 = Signal(), Signal(), Signal(range(width))
        fs = [Signal(signed(_F_BITS), name=f"f_{lane}", reset_less=True) for lane in range(width)]
        element = Signal(signed(bits), reset_less=True)
        operands = [Signal(signed(bits + 1), name=f"operand_{lane}") for lane in range(width)]
        m.d.comb += [operand.eq(Mux(has_b, right, setup.scalar)) for operand, right in zip(operands, rights, strict=True)]
        lanes = list(zip(fs, lefts, operands, strict=True))
        m.d.sync += valid1.eq(valid0 & ~is_reduction & ~is_lut)
        with m.If(valid0):
            m.d.sync += [last1.eq(last0), pos1.eq(pos0)]
            with m.Switch(setup.op):
                with m.Case(VectorOp.ADD):
                    m.d.sync += [f.eq(a + b) for f, a, b in lanes]
                with m.Case(VectorOp.SUB):
                    m.d.sync += [f.eq(a - b) for f, a, b in lanes]
                with m.Case(VectorOp.MUL, VectorOp.SHL, VectorOp.SCALE):
                    m.d.sync += [f.eq(a * b) for f, a, b in lanes]
                with m.Case(VectorOp.MAX):
                    m.d.sync += [f.eq(Mux(a > b, a, b)) for f, a, b in lanes]
                with m.Case(VectorOp.COMPARE):
                    m.d.sync += [f.eq(a > b) for f, a, b in lanes]
                with m.Case(VectorOp.GATHER):
                    m.d.sync += element.eq(Array(lefts)[lane0])

        # Tree: the reductions, a level per cycle; it ends with the accumulator, which starts anew after its last word.
        nodes, node_valid, node_last, level = lefts, valid0 & is_reduction, last0, 0
        while len(nodes) > 1:
            level += 1
            valid, last = Signal(name=f"tree_valid_{level}"), Signal(name=f"tree_last_{level}")
            held = [Signal(signed(bits + level), name=f"tree_{level}_{k}", reset_less=True) for k in range(len(nodes) // 2)]
            m.d.sync += valid.eq(node_valid)
            with m.If(node_valid):
                m.d.sync += last.eq(node_last)
                m.d.sync += [node.eq(_combine(is_max, x, y)) for node, x, y in zip(held, nodes[::2], nodes[1::2], strict=True)]
            nodes, node_valid, node_last = held, valid, last
        total, total_valid, fresh = Signal(signed(bits + 13), reset_less=True), Signal(), Signal(init=1)
        m.d.sync += total_valid.eq(node_valid & node_last)
        with m.If(node_valid):
            m.d.sync += [total.eq(Mux(fresh, nodes[0], _combine(is_max, total, nodes[0]))), fresh.eq(node_last)]

        # Stage 2: shift, rounding bit kept apart.
        arrived = Signal()
        valid2, last2 = Signal(), Signal()
        shifted = [Signal(signed(_SHIFTED_BITS), name=f"shifted_{lane}", reset_less=True) for lane in range(width)]
        halves = Signal(width, reset_less=True)
        doubles = [Signal(signed(_F_BITS + 1), name=f"doubled_{lane}") for lane in range(width)]
        for lane, (doubled, f, left) in enumerate(zip(doubles, fs, lefts, strict=True)):
            m.d.comb += doubled.eq(Mux(is_lut, left, Mux(is_reduction, total, f) if lane == 0 else f) << 1 >> setup.shift)
        m.d.comb += arrived.eq(valid1 | total_valid | (valid0 & is_lut))
        m.d.sync += valid2.eq(arrived & (~is_gather | last1 | (pos1 == width - 1)))
        with m.If(arrived):
            m.d.sync += last2.eq(Mux(is_lut, last0, last1 | is_reduction))
            with m.If(is_gather):
                m.d.sync += [shifted[lane].eq(Mux(pos1 == lane, element, shifted[lane])) for lane in range(width)]
                m.d.sync += halves.eq(0)
            with m.Else():
                m.d.sync += [signal.eq(saturate(doubled[1:].as_signed(), _SHIFTED_BITS))
                             for signal, doubled in zip(shifted, doubles, strict=True)]
                m.d.sync += halves.eq(Cat(doubled[0] for doubled in doubles))

        # Stage 3: round and clip; the word is done, or the indices of the table.
        table = memory.Memory(shape=signed(bits), depth=u.n_luts << u.lut_bits, init=[])
        m.submodules.table = table
        lut_write = table.write_port()
        m.d.comb += [
            lut_write.en.eq(self.lut_write.en), lut_write.data.eq(self.lut_write.data),
            lut_write.addr.eq(Cat(self.lut_write.index, self.lut_write.lut)),
        ]
        exact, last3, valid3 = Signal(width), Signal(), Signal()
        m.d.comb += self.o.mask.eq(Mux(is_reduction, 1, Mux(self.o.last, tail_mask, -1)))
        for lane in range(width):
            rounded = Signal(signed(_SHIFTED_BITS + 1), name=f"rounded_{lane}")
            scaled = Signal(signed(u.line_bits + 1), name=f"scaled_{lane}")
            entry = table.read_port()
            m.d.comb += [
                rounded.eq(shifted[lane] + halves[lane]), exact[lane].eq(fits(rounded, bits)),
                scaled.eq(saturate(rounded, u.line_bits + 1)),
                entry.en.eq(valid2 & is_lut), entry.addr.eq(Cat(saturate(rounded, u.lut_bits), setup.lut)),
            ]
            with m.If(is_lut):
                m.d.comb += self.o.data[lane].eq(entry.data)
            with m.Elif(is_scale):
                m.d.comb += self.o.data[lane].eq(Mux(scaled == -1 << u.line_bits, -u.line_max, scaled))
            with m.Else():
                m.d.comb += self.o.data[lane].eq(saturate(rounded, bits))
        m.d.sync += [
            valid3.eq(valid2 & is_lut), last3.eq(last2),
            self.clipped.eq(Mux(valid2 & ~is_lut & ~is_scale, self.o.mask & ~exact, 0)),
        ]
        m.d.comb += [self.o.valid.eq(Mux(is_lut, valid3, valid2)), self.o.last.eq(Mux(is_lut, last3, last2))]
        return m
