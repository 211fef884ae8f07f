"""Charges of a crossbar of pairs: sums over driven lines, exact in 64 bit integers.

A plane is one (rows, cols) array of a tile: conductances (difference, G+ or G-) or read variances. With weights w per line:

    forward    out_j = sum_i w_i plane[i, first + j]        rows are driven, columns integrate
    transpose  out_j = sum_i w_i plane[first + j, i]        columns are driven, rows integrate

w is the signed line code for a charge [conductance LSB x PWM step], its square for a variance. |sum| < 2^62 for every build:
4096 lines x 2^16 (squared code) x 2^23. Integer sums do not depend on order, vector width or threads.
Wire resistance, sneak paths and line capacitance are not modelled. Source: design choice.
"""
import numpy as np

from model.compiled import borrowing, compiled

__all__ = ["forward", "transpose"]

INT32_MAX = (1 << 31) - 1


@compiled
def forward(plane, weights, first, bound, out):
    """Add the sums of columns ``first`` ... to ``out`` (int64); ``weights`` int32, one per row. Zero weights cost nothing.

    No value of the plane is beyond +-``bound``, and bound x largest weight < 2^31: for a charge 100 uS / 2^-16 uS x 255, for a
    variance 2^14 x 255^2. So the lines are summed in 32 bits, as many as cannot overflow; a vector unit does twice as many.
    """
    n, start = len(out), np.uint64(first)                # unsigned: such an index is vectorised, and a view is not needed
    driven = np.empty(plane.shape[0] + 1, np.int64)
    count, peak = 0, 1
    for i in range(plane.shape[0]):
        driven[count] = i
        count += weights[i] != 0
        peak = max(peak, abs(weights[i]))
    block = INT32_MAX // (peak * bound)
    partial = np.zeros(n, np.int32)
    for begin in range(0, count, block):
        k, end = begin, min(begin + block, count)
        while k + 4 <= end:                              # four lines at once: a partial sum is loaded and stored once for them
            a, b, c, d = driven[k], driven[k + 1], driven[k + 2], driven[k + 3]
            wa, wb, wc, wd = np.int32(weights[a]), np.int32(weights[b]), np.int32(weights[c]), np.int32(weights[d])
            for j in range(n):
                at = start + np.uint64(j)
                ab = np.int32(np.int32(wa * plane[a, at]) + np.int32(wb * plane[b, at]))
                cd = np.int32(np.int32(wc * plane[c, at]) + np.int32(wd * plane[d, at]))
                partial[j] = np.int32(partial[j] + np.int32(ab + cd))
            k += 4
        for i in driven[k:end]:
            w = np.int32(weights[i])
            for j in range(n):
                partial[j] = np.int32(partial[j] + np.int32(w * plane[i, start + np.uint64(j)]))
        for j in range(n):
            out[j] += partial[j]
            partial[j] = 0


@borrowing
def transpose(plane, weights, first, out):
    """Add the sums of rows ``first`` ... to ``out`` (int64); ``weights`` int32, one per column. Cost: the span of non-zeros."""
    low, high = 0, plane.shape[1]
    while low < high and weights[low] == 0:
        low += 1
    while low < high and weights[high - 1] == 0:
        high -= 1
    span, start = weights[low:high], np.uint64(low)
    for j in range(len(out)):
        total = np.int64(0)
        for i in range(len(span)):
            total += np.int64(span[i]) * np.int64(plane[first + j, start + np.uint64(i)])
        out[j] += total
