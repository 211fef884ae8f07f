"""Outer product of one line: the multiplicand T, shared by all lanes, and the update U of one lane.

Contract, for the operand codes x4 of a line and d4 of a lane (magnitudes 0..outer_max) and s = E[e] + exponent:

    T = min(round_half_up(x4 * rate * 2^(s + outer_bits)), multiplicand_max)        [2^-outer_bits chi LSB]
    U = sign(x) * sign(d) * (-1 if negate) * ((T * d4 + 2^(outer_bits-1)) >> outer_bits)   [chi LSB]

Design choice: one shifter for a line instead of one for each lane; a lane needs a narrow multiplication only. Its price is
an error against the exact product: T is rounded by at most 1/2 of 2^-outer_bits chi LSB, U by at most 1/2 chi LSB, so

    |U - x4 d4 rate 2^s| <= 1/2 + (1/2) d4 2^-outer_bits < 1 chi LSB      (when T was not clipped).

As multiplicand_max * outer_max <= update_max * 2^outer_bits, |U| <= update_max always. s may be anything: where the shift would
leave T's width, T is 0 or clipped, as the equation says. ``clips`` counts lines whose T was clipped.

The shifter: with T_bits = bits(multiplicand_max), r = clamp(T_bits - outer_bits - s, 0, T_bits + P_bits + 1) and the product P,
y = (P << T_bits + 1) >> r holds T before rounding and, in bit 0, its rounding bit; T is clipped when y > 2 multiplicand_max.

Stages of ``OuterProduct`` (each one cycle in which ``go`` is high): multiply | shift | round and clip. A lane multiplies T by its
narrow code (``lane_update``; on an ECP5 as ``constraints/ecp5_map.v`` says). It does not round: of the bits below the LSB the
highest, h, is kept, and rounding is a carry into the addition: with m the bits above, (2 chi + 1 + 2 m + h) >> 1 = chi + m + h.
The sign: ``hdl.accumulator``.

Source: design choice. Nandakumar et al. 2020 give the outer product, not its number format [papers.md B5].
"""
from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from model.params import UnitParams

__all__ = ["LATENCY", "OuterProduct", "lane_update"]

LATENCY = 3
"""Stages from ``code`` to ``multiplicand`` [cycles]."""


def lane_update(u: UnitParams, multiplicand, code):
    """2 |U| of one lane before its rounding, see the module: ``(2 chi + 1 + it) >> 1`` is chi + |U|.

    ``code``: magnitude of the lane's code; the result is U_bits + 1 wide.
    """
    return (multiplicand * code)[u.outer_bits - 1:u.outer_bits + u.update_max.bit_length()]


class OuterProduct(wiring.Component):
    """The line's part of the outer product, a pipeline of LATENCY stages.

    Members
    -------
    go : In(1)
        The pipeline moves; everything holds while it is low.
    exponent : In(signed(10))
        s, stable from one cycle before the first code to the end of the UPDATE. ``rate``: likewise.
    code : In(outer_bits)
        x4 of the line.
    clipped : Out(1)
        The line in the stage "round and clip" is clipped (LATENCY - 1 moving cycles after its code, combinational).
    multiplicand : Out
        T, LATENCY moving cycles after the code.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "go": In(1), "exponent": In(signed(10)), "rate": In(u.rate_bits), "code": In(u.outer_bits),
            "clipped": Out(1), "multiplicand": Out(u.multiplicand_max.bit_length()),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        product_bits, t_bits = u.outer_bits + u.rate_bits, u.multiplicand_max.bit_length()
        last = t_bits + product_bits + 1
        distance = Signal(signed(12))
        shift = Signal(range(last + 1), reset_less=True)
        m.d.comb += distance.eq(t_bits - u.outer_bits - self.exponent)
        product, aligned = Signal(product_bits, reset_less=True), Signal(product_bits + t_bits + 1, reset_less=True)
        m.d.comb += self.clipped.eq(aligned > 2 * u.multiplicand_max)
        m.d.sync += shift.eq(Mux(distance < 0, 0, Mux(distance > last, last, distance[:len(shift)])))
        with m.If(self.go):
            m.d.sync += [
                product.eq(self.code * self.rate),
                aligned.eq(product << (t_bits + 1) >> shift),
                self.multiplicand.eq(Mux(self.clipped, u.multiplicand_max, (aligned >> 1)[:t_bits] + aligned[0])),
            ]
        return m
