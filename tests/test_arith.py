"""hdl.arith equals model.digital.arith, and both equal their statements, exhaustively at a small width."""
from fractions import Fraction
from math import floor

from amaranth import Cat, Module, Signal, signed
from amaranth.sim import Simulator

from hdl import arith as rtl
from model.digital import arith as twin

BITS, TO = 6, 4
VALUES = range(-1 << BITS - 1, 1 << BITS - 1)


def test_twin_is_its_statement():
    for value in VALUES:
        for shift in range(12):
            assert twin.round_shift(value, shift) == floor(Fraction(value, 1 << shift) + Fraction(1, 2))
        assert twin.sat(value, -3, 5) == min(max(value, -3), 5)
        assert twin.bit_length(abs(value)) == abs(value).bit_length()


def test_rtl_is_the_twin():
    m = Module()
    value, shift, whole = Signal(signed(BITS)), Signal(4), Signal(1 << BITS - 3)
    rounded, beyond, fits, highest = Signal(signed(TO + 1)), Signal(), Signal(2), Signal(BITS - 3)
    low, half = rtl.shift_down(m, value, shift, TO)
    head = rtl.places_above(shift, BITS - TO) & (value[TO - 1:-1] ^ value[-1].replicate(BITS - TO))
    m.d.comb += [rounded.eq(low.as_signed() + half), beyond.eq(head.any()),
                 fits.eq(Cat(rtl.fits(value, bits) for bits in (TO, BITS - 1))),
                 highest.eq(rtl.highest(m, whole))]

    async def bench(ctx):
        low, high = -1 << TO - 1, (1 << TO - 1) - 1
        for v in VALUES:
            ctx.set(value, v)
            assert ctx.get(fits) == (low <= v <= high) | (2 * low <= v <= 2 * high + 1) << 1
            for s in range(16):
                ctx.set(shift, s)
                assert ctx.get(beyond) == (not low <= v >> s <= high)
                if low <= v >> s <= high:
                    assert ctx.get(rounded) == twin.round_shift(v, s)
        for v in range(1 << len(whole)):
            ctx.set(whole, v)
            assert ctx.get(highest) == max(twin.bit_length(v) - 1, 0)

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
