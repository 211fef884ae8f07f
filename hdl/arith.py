"""Rounding and saturation used by every block; twin: ``model/digital/arith.py``.

Functions of expressions to expressions, without state. Bits are dropped only through these.

``round_shift(v, s) = (v + (1 << s >> 1)) >> s``: to nearest, ties up. Built as ``((2 v >> s) + 1) >> 1``: the carry chain
follows the shifter and is as wide as the result.

An expression is emitted once for every use: give ``fits`` and ``saturate``, which use theirs several times, a Signal.

Source: design choice (``model/isa.py``).
"""
from amaranth import Mux, Value

__all__ = ["fits", "round_shift", "saturate"]


def _as(value, like):
    return value.as_signed() if like.shape().signed else value


def round_shift(value, shift):
    """``value`` (signed or unsigned) divided by ``2^shift``, to nearest, ties up.

    ``shift`` is an int or an unsigned expression. The result has the shape of ``value`` (it always fits).
    """
    value = Value.cast(value)
    return _as(((((value << 1) >> shift) + 1) >> 1)[:len(value)], value)


def fits(value, bits):
    """1 when signed ``value`` is within -2^(bits-1) .. 2^(bits-1)-1."""
    value = Value.cast(value)
    assert value.shape().signed, "saturate and fits take signed expressions"
    head = value[bits - 1:]
    return head.all() | ~head.any()


def saturate(value, bits):
    """Signed ``value`` clipped to -2^(bits-1) .. 2^(bits-1)-1, shape signed(bits); clipped where ``~fits(value, bits)``."""
    value = Value.cast(value)
    if len(value) <= bits:
        return value
    low = -1 << bits - 1
    return Mux(fits(value, bits), value[:bits].as_signed(), Mux(value[-1], low, ~low))
