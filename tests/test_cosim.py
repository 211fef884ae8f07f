"""The whole unit: RTL under Verilator over the analogue model, against the twins. One small build serves every test here.

``lanes`` = 7 divides nothing, and devices start high, so that groups, padding and refresh are all exercised.
"""
import dataclasses
import itertools
from contextlib import closing

import numpy as np
import pytest

from cosim.backend import CONVERT_CYCLES_MIN, RtlBackend
from cosim.waves import changes
from model.driver import UnitError
from model.isa import Opcode, Wait, encode
from model.machine import ModelBackend
from model.params import SMALL, Params, ParamsError, TileParams
from model.program import Program, compile_network

pytestmark = pytest.mark.cosim

PARAMS = Params(unit=dataclasses.replace(SMALL.unit, lanes=7),
                tile=TileParams(init_us=(8.0, 1.5), convert_cycles=CONVERT_CYCLES_MIN))
LAYERS = (18, 11, 5, 3)
CYCLE = 2000
"""A clock cycle of the bench in the units of its waves [ps]."""
SIMULATED = {"host_wait"}
"""Counters that only a simulated host has."""


def data(n, seed=0, layers=LAYERS):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, layers[0])).astype(np.uint8), rng.integers(0, layers[-1], n)


def train(backend, images=9, layers=LAYERS, loss="softmax-ce", seed=0, rate=1.0, activation="sigmoid"):
    """Train, refresh, train on, evaluate; returns everything that must be equal on all backends."""
    program = compile_network(layers, backend.params, loss, rate, activation)
    backend.configure(program)
    backend.execute("clear")
    x, y = data(images, seed, layers)
    packets = program.packets("train", x, y)
    outputs = [backend.run("train", packets)]
    backend.execute("scan")
    outputs += [backend.run("train", packets[:4]), backend.run("evaluate", packets[:5])]
    counters = {name: value for name, value in backend.counters().items() if name not in SIMULATED}
    chi = [backend.chi(k) for k in range(len(layers) - 1)]
    return np.concatenate(outputs), counters, chi, backend.conservation(), backend.digest()


@pytest.fixture(scope="module")
def rtl(tmp_path_factory):
    """A fresh backend per call, all of one build."""
    opened = []

    def open_rtl(seed=1, **options):
        opened.append(RtlBackend(PARAMS, seed, fast=False, **options))
        return opened[-1]

    yield open_rtl
    for backend in opened:
        backend.close()


