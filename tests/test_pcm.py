"""model.analog.pcm: formulas within derived bounds, statistics within Monte Carlo error."""
import dataclasses
import math

import numpy as np
import pytest

from model.analog import pcm, tile
from model.isa import Kind
from model.params import Params, TileParams, UnitParams

P = TileParams()
LSB_US = 2.0 ** P.g_lsb_log2
ONE = 1 << pcm.SPREAD_BITS
MONTE_CARLO = {  # pulse: mean step, step sigma, mean G, sigma G [uS]; g_max 20 uS, 200,000 devices (model/README.md)
    1: (1.83, 1.73, 2.06, 1.52), 2: (1.36, 1.44, 3.44, 1.97), 3: (1.03, 1.25, 4.48, 2.20), 4: (0.81, 1.13, 5.28, 2.32),
    5: (0.64, 1.06, 5.92, 2.38), 6: (0.52, 1.01, 6.44, 2.41), 8: (0.37, 0.99, 7.24, 2.44), 10: (0.28, 0.99, 7.83, 2.46),
    15: (0.16, 1.05, 8.80, 2.55), 20: (0.10, 1.11, 9.39, 2.66),
}


@pytest.fixture(scope="module")
def devices():
    """One tile of 204,800 G+ devices after RESET and 20 SET pulses: (G after RESET, {pulse: (mu, sigma, G)}), all [uS]."""
    params = Params(unit=UnitParams(n_tiles=1), tile=TileParams(g_max_us=20.0))
    generators = tile.spawn_generators(1, 1)
    tc, state = tile.new_tiles(params, generators.init)
    pos, neg = np.ones(params.unit.n_cols, np.uint8), np.zeros(params.unit.n_cols, np.uint8)

    def pulse(kind):
        for row in range(params.unit.n_rows):
            tile.program(tc, state, generators.program, 0, 0, row, 0, pos, neg, kind, 0)

    pulse(int(Kind.RESET))
    after_reset = state.g[0, 1] * LSB_US
    steps = {}
    for n in range(1, 21):
        before = state.g[0, 1] * LSB_US
        memory = math.exp(-n / 2.6)
        mu, sigma = -0.084 * before + 0.880 + 1.40 * memory, 0.091 * before + 0.260 + 2.15 * memory
        pulse(int(Kind.SET))
        steps[n] = mu, sigma, state.g[0, 1] * LSB_US
    assert state.pulses.tolist() == [[[20 * 204_800, 0], [204_800, 0]]]
    return after_reset, steps


@pytest.mark.parametrize("n", MONTE_CARLO)
def test_set_statistics(devices, n):
    """Both sides are Monte Carlo of 200,000: 5 sigma of their difference, plus the table's rounding."""
    step, step_sigma, mean, sigma = MONTE_CARLO[n]
    mu, deviation, g = devices[1][n]
    root = math.sqrt(2 / 200_000)
    assert mu.mean() == pytest.approx(step, abs=0.005 + 5 * root * step_sigma)
    assert deviation.mean() == pytest.approx(step_sigma, abs=0.005 + 5 * root * deviation.std())
    assert g.mean() == pytest.approx(mean, abs=0.005 + 5 * root * sigma)
    assert g.std() == pytest.approx(sigma, abs=0.005 + 5 * root * sigma)  # kurtosis below 5: sigma/sqrt(N) bounds its error


def test_reset_statistics(devices):
    g = devices[0]
    assert g.mean() == pytest.approx(0.1, abs=5 * 0.01 / math.sqrt(g.size) + LSB_US / 2)
    assert g.std() == pytest.approx(0.01, rel=5 / math.sqrt(2 * g.size) + (LSB_US / 0.01) ** 2)
    assert g.min() >= round(0.01 / LSB_US) * LSB_US


def test_reset_level_is_clamped():
    d = pcm.device_constants(P)
    assert pcm.reset_level(d, -20 << 20) == round(0.01 / LSB_US)
    assert pcm.reset_level(d, 0) == round(0.1 / LSB_US)
    assert pcm.reset_level(pcm.device_constants(dataclasses.replace(P, reset_us=(50.0, 1.0))), 0) == d.g_max


