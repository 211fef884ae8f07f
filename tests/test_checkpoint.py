"""Runs that are stopped or killed and resumed: the end must be that of the run nobody touched."""
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cosim import train
from cosim.backend import RtlBackend
from cosim.build import CosimError
from model import checkpoint, trainer
from model.checkpoint import Checkpoint, Checkpoints, DamagedError, identity_of
from model.datasets import Dataset
from model.experiment import Experiment
from model.isa import Walk
from model.machine import ModelBackend
from model.program import compile_experiment
from tests.softmax_backend import SoftmaxBackend, compile_softmax, open_softmax
from tests.test_cosim import LAYERS, PARAMS, data
from tests.test_train import check_one_line, names

ROOT = Path(__file__).resolve().parents[1]
REAL = ["--dataset", "digits", "--backend", "model", "--epochs", "5", "--refresh", "250"]
"""A run of some seconds: 76 calls of the unit, 29 scans, five evaluations."""
NOT_REPRODUCED = {"ms_per_image", "training_s", "memory", "host_wait_cycles", "backend", "versions"}


def comparable(record):
    return {name: value for name, value in record.items() if name not in NOT_REPRODUCED}


def outcome(out):
    """(result, log) without what differs between two equal runs."""
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return (comparable(json.loads((out / "result.json").read_text())),
            [comparable(record) for record in log if record["event"] != "resume"])


# ---- real runs, killed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    out = tmp_path_factory.mktemp("untouched") / "run"
    assert train.main([*REAL, "--out", str(out)]) == 0
    return outcome(out)


