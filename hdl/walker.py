"""Walker: yields the lines with a non-zero code, one (line, group) per cycle, zeros skipped.

Contract: of every word of walk codes accepted on ``i``, in order, for each element in its mask, ascending: line = index *
vector_width + element, with its code, once for each group 0 .. groups - 1. Words with an empty mask leave no trace.

Words wait in a FIFO of ``DEPTH`` words, so that fetching and empty words cost nothing while lines are walked. Within a word the
lowest bit of the mask is taken and cleared: pick (one-hot) | code and number of the line. Whether one bit alone is left is a
register beside each mask, made as the mask is made: so what empties a word is no path through its mask. A free place of the
FIFO follows what is offered: whether that is accepted decides only whether the place is free.

Timing: a word accepted in cycle t is picked from cycle t + 1 on, its first line is on the output in cycle t + 3; one line per
cycle in which ``go`` is high; ``go`` stops the picks and the output, not the FIFO's input (``move``: the fetch moves).
Source: design choice.
"""
from functools import reduce
from operator import or_

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.operands import WalkWord
from model.params import UnitParams

__all__ = ["DEPTH", "Walker"]

DEPTH = 4
"""Words in the FIFO; as many non-empty words as ``hdl.operands`` may fetch before the lanes."""


def _at_least(m: Module, mask, name: str):
    """Whether at least one, two, three bits of ``mask`` are set: signals ``name``..., a tree."""
    if len(mask) == 1:
        return mask, Const(0, 1), Const(0, 1)
    half = len(mask) // 2
    (a1, a2, a3), (b1, b2, b3) = _at_least(m, mask[:half], name + "l"), _at_least(m, mask[half:], name + "h")
    one, two, three = (Signal(name=f"{name}{count}") for count in (1, 2, 3))
    m.d.comb += [one.eq(a1 | b1), two.eq(a2 | b2 | (a1 & b1)), three.eq(a3 | b3 | (a2 & b1) | (a1 & b2))]
    return one, two, three


class Walker(wiring.Component):
    """See the module.

    Members
    -------
    clear : In(1)
        Forget everything.
    i : In(stream.Signature(WalkWord(u)))
        Words to walk; accepted when valid & ready & ``move``. ``ready`` is low when the FIFO is full.
    move, go : In(1)
        The fetch moves; the pipeline behind the walker moves.
    groups : In(13)
        Words of a line, at least 1.
    valid, line, group, negative, code : Out
        A line and group, and its code. ``idle``: nothing left to walk, output included.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        # state, attributes for proofs: FIFO (word 0: the head; there: place taken, from place 0 on; alone: one bit in the mask),
        # next group of the head; stage "pick"
        self.words = [Signal(WalkWord(u), name=f"word{n}", reset_less=True) for n in range(DEPTH)]
        self.alone = [Signal(name=f"alone{n}", reset_less=True) for n in range(DEPTH)]
        self.there = Signal(DEPTH)
        self.next_group = Signal(range(u.groups_max))
        self.picked, self.picked_word = Signal(u.vector_width, reset_less=True), Signal(WalkWord(u), reset_less=True)
        self.picked_group, self.picked_valid = Signal(self.next_group.shape(), reset_less=True), Signal()
        super().__init__({
            "clear": In(1), "i": In(stream.Signature(WalkWord(u))), "move": In(1), "go": In(1), "groups": In(13),
            "valid": Out(1), "line": Out(13), "group": Out(range(u.groups_max)), "negative": Out(1), "code": Out(u.outer_bits),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width, code_bits = self.u.vector_width, self.u.outer_bits + 1

        words, head, there, alone, group = self.words, self.words[0], self.there, self.alone, self.next_group
        lowest, last_group, take, push, pop, left = Signal(width), Signal(), Signal(), Signal(), Signal(), Signal(DEPTH)
        m.d.comb += [
            self.i.ready.eq(~there[-1]),
            push.eq(self.i.valid & self.i.ready & self.move & self.i.payload.mask.any()),
            take.eq(self.go & there[0] & last_group),
            lowest.eq(head.mask & -head.mask), last_group.eq(group + 1 == self.groups[:self.u.groups_max.bit_length()]),
            pop.eq(take & alone[0]), left.eq(Mux(pop, there[1:], there)),
        ]

        # FIFO: word 0 is the head
        m.d.sync += there.eq(Mux(push, Cat(1, left), left))
        _, new_two, _ = _at_least(m, self.i.payload.mask, "new")
        _, _, three = _at_least(m, head.mask, "head")
        behind = Cat(self.i.payload, ~new_two)           # a place's word and ``alone``, what may come into it
        for n in reversed(range(DEPTH)):
            place = Cat(words[n], alone[n])
            if n:
                with m.If(pop | ~there[n]):
                    m.d.sync += place.eq(behind)
                behind = Mux(there[n], place, Cat(self.i.payload, ~new_two))
            else:
                with m.If(take | ~there[0]):
                    with m.If(there[0] & ~alone[0]):
                        m.d.sync += [head.mask.eq(head.mask & (head.mask - 1)), alone[0].eq(~three)]
                    with m.Else():
                        m.d.sync += place.eq(behind)

        # pick
        picked, index, codes, picked_valid = self.picked, self.picked_word.index, self.picked_word.codes, self.picked_valid
        with m.If(self.go):
            m.d.sync += [picked_valid.eq(there[0]), picked.eq(lowest), index.eq(head.index), codes.eq(head.codes),
                         self.picked_group.eq(group)]
            with m.If(there[0]):
                m.d.sync += group.eq(Mux(last_group, 0, group + 1))

        # code and number of the line
        number, code = Signal(range(width)), Signal(code_bits)
        m.d.comb += [
            code.eq(reduce(or_, (codes.word_select(k, code_bits) & picked[k].replicate(code_bits) for k in range(width)))),
            number.eq(Cat(Cat(picked[k] for k in range(width) if k >> bit & 1).any() for bit in range(len(number)))),
        ]
        with m.If(self.go):
            m.d.sync += [self.valid.eq(picked_valid), self.line.eq(Cat(number, index)), self.group.eq(self.picked_group),
                         self.negative.eq(code[-1]), self.code.eq(code[:-1])]
        m.d.comb += self.idle.eq(~there[0] & ~picked_valid & ~self.valid)

        with m.If(self.clear):
            m.d.sync += [there.eq(0), group.eq(0), picked_valid.eq(0), self.valid.eq(0)]
        return m
