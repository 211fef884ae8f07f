"""Phase-change memory devices: SET and RESET pulses, drift, read noise. Integers as state, one normal draw per event.

Units: a conductance is an integer of 2^g_lsb_log2 uS ("LSB"); moments carry ``FRACTION`` = 8 more bits; slopes are Q20.
With G in LSB, n the SET pulses since the last RESET (this one included), z a standard normal rounded to 2^-20:

    SET    mu = m1 G + c1 + A1 exp(-n/a),  sigma = max(m2 G + c2 + A2 exp(-n/a), 0)
           G <- clip(round(G + spread mu + sigma z), g_min, g_max)
    RAMP   G <- clip(round(spread ramp(n) + (a G + b) z), g_min, g_max)      after RESET, a ramp of n steps: capacitor scheme
    RESET  G <- clip(round(0.1 uS + 0.01 uS z), 0.01 uS, g_max),  n <- 0
    drift  G_eff = round(G f(age)),  f = (1 + age/T0)^-nu from a table over age in ticks
    read   variance = (0.03 G_eff + 0.13 uS)^2 per device and read

exp(-n/a) and f come from tables, made with ``math.exp`` and ``pow`` and rounded to 2^-20 LSB and 2^-24. Everything after that
is integer arithmetic, and every scale of a draw is a power of two: no fused multiply-add and no vector unit can change a bit.

The history n saturates at the end of its table, where exp(-n/a) < 2^-20. The drift table has one entry per tick up to
age 2^9, then 2^8 entries per octave, each f at the middle of its ages: |f_table / f - 1| <= nu 2^-9 + 2^-24.

Source: Nandakumar et al., J. Appl. Phys. 124, 152135 (2018), constants as coded in srnn-pcm; drift with T0 added to the age
so that f(0) = 1 (design choice, as are the formats).
"""
import math
from typing import NamedTuple

import numpy as np

from model.compiled import borrowing
from model.params import CapacitorParams, TileParams

__all__ = [
    "DRIFT_BITS", "DeviceConstants", "device_constants", "draw", "drift_factor", "drift_index", "drifted", "normals",
    "ramp_level", "read_variance", "reset_level", "set_level", "set_moments",
]

FRACTION = 8
"""Fraction bits of a moment below the conductance LSB [bit]."""
DRAW_BITS = 20
"""Fraction bits of a rounded standard normal, and of slopes and moment tables [bit]."""
SPREAD_BITS = 12
"""Fraction bits of the device spread, 1 << SPREAD_BITS is 1.0 [bit]."""
DRIFT_BITS = 24
"""Fraction bits of a drift factor [bit]."""
OCTAVE_BITS = 8
"""log2 of the drift table's entries per octave of age [bit]."""
AGE_BITS = 62
"""Ages of the drift table are below 2^AGE_BITS ticks [bit]."""
VARIANCE_MAX = 1 << 13
"""Bound of a pair's read variance [variance LSB]: it fits 16 bit."""
RESET_FLOOR_US = 0.01
"""Least conductance after RESET [uS]. srnn-pcm."""

_SLOPE_TO_MOMENT = DRAW_BITS - FRACTION
_STEP_BITS = DRAW_BITS + FRACTION
_DRAW_SCALE = 2.0 ** DRAW_BITS
_DRAW_OFFSET = 1 << 30


class DeviceConstants(NamedTuple):
    """Constants of the device model as integers and tables; made by ``device_constants``."""

    noise: bool
    """False: no draw is made, every step is its rounded mean."""
    g_min: int
    """[LSB]"""
    g_max: int
    """[LSB]"""
    set_mean_slope: int
    """m1 [2^-20]"""
    set_sigma_slope: int
    """m2 [2^-20]"""
    set_mean: np.ndarray
    """c1 + A1 exp(-n/a) over n, (n_end + 1,) int64 [2^-20 LSB]"""
    set_sigma: np.ndarray
    """c2 + A2 exp(-n/a) over n, (n_end + 1,) int64 [2^-20 LSB]"""
    reset_mean: int
    """[2^-8 LSB]"""
    reset_sigma: int
    """[2^-8 LSB]"""
    reset_floor: int
    """[LSB]"""
    read_slope: int
    """[2^-20]"""
    read_offset: int
    """[2^-20 LSB]"""
    ramp: np.ndarray
    """Mean conductance after RESET and a ramp of n steps, int64 (ramp_steps + 1,) [2^-8 LSB]"""
    ramp_slope: int
    """[2^-20]"""
    ramp_offset: int
    """[2^-8 LSB]"""
    ramp_limit: int
    """[2^-8 LSB]"""
    variance_lsb_log2: int
    """A read variance is an integer of 2^variance_lsb_log2 uS^2 [log2 uS^2]"""
    variance_shift: int
    """From squared moments, 2^(2 g_lsb_log2 - 16) uS^2, to variance LSB [bit]"""
    drift: np.ndarray
    """Drift factor over ``drift_index(age)``, int64 [2^-24]"""


