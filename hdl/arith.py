"""Shifting with rounding and the bounds of a result; twin: ``model/digital/arith.py``.

Functions of expressions to expressions, without state. Bits are dropped only through these.

``round_shift(v, s) = (v + (1 << s >> 1)) >> s``: to nearest, ties up; it is ``v >> s`` and the bit behind the point, which is
added where a carry costs least. Clipped are results that do not fit.

An expression is emitted once for every use: give ``fits`` a Signal.

Source: design choice (``model/isa.py``).
"""
from amaranth import Array, Cat, Const, Mux, Signal

__all__ = ["fits", "highest", "places_above", "shift_down"]


def fits(value, bits):
    """1 when signed ``value`` is within -2^(bits-1) .. 2^(bits-1)-1."""
    head = value[bits - 1:]
    return ~head.any() | head.all()


def shift_down(m, value, shift, bits):
    """Signed ``value`` (a Signal) divided by ``2^shift``, rounded down: (its low ``bits`` bits, the bit behind the point).

    Shifts by the largest amount first, and keeps after each what can still come into the result. Signals of ``m`` named after
    ``value``.
    """
    sign, word = value[-1], Cat(0, value)
    for stage in reversed(range(len(shift))):
        amount = 1 << stage
        kept = min(bits + amount, len(word))            # the result, the bit behind the point, what other stages shift out
        shifted = Signal(kept, name=f"{value.name}_by_{amount}")
        m.d.comb += shifted.eq(Mux(shift[stage], Cat(word[amount:], sign.replicate(amount)), word))
        word = shifted
    return word[1:], word[0]


def places_above(shift, count):
    """Which of ``count`` bits stay at or above the place of the lowest of them when shifted down by ``shift``.

    A shifted value fits when those of its bits above the sign of the result are copies of its own sign.
    """
    return Cat(shift <= place for place in range(count))


def highest(m, value):
    """Place of the highest 1 of ``value`` (a Signal of a power of two bits), 0 where it is 0. Signals of ``m`` named after it."""
    if len(value) == 1:
        return Const(0, 0)
    if len(value) == 2:
        return value[1]
    fours = [value[k:k + 4] for k in range(0, len(value), 4)]
    places = [Cat(four[3] | (four[1] & ~four[2]), four[2:].any()) for four in fours]
    if len(fours) == 1:
        return places[0]
    there = Signal(len(fours), name=f"{value.name}_by_{len(fours)}")
    m.d.comb += there.eq(Cat(four.any() for four in fours))
    high = highest(m, there)
    return Cat(Array(places)[high], high)
