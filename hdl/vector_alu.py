"""The lanes of the vector unit: one word of ``vector_width`` elements per cycle through the arithmetic pipeline.

``setup`` says what is done and is constant while words of a command are in the pipeline; ``step`` accompanies the word that
is on ``a`` and ``b`` in this cycle. Per lane (VectorOp)

    stage 0  operands into registers: a; b = b[lane] when ``setup.b_vector``, else b[0] when ``setup.b_element``
             SUM, PEAK_MAX: a = 0 or -32768 in lanes behind ``tail`` of the last word
    stage 1  f = a + b | a - b | a * b | max(a, b) | a > b         b = ``setup.scalar`` with neither flag
             f = a 2^16                                            SHL and SCALE: setup.shift is 16 less the shift to the left
    (tree)   SUM, PEAK_MAX: pairwise over the lanes, a register after every level, then into f of lane 0, which begins with
             ``setup.scalar``: 0 or -32768; it goes on after the last word
    stage 2  f >> setup.shift with its rounding bit, and whether it is beyond 17 bit: by the bits of f that ``above`` names
    stage 3  + rounding bit, and whether that is inside the limits: 16 bit; SCALE +-line_max; LUT an index of lut_bits bits
             GATHER: element ``step.lane`` into lane ``step.pos`` of a word, which goes on when full or last
    stage 4  the result, or the limit; LUT: the table is read; its output, which is slow, goes through a register: 2 cycles more
    GATHER, LUT   stage 1: a + 0; setup.scalar is 0. GATHER: setup.shift is 0

Ports: ``setup`` In, ``above`` In (``places_above`` of ``setup.shift``, in stage 2), ``step`` In (``valid``, ``last``: last word,
GATHER: last element, ``lane``, ``pos``), ``a``, ``b`` In, ``o`` Out (``valid``, ``last``, ``mask``, ``data``: a result word in
this cycle; the last word has elements up to ``setup.tail``; ``mask`` and ``data`` are 0 without ``valid``), ``clipped`` Out (per
lane, one cycle after ``o``: its element was clipped to 16 bit), ``lut_write`` In.
Timing: a step in cycle t gives its result in cycle t + 4, of LUT in t + 6; SUM and PEAK_MAX: the last step in cycle t gives it in
t + 3 + R, R = log2(vector_width) + 1. One step per cycle. From the cycle after a result (``clipped`` falls to 0) to the next step
the clock may stand still: pipeline registers are loaded in every cycle, and what has no ``valid`` beside it does not count.
The tables are one memory with a read port per lane; synthesis makes a copy for each. Their content is undefined until written.
They must not be written while an index is looked up (asserted: a program waits for the packet); with one lane, reads and writes
then share an address.

Twin: ``model/digital/vector_alu.py``. Source: design choice (``model/isa.py``).
"""
from functools import reduce
from itertools import pairwise
from operator import or_

from amaranth import Array, Assert, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hdl.arith import fits, shift_down
from hdl.ports import LutWriteSignature
from model.isa import VectorOp
from model.params import UnitParams

__all__ = ["AluSetup", "AluStep", "VectorAlu", "asks_of", "lanes_up_to"]

_COUNT_BITS = 13
_F_BITS = 32
_SHIFTED_BITS = 17
"""Of a result before rounding that may yet be inside 16 bit [bit]."""
_ASKS = {
    "is_lut": (VectorOp.LUT,), "is_scale": (VectorOp.SCALE,), "is_gather": (VectorOp.GATHER,),
    "is_reduction": (VectorOp.SUM, VectorOp.PEAK_MAX), "is_peak": (VectorOp.PEAK_MAX,),
    "is_product": (VectorOp.MUL,), "is_raised": (VectorOp.SHL, VectorOp.SCALE),
    "is_sum": (VectorOp.ADD, VectorOp.SUB, VectorOp.SUM, VectorOp.GATHER, VectorOp.LUT),
    "is_max": (VectorOp.MAX, VectorOp.PEAK_MAX),
    "is_compare": (VectorOp.COMPARE,), "carry": (VectorOp.SUB,),
    "is_difference": (VectorOp.SUB, VectorOp.MAX, VectorOp.COMPARE, VectorOp.PEAK_MAX),
}
"""What operations ask of the stages, bit by bit: decoded before a command begins."""


