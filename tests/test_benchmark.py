"""The benchmark: a recording replays as it was, the yardstick learns, the table follows from the samples."""
import io
import json
import struct

import numpy as np
import pytest
from rich.console import Console

from cosim import benchmark, profile
from cosim.backend import RtlBackend
from cosim.build import CosimError
from cosim.replay import Replay
from model.datasets import Dataset, load_digits
from model.experiment import Experiment
from model.program import compile_network
from tests.test_cosim import LAYERS, PARAMS, data


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Build and recording of two trainings, a scan, an evaluation: marks before, between and after."""
    path = tmp_path_factory.mktemp("recording") / "recording"
    backend = RtlBackend(PARAMS, 1, fast=False, record=path)
    try:
        program = compile_network(LAYERS, PARAMS, "softmax-ce", 1.0)
        backend.configure(program)
        backend.execute("clear")
        packets = program.packets("train", *data(9))
        backend.mark()
        backend.run("train", packets)
        backend.mark()
        backend.execute("scan")
        backend.run("train", packets[:5])
        backend.mark()
        backend.run("evaluate", packets[:4])
        backend.mark()
    finally:
        backend.close()
    return backend.folder, path


@pytest.mark.cosim
def test_a_recording_replays_as_it_was(recorded):
    replay = Replay(*recorded)
    try:
        assert all(min(replay.step()) > 0 for _ in range(4))        # the status is equal at each of them
        with pytest.raises(CosimError, match="no more marks"):
            replay.step()
    finally:
        replay.close()


def records(content):
    """Pairs of kind and bytes of each record."""
    while content:
        _, kind, _, _, size = struct.unpack_from("<QBBHI", content)
        yield kind, content[:16 + size]
        content = content[16 + size:]


@pytest.mark.cosim
def test_another_simulation_is_noticed(recorded, tmp_path):
    folder, path = recorded
    whole = list(records(path.read_bytes()))
    assert sum(kind == 3 for kind, _ in whole) == 4
    last = max(k for k, (kind, _) in enumerate(whole) if kind == 1)
    second = [k for k, (kind, _) in enumerate(whole) if kind == 3][1]
    start = min(k for k, (kind, _) in enumerate(whole) if kind == 1 and k > second)
    changed = tmp_path / "recording"
    changed.write_bytes(b"".join(record for k, (kind, record) in enumerate(whole) if not (kind == 1 and start <= k <= last)))
    replay = Replay(folder, changed)
    try:
        assert all(min(replay.step()) > 0 for _ in range(2))
        with pytest.raises(CosimError, match=r"not the simulation recorded: at mark 2, \d+ ps, word \d+ of bench.status is"):
            replay.step()
    finally:
        replay.close()


@pytest.mark.cosim
@pytest.mark.parametrize("trained", [0, 5])
def test_a_benchmark_of_a_small_build(trained):
    images, labels = data(12)
    sets = Dataset(name="digits", source="test", train_images=images, train_labels=labels, test_images=images,
                   test_labels=labels, n_classes=LAYERS[-1])
    experiment = Experiment(dataset="digits", layers=LAYERS, images=12, epochs=1, params=PARAMS, refresh=2)
    samples, cycles = benchmark.measure(experiment, sets, rounds=2, images=3, trained=trained, fast=False)
    assert cycles > 100
    assert {name: len(seconds) for name, seconds in samples.items()} == {
        **dict.fromkeys(benchmark.KINDS, 2), "model_scan": 1, "cosim_scan": 1}
    assert all(elapsed > 0 and cpu > 0 for pairs in samples.values() for elapsed, cpu in pairs)
    assert 0 < benchmark.figures(samples, 3)["share"] < 1


CPU = {"yardstick": [0.1, 0.2, 0.4], "model": [0.05, 0.2, 0.1], "cosim": [0.8, 1.0, 2.0], "verilator": [0.4, 0.5, 1.8],
       "model_scan": [0.003], "cosim_scan": [0.05]}
SAMPLES = {name: [(2 * seconds, seconds) for seconds in times] for name, times in CPU.items()}


def test_figures_of_samples():
    result = benchmark.figures(SAMPLES, 100)
    expected = {"yardstick_ms": 2, "yardstick_ms_min": 1, "yardstick_ms_max": 4, "model_ms": 1, "cosim_ms": 10, "verilator_ms": 5,
                "model_ratio": 0.5, "model_ratio_min": 0.25, "model_ratio_max": 1, "cosim_ratio": 5, "cosim_ratio_min": 5,
                "cosim_ratio_max": 8, "share": 0.5, "share_min": 0.1, "share_max": 0.5, "model_scan_ms": 3, "cosim_scan_ms": 50,
                "cosim_elapsed_ms": 20}
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    json.dumps(result)


def test_table_shows_figures_and_aims():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(benchmark.table({"title": "a title", **benchmark.figures(SAMPLES, 100)}))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "model 1.00 (0.500-2.00) 0.500 (0.250-1.00) <= 0.6, met" in lines
    assert "cosimulation 10.0 (8.00-20.0) 5.00 (5.00-8.00) <= 6, met" in lines
    assert "Python, VPI 50.0 (10.0-50.0) % of cosimulation <= 40%, missed" in lines


def test_yardstick_learns():
    digits = load_digits()
    yardstick = benchmark.Yardstick((64, 32, 10), rate=0.1, seed=1)
    first = yardstick.train(digits.train_images[:200], digits.train_labels[:200])
    for _ in range(2):
        yardstick.train(digits.train_images, digits.train_labels)
    assert first < 140
    assert yardstick.train(digits.train_images[:200], digits.train_labels[:200]) > 180
    assert {array.dtype for array in yardstick.weights + yardstick.biases} == {np.dtype(np.float32)}


def test_bad_input_in_one_line(capsys):
    assert benchmark.main(["--rounds", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_profile_groups():
    unit, update = "vlSelfRef.bench__DOT__core__DOT__unit__DOT__", "update unit, accumulator, pulse generator"
    text = f"""VL_INLINE_OPT void Vtop___024root___nba_sequent__TOP__0(Vtop___024root* vlSelf) {{
    // Body
    if ({unit}update_unit__DOT__chi) {{
        {unit}update_unit__DOT__a = {unit}refresh;
    }}

    vlSelfRef.bench__DOT__core__DOT__pulse_meter__DOT__x = 0U;
}}
void Vtop___024root___eval_triggers(Vtop___024root* vlSelf) {{
    {unit}update_unit__DOT__chi = 0U;
}}
"""
    assert profile.shares_of_functions(text) == {
        "Vtop___024root___nba_sequent__TOP__0": {update: 0.5, "refresh": 0.25, profile.BETWEEN: 0.25}}
    assert profile.group_of_library("/usr/lib/libpython3.11.so.1.0") == "Python, cocotb, NumPy"
    assert profile.group_of_library("[kernel.kallsyms]") == profile.OTHER
