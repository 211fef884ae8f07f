"""Twin of ``hdl.shift_register``; integers only, compiled. State: int64 (1,), starts at START."""
from model.compiled import borrowing

__all__ = ["BITS", "DITHER_BITS", "LEAP", "START", "TAPS", "after", "dither", "leap"]

BITS, LEAP, DITHER_BITS = 31, 16, 16
TAPS, START = 0x754ACE10, 0x2F6E5B1D
"""See ``hdl/shift_register.py``."""


@borrowing
def leap(state):
    """The state a slot later."""
    for _ in range(LEAP):
        parity = state & TAPS
        for shift in (16, 8, 4, 2, 1):
            parity ^= parity >> shift
        state = (state << 1 | parity & 1) & (1 << BITS) - 1
    return state


@borrowing
def dither(state, shift):
    """Bits of the state to add before a right shift: ``shift`` of them, at most DITHER_BITS."""
    return state >> BITS - DITHER_BITS & (1 << min(shift, DITHER_BITS)) - 1


def after(slots: int) -> int:
    """The state ``slots`` slots after the start, by squaring: for a unit that goes on from a checkpoint."""
    images = [int(leap(1 << bit)) for bit in range(BITS)]              # the step is linear: a bit's image each
    state = START
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
