"""Capacitor cells: curve, steps and decay against the formulas in real numbers; trains; a tile's fire and trim; the polarity
test; PCM pairs without capacitors.
"""
import dataclasses
import itertools

import numpy as np
import pytest

from model.analog import capacitor
from model.analog import tile as analog
from model.capacitor_program import CapacitorCompiler
from model.digital import read_unit, shift_register
from model.isa import Half, Opcode, Sequence, Trim, decode, encode
from model.machine import ModelBackend
from model.params import CAPACITOR, SMALL, CapacitorParams, Params, TileParams
from model.program import ACTIVATIONS

UNIT = dataclasses.replace(SMALL.unit, capacitor=1, n_luts=8, program_words=1024, n_tiles=3, vector_words=256)
PARAMS = Params(unit=UNIT, tile=CAPACITOR.tile)
C = CapacitorParams()
ONE = 1 << capacitor.V_BITS
LSB_US = 2.0 ** TileParams().g_lsb_log2


def make(params=PARAMS, seed=3):
    generators = analog.spawn_generators(seed, params.unit.n_tiles)
    return *analog.new_tiles(params, generators.init), generators


def still(**changes):
    """Parameters without noise, spread and decay, but for ``changes``."""
    fields = {"step_spread": (0.0, 0.0), "threshold": (0.3, 0.0), "ramp_spread": 0.0, "decay_s": 1e6, **changes}
    return dataclasses.replace(PARAMS, tile=dataclasses.replace(PARAMS.tile, noise=False),
                               capacitor=dataclasses.replace(C, **fields))


def test_conductance_is_the_curve():
    """Rounding: u to 2^-20 V, q u cut to an LSB/V, the product rounded: |error| < k 2^-20 + u + 1/2 LSB."""
    constants = capacitor.capacitor_constants(PARAMS)
    for v in np.linspace(0.0, 1.2, 200):
        u = max(v - 0.3, 0)
        g = capacitor.conductance(constants, round(v * ONE), round(0.3 * ONE)) * LSB_US
        assert g == pytest.approx((60 - 18 * u) * u, abs=(60 / ONE / LSB_US + u + 1) * LSB_US)


def test_steps_are_those_of_the_formula():
    constants = capacitor.capacitor_constants(PARAMS)
    up, down = 1000, 900
    for v in (0.3, 0.5, 0.8):
        for n in (1, 5, 31, -1, -5, -31):
            size = up * (1 - 0.4 * (v - 0.555)) if n > 0 else down * (1 + 0.4 * (v - 0.555))
            after = capacitor.stepped(constants, round(v * ONE), up, down, n, 0)
            assert after - round(v * ONE) == pytest.approx(n * size, abs=abs(n) / 4 + 1)
    assert capacitor.stepped(constants, constants.v_high - 3, up, down, 31, 0) == constants.v_high
    assert capacitor.stepped(constants, constants.v_low + 3, up, down, -31, 0) == constants.v_low


def test_decay_follows_the_exponential():
    """n steps of a tick are one step of n ticks, to a rounding of half an LSB each."""
    constants = capacitor.capacitor_constants(PARAMS)
    tick_s = 2.0 ** C.decay_tick_log2 * PARAMS.tile.cycle_s
    for n in (1, 50, 1000):
        cells = capacitor.new_cells(PARAMS)
        cells.v[0] = round(0.35 * ONE)
        capacitor.decay(constants, cells, 0, n)
        for v, start in ((cells.v[0, 0, 0], 0.35), (cells.v_reference[0, 0], 0.5)):
            assert v / ONE == pytest.approx(0.8 - (0.8 - start) * np.exp(-n * tick_s / C.decay_s), abs=2 / ONE)
        one = capacitor.new_cells(PARAMS)
        for _ in range(n):
            capacitor.decay(constants, one, 0, 1)
        assert abs(int(one.v_reference[0, 0]) - int(cells.v_reference[0, 0])) <= n
        assert (cells.v[1] == round(0.5 * ONE)).all()


def test_popcount():
    for bits in (0, 1, 0x80000000, 0xFFFFFFFF, 0x12345678):
        assert capacitor.popcount(np.uint32(bits)) == bin(bits).count("1")


