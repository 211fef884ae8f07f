"""hdl.walker: every marked element once per group, in order, nothing else; so no chi word is visited twice in a command."""
import dataclasses
import random

import pytest
from amaranth import Cat, Const, Elaboratable, Module, Signal
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover

from hdl.walker import DEPTH, Walker
from model.digital import walker as twin
from model.params import UnitParams
from tests.formal import any_value, drive_stream, prove
from tests.sim import pauses, simulate, stream_put

U = UnitParams(lanes=2, vector_width=4, n_rows=8, n_cols=4, outer_bits=2, line_bits=3)


def test_twin_has_the_same_depth():
    assert twin.DEPTH == DEPTH


@pytest.mark.parametrize("idle", ["none", "random"])
@pytest.mark.parametrize("stall", ["none", "random"])
@pytest.mark.parametrize(("groups", "width"), [(1, 4), (3, 4), (1, 1), (3, 2)])
def test_rtl_walks(idle, stall, groups, width):
    """Random words under idle and stall against a plain loop."""
    dut, source = Walker(dataclasses.replace(U, vector_width=width)), random.Random(1)
    offer, pause, top = pauses(idle, 1), pauses(stall, 2), (1 << width) - 1
    words = [{"codes": source.getrandbits(3 * width), "mask": source.choice([0, 1, top + 1 >> 1, top, source.getrandbits(width)]),
              "index": n} for n in range(60)]
    expected = [(width * word["index"] + k, group, word["codes"] >> 3 * k & 7)
                for word in words for k in range(width) if word["mask"] >> k & 1 for group in range(groups)]
    got = []

    async def put(ctx):
        ctx.set(dut.groups, groups)
        ctx.set(dut.move, 1)
        for word in words:
            await stream_put(ctx, dut.i, word, offer)

    async def take(ctx):
        while len(got) < len(expected):
            go = not next(pause)
            ctx.set(dut.go, go)
            if go and ctx.get(dut.valid):
                got.append((ctx.get(dut.line), ctx.get(dut.group), ctx.get(dut.code) | ctx.get(dut.negative) << 2))
            await ctx.tick()
        await ctx.tick().repeat(3)
        assert ctx.get(dut.idle)

    simulate(dut, put, take)
    assert got == expected


class WalkerSpec(Elaboratable):
    """If words come with ascending index, (line, group) on the output ascends strictly: no chi word is visited twice."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Walker(U)
        drive_stream(m, dut.i)
        m.d.comb += [dut.move.eq(any_value(m, 1, "move")), dut.go.eq(any_value(m, 1, "go")), dut.groups.eq(AnyConst(13)),
                     Assume((dut.groups != 0) & (dut.groups <= dut.u.groups_max))]
        offered, next_index = dut.i.payload.index, Signal(14)
        m.d.comb += Assume(~dut.i.valid | (offered >= next_index))
        with m.If(dut.i.valid & dut.i.ready & dut.move):
            m.d.sync += next_index.eq(offered + 1)

        def key(name, index, lowest, group):
            """(line, group) as one number; ``lowest``: the element, by its mask."""
            number = Signal(17, name=name)
            for k in reversed(range(4)):
                with m.If(lowest[k]):
                    m.d.comb += number.eq(Cat(group, Const(0, 4 - len(group)), Const(k, 2), index))
            return number

        head = key("head", dut.words[0].index, dut.words[0].mask, dut.next_group)
        picked = key("picked", dut.picked_word.index, dut.picked, dut.picked_group)
        output, last = Signal(17), Signal(17)
        m.d.comb += output.eq(Cat(dut.group, Const(0, 4 - len(dut.group)), dut.line))
        stages = [(dut.valid, output), (dut.picked_valid, picked), (dut.there[0], head)]
        any_given = Signal()
        with m.If(dut.valid & dut.go):
            m.d.sync += [last.eq(output), any_given.eq(1)]
        for valid, place in stages:
            with m.If(valid & any_given):
                m.d.comb += Assert(place > last)
        for earlier in range(3):
            for later in range(earlier + 1, 3):
                with m.If(stages[earlier][0] & stages[later][0]):
                    m.d.comb += Assert(stages[earlier][1] < stages[later][1])
        # the FIFO: ascending words that are not empty
        m.d.comb += [Assert((dut.there & (dut.there + 1)) == 0), Assert(dut.there[0] | (dut.next_group == 0)),
                     Assert((dut.next_group < dut.groups) & (dut.picked_group < dut.groups))]
        for n, word in enumerate(dut.words):
            with m.If(dut.there[n]):
                m.d.comb += [Assert(word.mask != 0), Assert(word.index < next_index),
                             Assert(dut.alone[n] == ((word.mask & (word.mask - 1)) == 0))]
            if n:
                with m.If(dut.there[n]):
                    m.d.comb += Assert(dut.words[n - 1].index < word.index)
        for valid, place in stages:
            with m.If(valid):
                m.d.comb += Assert(place[6:] < next_index)
        m.d.comb += [Assert(~any_given | (last[6:] < next_index)),
                     Assert((dut.picked & (dut.picked - 1)) == 0), Assert(~dut.picked_valid | (dut.picked != 0)),
                     Cover(any_given & dut.there.all() & dut.valid & (dut.group == 1))]
        return m


@pytest.mark.formal
def test_formal_ascends():
    prove(WalkerSpec(), "walker", depth=2, cover_depth=12)
