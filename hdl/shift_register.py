"""Shift register of random coincidence trains: pseudo-random words that shift the thresholds of rows and columns.

Contract: a Fibonacci shift register of BITS = 31 bits with TAPS, of a primitive polynomial, that goes on by LEAP = 16 bits where
``step`` is high, once a slot, so that no bit of the two words comes again. Its lowest line_bits bits are the rows' word, the
line_bits bits above them the columns'. All lines of a side share the word; rows and columns do not, so that the overlap of a row
of code x and a column of code d is slots x d / 2^(2 line_bits) in the mean. It starts at START and is never
0. Half of the taps are set: with two taps (x^31 + x^28 + 1), small codes met up to six times too often.

Ports
-----
step : In(1)
load, seed : In(1), In(31)
    Take ``seed``, not 0, for the state; not with ``step``.
rows, columns : Out(line_bits)
    The words of a train that begins now; other ones a cycle after ``step``.
dither : Out(16)
    The highest bits: for rounding at random before a train; the words are others.

Source: two independent bit streams per update as in stochastic update schemes (Gokmen and Vlasov 2016); shared per side: design
choice.
"""
from functools import reduce
from operator import xor

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from model.params import UnitParams

__all__ = ["BITS", "DITHER_BITS", "LEAP", "START", "TAPS", "ShiftRegister"]

BITS, LEAP, DITHER_BITS = 31, 16, 16
"""Length, bits per slot, and bits of ``dither`` [bit]."""
TAPS, START = 0x754ACE10, 0x2F6E5B1D
"""Bits whose parity is shifted in, and the state after reset. Design choice."""


class ShiftRegister(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        self.state = Signal(BITS, init=START)
        super().__init__({
            "step": In(1), "load": In(1), "seed": In(BITS), "rows": Out(u.line_bits), "columns": Out(u.line_bits),
            "dither": Out(DITHER_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        parts = [{bit} for bit in range(BITS)]          # bits of the state whose parity is bit k, the newest first
        for _ in range(LEAP):
            new = reduce(xor, (part for bit, part in enumerate(parts) if TAPS >> bit & 1))
            parts = [new, *parts[:-1]]
        with m.If(self.load):
            m.d.sync += self.state.eq(self.seed)
        with m.Elif(self.step):
            m.d.sync += self.state.eq(Cat(reduce(xor, (self.state[bit] for bit in sorted(part))) for part in parts))
        width = self.u.line_bits
        m.d.comb += [self.rows.eq(self.state[:width]), self.columns.eq(self.state[width:2 * width]),
                     self.dither.eq(self.state[BITS - DITHER_BITS:])]
        return m