def asks_of(op):
    """The flags of ``AluSetup`` for an operation, by name."""
    return {name: reduce(or_, (op == one for one in ops)) for name, ops in _ASKS.items()}


def AluSetup(u: UnitParams):
    """Layout of ``setup``; ``tail`` is the last lane of the last word."""
    return data.StructLayout({
        **dict.fromkeys(_ASKS, 1), "b_vector": 1, "b_element": 1, "scalar": signed(u.element_bits), "shift": 5, "lut": 3,
        "tail": range(u.vector_width)})


def AluStep(u: UnitParams):
    """Layout of ``step``."""
    return data.StructLayout({"valid": 1, "last": 1, "lane": range(u.vector_width), "pos": range(u.vector_width)})


def lanes_up_to(position, n_lanes):
    """Mask of lanes 0..position."""
    return Cat(position >= lane for lane in range(n_lanes))


def _extend(value):
    """A signed value in as many bits as f has."""
    return Cat(value, value[-1].replicate(_F_BITS - len(value)))


class VectorAlu(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        word = data.ArrayLayout(signed(u.element_bits), u.vector_width)
        super().__init__({
            "setup": In(AluSetup(u)), "above": In(_F_BITS - _SHIFTED_BITS), "step": In(AluStep(u)), "a": In(word), "b": In(word),
            "o": Out(data.StructLayout({"valid": 1, "last": 1, "mask": u.vector_width, "data": word})),
            "clipped": Out(u.vector_width), "lut_write": In(LutWriteSignature(u)),
        })

    def elaborate(self, platform):
        u, setup = self.u, self.setup
        m = Module()
        width, bits = u.vector_width, u.element_bits
        tail_mask = Signal(width)
        m.d.comb += tail_mask.eq(lanes_up_to(setup.tail, width))

        # Stage 0: operands; b inverted where it is subtracted.
        valid0, last0 = Signal(), Signal()
        lefts = [Signal(signed(bits), name=f"a_{lane}", reset_less=True) for lane in range(width)]
        rights = [Signal(signed(bits), name=f"b_{lane}", reset_less=True) for lane in range(width)]
        left_out, absent = Signal(width), Mux(setup.is_peak, -1 << bits - 1, 0)
        with m.If(self.step.last & setup.is_reduction):
            m.d.comb += left_out.eq(~tail_mask)
        m.d.sync += [valid0.eq(self.step.valid), last0.eq(self.step.last)]
        m.d.sync += [left.eq(Mux(leave, absent, a)) for left, leave, a in zip(lefts, left_out, self.a, strict=True)]
        for right, b in zip(rights, self.b, strict=True):
            b = Mux(setup.b_vector, b, Mux(setup.b_element, self.b[0], setup.scalar))
            m.d.sync += right.eq(b ^ setup.is_difference.replicate(bits))

        # Tree: the reductions, a level per cycle; it ends in an operand of lane 0, which is a for every other operation.
        nodes, node_valid, node_last, level = lefts, valid0 & setup.is_reduction, last0, 0
        while len(nodes) > 1:
            level += 1
            valid, last = Signal(name=f"tree_valid_{level}"), Signal(name=f"tree_last_{level}")
            sums = [Signal(signed(bits + level), name=f"tree_{level}_{k}", reset_less=True) for k in range(len(nodes) // 2)]
            m.d.sync += [valid.eq(node_valid), last.eq(node_last)]
            for node, x, y in zip(sums, nodes[::2], nodes[1::2], strict=True):
                both = Mux(setup.is_peak, Mux(x > y, x, y), x + y)
                m.d.sync += node.eq(both if len(sums) > 1 else Mux(setup.is_reduction, both, self.a[0]))
            nodes, node_valid, node_last = sums, valid, last

        # Stage 1: f of both operands; in lane 0 a reduction adds what the tree gives to f, its first word to b (not ``adds``).
        valid1, last1, adds = Signal(), Signal(), Signal()
        fs = [Signal(signed(_F_BITS), name=f"f_{lane}", reset_less=True) for lane in range(width)]
        for lane, (f, left, right) in enumerate(zip(fs, lefts, rights, strict=True)):
            enough = bits + min(exact_log2(u.vector_words * width), _COUNT_BITS) if lane == 0 else bits + 2      # lane 0: sums
            x, y, s = (Signal(signed(enough), name=f"{name}_{lane}") for name in ("x", "y", "s"))
            product, above = Signal(signed(2 * bits), name=f"product_{lane}"), Signal(name=f"above_{lane}")
            larger = Signal(signed(bits), name=f"larger_{lane}")
            m.d.comb += [
                x.eq(nodes[0] if lane == 0 else left), y.eq(right),
                s.eq((Cat(setup.carry, x) + Cat(setup.carry, y))[1:]), product.eq(left * right),
                above.eq(~s[bits + 1]),                 # a > b: without the carry, s is a - b - 1
                # its sign, which fills f, does not wait for the comparison
                larger.eq(Cat(Mux(above, x, ~y)[:bits - 1], x[-1] & ~y[-1])),
            ]
            choices = [
                (setup.is_product, product), (setup.is_sum, s), (setup.is_max, larger),
                (setup.is_compare & above, Const(1, 2)), (setup.is_raised, Cat(Const(0, bits), left))]
            move = Const(1)
            if lane == 0:
                move = node_valid | ~setup.is_reduction
                with m.If(adds):
                    m.d.comb += y.eq(f ^ setup.is_difference.replicate(_F_BITS))
            with m.If(move):
                m.d.sync += f.eq(reduce(or_, (_extend(value) & choice.replicate(_F_BITS) for choice, value in choices)))
        with m.If(node_valid):
            m.d.sync += adds.eq(~node_last)
        m.d.sync += [valid1.eq(Mux(setup.is_reduction, node_valid & node_last, valid0)), last1.eq(last0 | setup.is_reduction)]

        # Stage 2: shift, rounding bit kept apart.
        valid2, last2 = Signal(), Signal()
        shifted = [Signal(signed(_SHIFTED_BITS), name=f"shifted_{lane}", reset_less=True) for lane in range(width)]
        halves, negative = (Signal(width, name=name, reset_less=True) for name in ("halves", "negative"))
        beyond = [Signal(2, name=f"beyond_{lane}", reset_less=True) for lane in range(width)]           # by the lower, upper bits
        m.d.sync += [valid2.eq(valid1), last2.eq(last1)]
        for lane, f in enumerate(fs):
            value, half = shift_down(m, f, setup.shift, _SHIFTED_BITS)
            misfits = self.above & (f[_SHIFTED_BITS - 1:-1] ^ f[-1].replicate(len(self.above)))
            misfits = Cat(part.any() for part in (misfits[:len(misfits) // 2], misfits[len(misfits) // 2:]))
            m.d.sync += [shifted[lane].eq(value), halves[lane].eq(half), beyond[lane].eq(misfits), negative[lane].eq(f[-1])]

        # Stage 3: round; the word is done, or the indices of the table. GATHER: the element of one lane goes into one lane.
        place = data.StructLayout({"lane": range(width), "pos": range(width)})
        places = [self.step, *(Signal(place, name=f"place{k}") for k in range(3))]
        m.d.sync += [after[name].eq(before[name]) for before, after in pairwise(places) for name in ("lane", "pos")]
        lane2, pos2 = places[-1].lane, places[-1].pos
        ends, gathered = Signal(), Signal(bits)
        m.d.comb += [ends.eq(valid2 & (~setup.is_gather | last2 | (pos2 == width - 1))), gathered.eq(Array(shifted)[lane2])]
        valid3, last3, ours, of_table, mask = Signal(), Signal(), Signal(), Signal(), Signal(width)
        rounded = [Signal(signed(bits), name=f"rounded_{lane}", reset_less=True) for lane in range(width)]
        inside, below = (Signal(width, name=name, reset_less=True) for name in ("inside", "below"))
        word = data.StructLayout({"valid": 1, "last": 1})
        looks_up, looked_up = Signal(word), Signal(word)        # LUT: the table is addressed, the cycle after
        done, last = Mux(setup.is_lut, looked_up.valid, ends), Mux(setup.is_lut, looked_up.last, last2)
        m.d.sync += [
            looks_up.valid.eq(ends & setup.is_lut), looks_up.last.eq(last2), looked_up.eq(looks_up),
            valid3.eq(done), last3.eq(last), ours.eq(done & ~setup.is_lut), of_table.eq(done & setup.is_lut),
            mask.eq(Mux(done, Mux(setup.is_reduction, 1, Mux(last, tail_mask, -1)), 0)),
        ]
        for lane, (value, half) in enumerate(zip(shifted, halves, strict=True)):
            total = Signal(signed(_SHIFTED_BITS + 1), name=f"total_{lane}")
            # beside the addition: -line_max to line_max is neither -line_max - 1 nor what is rounded to line_max + 1; an index is
            # not what is rounded beyond the largest one, and one that is rounded to the smallest is that anyway
            edge = Cat(half, value[:u.line_bits]) ^ value[-1].replicate(u.line_bits + 1)
            scaled = fits(value, u.line_bits + 1) & ~edge.all()
            indexed = fits(value, u.lut_bits) & ~(Cat(half, value[:u.lut_bits - 1]).all() & ~value[-1])
            fit = Mux(setup.is_lut, indexed, Mux(setup.is_scale, scaled, fits(total, bits)))
            m.d.comb += total.eq(value + half)
            with m.If(~setup.is_gather | (valid2 & (pos2 == lane))):
                m.d.sync += [rounded[lane].eq(Mux(setup.is_gather, gathered, total) if width > 1 else total),
                             inside[lane].eq(fit & ~beyond[lane].any()), below[lane].eq(negative[lane])]

        # Stage 4: the result or the limit, or what the table has.
        table = memory.Memory(shape=signed(bits), depth=u.n_luts << u.lut_bits, init=[],
                              attrs={"no_rw_check": 1, **({"single_port": 1} if width == 1 else {})})
        m.submodules.table = table
        lut_write = table.write_port()
        written = Cat(self.lut_write.index, self.lut_write.lut)
        m.d.comb += [lut_write.en.eq(self.lut_write.en), lut_write.data.eq(self.lut_write.data)]
        m.d.sync += Assert(~(looks_up.valid & self.lut_write.en), "a table is written while an index is looked up")
        m.d.comb += [self.o.valid.eq(valid3), self.o.last.eq(last3), self.o.mask.eq(mask)]
        for lane, value in enumerate(rounded):
            read, entry, low = table.read_port(), Signal(signed(bits), name=f"entry_{lane}", reset_less=True), below[lane]
            limit = Mux(setup.is_scale, Mux(low, -u.line_max, u.line_max), Mux(low, -1 << bits - 1, (1 << bits - 1) - 1))
            index = Mux(inside[lane], value[:u.lut_bits], Cat((~low).replicate(u.lut_bits - 1), low))
            m.d.sync += entry.eq(read.data)
            m.d.comb += [
                read.en.eq(looks_up.valid),
                self.o.data[lane].eq(Mux(ours, Mux(inside[lane], value, limit), 0) | Mux(of_table, entry, 0)),
            ]
            chosen = Cat(index[:u.lut_bits], setup.lut)
            if width == 1:                              # one port: a RAM that has no more, as iCE40's SPRAM, will do
                address = Signal.like(read.addr)
                m.d.comb += [address.eq(Mux(self.lut_write.en, written, chosen)), read.addr.eq(address),
                             lut_write.addr.eq(address)]
            else:
                m.d.comb += [read.addr.eq(chosen), lut_write.addr.eq(written)]
        m.d.sync += self.clipped.eq(Mux(setup.is_lut | setup.is_scale, 0, mask & ~inside))
        return m
