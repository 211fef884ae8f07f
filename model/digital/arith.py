"""Rounding and saturation used by every twin; RTL: ``hdl/arith.py``. Integers in, integers out, compiled.

Source: design choice (``model/isa.py``).
"""
from model.compiled import borrowing

__all__ = ["bit_length", "round_shift", "sat"]


@borrowing
def round_shift(value, shift):
    """``(value + (1 << shift >> 1)) >> shift``: ``value / 2^shift`` to nearest, ties up; |value| < 2^62, shift 0..62."""
    return (value + ((1 << shift) >> 1)) >> shift


@borrowing
def sat(value, low, high):
    """``value`` clipped to low..high."""
    return low if value < low else high if value > high else value


@borrowing
def bit_length(value):
    """Bits of a value >= 0; 0 has none."""
    n = 0
    while value:
        value >>= 1
        n += 1
    return n
