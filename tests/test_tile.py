"""model.analog.tile: reads and programming against naive integer references, statistics, streams, digest."""
import copy
import dataclasses
import hashlib
import itertools
import math

import numpy as np
import pytest

from model.analog import converter, crossbar, pcm, tile
from model.isa import Half, Kind, Walk
from model.params import SMALL, Params, TileParams, UnitParams

ROWS, COLS = SMALL.unit.n_rows, SMALL.unit.n_cols
N_LINES = SMALL.unit.n_lines
LSB_US = 2.0 ** SMALL.tile.g_lsb_log2
SET, RESET = int(Kind.SET), int(Kind.RESET)
HALVES = [int(half) for half in Half if half != Half.INVERTED]


def with_tile(**fields):
    return dataclasses.replace(SMALL, tile=dataclasses.replace(SMALL.tile, **fields))


def make(params=SMALL, seed=1):
    generators = tile.spawn_generators(seed, params.unit.n_tiles)
    return (*tile.new_tiles(params, generators.init), generators)


def read(tc, state, rng, t, codes, transpose, half, range_select, steps, first, count):
    """``tile.read`` with its contract checked: (codes, clips)."""
    assert codes.dtype == np.int32
    assert abs(codes).max() <= steps
    out = np.full(count, -9999, np.int32)
    return out, tile.read(tc, state, rng, t, codes, transpose, half, range_select, steps, first, count, out)


def mask(lanes, *indices):
    out = np.zeros(lanes, np.uint8)
    out[list(indices)] = 1
    return out


