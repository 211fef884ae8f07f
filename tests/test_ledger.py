"""Conservation ledger: its own arithmetic against fractions, and that it finds what is wrong."""
from fractions import Fraction

import numpy as np
import pytest

from model import ledger as module
from model.ledger import Ledger, count_commanded, count_pulse, record_update
from model.params import CAPACITOR, SMALL
from model.program import compile_network

U = SMALL.unit


@pytest.mark.parametrize("scale", [-60, -12, -5, -4, 0, 3, 12, 60])
def test_updates_against_fractions(scale):
    rng = np.random.default_rng(scale + 100)
    x, d, rate = rng.integers(-15, 16, 9), rng.integers(-15, 16, 6), int(rng.integers(1, 256))
    sums = np.zeros((9, 6), np.int64)
    record_update(sums, np.arange(9), x, d, scale, rate, U.outer_bits, U.outer_max, U.update_max)
    for i in range(9):
        for j in range(6):
            aligned = Fraction(abs(int(x[i])) * rate) * Fraction(2) ** (scale + U.outer_bits)
            multiplicand = min(int(aligned + Fraction(1, 2)), U.multiplicand_max)
            expected = int(Fraction(multiplicand * abs(int(d[j])), 1 << U.outer_bits) + Fraction(1, 2))
            assert sums[i, j] == np.sign(x[i] * d[j]) * expected
            assert expected <= U.update_max


def test_pulses_are_counted_on_their_cells():
    net = np.zeros((4, 5), np.int32)
    count_pulse(net, 0, 2, 1, np.array([1, 0, 1], np.uint8), np.array([0, 1, 0], np.uint8))
    count_commanded(net, 1, 4, 0, np.array([3, 0, 2], np.int32), np.array([0, 0, 1], np.uint8))
    assert net.tolist() == [[0, 0, 0, 0, 3], [0, 0, 0, 0, 0], [0, 1, -1, 1, -2], [0, 0, 0, 0, 0]]


@pytest.fixture
def filled():
    program = compile_network((12, 6, 3), SMALL)
    ledger = Ledger(U, seed=1)
    ledger.clear(program.matrices)
    rng = np.random.default_rng(1)
    chi = [np.zeros((d.rows, d.cols), np.int64) for d in program.matrices]
    for _ in range(40):
        for index, d in enumerate(program.matrices):
            lines, lanes = (d.rows, d.cols) if d.walk == 0 else (d.cols, d.rows)
            x, dd = rng.integers(-15, 16, lines), rng.integers(-15, 16, lanes)
            before = ledger.sums[index].copy()
            ledger.record(index, x, dd, 0, 50)
            change = ledger.sums[index] - before
            total = chi[index] + (change if d.walk == 0 else change.T)
            steps = np.sign(total) * (np.abs(total) // U.eps)
            ledger.net[d.tile, d.row0:d.row0 + d.rows, d.col0:d.col0 + d.cols] += steps.astype(np.int32)
            chi[index] = total - steps * U.eps
    return ledger, chi


def test_it_holds(filled):
    ledger, chi = filled
    assert ledger.net.any()
    assert ledger.check(lambda k: chi[k]) == (True, 13 * 6 + 7 * 3)


@pytest.mark.parametrize("fault", ["chi", "pulse", "range"])
def test_it_finds_faults(filled, fault):
    ledger, chi = filled
    if fault == "chi":
        chi[1][2, 1] += 1
    elif fault == "pulse":
        ledger.net[0, 3, 4] -= 1
    else:
        d = ledger.matrices[0]
        chi[0][0, 0] += U.eps
        ledger.net[d.tile, d.row0, d.col0] -= 1
    assert ledger.check(lambda k: chi[k])[0] is False


def test_a_sample_is_followed_after_enough_updates(filled, monkeypatch):
    ledger, chi = filled
    monkeypatch.setattr(module, "FULL_IMAGES", 39)
    monkeypatch.setattr(module, "SAMPLE", 12)
    ledger.thin()
    lines = [len(lines) for lines in ledger.lines]
    assert lines == [2, 2]
    assert ledger.check(lambda k: chi[k]) == (True, 2 * 6 + 2 * 7)
    unfollowed = next(k for k in range(13) if k not in ledger.lines[0])
    chi[0][unfollowed, 0] += 1 if chi[0][unfollowed, 0] < 0 else -1
    assert ledger.check(lambda k: chi[k])[0] is True


@pytest.fixture
def transferred():
    """Counts of the cells after three transfers of two matrices, one with a cell that was written again."""
    program = compile_network((12, 6, 3), CAPACITOR, scheme="capacitor")
    ledger = Ledger(CAPACITOR.unit, seed=1)
    ledger.clear(program.matrices)
    u = CAPACITOR.unit
    rewritten = np.zeros((2, u.n_tiles, u.n_rows, u.n_cols), np.int32)
    for d in program.matrices:
        rewritten[:, d.tile, :d.rows, :d.cols] = 3
    rewritten[0, 1, 2, 1] = 5
    arrived = np.zeros((u.n_tiles, 2), np.int64)
    arrived[:2] = (40, 90), (50, 45)
    return ledger, rewritten, arrived


def test_transfers_are_conserved(transferred):
    assert transferred[0].check_transfers(*transferred[1:], 3, 90, 135) == (True, 13 * 6 + 7 * 3)


@pytest.mark.parametrize("fault", ["no recharge", "two recharges", "no reset", "elsewhere", "a train lost", "a TRIM lost"])
def test_it_finds_faults_of_transfers(transferred, fault):
    ledger, rewritten, arrived = transferred
    if fault == "elsewhere":
        rewritten[0, 0, 13, 0] = 1
    elif fault.startswith("a "):
        arrived[1, int("TRIM" in fault)] -= 1
    else:
        rewritten[int("recharge" in fault), 0, 4, 5] += 1 if "two" in fault else -1
    assert ledger.check_transfers(rewritten, arrived, 3, 90, 135)[0] is False
