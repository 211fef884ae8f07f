"""Twin of ``hdl.shift_register``; integers only, compiled. State: int64 (1,), starts at 1."""
from numba import njit

__all__ = ["BITS", "LEAP", "leap"]

BITS, TAP, LEAP = 31, 28, 16
"""See ``hdl/shift_register.py``."""


@njit(cache=True)
def leap(state):
    """The state a slot later."""
    for _ in range(LEAP):
        state = (state << 1 | ((state >> BITS - 1) ^ (state >> TAP - 1)) & 1) & (1 << BITS) - 1
    return state