def start_and_signal(out, number, lines, *options):
    """Start a run and send a signal when its log has so many lines; returns (exit code, stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cosim.train", *REAL, "--out", str(out), "--checkpoint", "300", *options], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline, log = time.monotonic() + 120, out.parent / f".{out.name}.partial-{process.pid}" / "log.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= lines):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stderr


@pytest.mark.parametrize(("first", "second", "seed"), [
    (signal.SIGKILL, signal.SIGKILL, 1), (signal.SIGKILL, signal.SIGKILL, 2), (signal.SIGINT, signal.SIGKILL, 3),
    (signal.SIGTERM, signal.SIGINT, 4),
])
def test_killed_twice_and_resumed(tmp_path, untouched, first, second, seed):
    out, resume = tmp_path / "run", []
    random = np.random.default_rng(seed)
    for number, lines in ((first, random.integers(2, 30)), (second, random.integers(50, 80))):
        code, stderr = start_and_signal(out, number, lines, *resume)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 130
            check_one_line(stderr, r"stopped: .* holds the first \d+ images, RESUME=1")
        kept = sorted((tmp_path / "run.checkpoint").glob("images-*.ckpt"))
        assert len(kept) <= 2
        resume = ["--resume"] if kept else []
    assert not out.exists()
    assert train.main([*REAL, "--out", str(out), *resume]) == 0
    assert outcome(out) == untouched
    assert names(tmp_path) == ["run"]                                 # neither checkpoints nor what the killed ones left


# ---- the command line, on a quick backend -----------------------------------------------------------------------------------


class Interrupted(SoftmaxBackend):
    """Gets Ctrl-C during its n-th calls of ``run``."""

    def __init__(self, *calls):
        super().__init__()
        self.interrupts, self.n = calls, 0

    def run(self, entry, packets):
        self.n += 1
        if self.n in self.interrupts:
            signal.raise_signal(signal.SIGINT)
        return super().run(entry, packets)


QUICK = ["--dataset", "digits", "--backend", "model", "--images", "450", "--epochs", "2", "--refresh", "130"]


def quick(out, *options, calls=()):
    return train.main([*QUICK, "--out", str(out), *map(str, options)], lambda *_: Interrupted(*calls), compile_softmax)


@pytest.mark.parametrize("call", [1, 4, 8, 9, 10, 15])
def test_ctrl_c_anywhere(tmp_path, capsys, call):
    """Calls 1 to 7 and 11 to 17 train, 8 to 10 and 18 to 20 evaluate."""
    assert quick(tmp_path / "whole") == 0
    assert quick(tmp_path / "run", "--checkpoint", 0, calls=[call]) == 130
    check_one_line(capsys.readouterr().err, r"stopped: .* holds the first \d+ images, RESUME=1")
    assert names(tmp_path) == ["run.checkpoint", "whole"]
    assert quick(tmp_path / "run", "--resume") == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert names(tmp_path) == ["run", "whole"]


def test_a_simulator_that_ends(tmp_path, capsys):
    class Ends(SoftmaxBackend):
        def run(self, entry, packets):
            if entry == "evaluate":
                raise CosimError("the simulator ended\nout of memory")
            return super().run(entry, packets)

    assert quick(tmp_path / "whole") == 0
    capsys.readouterr()
    assert train.main([*QUICK, "--checkpoint", "100", "--out", str(tmp_path / "run")], lambda *_: Ends(), compile_softmax) == 1
    *log, line = capsys.readouterr().err.splitlines()
    assert log == ["the simulator ended", "out of memory"]
    assert re.fullmatch(r"crosstrain: stopped: .* holds the first \d+ images, RESUME=1 goes on from there", line)
    assert names(tmp_path) == ["run.checkpoint", "whole"]
    assert quick(tmp_path / "run", "--resume") == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_second_ctrl_c_stops_at_once(tmp_path, capsys):
    class Twice(SoftmaxBackend):
        def run(self, entry, packets):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    assert train.main([*QUICK, "--out", str(tmp_path / "run")], lambda *_: Twice(), compile_softmax) == 130
    check_one_line(capsys.readouterr().err, "stopped: nothing of this run was kept")
    assert names(tmp_path) == []


def stopped(tmp_path, capsys, call=5, every=100):
    """A run with two checkpoints, stopped; returns their directory."""
    assert quick(tmp_path / "run", "--checkpoint", every, calls=[call]) == 130
    capsys.readouterr()
    folder = tmp_path / "run.checkpoint"
    assert len(names(folder)) == 2
    return folder


@pytest.mark.parametrize("damage", [
    lambda content: content[:len(content) // 2],
    lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
    lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    lambda content: content.replace(b'"version": 2', b'"version": 9', 1),
    lambda content: b"",
], ids=["truncated", "bit", "last bit", "version", "empty"])
def test_damaged_checkpoint_falls_back(tmp_path, capsys, damage):
    assert quick(tmp_path / "whole") == 0
    folder = stopped(tmp_path, capsys)
    before, newest = sorted(folder.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    assert quick(tmp_path / "run", "--resume", calls=[3]) == 130
    shown = capsys.readouterr()
    assert f"{newest}: damaged (" in shown.out
    assert f"going on from {before.name}" in shown.out
    assert quick(tmp_path / "run", "--resume") == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_no_whole_checkpoint_left(tmp_path, capsys):
    folder = stopped(tmp_path, capsys)
    for path in folder.iterdir():
        path.write_bytes(b"{}")
    assert quick(tmp_path / "run", "--resume") == 2
    check_one_line(capsys.readouterr().err, "no checkpoint here is whole; remove this directory")


def test_every_byte_counts(tmp_path):
    path = tmp_path / "images-000000001.ckpt"
    checkpoint.write(path, Checkpoint({"images": 1}, {"hits": np.ones(3, bool), "counters": np.array([-1, 2**40])}))
    content = path.read_bytes()
    again = checkpoint.read(path)
    assert again.meta == {"images": 1}
    assert (again.arrays["counters"].tolist(), again.arrays["hits"].tolist()) == ([-1, 2**40], [True] * 3)
    head = content.index(b"\n")
    ignored = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1:])
        try:
            checkpoint.read(path)
        except DamagedError:
            continue
        ignored += place > head
    assert ignored == 0


@pytest.mark.parametrize("values", [[0], [255], [256], [-1, 128], [-128, 127], [-129, 0], [-1, 2**40], [-2**63, 2**63 - 1]])
def test_narrow_keeps_every_integer(values):
    assert checkpoint._narrow(np.array(values)).tolist() == values
    assert checkpoint._narrow(np.array(values)).dtype.kind in "iu"


@pytest.mark.parametrize(("options", "message"), [
    (["--seed", 2], "begun with seed = 1, not 2"),
    (["--layers", "64-10"], r"begun with layers = \[64, 32, 10\], not \[64, 10\]"),
    (["--epochs", 3], "begun with epochs = 2, not 3"),
    (["--images", 500], "begun with images = 450, not 500"),
    (["--rate", 0.25], "begun with rate = 0.07, not 0.25"),
    (["--refresh", 0], "begun with refresh = 130, not 0"),
    (["--loss", "mse"], "begun with loss = softmax-ce, not mse"),
    (["--lanes", 64], "begun with unit.lanes = 256, not 64"),
    (["--test-images", 10], "begun with test_images = 0, not 10"),
])
def test_another_run_is_not_resumed(tmp_path, capsys, options, message):
    folder = stopped(tmp_path, capsys)
    before = names(folder)
    assert quick(tmp_path / "run", "--resume", *options) == 2
    check_one_line(capsys.readouterr().err, message)
    assert names(folder) == before


def test_other_data_are_refused(tmp_path, capsys, monkeypatch):
    stopped(tmp_path, capsys)
    load = train.datasets.load

    def other(*arguments, **options):
        digits = load(*arguments, **options)
        return dataclasses.replace(digits, train_images=digits.train_images ^ 1)

    monkeypatch.setattr(train.datasets, "load", other)
    assert quick(tmp_path / "run", "--resume") == 2
    check_one_line(capsys.readouterr().err, "begun with sha256 of the data = ")


def test_starting_anew_over_checkpoints_is_refused(tmp_path, capsys):
    folder = stopped(tmp_path, capsys)
    before = names(folder)
    assert quick(tmp_path / "run") == 2
    check_one_line(capsys.readouterr().err, r"run.checkpoint: holds a run stopped after \d+ images: go on with RESUME=1, or")
    assert names(folder) == before
    assert names(tmp_path) == ["run.checkpoint"]


def test_nothing_to_resume(tmp_path, capsys):
    assert quick(tmp_path / "run", "--resume") == 2
    check_one_line(capsys.readouterr().err, "there is no checkpoint to resume; start without RESUME=1")
    assert names(tmp_path) == []


def test_bad_period(tmp_path, capsys):
    assert quick(tmp_path / "run", "--checkpoint", -1) == 2
    check_one_line(capsys.readouterr().err, r"checkpoint = -1: allowed is 0")
    assert names(tmp_path) == []


def test_waves_of_a_resumed_run_are_refused(tmp_path, capsys):
    assert train.main(["--dataset", "digits", "--waves", "--resume", "--out", str(tmp_path / "run")], open_softmax) == 2
    check_one_line(capsys.readouterr().err, "waves are of the first images trained")


def test_default_directory_of_another_backend_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(QUICK, lambda *_: Interrupted(3), compile_softmax) == 130
    assert names(tmp_path / "runs") == ["digits-64-32-10-seed1-model.checkpoint"]
    assert train.main([*QUICK, "--backend", "rtl", "--resume"], open_softmax, compile_softmax) == 0
    assert names(tmp_path / "runs") == ["digits-64-32-10-seed1-rtl"]


def test_two_runs_of_one_directory(tmp_path, capsys):
    with Checkpoints(tmp_path / "run", {}, backend="model", log=tmp_path / "log"):
        assert quick(tmp_path / "run") == 2
        check_one_line(capsys.readouterr().err, "another run is using it")
    assert names(tmp_path) == []


def test_full_disk_does_not_end_the_run(tmp_path, capsys, monkeypatch):
    def full(path, _):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    assert quick(tmp_path / "run", "--checkpoint", 100) == 0
    assert "cannot be written (No space left on device); the run goes on" in capsys.readouterr().out
    assert names(tmp_path) == ["run"]


def test_period_and_number_of_files(tmp_path, capsys):
    folder = stopped(tmp_path, capsys, call=7, every=200)
    assert names(folder) == ["images-000000230.ckpt", "images-000000450.ckpt"]


# ---- state of a unit --------------------------------------------------------------------------------------------------------


SMALL_RUN = Experiment(dataset="digits", layers=LAYERS, images=24, epochs=2, seed=3, rate=0.4, rate_decay=0.5, refresh=17,
                       params=PARAMS)
SMALL_DATA = Dataset(name="digits", source="test", n_classes=LAYERS[-1], **dict(zip(
    ("train_images", "train_labels", "test_images", "test_labels"), (*data(24, 1), *data(6, 2)), strict=True)))
"""Of the build of ``tests/test_cosim.py``: 18 rows on 7 lanes, devices that need refresh."""


def open_small(name, seed=SMALL_RUN.seed):
    return RtlBackend(PARAMS, seed, fast=False) if name == "rtl" else ModelBackend(PARAMS, seed)


def run_small(folder, backends, stops):
    """Train on the backends in turn, stopping after so many images; returns (result, log, dirty maps at the stops)."""
    log, dirty = folder / "log", []
    folder.mkdir()
    log.write_text("")
    for turn, (name, images) in enumerate(zip(backends, [*stops, None], strict=True)):
        with Checkpoints(folder / "run", identity_of(SMALL_RUN, SMALL_DATA), backend=name, log=log, resume=turn > 0) as kept:
            backend = open_small(name)

            def record(entry, kept=kept, images=images):
                with log.open("a") as file:
                    file.write(json.dumps(comparable(entry)) + "\n")
                kept.stop |= entry["event"] == "train" and entry["images"] == images

            try:
                result = trainer.run(SMALL_RUN, SMALL_DATA, backend, compile_experiment, record, kept)
            except KeyboardInterrupt:
                dirty.append(backend._dirty())
            finally:
                backend.close()
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return comparable(result), [entry for entry in records if entry["event"] != "resume"], dirty


@pytest.fixture
def short_calls(monkeypatch):
    monkeypatch.setattr(trainer, "CHUNK", 5)                 # so that runs are stopped between two scans, too


def without_host(outcome):
    result, log, _ = outcome
    return {**result, "events": {k: v for k, v in result["events"].items() if k != "host_wait"}}, log


@pytest.mark.parametrize(("backends", "stops"), [
    (["model", "model"], [5]), (["model", "model"], [17]), (["model"] * 3, [10, 39]), (["model"] * 3, [24, 34]),
    pytest.param(["model", "rtl"], [10], marks=pytest.mark.cosim),
    pytest.param(["rtl", "model"], [22], marks=pytest.mark.cosim),
    pytest.param(["rtl", "rtl", "model"], [5, 39], marks=pytest.mark.cosim),
])
def test_resumed_on_any_backend(tmp_path, short_calls, backends, stops):
    whole = run_small(tmp_path / "whole", ["model"], [])
    parts = run_small(tmp_path / "parts", backends, stops)
    assert without_host(parts) == without_host(whole)
    assert whole[0]["conservation_ok"]
    assert whole[0]["refreshes"] > 0
    marks = run_small(tmp_path / "model", ["model"] * len(backends), stops)[2]
    assert [dirty.tolist() for dirty in parts[2]] == [dirty.tolist() for dirty in marks]
    assert len(marks) == len(stops)


def test_the_runs_above_stop_with_some_lines_programmed(tmp_path, short_calls):
    _, _, (early, scanned, late) = run_small(tmp_path / "a", ["model"] * 4, [5, 17, 39])
    matrices = compile_experiment(SMALL_RUN, 0.4).matrices
    lines = sum(d.rows if d.walk == Walk.ROWS else d.cols for d in matrices)
    assert 0 < early.sum() < lines
    assert not scanned.any()
    assert 0 < late.sum() < lines
    assert any(d.words_per_line > 1 for d in matrices)


# ---- memory -----------------------------------------------------------------------------------------------------------------


def test_memory_stays_flat(tmp_path):
    """Peak resident memory after every epoch, in a process of its own: 18,000 images, 180 log records, 15 checkpoints."""
    subprocess.run([sys.executable, "-m", "cosim.train", *REAL, "--epochs", "12", "--checkpoint", "1200", "--out",
                    str(tmp_path / "run")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    peaks = [record["memory"]["trainer"] for record in log if record["event"] == "epoch"]
    assert len(peaks) == 12
    assert peaks[-1] - peaks[2] <= 2, f"peak resident memory [MiB] by epoch: {peaks}"


@pytest.mark.cosim
def test_memory_of_the_simulator_stays_flat():
    backend = open_small("rtl")
    try:
        program = compile_experiment(SMALL_RUN, 0.4)
        backend.configure(program)
        backend.execute("clear")
        packets = program.packets("train", *data(50))
        peaks = []
        for _ in range(8):
            backend.run("train", packets)
            backend.execute("scan")
            backend.state()
            peaks.append(backend.memory()["simulator"])
    finally:
        backend.close()
    assert peaks[-1] - peaks[1] <= 2, f"peak resident memory [MiB] by 50 images: {peaks}"


def test_a_run_that_is_refused_lets_go_of_the_directory(tmp_path, capsys):
    stopped(tmp_path, capsys)
    assert quick(tmp_path / "run", "--resume", "--seed", 2) == 2
    assert quick(tmp_path / "run", "--resume") == 0
