"""Shift register of random coincidence trains: pseudo-random thresholds for the rows and the columns of a slot.

Contract: a Fibonacci shift register x^31 + x^28 + 1 that goes on by ``LEAP`` = 16 bits where ``step`` is high, so that no bit of
a slot's two thresholds comes again in the next one. Its lowest line_bits bits are the rows' threshold, the line_bits bits above
them the columns'. All lines of a side share the threshold; rows and columns do not, so that the overlap of a row of code x and a
column of code d is slots x d / 2^(2 line_bits) in the mean. It starts at 1 and is never 0.

Ports
-----
step : In(1)
load, seed : In(1), In(31)
    Take ``seed``, not 0, for the state; not with ``step``.
rows, columns : Out(line_bits)
    Thresholds of the present slot; the next ones a cycle after ``step``.
dither : Out(16)
    The highest bits: for rounding at random before a train; the thresholds are others.

Source: two independent bit streams per update as in stochastic update schemes (Gokmen and Vlasov 2016); shared per side: design
choice.
"""
from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from model.params import UnitParams

__all__ = ["BITS", "DITHER_BITS", "LEAP", "ShiftRegister"]

BITS, TAP, LEAP, DITHER_BITS = 31, 28, 16, 16
"""Length, second tap, bits per slot, and bits of ``dither`` [bit]."""


class ShiftRegister(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        self.state = Signal(BITS, init=1)
        super().__init__({
            "step": In(1), "load": In(1), "seed": In(BITS), "rows": Out(u.line_bits), "columns": Out(u.line_bits),
            "dither": Out(DITHER_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        bits = list(self.state)                         # bit 0 the newest
        for _ in range(LEAP):
            bits = [bits[BITS - 1] ^ bits[TAP - 1], *bits[:-1]]
        with m.If(self.load):
            m.d.sync += self.state.eq(self.seed)
        with m.Elif(self.step):
            m.d.sync += self.state.eq(Cat(bits))
        width = self.u.line_bits
        m.d.comb += [self.rows.eq(self.state[:width]), self.columns.eq(self.state[width:2 * width]),
                     self.dither.eq(self.state[BITS - DITHER_BITS:])]
        return m
