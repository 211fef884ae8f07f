"""Charges of a crossbar of pairs: sums over driven lines, exact in 64 bit integers.

A plane is one (rows, cols) array of a tile: conductances (difference, G+ or G-) or read variances. With weights w per line:

    forward    out_j = sum_i w_i plane[i, first + j]        rows are driven, columns integrate
    transpose  out_j = sum_i w_i plane[first + j, i]        columns are driven, rows integrate

w is the signed line code for a charge [conductance LSB x PWM step], its square for a variance. |sum| < 2^62 for every build:
4096 lines x 2^16 (squared code) x 2^23. Integer sums do not depend on order, vector width or threads.
Wire resistance, sneak paths and line capacitance are not modelled. Source: design choice.
"""
import numpy as np
from numba import njit

__all__ = ["forward", "transpose"]


@njit(cache=True)
def forward(plane, weights, first, out):
    """Add the sums of columns ``first`` ... to ``out`` (int64); ``weights`` int32, one per row. Zero weights cost nothing."""
    n = len(out)
    for i in range(plane.shape[0]):
        w = np.int64(weights[i])
        if w:
            line = plane[i, first:first + n]
            for j in range(n):
                out[j] += w * np.int64(line[j])


@njit(cache=True)
def transpose(plane, weights, first, out):
    """Add the sums of rows ``first`` ... to ``out`` (int64); ``weights`` int32, one per column. Cost: the span of non-zeros."""
    low, high = 0, plane.shape[1]
    while low < high and weights[low] == 0:
        low += 1
    while low < high and weights[high - 1] == 0:
        high -= 1
    span = weights[low:high]
    for j in range(len(out)):
        line = plane[first + j, low:high]
        total = np.int64(0)
        for i in range(len(span)):
            total += np.int64(span[i]) * np.int64(line[i])
        out[j] += total