def scramble(tc, state, generators, seed=0, events=60):
    """Some SET and RESET pulses anywhere, then drift."""
    rng = np.random.default_rng(seed)
    for n in range(events):
        walk = int(rng.integers(2))
        axes = (ROWS, COLS) if walk == Walk.ROWS else (COLS, ROWS)
        pos, neg = (rng.random((2, 8)) < 0.4).astype(np.uint8)
        tile.program(tc, state, generators.program, int(rng.integers(2)), walk, int(rng.integers(axes[0])),
                     int(rng.integers(axes[1] // 8)) * 8, pos, neg, int(rng.random() < 0.2), n)
    for t in range(2):
        tile.drift(tc, state, t, events + 100)


def digest(state, generators):
    total = hashlib.sha256()
    for name, part in tile.digest_parts(state, generators):
        total.update(name.encode() + part)
    return total.hexdigest()


def naive_charges(plane, codes, transpose, first, count):
    plane = plane.T if transpose else plane
    return [sum(int(codes[i]) * int(plane[i, j]) for i in range(len(plane))) for j in range(first, first + count)]


def naive_code(tc, params, charge, range_select, steps):
    """Code and clip of a charge, in Python integers."""
    adc_max = params.unit.adc_max
    lsb = int(tc.converter.lsb[range_select]) if range_select < 3 else max(
        math.floor(params.tile.adc_range[3] * params.tile.g_max_us / LSB_US * steps / adc_max + 0.5), 1)
    magnitude = math.floor(abs(charge) / lsb + 0.5)
    return math.copysign(1, charge) * min(magnitude, adc_max), magnitude > adc_max


CASES = list(itertools.product((0, 1), HALVES, range(4)))


@pytest.mark.parametrize(("transpose", "half", "range_select"), CASES)
def test_read_without_noise_is_the_integer_sum(transpose, half, range_select):
    params = with_tile(noise=False, adc_range=(0.25, 1.0, 4.0, 0.9))
    tc, state, generators = make(params)
    scramble(tc, state, generators)
    rng = np.random.default_rng(5)
    outputs = ROWS if transpose else COLS
    total_clips = 0
    for first, count, steps in ((0, outputs, 127), (outputs - 1, 1, 127), (4, 7, 30), (0, 3, 1), (2, 0, 127)):
        for density in (0.05, 1.0):
            codes = (rng.integers(-steps, steps + 1, N_LINES) * (rng.random(N_LINES) < density)).astype(np.int32)
            out, clips = read(tc, state, generators.read, 1, codes, transpose, half, range_select, steps, first, count)
            charges = naive_charges(state.g[1, half], codes, transpose, first, count)
            expected = [naive_code(tc, params, q, range_select, steps) for q in charges]
            assert out.tolist() == [code for code, _ in expected]
            assert clips == sum(clipped for _, clipped in expected)
            total_clips += clips
    assert total_clips > 0 or range_select != 0


def test_halves_add_up_to_the_difference():
    tc, state, generators = make()
    scramble(tc, state, generators)
    g, v = state.g.astype(int), state.variance.astype(int)
    assert (g[:, 0] == g[:, 1] - g[:, 2]).all()
    assert (v[:, 0] == v[:, 1] + v[:, 2]).all()
    codes = np.random.default_rng(6).integers(-127, 128, N_LINES).astype(np.int32)
    for transpose in (0, 1):
        n = ROWS if transpose else COLS
        charges = []
        for half in HALVES:
            charges.append(np.zeros(n, np.int64))
            if transpose:
                crossbar.transpose(state.g[0, half], codes[:COLS], 0, charges[-1])
            else:
                crossbar.forward(state.g[0, half], codes[:ROWS], 0, tc.device.g_max, charges[-1])
        assert (charges[0] == charges[1] - charges[2]).all()


@pytest.mark.parametrize(("transpose", "half"), list(itertools.product((0, 1), HALVES)))
def test_read_noise_is_one_rounded_draw_per_output(transpose, half):
    tc, state, generators = make()
    scramble(tc, state, generators)
    codes = np.random.default_rng(7).integers(-127, 128, N_LINES).astype(np.int32)
    n = ROWS if transpose else COLS
    twin = copy.deepcopy(generators.read[1])
    out, _ = read(tc, state, generators.read, 1, codes, transpose, half, 0, 127, 2, n - 2)
    charges = naive_charges(state.g[1, half], codes, transpose, 2, n - 2)
    variances = naive_charges(state.variance[1, half], codes ** 2, transpose, 2, n - 2)
    for code, charge, variance in zip(out, charges, variances, strict=True):
        sigma = math.floor(math.sqrt(variance * 2.0 ** (tc.device.variance_lsb_log2 - 2 * SMALL.tile.g_lsb_log2)) + 0.5)
        charge += sigma * pcm.draw(twin) + (1 << 19) >> 20
        assert code == naive_code(tc, SMALL, charge, 0, 127)[0]
    assert twin.bit_generator.state == generators.read[1].bit_generator.state


@pytest.mark.parametrize("half", HALVES)
def test_read_noise_variance(half):
    """Sample variance of n normal draws: relative error sqrt(2/n), 5 sigma; converter LSB^2/12 and variance LSB added."""
    params = Params(unit=dataclasses.replace(SMALL.unit, adc_bits=12, lut_bits=12), tile=TileParams(adc_range=(2.5,) * 4))
    tc, state, generators = make(params)
    codes = np.zeros(N_LINES, np.int32)
    codes[:5] = (127, -90, 40, 1, -127)
    reads = np.array([read(tc, state, generators.read, 0, codes, 0, half, 0, 127, 0, COLS)[0] for _ in range(4000)], float)
    assert abs(reads).max() < params.unit.adc_max
    lsb = converter.lsb_charge(tc.converter, 0, 127)
    pair = state.g[0, 1:, :5] * LSB_US
    sigma_us = 0.03 * pair + 0.13
    devices = {int(Half.DIFFERENCE): [0, 1], int(Half.POSITIVE): [0], int(Half.NEGATIVE): [1]}[half]
    expected = (codes[:5, None] ** 2 * (sigma_us[devices] ** 2).sum(0)).sum(0) / (lsb * LSB_US) ** 2
    tolerance = 5 * math.sqrt(2 / len(reads)) + 0.002
    assert reads.var(0) == pytest.approx(expected + 1 / 12, rel=tolerance)
    assert reads.var(0).sum() == pytest.approx((expected + 1 / 12).sum(), rel=tolerance / math.sqrt(COLS) + 0.002)
    charges = np.array(naive_charges(state.g[0, half], codes, 0, 0, COLS)) / lsb
    assert abs(reads.mean(0) - charges).max() < 5 * math.sqrt((expected.max() + 1 / 12) / len(reads))


def test_undriven_read_has_no_noise():
    tc, state, generators = make()
    out, clips = read(tc, state, generators.read, 0, np.zeros(N_LINES, np.int32), 0, 0, 0, 127, 0, COLS)
    assert not out.any()
    assert clips == 0


def test_outputs_beyond_the_tile_read_zero_and_draw_nothing():
    tc, state, generators = make()
    inside = copy.deepcopy(generators)
    codes = np.full(N_LINES, 127, np.int32)
    out, _ = read(tc, state, generators.read, 0, codes, 0, 0, 0, 127, COLS - 3, 8)
    part, _ = read(tc, state, inside.read, 0, codes, 0, 0, 0, 127, COLS - 3, 3)
    assert out.tolist() == [*part.tolist(), 0, 0, 0, 0, 0]
    assert digest(state, generators) == digest(state, inside)
    assert not read(tc, state, generators.read, 0, codes, 0, 0, 0, 127, COLS + 4, 4)[0].any()


def test_window_codes_at_the_edges_of_the_conductance_window():
    params = with_tile(noise=False)
    tc, state, generators = make(params)
    state.g_programmed[0, 0] = tc.device.g_max
    state.g_programmed[0, 1] = tc.device.g_min
    tile.drift(tc, state, 0, 0)
    for steps in (1, 16, 127):
        for transpose, n in ((0, COLS), (1, ROWS)):
            codes = np.zeros(N_LINES, np.int32)
            codes[3] = steps
            edge = round(0.1 / 12 * 127)
            for half, code in ((Half.POSITIVE, 127), (Half.NEGATIVE, edge)):
                out, clips = read(tc, state, generators.read, 0, codes, transpose, int(half), 3, steps, 0, n)
                assert (set(out.tolist()), clips) == ({code}, 0)
                out, clips = read(tc, state, generators.read, 0, -codes, transpose, int(half), 3, steps, 0, n)
                assert (set(out.tolist()), clips) == ({-code}, 0)


def test_program_reaches_its_devices_and_no_other():
    for walk, kind in itertools.product(Walk, (SET, RESET)):
        tc, state, generators = make()
        before = copy.deepcopy(state)
        twin = copy.deepcopy(generators.program[1])
        pos, neg = mask(8, 0, 2, 7), mask(8, 2, 3)
        assert tile.program(tc, state, generators.program, 1, int(walk), 5, 4, pos, neg, kind, 9) == 5
        expected = before.g_programmed.astype(int)
        for lane, side in ((0, 0), (2, 0), (2, 1), (3, 1), (7, 0)):
            cell = (1, side, 5, 4 + lane) if walk == Walk.ROWS else (1, side, 4 + lane, 5)
            z = pcm.draw(twin)
            level = pcm.set_level(tc.device, expected[cell], 1, 4096, z)
            expected[cell] = level if kind == SET else pcm.reset_level(tc.device, z)
            assert (state.tick[cell], state.n_set[cell]) == (9, kind == SET)
            assert state.pulses[1, kind, side] == (3, 2)[side]
        assert (state.g_programmed == expected).all()
        assert (state.g[:, 1:] == state.g_programmed).all()
        assert state.pulses.sum() == 5
        assert np.count_nonzero(state.tick) == 5
        variance = np.vectorize(pcm.read_variance.py_func, excluded=[0])(tc.device, state.g[:, 1:])
        assert (state.variance[:, 1:] == variance).all()
        assert (state.variance[:, 0] == variance.sum(1)).all()


def test_program_beyond_the_tile_does_nothing():
    tc, state, generators = make()
    reference = digest(state, generators)
    ones = np.ones(8, np.uint8)
    for walk, (lines, lanes) in ((0, (ROWS, COLS)), (1, (COLS, ROWS))):
        assert tile.program(tc, state, generators.program, 0, walk, lines, 0, ones, ones, SET, 0) == 0
        assert tile.program(tc, state, generators.program, 0, walk, 0, lanes, ones, ones, SET, 0) == 0
        assert tile.program(tc, state, generators.program, 0, walk, 0, lanes + 5, ones, ones, SET, 0) == 0
    assert digest(state, generators) == reference
    assert tile.program(tc, state, generators.program, 0, 0, 0, COLS - 2, ones, ones, SET, 0) == 4


@pytest.mark.parametrize(("walk", "kind"), list(itertools.product((0, 1), (SET, RESET))))
def test_groups_of_lanes_give_the_same_conductances(walk, kind):
    pos, neg = (np.random.default_rng(8).random((2, 12)) < 0.6).astype(np.uint8)
    digests = set()
    for lanes in (12, 7, 1):
        tc, state, generators = make()
        for first in range(0, 12, lanes):
            group = slice(first, first + lanes)
            tile.program(tc, state, generators.program, 0, walk, 3, 2 + first, pos[group], neg[group], kind, 4)
        digests.add(digest(state, generators))
    assert len(digests) == 1


@pytest.mark.parametrize("noise", [True, False])
def test_conductances_stay_in_the_window(noise):
    tc, state, generators = make(with_tile(noise=noise, g_max_us=5.0))
    ones = np.ones(COLS, np.uint8)
    for n in range(60):
        for row in range(ROWS):
            tile.program(tc, state, generators.program, 0, 0, row, 0, ones, ones, SET, 0)
        g = state.g[0, 1:]
        assert (g.min() >= tc.device.g_min) & (g.max() <= tc.device.g_max), n
    assert (g == tc.device.g_max).any()
    assert state.n_set[0].min() == state.n_set[0].max() == len(tc.device.set_mean) - 1


def test_history_counts_and_clears():
    tc, state, generators = make()
    one = mask(1, 0)
    for n, kind in enumerate((SET, SET, SET, RESET, SET)):
        tile.program(tc, state, generators.program, 0, 0, 0, 0, one, mask(1), kind, 0)
        assert state.n_set[0, 0, 0, 0] == (1, 2, 3, 0, 1)[n]


def test_noise_off_draws_nothing_and_is_the_mean():
    params = with_tile(noise=False)
    tc, state, generators = make(params)
    reference = copy.deepcopy(generators)
    before = state.g[0, 1, 0, 0]
    tile.program(tc, state, generators.program, 0, 0, 0, 0, mask(2, 0), mask(2), SET, 0)
    tile.program(tc, state, generators.program, 0, 0, 0, 0, mask(2, 1), mask(2), RESET, 0)
    read(tc, state, generators.read, 0, np.full(N_LINES, 99, np.int32), 0, 0, 0, 127, 0, COLS)
    mean = -0.084 * before + (0.880 + 1.40 * math.exp(-1 / 2.6)) / LSB_US
    assert abs(state.g[0, 1, 0, 0] - (before + mean)) <= 0.51
    assert state.g[0, 1, 0, 1] == round(0.1 / LSB_US)
    for used, fresh in zip(generators.read + generators.program, reference.read + reference.program, strict=True):
        assert used.bit_generator.state == fresh.bit_generator.state


def test_drift_follows_the_formula_and_can_be_undone():
    """Bound [LSB]: rounding, and the table's relative error nu 2^-9 + 2^-24."""
    tc, state, generators = make()
    p = SMALL.tile
    tick_s = p.cycle_s * 2 ** p.drift_tick_log2
    tile.program(tc, state, generators.program, 0, 0, 3, 0, np.ones(8, np.uint8), np.ones(8, np.uint8), SET, 1000)
    young = state.g.copy()
    for tick in (1000, 1001, 5000, 10 ** 6, 2 * 10 ** 9):
        tile.drift(tc, state, 0, tick)
        exact = state.g_programmed[0] * ((tick - state.tick[0]) * tick_s / p.drift_t0_s + 1) ** -p.drift_nu
        assert abs(state.g[0, 1:] - exact).max() <= 0.5 + tc.device.g_max * (p.drift_nu * 2 ** -9 + 2 ** -24)
        assert (state.g[0, 1:, 3, :8] == state.g_programmed[0, :, 3, :8]).all() == (tick == 1000)
    assert (state.g[1] == young[1]).all()
    tile.drift(tc, state, 0, 0)
    assert (state.g == young).all()


def test_programming_starts_from_the_drifted_conductance():
    params = with_tile(noise=False, init_us=(6.0, 0.0))
    tc, state, generators = make(params)
    tile.drift(tc, state, 0, 10 ** 9)
    drifted = int(state.g[0, 1, 0, 0])
    assert drifted < 0.8 * state.g_programmed[0, 0, 0, 0]
    tile.program(tc, state, generators.program, 0, 0, 0, 0, mask(1, 0), mask(1), SET, 10 ** 9)
    assert state.g_programmed[0, 0, 0, 0] == pcm.set_level(tc.device, drifted, 1, 4096, 0)


def test_age_in_seconds():
    tc, state, _ = make(with_tile(init_us=(6.0, 0.0)))
    young = state.g.copy()
    year_s = 365 * 86400.0
    tile.age(tc, state, SMALL.tile, 50, year_s)
    assert state.g[:, 1:].mean() * LSB_US == pytest.approx(6.0 * (1 + year_s / 38.6) ** -0.04, rel=1e-4)
    assert (state.g[:, 0] == 0).all()
    tile.age(tc, state, SMALL.tile, 0, 0.0)
    assert (state.g == young).all()
    assert tile.ticks(SMALL.tile, 2 ** 24 * 1e-9) == 1


def test_initial_conductances():
    """N(1.6, 0.83) uS clipped at 0.1: the same seed gives the same, tiles and devices differ, moments within 5 sigma."""
    params = Params(unit=UnitParams(n_tiles=1))
    _, state, _ = make(params)
    _, same, _ = make(params)
    assert (state.g_programmed == same.g_programmed).all()
    x = np.clip(np.random.default_rng(9).normal(1.6, 0.83, 10 ** 6), 0.1, 12.0)
    g = state.g_programmed * LSB_US
    error = 5 * 0.83 * math.sqrt(1 / g.size + 1 / x.size)
    assert g.mean() == pytest.approx(x.mean(), abs=error)
    assert g.std() == pytest.approx(x.std(), abs=error)
    assert g.min() == round(0.1 / LSB_US) * LSB_US
    _, small, _ = make()
    flat = small.g_programmed.reshape(4, -1)
    assert all((flat[i] != flat[j]).mean() > 0.9 for i, j in itertools.combinations(range(4), 2))
    assert not small.n_set.any()


def test_device_spread_scales_the_mean_step_and_nothing_else():
    _, plain, _ = make(with_tile(noise=False))
    tc, state, generators = make(with_tile(noise=False, device_spread=0.2))
    assert (state.g == plain.g).all()
    spread = state.spread / 4096
    n = spread.size
    assert spread.mean() == pytest.approx(1.0, abs=5 * 0.2 / math.sqrt(n))
    assert spread.std() == pytest.approx(0.2, rel=5 / math.sqrt(2 * n) + 0.01)
    before = state.g_programmed.astype(int)
    for row in range(ROWS):
        tile.program(tc, state, generators.program, 1, 0, row, 0, np.ones(COLS, np.uint8), np.ones(COLS, np.uint8), SET, 0)
    mean = -0.084 * before[1] + (0.880 + 1.40 * math.exp(-1 / 2.6)) / LSB_US
    assert abs(state.g_programmed[1] - before[1] - spread[1] * mean).max() <= 0.51
    assert plain.spread.size == 0


def test_one_generator_gives_the_same_as_the_tuple():
    tc, state, generators = make()
    other, others = copy.deepcopy(state), copy.deepcopy(generators)
    codes = np.arange(N_LINES, dtype=np.int32)
    out, clips = read(tc, state, generators.read, 1, codes, 0, 0, 0, 127, 0, COLS)
    out_one = np.zeros(COLS, np.int32)
    assert tile.read_one(tc, other, others.read[1], 1, codes, 0, 0, 0, 127, 0, COLS, out_one) == clips
    assert out.tolist() == out_one.tolist()
    pos, neg = mask(8, 1, 2), mask(8, 2)
    assert tile.program(tc, state, generators.program, 1, 1, 3, 8, pos, neg, SET, 2) == 3
    assert tile.program_one(tc, other, others.program[1], 1, 1, 3, 8, pos, neg, SET, 2) == 3
    assert digest(state, generators) == digest(other, others)


def train(evaluate, seed=1):
    """A short mixed run, with or without test passes in between."""
    tc, state, generators = make(seed=seed)
    rng = np.random.default_rng(10)
    codes_out = []
    for n in range(20):
        codes = rng.integers(-127, 128, N_LINES).astype(np.int32)
        codes_out += read(tc, state, generators.read, n % 2, codes, n & 1, 0, 0, 127, 0, COLS)[0].tolist()
        pos, neg = (rng.random((2, COLS)) < 0.3).astype(np.uint8)
        tile.program(tc, state, generators.program, n % 2, 0, n, 0, pos, neg, int(n % 5 == 0), n)
        if evaluate:
            read(tc, state, generators.evaluation, n % 2, codes, 0, 0, 0, 127, 0, COLS)
    return codes_out, digest(state, generators), generators


def test_same_seed_same_run_and_evaluation_changes_no_training_draw():
    codes, total, generators = train(False)
    assert train(False)[:2] == (codes, total)
    evaluated = train(True)
    assert evaluated[:2] == (codes, total)
    assert evaluated[2].evaluation[0].bit_generator.state != generators.evaluation[0].bit_generator.state
    other = train(False, seed=2)
    assert other[0] != codes
    assert other[1] != total


def test_seed_layout():
    generators = tile.spawn_generators(123, 3)
    purposes = np.random.SeedSequence(123).spawn(4)
    for purpose, sequence in zip(generators, purposes, strict=True):
        for generator, child in zip(purpose, sequence.spawn(3), strict=True):
            assert generator.bit_generator.state == np.random.PCG64(child).state
    assert tile.spawn_generators(123, 1).read[0].bit_generator.state == generators.read[0].bit_generator.state
    states = {str(generator.bit_generator.state) for purpose in generators for generator in purpose}
    assert len(states) == 12


def test_digest_parts():
    tc, state, generators = make()
    scramble(tc, state, generators)
    parts = dict(tile.digest_parts(state, generators))
    n = 2 * 2 * ROWS * COLS
    assert [(name, len(part)) for name, part in parts.items()] == [
        ("g_programmed", 4 * n), ("n_set", 2 * n), ("tick", 8 * n), ("spread", 0), ("pulses", 64), ("g", 6 * n),
        *((f"generator.{purpose}.{t}", 37) for purpose in ("init", "read", "program") for t in range(2))]
    assert np.frombuffer(parts["g_programmed"], "<i4").tolist() == state.g_programmed.ravel().tolist()
    pcg = generators.program[1].bit_generator.state
    assert int.from_bytes(parts["generator.program.1"][:16], "little") == pcg["state"]["state"]
    assert int.from_bytes(parts["generator.program.1"][16:32], "little") == pcg["state"]["inc"]
    for name in ("g_programmed", "n_set", "tick", "pulses", "g"):
        changed = copy.deepcopy(state)
        getattr(changed, name).flat[-1] += 1
        assert digest(changed, generators) != digest(state, generators)


def test_weights():
    tc, state, generators = make()
    scramble(tc, state, generators)
    assert tile.weights(SMALL.tile, state, 1) == pytest.approx((state.g[1, 1] - state.g[1, 2]) * LSB_US / 16.0)
