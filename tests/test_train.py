import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cosim import train
from model import trainer
from model.datasets import load_digits
from model.errors import InputError
from model.experiment import Experiment, parse_layers
from model.run_directory import RunDirectory
from tests.softmax_backend import SoftmaxBackend, compile_softmax, open_softmax

ROOT = Path(__file__).resolve().parents[1]
FILES = ["curve.png", "log.jsonl", "params.json", "result.json"]
RESULT_FIELDS = """backend dataset layers seed images_trained epochs test_accuracy train_accuracy cycles_per_image
    programming_cycles_per_image refresh_cycles_per_image cycles_by_phase events ms_per_image training_s machine pulses_per_image
    saturations refreshes conservation_ok digest versions""".split()


def command(*arguments, open_backend=open_softmax):
    return train.main(["--dataset", "digits", "--epochs", "1", *map(str, arguments)], open_backend, compile_softmax)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_run_writes_a_whole_directory(tmp_path, capsys):
    out = tmp_path / "deep" / "run"
    assert command("--out", out, "--images", 250, "--seed", 5) == 0
    assert names(out) == FILES
    assert names(out.parent) == ["run"]
    result = json.loads((out / "result.json").read_text())
    assert set(RESULT_FIELDS) <= set(result)
    assert result["dataset"] == "digits"
    assert result["layers"] == [64, 32, 10]
    assert (result["seed"], result["epochs"], result["images_trained"]) == (5, 1, 250)
    assert 0.5 < result["test_accuracy"] <= 1
    parameters = json.loads((out / "params.json").read_text())
    assert parameters["experiment"]["seed"] == 5
    assert parameters["experiment"]["params"]["unit"]["lanes"] == 256
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records] == ["start", "train", "chi", "train", "chi", "train", "chi", "epoch"]
    assert (out / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    shown = capsys.readouterr()
    assert "test accuracy" in shown.out
    assert "images/s" in shown.out
    assert shown.err == ""


def test_figures_are_of_training_alone(tmp_path):
    assert command("--out", tmp_path / "run", "--images", 250, "--refresh", 100) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["cycles_per_image"] == (250 * 100 + 2 * 50) / 250
    assert result["programming_cycles_per_image"] == 5
    assert result["refresh_cycles_per_image"] == 2 * 50 / 250
    assert result["pulses_per_image"] == 2
    assert result["refreshes"] == 6
    assert result["cycles_by_phase"]["phase_chi"] == 0          # neither CLEAR nor the readings of chi
    assert "host_wait" not in result["events"]
    assert result["host_wait_cycles"] == 250 * 7


def run_trainer(**changes):
    fields = {"dataset": "digits", "layers": (64, 10), "images": 300, "epochs": 3, "seed": 1, "refresh": 70, "test_images": 50}
    experiment = Experiment(**{**fields, **changes})
    backend = SoftmaxBackend()
    records = []
    result = trainer.run(experiment, load_digits(), backend, compile_softmax, records.append)
    return result, backend, records


def test_calls_of_the_backend():
    _, backend, _ = run_trainer(rate=0.5, rate_decay=0.5)
    assert [value for name, value in backend.calls if name == "configure"] == [0.5, 0.25, 0.125]
    assert backend.calls[1] == ("clear", 0)
    trained, scans = 0, []
    for name, count in backend.calls:
        trained += count if name == "train" else 0
        if name == "scan":
            scans.append(trained)
    assert scans == [70 * turn for turn in range(1, 900 // 70 + 1)]
    assert trained == 900
    assert sum(count for name, count in backend.calls if name == "evaluate") == 3 * 50


def test_same_seed_same_run_other_seed_other_run():
    first, again, other = (run_trainer(seed=seed)[0] for seed in (1, 1, 2))
    assert first["digest"] == again["digest"] != other["digest"]


def test_sample_order():
    experiment = Experiment(dataset="digits", layers=(64, 10), images=100, epochs=3, seed=4)
    orders = list(trainer.sample_order(experiment, 1498))
    assert [len(order) for order in orders] == [100, 100, 100]
    assert len(set(orders[0])) == 100
    assert set(orders[0]) == set(orders[1]) == set(orders[2])
    assert (orders[0] != orders[1]).any()
    assert (orders[1] != orders[2]).any()
    everything = next(trainer.sample_order(Experiment(dataset="digits", layers=(64, 10), images=9999, epochs=1, seed=4), 1498))
    assert sorted(everything) == list(range(1498))
    assert (everything[:100] == orders[0]).all()


def test_accuracy_is_counted():
    result, _, records = run_trainer(epochs=1)
    assert result["test_images"] == 50
    assert (result["test_accuracy"] * 50).is_integer()
    assert records[-1]["test_accuracy"] == result["test_accuracy"]
    assert result["weights_checked"] == 640


BAD_OPTIONS = [
    (["--dataset", "cifar"], r"unknown dataset 'cifar': allowed are auto, mnist, digits"),
    (["--layers", "784--10"], r"layers '784--10': must be two or more sizes"),
    (["--layers", "64"], r"layers '64': must be two or more sizes"),
    (["--layers", "64-0-10"], r"layers '64-0-10'"),
    (["--layers", "784-10"], r"first layer has 784 inputs, but an image of digits has 64 pixels"),
    (["--layers", "64-11"], r"last layer has 11 outputs, but digits has 10 classes"),
    (["--backend", "fpga"], r"unknown backend 'fpga': allowed are rtl, model"),
    (["--lanes", "0"], r"unit.lanes = 0: allowed is 1 to 1024"),
    (["--lanes", "-3"], r"unit.lanes = -3"),
    (["--lanes", "many"], r"'--lanes': .*valid integer"),
    (["--images", "0"], r"images = 0: allowed is 1 to"),
    (["--epochs", "0"], r"epochs = 0: allowed is 1 to"),
    (["--seed", "-1"], r"seed = -1: allowed is 0 to"),
    (["--rate", "nan"], r"rate = nan: allowed is"),
    (["--rate", "0"], r"rate = 0.0: allowed is"),
    (["--rate-decay", "1.5"], r"rate_decay = 1.5: allowed is"),
    (["--output-scale", "0"], r"output_scale = 0.0: allowed is"),
    (["--loss", "hinge"], r"unknown loss 'hinge': allowed are mse, sigmoid-ce, softmax-ce"),
    (["--activation", "step"], r"unknown activation 'step'"),
    (["--waves", "--backend", "model"], r"waves are of the RTL"),
    (["--turbo"], r"[Nn]o such option"),
    (["extra"], r"unexpected extra argument"),
    (["--params", "does-not-exist.toml"], r"does-not-exist.toml: cannot be read"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--dataset", "digits", *options]) == 2          # the product's own backends: never reached
    check_one_line(capsys.readouterr().err, message)
    assert names(tmp_path) == []


def check_one_line(text, message):
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.startswith("crosstrain: ")
    assert re.search(message, text), text


@pytest.mark.parametrize(("toml", "message"), [
    ("[unit]\nlains = 4\n", r"bad.toml: unknown key unit.lains"),
    ("[units]\nlanes = 4\n", r"bad.toml: unknown table \[units\]"),
    ("[unit]\nlanes = 5000\n", r"bad.toml: unit.lanes = 5000: allowed is 1 to 1024"),
    ("[tile]\nadc_bits = 9\n", r"bad.toml: unknown key tile.adc_bits"),
    ("[unit]\nlanes = \"4\"\n", r"bad.toml: unit.lanes = '4': must be of type int"),
    ("lanes = \n", r"bad.toml: not valid TOML"),
])
def test_bad_toml(tmp_path, capsys, toml, message):
    path = tmp_path / "bad.toml"
    path.write_text(toml)
    assert command("--params", path, "--out", tmp_path / "run") == 2
    check_one_line(capsys.readouterr().err, message)
    assert names(tmp_path) == ["bad.toml"]


def test_lanes_and_toml_together(tmp_path):
    path = tmp_path / "good.toml"
    path.write_text("[unit]\nlanes = 64\nadc_bits = 7\n[tile]\nnoise = false\n")
    assert command("--params", path, "--lanes", "7", "--out", tmp_path / "run", "--images", "50") == 0
    parameters = json.loads((tmp_path / "run" / "params.json").read_text())["experiment"]["params"]
    assert (parameters["unit"]["lanes"], parameters["unit"]["adc_bits"], parameters["tile"]["noise"]) == (7, 7, False)


@pytest.mark.parametrize("layers", ["64-5000-10", "64-32-32-32-32-32-32-32-32-32-32-32-10"])
def test_network_beyond_the_build(tmp_path, monkeypatch, capsys, layers):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--dataset", "digits", "--layers", layers]) == 2
    check_one_line(capsys.readouterr().err, r"unit\.|build")
    assert names(tmp_path) == []


def test_corrupt_mnist(tmp_path, monkeypatch, capsys):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    assert train.main(["--dataset", "auto", "--out", str(tmp_path / "run")], open_softmax, compile_softmax) == 2
    check_one_line(capsys.readouterr().err, "train-images-idx3-ubyte: 6 bytes, too short")


def never_opened(name, experiment, waves):
    raise AssertionError("the backend was opened before the output directory was checked")


def test_output_below_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("keep")
    assert command("--out", tmp_path / "file" / "run", open_backend=never_opened) == 2
    check_one_line(capsys.readouterr().err, "the output directory cannot be written")
    assert (tmp_path / "file").read_text() == "keep"


def test_output_without_permission(tmp_path, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)              # root may write anywhere: the refusal is imitated
    assert command("--out", tmp_path / "run", open_backend=never_opened) == 2
    check_one_line(capsys.readouterr().err, r"cannot be written \(Permission denied\)")


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_output_taken_by_something_else(tmp_path, capsys, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("keep")
    else:
        target = out if kind == "folder" else tmp_path / "elsewhere"
        target.mkdir()
        (target / "precious").write_text("keep")
        if kind == "link":
            out.symlink_to(target)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert command("--out", out, open_backend=never_opened) == 2
    check_one_line(capsys.readouterr().err, "exists and is not the directory of an earlier run")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_earlier_run_is_replaced_whole(tmp_path):
    out = tmp_path / "run"
    assert command("--out", out, "--images", 50, "--seed", 1) == 0
    (out / "waves.fst").write_text("of the earlier run")
    assert command("--out", out, "--images", 50, "--seed", 2) == 0
    assert names(out) == FILES
    assert json.loads((out / "result.json").read_text())["seed"] == 2
    assert names(tmp_path) == ["run"]


def test_failed_run_keeps_the_earlier_one(tmp_path):
    out = tmp_path / "run"
    assert command("--out", out, "--images", 50, "--seed", 1) == 0
    kept = (out / "result.json").read_bytes()
    backend = SoftmaxBackend()
    backend.conservation = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        command("--out", out, "--images", 50, "--seed", 2, open_backend=lambda *_: backend)
    assert backend.closed
    assert (out / "result.json").read_bytes() == kept
    assert names(tmp_path) == ["run"]


def test_rename_that_fails_puts_the_earlier_run_back(tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert command("--out", out, "--images", 50) == 0
    kept = (out / "result.json").read_bytes()
    rename = Path.rename

    def fail(self, target):
        if ".partial-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        command("--out", out, "--images", 50)
    assert (out / "result.json").read_bytes() == kept
    assert names(tmp_path) == ["run"]


def test_broken_conservation_is_exit_code_1(tmp_path, capsys):
    backend = SoftmaxBackend()
    backend.conservation = lambda: (False, 640)
    assert command("--out", tmp_path / "run", "--images", 50, open_backend=lambda *_: backend) == 1
    check_one_line(capsys.readouterr().err, "conservation is broken")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["conservation_ok"] is False


@pytest.mark.parametrize(("number", "earlier"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)])
def test_ctrl_c_in_mid_run(tmp_path, number, earlier):
    out = tmp_path / "run"
    if earlier:
        assert command("--out", out, "--images", 50) == 0
    before = sorted(path.name for path in tmp_path.rglob("*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.softmax_backend", "--slow", "--dataset", "digits", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        logs = []
        deadline = time.monotonic() + 60
        while not (logs and logs[0].read_text().count('"train"') >= 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
            logs = list(tmp_path.glob(".run.partial-*/log.jsonl"))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    check_one_line(stderr, r"stopped: .*run.checkpoint holds the first \d+ images, RESUME=1 goes on from there")
    kept = tmp_path / "run.checkpoint"
    assert sorted({path.name for path in tmp_path.rglob("*")} - set(before)) == sorted([kept.name, *names(kept)])


def test_second_ctrl_c_does_not_stop_the_clean_up(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path / "run")
    seen = []
    monkeypatch.setattr("model.run_directory.shutil.rmtree", lambda *_, **__: seen.append(signal.getsignal(signal.SIGINT)))
    with directory:
        pass
    assert seen == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def test_help_names_every_option_with_unit_or_range(capsys):
    assert train.main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in ("dataset", "backend", "layers", "images", "epochs", "seed", "lanes", "params", "waves", "out", "loss",
                   "activation", "rate", "rate-decay", "refresh", "test-images", "checkpoint", "resume",
                   "scheme", "transfer", "inversion", "trains"):
        assert f"--{option} " in shown
    assert "1 to 1024" in shown
    assert "[default: 784-250-10 for mnist, 528-250-125-10 for mnist-22x24" in shown
    assert "64-32-10 for digits]" in shown


def test_parse_layers():
    assert parse_layers("784-250-10") == (784, 250, 10)
    for text in ("", "784-", "-784-10", "784,10", "784-1e1-10", "784 - 10", "784-+5-10", "784-010-10", "７８４-10"):
        with pytest.raises(InputError):
            parse_layers(text)
