"""Outer product: twin of ``hdl/outer_product.py``. Compiled, integers only; exact for any exponent."""
from model.compiled import borrowing

__all__ = ["multiplicand"]


@borrowing
def multiplicand(u, code, rate, s):
    """T of a line [2^-outer_bits chi LSB] and 1 when it was clipped; ``code`` = x4 >= 0, s = E[e] + exponent."""
    product, k = code * rate, s + u.outer_bits
    if product == 0 or k < -40:
        return 0, 0
    if k < 0:
        t = (product + (1 << (-k - 1))) >> -k
    elif k > 30:
        t = u.multiplicand_max + 1
    else:
        t = product << k
    if t > u.multiplicand_max:
        return u.multiplicand_max, 1
    return t, 0
