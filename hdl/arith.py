"""Shifting with rounding and the bounds of a result; twin: ``model/digital/arith.py``.

Functions of expressions to expressions, without state. Bits are dropped only through these.

``round_shift(v, s) = (v + (1 << s >> 1)) >> s``: to nearest, ties up; it is ``v >> s`` and the bit behind the point, which is
added where a carry costs least. Clipped are results that do not fit.

An expression is emitted once for every use: give ``fits`` a Signal.

Source: design choice (``model/isa.py``).
"""
from functools import reduce
from operator import or_

from amaranth import Cat, Mux, Signal, Value

__all__ = ["fits", "highest", "shift_down"]


def fits(value, bits):
    """1 when signed ``value`` is within -2^(bits-1) .. 2^(bits-1)-1."""
    value = Value.cast(value)
    assert value.shape().signed, "fits takes signed expressions"
    head = value[bits - 1:]
    return head.all() | ~head.any()


def shift_down(m, value, shift, bits):
    """Signed ``value`` (a Signal) divided by ``2^shift``, rounded down: (its low ``bits`` bits, the bit behind the point, whether
    it does not fit signed(bits)).

    Shifts by the largest amount first, and keeps after each what can still come into the result: all else must be copies of the
    sign. Signals of ``m`` named after ``value``.
    """
    sign, word, beyond = value[-1], Cat(0, value), []
    for stage in reversed(range(len(shift))):
        amount = 1 << stage
        kept = min(bits + amount, len(word))            # the result, the bit behind the point, what other stages shift out
        shifted = Signal(kept, name=f"{value.name}_by_{amount}")
        m.d.comb += shifted.eq(Mux(shift[stage], Cat(word[amount:], sign.replicate(amount)), word))
        beyond += [taken & (word[end:] ^ sign.replicate(len(word) - end)).any()
                   for end, taken in ((kept, ~shift[stage]), (kept + amount, shift[stage])) if end < len(word)]
        word = shifted
    return word[1:], word[0], reduce(or_, beyond, word[bits] ^ sign)


def highest(m, value):
    """Place of the highest 1 of ``value`` (a Signal of a power of two bits), 0 where it is 0. Signals of ``m`` named after it."""
    name, places = value.name, []
    while len(value) > 1:
        half = len(value) // 2
        above, rest = Signal(name=f"{name}_above_{half}"), Signal(half, name=f"{name}_of_{half}")
        m.d.comb += [above.eq(value[half:].any()), rest.eq(Mux(above, value[half:], value[:half]))]
        value, places = rest, [above, *places]
    return Cat(*places)
