"""The read path's converters: charge to signed code, integers only.

    code = clip(round(charge / lsb), -adc_max, adc_max),  half away from zero; clipped codes are counted

Charges are integers of 2^g_lsb_log2 uS x PWM step. The LSB charge is full scale / adc_max, rounded to an integer >= 1:

    ranges 0..2 (difference reads)  full scale = adc_range[r] x weight_range_us x line_max      (whatever the window)
    range 3 (scan of a half)        full scale = adc_range[3] x g_max_us x steps                (the window of that read)

No offset, gain error or nonlinearity of the converter is modelled. Source: design choice; 8 bit from Nandakumar 2020.
"""
from typing import NamedTuple

import numpy as np

from model.compiled import borrowing
from model.params import Params

__all__ = ["ConverterConstants", "convert", "converter_constants", "lsb_charge"]

SCAN_RANGE = 3
"""The range select whose full scale follows the window."""


class ConverterConstants(NamedTuple):
    """Integers of the converter; made by ``converter_constants``."""

    adc_max: int
    """Largest code magnitude."""
    lsb: np.ndarray
    """LSB charge of ranges 0..2, (3,) int64 [conductance LSB x PWM step]"""
    scan_full_scale: int
    """Full scale of range 3 per step of the window [conductance LSB]"""


def converter_constants(params: Params) -> ConverterConstants:
    """LSB charges of ``params``."""
    u, p = params.unit, params.tile
    g_lsb_us = 2.0 ** p.g_lsb_log2
    lsb = [max(1, round(p.adc_range[r] * p.weight_range_us * u.line_max / g_lsb_us / u.adc_max)) for r in range(SCAN_RANGE)]
    return ConverterConstants(u.adc_max, np.array(lsb, np.int64), max(1, round(p.adc_range[SCAN_RANGE] * p.g_max_us / g_lsb_us)))


@borrowing
def lsb_charge(converter, range_select, steps):
    """Charge of one code [conductance LSB x PWM step] in a range; ``steps`` (>= 1) matters for range 3 only."""
    if range_select == SCAN_RANGE:
        return max((converter.scan_full_scale * steps + (converter.adc_max >> 1)) // converter.adc_max, 1)
    return converter.lsb[range_select]


@borrowing
def convert(adc_max, lsb, charge):
    """Code of ``charge`` at an LSB charge of ``lsb``, and whether it was clipped.

    Not the constants but ``adc_max``: their array would be counted up and down at each of a read's outputs.
    """
    code = (2 * abs(charge) + lsb) // (2 * lsb)
    clipped = code > adc_max
    if clipped:
        code = adc_max
    return -code if charge < 0 else code, clipped
