"""chi accumulator: twin of ``hdl/accumulator.py``. Compiled, integers only; one word (contiguous lanes) per call.

U of a lane depends on T and its code alone, and an UPDATE has few different T: ``change`` makes a row of U once for each.
"""
import numpy as np

from model.compiled import borrowing

__all__ = ["accumulate", "accumulate_threshold", "change"]

_int32 = np.int32


@borrowing
def change(u, t, codes, group, changes, row):
    """Write the U of a word into ``changes[row]`` (int32), in 32 bit throughout (T d4 < 2^31), so that the loop is vectorised.

    ``t``: multiplicand with the sign of the line; ``codes`` int32 (groups, lanes): signed d4, of which row ``group`` is used.
    """
    t, outer_bits, half = _int32(t), _int32(u.outer_bits), _int32((1 << u.outer_bits) >> 1)
    for k in range(codes.shape[1]):
        product = _int32(t * codes[group, k])
        sign = _int32(product >> 31)
        magnitude = _int32(_int32(_int32(_int32(product ^ sign) - sign) + half) >> (outer_bits & 15))
        changes[row, k] = _int32(_int32(magnitude ^ sign) - sign)


@borrowing
def accumulate_threshold(u, changes, row, chi, word, counts, negative):
    """Add the outer product of one line, take whole eps out of chi; returns 1 when any lane is due.

    ``changes`` int32 (rows, lanes): U, of which row ``row`` is added to row ``word`` of ``chi`` int32 (words, lanes).
    ``counts`` int32 (lanes,), ``negative`` uint8 (lanes,): the pulses, written only when the result is 1.
    """
    highest, lowest = _int32(0), _int32(0)
    for k in range(chi.shape[1]):
        total = _int32(chi[word, k] + changes[row, k])
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


@borrowing
def accumulate(u, changes, row, chi, word):
    """Add without threshold, clipped to +-chi_max; returns the number of clipped lanes."""
    limit, clips = _int32(u.chi_max), 0
    for k in range(chi.shape[1]):
        total = _int32(chi[word, k] + changes[row, k])
        clipped = max(min(total, limit), -limit)
        clips += clipped != total
        chi[word, k] = clipped
    return clips