def test_cells_are_drawn_as_stated():
    """Mean and deviation of n draws within 5 sigma of the estimates."""
    params = dataclasses.replace(PARAMS, unit=dataclasses.replace(UNIT, n_rows=64, n_cols=64))
    cells = make(params)[1].cells
    n = 3 * 64 * 64
    step = C.step_us / (60 - 2 * 18 * 0.255) * ONE
    for array, mean, sigma in ((cells.threshold, 0.3 * ONE, 0.01 * ONE), (cells.up, step, 0.1 * step),
                               (cells.down, step, 0.1 * step)):
        assert array.mean() == pytest.approx(mean, abs=5 * sigma / np.sqrt(n) + 0.5)
        assert array.std() == pytest.approx(sigma, rel=5 / np.sqrt(2 * n) + 1 / sigma)
    assert np.corrcoef(cells.up.ravel(), cells.down.ravel())[0, 1] == pytest.approx(0, abs=5 / np.sqrt(n))


@pytest.mark.parametrize(("x", "d"), [(127, 127), (64, 64), (127, 1), (1, 127), (90, 13), (3, 3)])
def test_overlap_of_random_trains(x, d):
    """x d / 2^14 of the slots in the mean, within 5 sigma; of any one train within (m + 3) / 2 slots, the bound of a (0, m, 2)
    net; the deviation well below that of slots that are independent.
    """
    u, n = UNIT.constants, 4000
    lines, trains = np.full(UNIT.n_lines, x, np.int32), np.full(UNIT.n_lines, d, np.int32)
    register, command = np.full(1, shift_register.START), read_unit.lines_command(0, 0, 0, sequence=int(Sequence.RANDOM))
    rows, ups, downs = (np.zeros(size, np.uint32) for size in (UNIT.n_rows, UNIT.n_cols, UNIT.n_cols))
    overlaps = np.zeros(n)
    for k in range(n):
        read_unit.patterns(u, command, lines, trains, register, rows, ups, downs)
        overlaps[k] = capacitor.popcount(rows[0] & ups[0])
    expected = UNIT.slots * x * d / 2**14
    assert abs(overlaps - expected).max() <= (UNIT.slot_bits + 3) / 2
    assert overlaps.mean() == pytest.approx(expected, abs=5 * max(overlaps.std(), 0.05) / np.sqrt(n))
    assert overlaps.std() < 0.6 * np.sqrt(expected * (1 - expected / UNIT.slots)) + 0.5


@pytest.mark.parametrize("step_shift", [0, 3, 7])
def test_fire_steps_by_the_overlap_alone(step_shift):
    tc, state, generators = make()
    before = state.cells.v.copy()
    rng = np.random.default_rng(1)
    rows, ups, downs = (rng.integers(0, 2**32, size, dtype=np.uint32) for size in (UNIT.n_rows, UNIT.n_cols, UNIT.n_cols))
    rows[::3], ups[::2], downs[1::2] = 0, 0, 0
    analog.fire(tc, state, generators.program, 1, rows, ups, downs, step_shift, 0)
    for row in range(UNIT.n_rows):
        for col in range(UNIT.n_cols):
            n = bin(rows[row] & ups[col]).count("1") - bin(rows[row] & downs[col]).count("1")
            v = int(before[1, row, col])
            if n:
                v = capacitor.stepped(tc.capacitor, v, state.cells.up[1, row, col], state.cells.down[1, row, col], n,
                                      step_shift)
            assert state.cells.v[1, row, col] == v
    assert (state.cells.v[[0, 2]] == before[[0, 2]]).all()


def weights_as_defined(params, tc, state, tile):
    """gain (G+ - G-) and g - g_ref [uS], in real numbers."""
    g = state.g[tile].astype(float) * LSB_US

    def curve(v, threshold):
        u = np.maximum((v - threshold) / ONE, 0)
        return (60 - 18 * u) * u

    part = (curve(state.cells.v[tile], state.cells.threshold[tile])
            - curve(state.cells.v_reference[tile], state.cells.threshold_reference[tile]))
    return params.capacitor.gain * (g[1] - g[2]), part