def device_constants(p: TileParams, c: CapacitorParams | None = None) -> DeviceConstants:
    """Tables and integers of ``p``; with ``c`` those of the capacitor scheme too, else no ramp."""
    lsb_us = 2.0 ** p.g_lsb_log2
    one = 1 << DRAW_BITS
    n_end = math.ceil(p.set_decay * math.log(one))
    memory = [math.exp(-n / p.set_decay) for n in range(n_end + 1)]
    table = {name: np.array([round((c + a * m) / lsb_us * one) for m in memory], np.int64)
             for name, (_, c, a) in (("mean", p.set_mean), ("sigma", p.set_sigma))}
    pair_variance_us2 = 2 * (p.read_sigma[0] * p.g_max_us + p.read_sigma[1]) ** 2
    ramp_us, ramp_sigma, ramp_limit_us = [0.0], (0.0, 0.0), 0.0
    if c:
        if c.present:
            pair_variance_us2 = c.gain**2 * pair_variance_us2 + c.read_sigma_us**2
        ramp_us = [c.ramp_us[0] + (c.ramp_us[1] - c.ramp_us[0]) * (n / c.ramp_steps) ** c.ramp_power
                   for n in range(c.ramp_steps + 1)]
        ramp_sigma, ramp_limit_us = c.ramp_sigma, c.ramp_limit_us
    finest = 2 * (p.g_lsb_log2 - FRACTION)
    variance_lsb_log2 = finest
    if pair_variance_us2 > 0:
        variance_lsb_log2 = max(finest, math.ceil(math.log2(pair_variance_us2 / (VARIANCE_MAX - 1))))
    return DeviceConstants(
        noise=p.noise, g_min=round(p.g_min_us / lsb_us), g_max=round(p.g_max_us / lsb_us),
        set_mean_slope=round(p.set_mean[0] * one), set_sigma_slope=round(p.set_sigma[0] * one),
        set_mean=table["mean"], set_sigma=table["sigma"],
        reset_mean=round(p.reset_us[0] / lsb_us * (1 << FRACTION)), reset_sigma=round(p.reset_us[1] / lsb_us * (1 << FRACTION)),
        reset_floor=round(RESET_FLOOR_US / lsb_us),
        ramp=np.array([round(g / lsb_us * (1 << FRACTION)) for g in ramp_us], np.int64), ramp_slope=round(ramp_sigma[0] * one),
        ramp_offset=round(ramp_sigma[1] / lsb_us * (1 << FRACTION)), ramp_limit=round(ramp_limit_us / lsb_us * (1 << FRACTION)),
        read_slope=round(p.read_sigma[0] * one), read_offset=round(p.read_sigma[1] / lsb_us * one),
        variance_lsb_log2=variance_lsb_log2, variance_shift=variance_lsb_log2 - finest, drift=_drift_table(p),
    )


def drift_factor(p: TileParams, age_s: float) -> float:
    """Return (1 + age/T0)^-nu of an age in seconds: the formula that the table rounds."""
    return (1.0 + age_s / p.drift_t0_s) ** -p.drift_nu


def _drift_table(p):
    tick_s = p.cycle_s * 2.0 ** p.drift_tick_log2
    values = []
    for index in range(AGE_BITS - OCTAVE_BITS + 1 << OCTAVE_BITS):
        shift = max((index >> OCTAVE_BITS) - 1, 0)
        lowest = index - (shift << OCTAVE_BITS) << shift
        values.append(round(drift_factor(p, (lowest + ((1 << shift) - 1) / 2) * tick_s) * (1 << DRIFT_BITS)))
    return np.array(values, np.int64)


