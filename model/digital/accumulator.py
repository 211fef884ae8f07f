"""chi accumulator: twin of ``hdl/accumulator.py``. Compiled, integers only; one word (contiguous lanes) per call."""
import numpy as np
from numba import njit

__all__ = ["accumulate", "accumulate_threshold"]

_int32 = np.int32


@njit(cache=True, inline="always")
def _add(t, code, chi, half, outer_bits):
    """Return chi + U, in 32 bit throughout (T d4 < 2^31), so that the loops over lanes compile to vector instructions."""
    product = _int32(t * code)
    sign = _int32(product >> 31)
    update = _int32(_int32(_int32(_int32(product ^ sign) - sign) + half) >> (outer_bits & 15))
    return _int32(chi + _int32(_int32(update ^ sign) - sign))


@njit(cache=True)
def accumulate_threshold(u, t, codes, group, chi, word, counts, negative):
    """Add the outer product of one line, take whole eps out of chi; returns 1 when any lane is due.

    ``t``: multiplicand with the sign of the line; ``codes`` int32 (groups, lanes): signed d4, of which row ``group`` is used;
    ``chi`` int32 (words, lanes), of which row ``word`` is updated.
    ``counts`` int32 (lanes,), ``negative`` uint8 (lanes,): the pulses, written only when the result is 1.
    """
    t, outer_bits, half = _int32(t), _int32(u.outer_bits), _int32((1 << u.outer_bits) >> 1)
    highest, lowest = _int32(0), _int32(0)
    for k in range(chi.shape[1]):
        total = _add(t, codes[group, k], chi[word, k], half, outer_bits)
        chi[word, k] = total
        highest, lowest = max(highest, total), min(lowest, total)
    if highest < u.eps and lowest > -u.eps:
        return 0
    for k in range(chi.shape[1]):
        total = chi[word, k]
        count = abs(total) >> u.eps_log2
        counts[k] = count
        negative[k] = total < 0
        chi[word, k] = total - (count << u.eps_log2) if total >= 0 else total + (count << u.eps_log2)
    return 1


@njit(cache=True)
def accumulate(u, t, codes, group, chi, word):
    """Add without threshold, clipped to +-chi_max; returns the number of clipped lanes."""
    t, outer_bits, half, limit = _int32(t), _int32(u.outer_bits), _int32((1 << u.outer_bits) >> 1), _int32(u.chi_max)
    clips = 0
    for k in range(chi.shape[1]):
        total = _add(t, codes[group, k], chi[word, k], half, outer_bits)
        clipped = max(min(total, limit), -limit)
        clips += clipped != total
        chi[word, k] = clipped
    return clips
