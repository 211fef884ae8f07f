"""Twin of ``hdl.shift_register``; integers only, compiled. State: int64 (1,), starts at 1."""
from numba import njit

__all__ = ["BITS", "DITHER_BITS", "LEAP", "after", "dither", "leap"]

BITS, TAP, LEAP = 31, 28, 16
DITHER_BITS = 16
"""See ``hdl/shift_register.py``."""


@njit(cache=True)
def leap(state):
    """The state a slot later."""
    for _ in range(LEAP):
        state = (state << 1 | ((state >> BITS - 1) ^ (state >> TAP - 1)) & 1) & (1 << BITS) - 1
    return state


@njit(cache=True)
def dither(state, shift):
    """Bits of the state to add before a right shift: ``shift`` of them, at most DITHER_BITS."""
    return state >> BITS - DITHER_BITS & (1 << min(shift, DITHER_BITS)) - 1


def after(slots: int) -> int:
    """The state ``slots`` slots after the start, by squaring: for a unit that goes on from a checkpoint."""
    images = [int(leap(1 << bit)) for bit in range(BITS)]              # the step is linear: a bit's image each
    state = 1
    while slots:
        if slots & 1:
            state = _linear(images, state)
        images = [_linear(images, image) for image in images]
        slots >>= 1
    return state


def _linear(images, state):
    total = 0
    for bit, image in enumerate(images):
        total ^= image if state >> bit & 1 else 0
    return total
