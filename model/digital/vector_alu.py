"""Twin of ``hdl/vector_alu.py``: what one element becomes, and how long a word takes.

Compiled and integer-only. The vector unit's twin (``model/digital/vector_unit.py``) applies these along a vector.
"""

from model.compiled import borrowing
from model.digital.arith import bit_length, round_shift, sat
from model.isa import VectorOp

__all__ = ["ELEMENT_MAX", "ELEMENT_MIN", "combine", "f", "lut_index", "reduce_stages", "sat16", "scale_element", "scale_shift"]

ELEMENT_MIN, ELEMENT_MAX = -32768, 32767
_ADD, _SUB, _MUL = int(VectorOp.ADD), int(VectorOp.SUB), int(VectorOp.MUL)
_MAX, _COMPARE, _SUM = int(VectorOp.MAX), int(VectorOp.COMPARE), int(VectorOp.SUM)


@borrowing
def sat16(value):
    """Clip to a signed 16-bit element."""
    return sat(value, ELEMENT_MIN, ELEMENT_MAX)


@borrowing
def f(op, a, b):
    """ADD, SUB, MUL, MAX, COMPARE: the value before rounding, shift and saturation."""
    if op == _ADD:
        return a + b
    if op == _SUB:
        return a - b
    if op == _MUL:
        return a * b
    if op == _MAX:
        return max(a, b)
    return 1 if a > b else 0


@borrowing
def combine(op, x, y):
    """One step of a reduction: the sum for SUM, the larger for PEAK_MAX."""
    return x + y if op == _SUM else max(x, y)


@borrowing
def lut_index(lut_bits, a, shift):
    """Index of a table for element ``a``: rounded, clipped to ``lut_bits`` signed, as two's complement >= 0."""
    half = 1 << (lut_bits - 1)
    return sat(round_shift(a, shift), -half, half - 1) & ((half << 1) - 1)


@borrowing
def scale_shift(line_bits, peak):
    """The n of SCALE: the right shift (negative: left) that brings ``peak`` to ``line_bits`` bits; 0 for peak 0."""
    return 0 if peak == 0 else max(bit_length(peak) - line_bits, -15)


@borrowing
def scale_element(line_max, a, n):
    """``a / 2^n`` rounded and clipped to +-line_max."""
    return sat(round_shift(a, n) if n >= 0 else a << -n, -line_max, line_max)


@borrowing
def reduce_stages(vector_width):
    """Register stages of the reduction tree, the accumulator included: log2 vector_width + 1 [cycles]."""
    return bit_length(vector_width)
