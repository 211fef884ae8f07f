"""hdl.outer_product equals model.digital.outer_product, and both the exact product within the derived bound."""
import itertools
import random
from fractions import Fraction
from math import floor

import pytest
from amaranth import Module, Signal, signed
from amaranth.sim import Simulator

from hdl.outer_product import LATENCY, OuterProduct, lane_update
from model.digital import outer_product as twin
from model.params import UnitParams
from tests.sim import simulate

SHAPES = [
    UnitParams(), UnitParams(outer_bits=2, eps_log2=5, chi_bits=6, update_max_steps=1, rate_bits=3),
    UnitParams(outer_bits=3, eps_log2=4, chi_bits=9, update_max_steps=15, rate_bits=1),
    UnitParams(outer_bits=7, eps_log2=9, chi_bits=10),
]
EXPONENTS = [-300, -256, -60, -40, -33, *range(-32, 33), 40, 63, 64, 100, 254, 300]


def exact(u, code, rate, s):
    """T by its statement, in rationals."""
    value = floor(Fraction(code * rate) * Fraction(2) ** (s + u.outer_bits) + Fraction(1, 2))
    return min(value, u.multiplicand_max), int(value > u.multiplicand_max)


def lines(u, count=60):
    source = random.Random(5)
    rates, codes = (1, (1 << u.rate_bits) - 1), (0, 1, u.outer_max)
    yield from itertools.product(codes, (0, *rates), EXPONENTS)
    for _ in range(count):
        yield source.randint(0, u.outer_max), source.randint(0, rates[-1]), source.randint(-300, 300)


@pytest.mark.parametrize("u", SHAPES)
def test_model_is_its_statement(u):
    for code, rate, s in lines(u, 500):
        assert twin.multiplicand(u.constants, code, rate, s) == exact(u, code, rate, s)


@pytest.mark.parametrize("u", SHAPES)
def test_model_error_bound(u):
    """|U - exact| <= 1/2 + d4 / 2 * 2^-outer_bits where not clipped; |U| <= update_max always."""
    for code, rate, s in lines(u, 500):
        t, clipped = twin.multiplicand(u.constants, code, rate, s)
        for d in range(u.outer_max + 1):
            update = (t * d + (1 << u.outer_bits >> 1)) >> u.outer_bits
            assert update <= u.update_max
            if not clipped:
                error = abs(update - Fraction(code * d * rate) * Fraction(2) ** s)
                assert error <= Fraction(1, 2) + Fraction(d, 2 << u.outer_bits)


@pytest.mark.parametrize("u", SHAPES)
def test_rtl_line(u):
    dut = OuterProduct(u)
    source = random.Random(1)

    async def bench(ctx):
        by_setting = {}
        for code, rate, s in lines(u):
            by_setting.setdefault((rate, s), []).append(code)
        for (rate, s), codes in by_setting.items():
            ctx.set(dut.rate, rate)
            ctx.set(dut.exponent, s)
            ctx.set(dut.go, 1)
            await ctx.tick()
            expected = [twin.multiplicand(u.constants, code, rate, s) for code in codes]
            steps = 0
            while steps < len(codes) + LATENCY:
                go = source.random() < 0.7
                ctx.set(dut.go, go)
                ctx.set(dut.code, codes[steps] if steps < len(codes) else 0)
                if 0 <= steps - 2 < len(codes):
                    assert ctx.get(dut.clipped) == expected[steps - 2][1]
                if steps >= LATENCY:
                    t = expected[steps - LATENCY][0]
                    assert ctx.get(dut.multiplicand) == t, (codes, rate, s)
                await ctx.tick()
                steps += go

    simulate(dut, bench, limit=200_000)


@pytest.mark.parametrize("u", SHAPES)
def test_rtl_lane(u):
    m = Module()
    t_bits = u.multiplicand_max.bit_length()
    t, negative, code = Signal(t_bits), Signal(), Signal(u.outer_bits)
    chi, total = Signal(signed(u.chi_bits)), Signal(signed(u.update_max.bit_length() + u.chi_bits + 2))
    flip = negative.replicate(len(total)).as_signed()
    m.d.comb += total.eq(((((chi ^ flip) << 1 | 1) + lane_update(u, t, code)) >> 1) ^ flip)
    source = random.Random(2)

    async def bench(ctx):
        corners = [0, 1, u.multiplicand_max - 1, u.multiplicand_max]
        for value, magnitude in itertools.product(corners + [source.randint(0, u.multiplicand_max) for _ in range(6)],
                                                  range(u.outer_max + 1)):
            for sign, start in itertools.product((0, 1), (-u.chi_max, 0, u.chi_max)):
                ctx.set(t, value)
                ctx.set(negative, sign)
                ctx.set(code, magnitude)
                ctx.set(chi, start)
                update = (value * magnitude + (1 << u.outer_bits >> 1)) >> u.outer_bits
                assert ctx.get(total) == start + (-update if sign else update)

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
