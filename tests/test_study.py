import dataclasses
import json
import re

import pytest

from cosim import study
from model.datasets import load_digits
from model.errors import InputError

SMALL = {"dataset": "digits", "layers": (64, 32, 10), "images": 300, "epochs": 2}
UNIT = study.Setting(name="small", change="nothing", full=True, fields=SMALL)
FLOAT = study.Setting(name="small-float", change="float32 weights", full=True, is_float=True, fields=SMALL)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def silent(_):
    pass


def test_settings_are_named_once_and_start_from_the_default():
    names = [setting.name for setting in study.SETTINGS]
    assert len(set(names)) == len(names)
    assert study.SETTINGS[0] == study.DEFAULT
    assert not (study.DEFAULT.fields)
    assert not (study.DEFAULT.unit)
    assert not (study.DEFAULT.tile)
    for setting in study.SETTINGS:
        experiment = setting.experiment(2)
        assert experiment.seed == 2
        assert experiment.epochs == (study.FULL_EPOCHS if setting.full else study.SWEEP_EPOCHS)


def test_short_and_full_runs_end_at_one_rate():
    full, short = (next(s for s in study.SETTINGS if s.full == full and not s.fields).experiment(1) for full in (True, False))
    assert short.rate_of(short.epochs - 1) == pytest.approx(full.rate_of(full.epochs - 1))


def test_runs_are_made_once_and_again_when_parameters_change(tmp_path, digits):
    said = []
    study.run([UNIT, FLOAT], [1, 2], digits, said.append, tmp_path / "results", tmp_path / "states")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "small-float-seed1.json", "small-float-seed2.json", "small-seed1.json", "small-seed2.json"]
    result = json.loads((tmp_path / "results" / "small-seed2.json").read_text())
    assert (result["setting"], result["seed"], result["float"], result["conservation_ok"]) == ("small", 2, False, True)
    assert result["test_accuracies"][-1] == result["test_accuracy"]
    lines = len(said)
    study.run([UNIT, FLOAT], [1, 2], digits, said.append, tmp_path / "results", tmp_path / "states")
    assert len(said) == lines
    other = dataclasses.replace(UNIT, fields={**SMALL, "rate": 0.2})
    study.run([other], [1], digits, said.append, tmp_path / "results", tmp_path / "states")
    assert len(said) > lines
    assert json.loads((tmp_path / "results" / "small-seed1.json").read_text())["experiment"]["rate"] == 0.2


def test_kept_devices_are_those_that_training_left(tmp_path, digits):
    first = study.trained(UNIT, 1, digits, silent, tmp_path)
    said = []
    again = study.trained(UNIT, 1, digits, said.append, tmp_path)
    assert said == []
    assert again.training_cycles == first.training_cycles
    again.side.begin(first.side.tick)
    for name in ("g_programmed", "n_set", "tick", "g", "variance"):
        assert (getattr(first.side.tiles, name) == getattr(again.side.tiles, name)).all(), name
    with pytest.raises(InputError, match="no devices"):
        study.trained(FLOAT, 1, digits, silent, tmp_path)


def test_table(tmp_path):
    def put(setting, seed, accuracy):
        result = {"seed": seed, "test_accuracy": accuracy, "train_accuracy": 1.0, "pulses_per_image": 2.0,
                  "cycles_per_image": 700.4, "experiment": json.loads(json.dumps(setting.experiment(seed).as_dict()))}
        (tmp_path / f"{setting.name}-seed{seed}.json").write_text(json.dumps(result))

    for seed, unit, floating in ((1, 0.95, 0.97), (2, 0.96, 0.97), (3, 0.94, 0.98)):
        put(UNIT, seed, unit)
        put(FLOAT, seed, floating)
    missing = study.Setting(name="missing", change="all")
    text = study.markdown(tmp_path, [UNIT, FLOAT, missing])
    assert "| small | nothing | 1, 2, 3 | 95.00 (94.00 to 96.00) | 2.33 (1.00 to 4.00) | 100.00 | 2.0 | 700 |" in text
    assert "| small-float | float32 weights | 1, 2, 3 | 97.33 (97.00 to 98.00) |  | 100.00 |  |  |" in text
    assert "| missing | all | not run |" in text
    columns = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(columns)) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "--only", "lains"], "unknown setting lains: allowed are default"),
    (["sweep"], "[Nn]o such command"),
])
def test_bad_options_are_one_line_and_exit_code_2(capsys, arguments, message):
    assert study.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("crosstrain: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_committed_results_are_of_the_settings_declared():
    names = {setting.name for setting in study.SETTINGS}
    for path in study.RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        assert result["setting"] in names
        assert path.name == f"{result['setting']}-seed{result['seed']}.json"
        assert result["float"] or result["conservation_ok"]