def test_set_level_is_the_formula():
    """Bound [LSB]: rounding of the step, truncated moments, slopes and tables rounded to 2^-20."""
    d = pcm.device_constants(P)
    rng = np.random.default_rng(2)
    for _ in range(3000):
        g, n, z = int(rng.integers(d.g_min, d.g_max + 1)), int(rng.integers(1, 30)), int(rng.normal() * (1 << 20))
        spread = int(rng.integers(ONE // 2, 2 * ONE))
        memory, x = math.exp(-n / 2.6), z / 2 ** 20
        mu = -0.084 * g + (0.880 + 1.40 * memory) / LSB_US
        sigma = 0.091 * g + (0.260 + 2.15 * memory) / LSB_US
        expected = min(max(g + spread / ONE * mu + x * sigma, d.g_min), d.g_max)
        bound = 0.5 + (spread / ONE + abs(x)) * (2 ** -8 + (g + 1) * 2 ** -21) + 2 ** -8
        assert abs(pcm.set_level(d, g, n, spread, z) - expected) <= bound


@pytest.mark.parametrize("z", [-(8 << 20), 8 << 20])
def test_set_level_stays_in_the_window(z):
    d = pcm.device_constants(P)
    for g in (d.reset_floor, d.g_min, d.g_max - 1, d.g_max):
        assert pcm.set_level(d, g, 1, ONE, z) == (d.g_min if z < 0 else d.g_max)


def test_history_table_ends_where_the_memory_does():
    d = pcm.device_constants(P)
    end = len(d.set_mean) - 1
    assert math.exp(-end / 2.6) < 2 ** -20 <= math.exp(-(end - 2) / 2.6)
    assert len(pcm.device_constants(dataclasses.replace(P, set_decay=1000.0)).set_mean) < 1 << 16


@pytest.mark.parametrize("nu", [0.04, 0.2, 0.0])
def test_drift_table(nu):
    p = dataclasses.replace(P, drift_nu=nu)
    d = pcm.device_constants(p)
    tick_s = p.cycle_s * 2 ** p.drift_tick_log2
    rng = np.random.default_rng(3)
    octaves = [2 ** k + o for k in range(11, 62) for o in (-1, 0, 1)]
    ages = [*range(1500), *octaves, *(int(2 ** e) for e in rng.uniform(9, 62, 2000)), (1 << 62) - 1]
    for age in ages:
        exact = pcm.drift_factor(p, age * tick_s)
        table = d.drift[pcm.drift_index(age)] / 2 ** 24
        assert abs(table - exact) <= (nu * 2 ** -9 * exact if age >= 512 else 0) + 2 ** -24
    indices = [pcm.drift_index(age) for age in sorted(ages)]
    assert indices == sorted(indices)
    assert indices[-1] == len(d.drift) - 1
    assert pcm.drifted(d, 49152, 0) == pcm.drifted(d, 49152, -5) == 49152


def test_drift_factor_of_a_training_run_is_near_one():
    assert 1 - pcm.drift_factor(P, 2.0) < 0.0021
    assert pcm.drift_factor(P, 365 * 86400.0) == pytest.approx((365 * 86400 / 38.6) ** -0.04, rel=1e-6)


@pytest.mark.parametrize("p", [P, TileParams(g_max_us=100.0, g_lsb_log2=-16), TileParams(g_max_us=1.0, g_lsb_log2=-6)])
def test_read_variance(p):
    """Bound: half a variance LSB, and the deviation's 2^-8 LSB."""
    d = pcm.device_constants(p)
    lsb_us = 2.0 ** p.g_lsb_log2
    unit = 2.0 ** d.variance_lsb_log2
    for g in np.linspace(0, d.g_max, 400).astype(int):
        sigma = 0.03 * g * lsb_us + 0.13
        bound = unit / 2 + 2 * sigma * (2 ** -8 + g * 2 ** -21) * lsb_us + unit * 2 ** -8
        assert abs(pcm.read_variance(d, g) * unit - sigma ** 2) <= bound
    assert 2 * pcm.read_variance(d, d.g_max) <= pcm.VARIANCE_MAX


def test_read_variance_can_be_zero():
    d = pcm.device_constants(dataclasses.replace(P, read_sigma=(0.0, 0.0)))
    assert pcm.read_variance(d, d.g_max) == 0


def test_draw_is_the_rounded_normal():
    a, b = (np.random.Generator(np.random.PCG64(4)) for _ in range(2))
    assert [pcm.draw(a) for _ in range(1000)] == [math.floor(z * 2 ** 20 + 0.5) for z in b.standard_normal(1000)]
