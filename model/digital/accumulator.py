"""chi accumulator: twin of ``hdl/accumulator.py``. Compiled, integers only; one word (contiguous lanes) per call."""
from numba import njit

__all__ = ["accumulate", "accumulate_threshold"]


@njit(cache=True)
def accumulate_threshold(u, t, codes, chi, counts, negative):
    """Add the outer product of one line, take whole eps out of chi; returns 1 when any lane is due.

    ``t``: multiplicand with the sign of the line; ``codes`` int32 (lanes,): signed d4; ``chi`` int32 (lanes,): updated.
    ``counts`` int32 (lanes,), ``negative`` uint8 (lanes,): the pulses, written only when the result is 1.
    """
    outer_bits, eps_log2, eps = u.outer_bits, u.eps_log2, u.eps
    half = (1 << outer_bits) >> 1
    due = 0
    for k in range(chi.shape[0]):
        product = t * codes[k]
        update = (abs(product) + half) >> outer_bits
        total = chi[k] + (update if product >= 0 else -update)
        chi[k] = total
        due |= (abs(total) >= eps)
    if not due:
        return 0
    for k in range(chi.shape[0]):
        total = chi[k]
        count = abs(total) >> eps_log2
        counts[k] = count
        negative[k] = total < 0
        chi[k] = total - (count << eps_log2) if total >= 0 else total + (count << eps_log2)
    return 1


@njit(cache=True)
def accumulate(u, t, codes, chi):
    """Add without threshold, clipped to +-chi_max; returns the number of clipped lanes."""
    outer_bits, limit = u.outer_bits, u.chi_max
    half = (1 << outer_bits) >> 1
    clips = 0
    for k in range(chi.shape[0]):
        product = t * codes[k]
        update = (abs(product) + half) >> outer_bits
        total = chi[k] + (update if product >= 0 else -update)
        if total > limit:
            total = limit
            clips += 1
        elif total < -limit:
            total = -limit
            clips += 1
        chi[k] = total
    return clips
