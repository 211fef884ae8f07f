"""Operand codes of UPDATE: twin of ``hdl/operands.py``. Compiled, integers only."""
from model.compiled import borrowing

__all__ = ["code"]


@borrowing
def code(u, value, shift):
    """Signed operand code of a vector element: min(|v| >> shift, line_max), its top outer_bits bits, rounded, with v's sign."""
    cut = u.line_bits - u.outer_bits
    line = min(abs(value) >> shift, u.line_max)
    magnitude = min((line + ((1 << cut) >> 1)) >> cut, u.outer_max)
    return magnitude if value >= 0 else -magnitude
