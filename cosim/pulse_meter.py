"""Pulse meter (bench only): integrates what the line drivers really drove, per line and read window.

Contract: from the first cycle of ``integrate`` on, ``planes`` counts for each line the cycles in which ``drive`` is high (bit
planes, plane b holds bit b of every line's count) and ``polarity_seen`` the polarity it had while driven; both hold after the
window until the next one begins. Counting in bit planes costs a few wide operations a cycle, whatever the number of lines.
"""
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from model.params import UnitParams

__all__ = ["PulseMeter"]


class PulseMeter(wiring.Component):
    """Charge meter of all lines.

    Members: ``drive, polarity, integrate`` from the tile port; ``planes`` (line_bits * n_lines bits, plane 0 lowest),
    ``polarity_seen`` (n_lines). Timing: valid in the cycle after the window's last.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "drive": In(u.n_lines), "polarity": In(u.n_lines), "integrate": In(1),
            "planes": Out(u.n_lines * u.line_bits), "polarity_seen": Out(u.n_lines),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        planes = [Signal(u.n_lines, name=f"plane{bit}") for bit in range(u.line_bits)]
        before = Signal()
        m.d.sync += before.eq(self.integrate)
        m.d.comb += self.planes.eq(Cat(planes))
        with m.If(self.integrate):
            first = ~before
            carry = self.drive
            for plane in planes:
                held = Mux(first, 0, plane)
                m.d.sync += plane.eq(held ^ carry)
                carry = held & carry
            m.d.sync += self.polarity_seen.eq(Mux(first, 0, self.polarity_seen) | (self.drive & self.polarity))
        return m