def test_weights_in_both_polarities():
    tc, state, generators = make()
    rng = np.random.default_rng(2)
    rows, ups = (rng.integers(0, 2**32, n, dtype=np.uint32) for n in (UNIT.n_rows, UNIT.n_cols))
    analog.fire(tc, state, generators.program, 0, rows, ups, np.zeros(UNIT.n_cols, np.uint32), 0, 0)
    analog.decay(tc, state, 0, 7)
    pair, part = weights_as_defined(PARAMS, tc, state, 0)
    np.testing.assert_allclose(state.g[0, Half.DIFFERENCE] * LSB_US, pair + part, atol=4 * LSB_US)
    np.testing.assert_allclose(state.g[0, Half.INVERTED] * LSB_US, pair - part, atol=4 * LSB_US)


def test_trim_kinds():
    params = still(v_symmetric=0.5)
    tc, state, generators = make(params)
    codes = np.zeros(UNIT.n_lines, np.int32)
    codes[:4] = (20, -10, 0, 31)

    def trim(kind, steps, down=0):
        dose = np.clip(codes, -steps, steps)                 # a line is high for no longer than the window
        analog.trim(tc, state, generators.program, 0, 1, 2, dose, int(kind), steps, down, 5)

    v0, g0 = state.cells.v.copy(), state.g_programmed.copy()
    trim(Trim.TUNE, 31)
    moved = state.cells.v[0, :, 2] - v0[0, :, 2]
    assert moved[0] > 0 > moved[1]
    assert moved[2] == 0
    trim(Trim.TUNE, 31, down=1)
    larger = 0.4 * moved[3] / ONE                            # the step down, from where the steps up have led to
    assert abs(state.cells.v[0, :4, 2] - v0[0, :4, 2]).max() <= larger * moved[3] + 2
    assert (state.g_programmed == g0).all()
    trim(Trim.RESET, 31)                                     # only where the line was high for all of the window
    assert (state.g_programmed[0, :, 3, 2] == round(0.1 / LSB_US)).all()
    assert (state.g_programmed[0, :, 0, 2] == g0[0, :, 0, 2]).all()
    trim(Trim.RAMP, 31)
    ramp = [0.1 + 24.9 * (n / 31) ** 1.2 for n in (20, 10)]
    assert state.g_programmed[0, 0, 0, 2] * LSB_US == pytest.approx(ramp[0], abs=LSB_US)
    assert state.g_programmed[0, 1, 1, 2] * LSB_US == pytest.approx(ramp[1], abs=LSB_US)
    state.cells.v[0], state.cells.v_reference[0] = round(0.7 * ONE), round(0.6 * ONE)
    trim(Trim.RECHARGE, 20)
    assert state.cells.v[0, :4, 2].tolist() == [round(v * ONE) for v in (0.5, 0.7, 0.7, 0.5)]
    assert state.cells.v_reference[0, 2] == round(0.5 * ONE)
    assert state.cells.v_reference[0, 1] == round(0.6 * ONE)
    others = np.delete(np.arange(UNIT.n_cols), 2)
    assert (state.g_programmed[0][:, :, others] == g0[0][:, :, others]).all()


LAYERS = (15, 8, 4)


def compiled(params, inversion=True):
    compiler = CapacitorCompiler(LAYERS, params, "softmax-ce", 0.02, ACTIVATIONS["relu"], 1.0, Sequence.RANDOM, inversion)
    return compiler, compiler.program


def planes(backend, polarity):
    half = Half.INVERTED if polarity else Half.DIFFERENCE
    return np.concatenate([backend.side.tiles.g[k, half, :LAYERS[k] + 1, :LAYERS[k + 1]].ravel() * LSB_US
                           for k in range(len(LAYERS) - 1)])


def test_a_transfer_keeps_the_weights():
    """Without noise: half a code of what a read resolves (a step of the capacitor is smaller); the sum of codes rounds alike."""
    params = still()
    _, program = compiled(params)
    backend = ModelBackend(params, 5)
    backend.configure(program)
    backend.execute("clear")
    before = planes(backend, 0)
    for n in range(1, 4):
        backend.execute(program.upkeep(n))
        after = planes(backend, n & 1)
        code_us = params.tile.adc_range[3] * params.tile.g_max_us / params.unit.adc_max
        assert abs(after - before).max() < n * (code_us + 2 * C.step_us)
    assert backend.unit.torn.sum() == 0
    assert backend.counters()["ramps"] == 3 * 2 * (8 + 4)


