"""model.analog.converter: exhaustive at small sizes, and its full scales."""
from fractions import Fraction

import pytest

from model.analog import converter
from model.params import MNIST, Params, TileParams, UnitParams

G_LSB_US = Fraction(1, 1 << 12)


def rounded(ratio):
    """Nearest integer, half away from zero."""
    magnitude = int(abs(ratio) + Fraction(1, 2))
    return -magnitude if ratio < 0 else magnitude


@pytest.mark.parametrize("lsb", [1, 2, 3, 4, 7])
def test_every_charge_of_a_small_converter(lsb):
    c = converter.converter_constants(Params(unit=UnitParams(adc_bits=4)))
    ties = 0
    for charge in range(-10 * lsb, 10 * lsb + 1):
        code, clipped = converter.convert(c.adc_max, lsb, charge)
        expected = rounded(Fraction(charge, lsb))
        ties += Fraction(charge, lsb) % 1 == Fraction(1, 2)
        assert (code, clipped) == (max(min(expected, 7), -7), abs(expected) > 7)
    assert ties == (20 if lsb % 2 == 0 else 0)


def test_ties_and_clips_by_hand():
    c = converter.converter_constants(Params(unit=UnitParams(adc_bits=4)))
    assert [converter.convert(c.adc_max, 10, q) for q in (-75, -74, -5, -4, 0, 4, 5, 74, 75)] == [
        (-7, True), (-7, False), (-1, False), (0, False), (0, False), (0, False), (1, False), (7, False), (7, True)]


@pytest.mark.parametrize("adc_bits", [4, 8, 9, 12])
@pytest.mark.parametrize("range_select", [0, 1, 2])
def test_full_scale_of_difference_reads(range_select, adc_bits):
    """The LSB is rounded by at most half a charge unit, so full scale is off by at most adc_max / 2 units: less than a code."""
    params = Params(unit=UnitParams(adc_bits=adc_bits, lut_bits=12), tile=TileParams(adc_range=(12.0, 6.5, 0.7, 1.0)))
    c = converter.converter_constants(params)
    full_scale = round(Fraction(params.tile.adc_range[range_select]) * Fraction(params.tile.weight_range_us) * 127 / G_LSB_US)
    for steps in (1, 127):
        lsb = converter.lsb_charge(c, range_select, steps)
        assert abs(lsb * c.adc_max - full_scale) <= c.adc_max / 2 + 1
        for sign in (1, -1):
            assert converter.convert(c.adc_max, lsb, sign * full_scale) == (sign * c.adc_max, False)
            assert converter.convert(c.adc_max, lsb, sign * (full_scale + lsb)) == (sign * c.adc_max, True)
            assert converter.convert(c.adc_max, lsb, sign * (full_scale - lsb)) == (sign * (c.adc_max - 1), False)


@pytest.mark.parametrize("steps", [1, 2, 16, 30, 100, 127])
def test_scan_full_scale_follows_the_window(steps):
    p = MNIST.tile
    c = converter.converter_constants(MNIST)
    lsb = converter.lsb_charge(c, 3, steps)
    g_max = round(p.g_max_us / float(G_LSB_US))
    assert lsb == rounded(Fraction(g_max * steps, 127))
    assert converter.convert(c.adc_max, lsb, g_max * steps) == (127, False)
    assert converter.convert(c.adc_max, lsb, -g_max * steps) == (-127, False)
    for g_us in (p.g_min_us, 1.0, 6.0, 11.9):
        code, _ = converter.convert(c.adc_max, lsb, round(g_us / float(G_LSB_US)) * steps)
        assert abs(code - g_us / p.g_max_us * 127) <= 0.5 + 127 * (0.5 / lsb + 0.5 / g_max)


def test_an_lsb_is_never_zero():
    params = Params(unit=UnitParams(adc_bits=12, lut_bits=12), tile=TileParams(g_lsb_log2=-6, adc_range=(0.01, 0.01, 0.01, 0.01)))
    c = converter.converter_constants(params)
    assert converter.lsb_charge(c, 3, 1) == 1
    assert min(converter.lsb_charge(c, r, 1) for r in range(3)) >= 1
