"""hdl.arith equals model.digital.arith, and both equal their statements, exhaustively at a small width."""
from fractions import Fraction
from math import floor

from amaranth import Module, Signal, signed
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
    value, shift = Signal(signed(BITS)), Signal(4)
    rounded, unsigned_rounded, clipped, fits = Signal(signed(BITS + 4)), Signal(BITS + 4), Signal(signed(TO)), Signal()
    m.d.comb += [
        rounded.eq(rtl.round_shift(value, shift)),
        unsigned_rounded.eq(rtl.round_shift(value.as_unsigned(), shift)),
        clipped.eq(rtl.saturate(value, TO)), fits.eq(rtl.fits(value, TO)),
    ]

    async def bench(ctx):
        for v in VALUES:
            ctx.set(value, v)
            bounded = twin.sat(v, -1 << TO - 1, (1 << TO - 1) - 1)
            for s in range(16):
                ctx.set(shift, s)
                assert ctx.get(rounded) == twin.round_shift(v, s)
                assert ctx.get(unsigned_rounded) == twin.round_shift(v % (1 << BITS), s)
            assert (ctx.get(clipped), ctx.get(fits)) == (bounded, v == bounded)

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
