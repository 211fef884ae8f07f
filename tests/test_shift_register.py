"""Shift register of random trains: RTL against the twin, jumps, and the statistics that a coincidence update rests on."""
import math

import numpy as np
import pytest
from amaranth import Elaboratable, Module
from amaranth.hdl import Assert, Assume, Cover

from hdl import shift_register as rtl
from hdl.shift_register import ShiftRegister
from model.digital import shift_register as twin
from model.params import SMALL
from tests.formal import any_value, prove
from tests.sim import simulate

U = SMALL.unit


def states(n):
    state, out = twin.START, []
    for _ in range(n):
        out.append(state)
        state = int(twin.leap(state))
    return out


def test_constants_of_twin_and_rtl():
    for name in ("BITS", "LEAP", "DITHER_BITS", "TAPS", "START"):
        assert getattr(rtl, name) == getattr(twin, name), name


def test_rtl_is_the_twin():
    dut, expected = ShiftRegister(U), states(50)

    async def bench(ctx):
        for k, state in enumerate(expected):
            assert ctx.get(dut.rows) == state & U.line_max
            assert ctx.get(dut.columns) == state >> U.line_bits & U.line_max
            assert ctx.get(dut.dither) == twin.dither(state, 20)
            ctx.set(dut.step, 0)
            for _ in range(k % 3):
                await ctx.tick()
            ctx.set(dut.step, 1)
            await ctx.tick()
        ctx.set(dut.step, 0)
        ctx.set(dut.seed, expected[7])
        ctx.set(dut.load, 1)
        await ctx.tick()
        assert ctx.get(dut.rows) == expected[7] & U.line_max

    simulate(dut, bench)


@pytest.mark.parametrize("slots", [0, 1, 2, 31, 32, 1000])
def test_a_jump_is_as_many_slots(slots):
    assert twin.after(slots) == states(slots + 1)[slots]


def test_jumps_add_up():
    assert twin.after(2**31 - 1) == twin.START              # a prime: the period is that of a primitive polynomial
    assert twin.after(12345 + 2**31 - 1) == twin.after(12345)


def test_thresholds_are_uniform_and_independent():
    """Of n slots, a pair of codes x, d overlaps in x d / 2^14 of them, within 5 sigma; so do successive slots of one line."""
    n = 40_000
    values = np.array(states(n))
    rows, columns = values & 127, values >> 7 & 127
    for x, d in ((127, 127), (64, 64), (100, 20), (5, 90), (3, 3)):
        share = x * d / 2**14
        assert ((rows < x) & (columns < d)).mean() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))
        share = x * x / 2**14
        assert ((rows[1:] < x) & (rows[:-1] < x)).mean() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / n))


def test_dither_rounds_without_bias():
    n, shift = 40_000, 5
    added = np.array([int(twin.dither(state, shift)) for state in states(n)])
    for magnitude in (1, 13, 31, 40):
        mean = (magnitude + added >> shift).mean()
        assert mean == pytest.approx(magnitude / 2**shift, abs=5 * math.sqrt(0.25 / n))
    assert twin.dither(12345, 0) == 0


class NeverZero(Elaboratable):
    """Whatever is loaded, but 0, the state is never 0: it would stay there."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = ShiftRegister(U)
        for name in ("step", "load", "seed"):
            port = getattr(dut, name)
            m.d.comb += port.eq(any_value(m, port.shape(), name))
        m.d.comb += [Assume(~dut.load | (dut.seed != 0)), Assert(dut.state != 0), Cover(dut.rows == 5)]
        return m


@pytest.mark.formal
def test_formal_never_zero():
    prove(NeverZero(), "shift_register_never_zero", depth=2, cover_depth=6)