def test_a_transfer_with_noise_is_unbiased():
    _, program = compiled(PARAMS)
    errors = []
    for seed in range(8):
        backend = ModelBackend(PARAMS, seed)
        backend.configure(program)
        backend.execute("clear")
        before = planes(backend, 0)
        backend.execute("transfer_1")
        errors.append(planes(backend, 1) - before)
    errors = np.concatenate(errors)
    assert errors.std() < 0.6
    assert abs(errors.mean()) < 5 * errors.std() / np.sqrt(errors.size) + 0.05


@pytest.mark.parametrize("inversion", [True, False])
def test_polarity_inversion_cancels_a_fixed_asymmetry(inversion):
    """Intervals of as many steps up as down, with mismatched devices: the bias of an even number of intervals vanishes with
    inversion, and grows by as much in each without.
    """
    params = still(step_spread=(0.2, 0.2))
    compiler, program = compiled(params, inversion)
    program.entries["shake"] = len(program.instructions)
    for matrix in range(2):
        fire = [encode(Opcode.FIRE, matrix=matrix, sequence=int(Sequence.SPREAD), negate=negate) for negate in (0, 1)]
        program.instructions += [
            encode(Opcode.DRIVE, matrix=matrix, src=compiler.full, shift=7),
            encode(Opcode.DRIVE, matrix=matrix, transpose=1, src=compiler.full, shift=7, trains=1),
            encode(Opcode.LOOP, count=2), *fire, encode(Opcode.NEXT)]
    program.instructions.append(encode(Opcode.HALT))
    backend = ModelBackend(params, 6)
    backend.configure(program)
    backend.execute("clear")
    start, polarity, bias = planes(backend, 0), 0, []
    mismatch = np.concatenate([np.sign(backend.side.tiles.cells.up[k].astype(int) - backend.side.tiles.cells.down[k])
                               [:LAYERS[k] + 1, :LAYERS[k + 1]].ravel() for k in range(2)])
    for n in range(1, 7):
        backend.execute("shake")
        backend.execute(program.upkeep(n))
        polarity = n & 1 if inversion else 0
        bias.append(float(((planes(backend, polarity) - start) * mismatch).mean()))
    step = bias[0]
    assert step > 0.3
    if inversion:
        assert max(abs(value) for value in bias[1::2]) < 0.15 * step
    else:
        np.testing.assert_allclose(bias, step * np.arange(1, 7), rtol=0.1)


@pytest.mark.parametrize("change", [0, -1, 1])
def test_every_weight_is_transferred_once(change):
    """A transfer that leaves out a line, or does the first one again, is found by the ledger."""
    _, program = compiled(PARAMS)
    first = program.entries["transfer_1"]
    opcode, _, operands = decode(program.instructions[first + 2])
    assert (opcode, operands) == (Opcode.LOOP, {"count": LAYERS[1]})
    backend = ModelBackend(PARAMS, 4)
    backend.configure(program)
    backend.execute("clear")
    weights = sum((n + 1) * m for n, m in itertools.pairwise(LAYERS))
    backend.execute("transfer_1")
    assert backend.conservation() == (True, weights)
    if change < 0:
        program.instructions[first + 2] = encode(Opcode.LOOP, count=LAYERS[1] - 1)
    elif change > 0:                                         # LINE = 0 at the end of the first line
        at = next(k for k in range(first, len(program.instructions)) if decode(program.instructions[k])[0] == Opcode.LINE
                  and k > first + 2)
        program.instructions[at] = encode(Opcode.LINE, zero=1)
    backend.configure(program)
    backend.execute("transfer_1")
    assert backend.conservation() == (change == 0, weights)