def assert_equal(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    assert a[1] == b[1]
    for left, right in zip(a[2], b[2], strict=True):
        np.testing.assert_array_equal(left, right)
    assert a[3:] == b[3:]


@pytest.mark.parametrize(("layers", "loss", "seed", "activation"), [
    (LAYERS, "softmax-ce", 1, "sigmoid"), ((25, 14, 4), "mse", 2, "sigmoid"), ((5, 16), "sigmoid-ce", 3, "sigmoid"),
    ((12, 7, 6, 3), "mse", 4, "tanh"), ((12, 8, 3), "mse", 5, "relu"),
])
def test_rtl_equals_model(rtl, layers, loss, seed, activation):
    model = train(ModelBackend(PARAMS, seed), layers=layers, loss=loss, activation=activation)
    assert_equal(train(rtl(seed), layers=layers, loss=loss, activation=activation), model)
    _, counters, _, (holds, _), _ = model
    assert holds
    assert counters["set_pos"] + counters["set_neg"] > 0


@pytest.mark.slow
def test_words_of_one_element():
    changes = dict(lanes=5, vector_width=1, vector_words=256, chi_words=128)
    params = dataclasses.replace(PARAMS, unit=dataclasses.replace(PARAMS.unit, **changes))
    with closing(RtlBackend(params, 2, fast=False)) as backend:
        assert_equal(train(backend), train(ModelBackend(params, 2)))


def test_the_runs_above_exercise_refresh():
    _, counters, *_ = train(ModelBackend(PARAMS, 1))
    assert counters["refreshes"] > 0
    assert counters["set_refresh"] > 0


def test_gated_clocks_change_nothing(rtl):
    assert_equal(train(rtl(gated=True)), train(rtl(gated=False)))


def test_evaluation_changes_no_training():
    program = compile_network(LAYERS, PARAMS, "mse", 1.0)
    digests = []
    for passes in (0, 2):
        backend = ModelBackend(PARAMS, 1)
        backend.configure(program)
        backend.execute("clear")
        packets = program.packets("train", *data(6))
        backend.run("train", packets[:3])
        for _ in range(passes):
            backend.run("evaluate", packets)
        backend.run("train", packets[3:])
        digests.append(backend.digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["model", "rtl"])
def test_conservation_finds_a_corrupt_chi_word(rtl, name):
    backend = rtl() if name == "rtl" else ModelBackend(PARAMS, 1)
    *_, (holds, checked), _ = train(backend)
    assert holds
    assert checked == sum((n + 1) * m for n, m in itertools.pairwise(LAYERS))
    chi = backend.chi(0)
    backend.load_chi(0, chi)
    assert backend.conservation() == (True, checked)
    chi[3, 2] += 1 if chi[3, 2] < 0 else -1
    backend.load_chi(0, chi)
    np.testing.assert_array_equal(backend.chi(0), chi)
    assert backend.conservation() == (False, checked)


def test_conservation_finds_a_lost_pulse(rtl):
    backend = rtl()
    backend.inject("lose_pulse")
    *_, (holds, _), digest = train(backend)
    assert not holds
    assert digest != train(ModelBackend(PARAMS, 1))[-1]


def test_an_error_names_instruction_and_cause(rtl):
    backend = rtl()
    program = compile_network(LAYERS, PARAMS, "mse", 1.0)
    backend.configure(program)
    cause = "UPDATE, SCAN or DUMP of a matrix before CLEAR"
    with pytest.raises(UnitError, match=rf"instruction \d+ of train_one with error 4: {cause}"):
        backend.run("train", program.packets("train", *data(1)))
    bad = Program(PARAMS, LAYERS, instructions=[encode(Opcode.HALT) | 62], entries={"bad": 0}, matrices=program.matrices)
    backend.configure(bad)
    with pytest.raises(UnitError, match="instruction 0 of bad with error 1: opcode or vector operation not defined"):
        backend.execute("bad")


def test_a_missing_packet_is_noticed(rtl):
    backend = rtl()
    program = compile_network(LAYERS, PARAMS, "mse", 1.0)
    backend.configure(program)
    backend.execute("clear")
    waiting = Program(PARAMS, LAYERS, [encode(Opcode.ACCEPT, Wait.NONE, count=4), encode(Opcode.WAIT), encode(Opcode.HALT)],
                      {"wait": 0}, program.matrices)
    backend.configure(waiting)
    with pytest.raises(Exception, match="waits for a packet"):
        backend.execute("wait")


def test_a_converter_too_fast_for_the_bench_is_refused():
    with pytest.raises(ParamsError, match=r"tile.convert_cycles = 1: the bench answers .* after 2 cycles at the earliest"):
        RtlBackend(Params(tile=TileParams(convert_cycles=1)), 1)


def test_waveform(tmp_path):
    """Widths, exclusion and charge, read from the waves of a short run rather than from the bench's recorders."""
    fst = tmp_path / "waves.fst"
    backend = RtlBackend(PARAMS, 1, fast=False, trace=fst)
    try:
        outputs = train(backend, images=3)
    finally:
        backend.close()
    counters, u = outputs[1], PARAMS.unit
    names = {short: f"bench.core.unit.{long}" for short, long in {
        "pos": "pulse_gen.pulse_pos", "neg": "pulse_gen.pulse_neg", "kind": "pulse_gen.program_kind",
        "integrate": "line_driver.integrate", "drive": "line_driver.drive"}.items()}
    names["driven"] = "bench.core.driven"
    short = {long: name for name, long in names.items()}
    now = dict.fromkeys(names, 0)
    began, reads, charge, previous = None, 0, np.zeros(u.n_lines, int), 0
    widths = {0: [], 1: []}
    window_end = None
    for time, name, value in changes(fst, list(names.values())):
        if window_end is not None and time > window_end + CYCLE:       # the meter has settled: one clock after the window
            planes = [now["driven"] >> (bit * u.n_lines) & (1 << u.n_lines) - 1 for bit in range(u.line_bits)]
            metered = [sum((plane >> line & 1) << bit for bit, plane in enumerate(planes)) for line in range(u.n_lines)]
            assert metered == charge.tolist()
            window_end, reads = None, reads + 1
        if now["integrate"] and now["drive"]:
            charge += [(time - previous) // CYCLE * (now["drive"] >> line & 1) for line in range(u.n_lines)]
        previous = time
        now[short[name]] = value
        pulsing = now["pos"] | now["neg"]
        assert not (pulsing and now["integrate"]), f"read and program overlap at {time}"
        assert not now["pos"] & now["neg"], f"G+ and G- of a lane at {time}"
        if pulsing and began is None:
            began = (time, now["kind"])
        elif pulsing and began is not None:
            assert now["kind"] == began[1], f"SET and RESET meet at {time}"
        elif began is not None:
            widths[began[1]].append((time - began[0]) // CYCLE)
            began = None
        if short[name] == "integrate":
            if value:
                charge[:] = 0
            else:
                window_end = time
    assert set(widths[0]) == {u.set_cycles}
    assert set(widths[1]) == {u.reset_cycles}
    assert len(widths[1]) == counters["reset_refresh"]
    assert reads > 20