@borrowing
def drift_index(age):
    """Entry of the drift table for an age up to 2^62 - 1 ticks: exact below 2^9, then 2^8 entries per octave; below 0 is 0."""
    age = max(np.int64(age), 0)
    shift = 0
    while age >> shift >= 2 << OCTAVE_BITS:
        shift += 1
    return (shift << OCTAVE_BITS) + (age >> shift)


@borrowing
def drifted(device, g, age):
    """Conductance [LSB] of a device programmed to ``g`` [LSB], ``age`` ticks later."""
    return (np.int64(g) * device.drift[drift_index(age)] + (1 << (DRIFT_BITS - 1))) >> DRIFT_BITS


@borrowing
def draw(rng):
    """One standard normal of ``rng``, rounded to an integer of 2^-20, ties up (the offset makes truncation a floor)."""
    return np.int64(rng.standard_normal() * _DRAW_SCALE + (_DRAW_OFFSET + 0.5)) - _DRAW_OFFSET


def normals(rng: np.random.Generator, shape: tuple[int, ...], mean: float, sigma: float) -> np.ndarray:
    """Integers N(mean, sigma), int64, with the rounding of ``draw``; mean and sigma are rounded to 2^-8."""
    z = np.floor(rng.standard_normal(shape) * float(1 << DRAW_BITS) + 0.5).astype(np.int64)
    fixed_mean, fixed_sigma = round(mean * (1 << FRACTION)), round(sigma * (1 << FRACTION))
    return ((fixed_mean << DRAW_BITS) + fixed_sigma * z + (1 << _STEP_BITS - 1)) >> _STEP_BITS


@borrowing
def set_moments(device, g, n):
    """Mean and deviation [2^-8 LSB] of the step of SET pulse number ``n`` (>= 1) since RESET, from ``g`` [LSB]."""
    mean = (device.set_mean_slope * np.int64(g) + device.set_mean[n]) >> _SLOPE_TO_MOMENT
    sigma = (device.set_sigma_slope * np.int64(g) + device.set_sigma[n]) >> _SLOPE_TO_MOMENT
    return mean, max(sigma, 0)


@borrowing
def set_level(device, g, n, spread, z):
    """Conductance [LSB] after SET pulse number ``n`` since RESET, from ``g``; ``spread`` [2^-12], ``z`` a draw [2^-20]."""
    mean, sigma = set_moments(device, g, n)
    mean = (mean * np.int64(spread) + (1 << (SPREAD_BITS - 1))) >> SPREAD_BITS
    step = ((mean << DRAW_BITS) + sigma * z + (1 << (_STEP_BITS - 1))) >> _STEP_BITS
    return min(max(np.int64(g) + step, device.g_min), device.g_max)


@borrowing
def reset_level(device, z):
    """Conductance [LSB] after RESET, ``z`` a draw [2^-20]."""
    level = ((device.reset_mean << DRAW_BITS) + device.reset_sigma * z + (1 << (_STEP_BITS - 1))) >> _STEP_BITS
    return min(max(level, device.reset_floor), device.g_max)


@borrowing
def ramp_level(device, n, spread, z, z_excess):
    """Conductance [LSB] after RESET and a ramp of ``n`` steps; ``spread`` [2^-12]; draws [2^-20].

    What the mean exceeds ramp_limit is halved and multiplied by the second draw: no more under control, not monotone.
    """
    mean = (device.ramp[min(n, len(device.ramp) - 1)] * np.int64(spread) + (1 << SPREAD_BITS - 1)) >> SPREAD_BITS
    excess = mean - device.ramp_limit
    if excess > 0:
        mean = device.ramp_limit + (excess * z_excess + (1 << DRAW_BITS) >> DRAW_BITS + 1)
    sigma = device.ramp_offset + (device.ramp_slope * max(mean, 0) >> DRAW_BITS)
    level = ((mean << DRAW_BITS) + sigma * z + (1 << _STEP_BITS - 1)) >> _STEP_BITS
    return min(max(level, device.g_min), device.g_max)


@borrowing
def read_variance(device, g):
    """Variance [variance LSB] of one read of a device of conductance ``g`` [LSB]."""
    sigma = (device.read_slope * np.int64(g) + device.read_offset) >> _SLOPE_TO_MOMENT
    return (sigma * sigma + ((1 << device.variance_shift) >> 1)) >> device.variance_shift
