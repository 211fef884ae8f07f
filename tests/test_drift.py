import json

import numpy as np
import pytest

from cosim import drift, study
from model.datasets import load_digits

SETTING = study.Setting(name="small", change="nothing", full=True, fields={
    "dataset": "digits", "layers": (64, 32, 10), "images": 1498, "epochs": 6}, tile={"drift_nu": 0.1})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data, experiment = load_digits(), SETTING.experiment(1)
    backend = study.trained(SETTING, 1, data, lambda _: None, tmp_path_factory.mktemp("states"))
    cycles = backend.training_cycles
    points = drift.accuracies(backend, experiment, data, (0.0, 1.0, 3600.0, drift.YEAR_S))
    assert backend.training_cycles == cycles
    return points


def test_compensation_undoes_what_drift_takes(run):
    experiment = SETTING.experiment(1)
    for point in run:
        loss = (1 + point["seconds"] / experiment.params.tile.drift_t0_s) ** -experiment.params.tile.drift_nu
        assert point["factor"] == pytest.approx(1 / loss, rel=0.05)      # read noise is in both means
    assert run[0]["plain"] > 0.85
    assert run[-1]["compensated"] > run[0]["plain"] - 0.06
    assert run[-1]["plain"] < run[-1]["compensated"]


def test_times_are_one_second_to_one_year():
    assert drift.TIMES_S[0] == 0
    assert drift.TIMES_S[1] == pytest.approx(1)
    assert drift.TIMES_S[-1] == pytest.approx(365.25 * 86400)
    assert (np.diff(drift.TIMES_S) > 0).all()


def test_picture(run, tmp_path):
    drift.draw({"1": run, "2": run}, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_committed_curve_is_of_the_default():
    path = drift.RESULTS / "drift.json"
    contents = json.loads(path.read_text())
    assert study.is_of(contents["experiment"], study.DEFAULT.experiment(1))
    assert set(contents["seeds"]) <= {str(seed) for seed in study.SEEDS}
    for points in contents["seeds"].values():
        assert [point["seconds"] for point in points] == pytest.approx(drift.TIMES_S)