def test_a_train_that_the_unit_did_not_send_is_found():
    _, program = compiled(PARAMS)
    backend = ModelBackend(PARAMS, 4)
    backend.configure(program)
    backend.execute("clear")
    assert backend.conservation()[0]
    none = np.zeros(UNIT.n_cols, np.uint32)
    analog.fire(backend.side.constants, backend.side.tiles, backend.side.generators.program, 0, np.zeros(UNIT.n_rows, np.uint32),
                none, none, 0, 0)
    assert not backend.conservation()[0]


PAIRS = dataclasses.replace(PARAMS, capacitor=dataclasses.replace(C, present=0))


def test_a_step_of_a_pair_is_a_set_pulse():
    """As many as the overlap, on G+ up and on G- down, whatever divides the steps; both polarities are G+ - G-."""
    tc, state, generators = make(PAIRS)
    rng = np.random.default_rng(3)
    rows, ups, downs = (rng.integers(0, 2**32, size, dtype=np.uint32) for size in (UNIT.n_rows, UNIT.n_cols, UNIT.n_cols))
    rows[::3], ups[::2], downs[1::2] = 0, 0, 0
    analog.fire(tc, state, generators.program, 1, rows, ups, downs, 5, 9)
    overlap = np.array([[bin(row & up).count("1") - bin(row & down).count("1") for up, down in zip(ups, downs, strict=True)]
                        for row in rows])
    assert (np.minimum(state.n_set[1, 0], 31) == np.maximum(overlap, 0)).all()
    assert (np.minimum(state.n_set[1, 1], 31) == np.maximum(-overlap, 0)).all()
    assert state.pulses[1].tolist() == [[overlap[overlap > 0].sum(), -overlap[overlap < 0].sum()], [0, 0]]
    assert (state.tick[1, 0] == np.where(overlap > 0, 9, 0)).all()
    assert not state.n_set[[0, 2]].any()
    for half in (Half.DIFFERENCE, Half.INVERTED):
        assert (state.g[1, half] == state.g[1, Half.POSITIVE] - state.g[1, Half.NEGATIVE]).all()
    assert state.cells.v.size == 0


def test_a_refresh_of_pairs():
    """Without noise: pairs beyond HIGH whose weight is below LOW are written anew to within a code and a step of the ramp; others
    stay. Those within a code of a limit may do either.
    """
    params = dataclasses.replace(PAIRS, tile=dataclasses.replace(PAIRS.tile, noise=False, weight_range_us=43.0),
                                 capacitor=dataclasses.replace(PAIRS.capacitor, ramp_spread=0.0))
    _, program = compiled(params)
    backend = ModelBackend(params, 5)
    backend.configure(program)
    backend.execute("clear")
    tiles, rng = backend.side.tiles, np.random.default_rng(4)
    tiles.g_programmed[:] = rng.integers(round(0.1 / LSB_US), round(14 / LSB_US), tiles.g_programmed.shape)
    for tile in range(UNIT.n_tiles):
        analog.drift(backend.side.constants, tiles, tile, 0)
    used = [(k, slice(0, LAYERS[k] + 1), slice(0, LAYERS[k + 1])) for k in range(2)]
    g0 = [tiles.g_programmed[k, :, rows, cols] * LSB_US for k, rows, cols in used]
    backend.execute(program.upkeep(1))
    g1 = [tiles.g_programmed[k, :, rows, cols] * LSB_US for k, rows, cols in used]
    code_us = params.tile.adc_range[3] * params.tile.g_max_us / params.unit.adc_max
    ramp_us = 24.9 * (1 - (30 / 31) ** 1.2)                      # its longest step
    rewritten = 0
    for old, new in zip(g0, g1, strict=True):
        high, weight, after = old.max(0), old[0] - old[1], new[0] - new[1]
        must = (high > 8 + code_us) & (abs(weight) < 6 - code_us)
        may = (high > 8 - code_us) & (abs(weight) < 6 + code_us)
        changed = (old != new).any(0)
        assert changed[must].all()
        assert not changed[~may].any()
        assert abs(after - weight)[changed].max() < code_us + ramp_us
        assert (new.min(0)[changed] <= 0.11).all()
        rewritten += changed.sum()
    assert rewritten > 10
    assert program.upkeep(1) == program.upkeep(2) == "transfer_0"
    assert backend.conservation() == (True, sum((n + 1) * m for n, m in itertools.pairwise(LAYERS)))
