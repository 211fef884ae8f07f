import dataclasses
import json
import re

import numpy as np
import pytest

from cosim import sweep, timing
from model import trainer
from model.datasets import load_digits
from model.isa import Walk
from model.machine import ModelBackend
from model.params import Params, UnitParams
from model.program import CapacityError, compile_experiment, compile_network

LAYERS = (64, 32, 10)
POINT = sweep.Point(name="small", layers=LAYERS, images=300, seeds=(1, 2), fields={
    "dataset": "digits", "test_images": 50, "refresh": 100})


def dispatch(layers):
    """Cycles of an image that the prediction leaves out, at most: WAIT, ACCEPT, half a NEXT, the start, one for each layer."""
    return 0.5 + len(layers)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def result(digits):
    return sweep.run_one(POINT, 1, digits)


def test_points_are_named_once_and_fit_their_builds():
    names = [point.name for point in sweep.POINTS]
    assert len(set(names)) == len(names)
    for point in sweep.POINTS:
        experiment = point.experiment(point.seeds[0])
        program = compile_experiment(experiment, experiment.rate)
        assert program.n_matrices == len(point.layers) - 1
    assert sweep.DEFAULT.experiment(1).params == Params()
    assert set(sweep.RTL) <= {point.name for point in sweep.CAPACITIES.values()}
    for name, point in sweep.RTL.items():
        twin, = (other for other in sweep.CAPACITIES.values() if other.name == name)
        assert (point.unit, point.tile) == (twin.unit, twin.tile)


@pytest.mark.parametrize("layers", [(784, 10), (784, 50, 10), (784, 1000, 10), (784, 250, 250, 10)])
@pytest.mark.parametrize("name", ["vector_words", "program_words", "n_luts", "n_tiles", "n_matrices", "n_rows", "n_cols"])
def test_fitted_capacities_are_the_smallest(layers, name):
    unit = sweep.fitted(layers)
    compile_network(layers, Params(unit=unit), loss="softmax-ce")
    value = getattr(unit, name)
    smaller = value - unit.vector_width if name in ("n_rows", "n_cols") else value // 2 if name.endswith("_words") else value - 1
    if smaller >= (16 if name.endswith("_words") else 1):
        with pytest.raises(CapacityError):
            compile_network(layers, Params(unit=dataclasses.replace(unit, **{name: smaller})), loss="softmax-ce")


@pytest.mark.parametrize(("layers", "words"), [
    ((784, 10), 64),                 # 10 columns of 785 / 256 words
    ((784, 50, 10), 1024),           # 785 rows of one word, 10 columns of one
    ((784, 1000, 10), 4096),         # 785 rows of 4 words, 10 columns of 4
    ((784, 250, 250, 10), 2048),
])
def test_fitted_chi_words_let_every_layer_walk_its_shorter_way(layers, words):
    assert sweep.fitted(layers).chi_words == words


def test_capacities_stay():
    default = UnitParams()
    for changes in ({"lanes": 32}, {"vector_width": 8}, {"vector_width": 64}, {"chi_bits": 9, "eps_log2": 8}):
        unit = sweep.with_capacity(**changes)
        assert unit.lanes * unit.chi_words >= default.lanes * default.chi_words
        assert unit.vector_width * unit.vector_words >= default.vector_width * default.vector_words
        assert (unit.n_rows, unit.n_cols) >= (default.n_rows, default.n_cols)
        assert all(getattr(unit, name) == value for name, value in changes.items())


def test_a_metered_run_is_a_run(digits, result):
    experiment = POINT.experiment(1)
    plain = trainer.run(experiment, digits, ModelBackend(experiment.params, 1), compile_experiment, lambda _: None)
    for name in ("digest", "cycles_per_image", "test_accuracy", "refresh_cycles_per_image"):
        assert result[name] == plain[name], name
    assert result["conservation_ok"]
    scans = result["events_of_scans"]
    assert scans["phase_scan"] == result["events"]["phase_scan"] > 0
    assert 0 < scans["phase_window"] < result["events"]["phase_window"]
    assert scans["chi_rmw"] == scans["phase_update"] == 0
    assert 0 < result["ms_per_image"]


@pytest.mark.parametrize(("layers", "unit"), [
    ((64, 32, 10), {}), ((64, 250, 10), {}), ((64, 32, 10), {"vector_width": 8}), ((64, 100, 10), {"lanes": 32}),
])
def test_prediction(digits, layers, unit):
    """Where no pulse comes, all but dispatch."""
    point = dataclasses.replace(POINT, layers=layers, unit=sweep.with_capacity(**unit), images=100, fields={
        **POINT.fields, "refresh": 0, "rate": 1e-6})
    result = sweep.run_one(point, 1, digits)
    assert result["programming_cycles_per_image"] == 0
    rest = result["cycles_per_image"] - sum(result["predicted"].values())
    assert 0 <= rest <= dispatch(layers)
    assert result["predicted"]["windows"] == 127 * (len(layers) - 1) + 63 * (len(layers) - 2)
    assert result["predicted"]["walked words"] * 100 == pytest.approx(result["events"]["chi_rmw"])


def test_empty_words(digits):
    """By hand: of an image whose first pixel of operand 1 or more stands at position p, p // vector_width words."""
    experiment = POINT.experiment(1)
    width = experiment.params.unit.vector_width
    images = np.zeros((300, 64), np.uint8)
    images[:, 40], images[:, 10], images[:100, 63] = 8, 7, 255
    images[150:, 20] = 8
    data = dataclasses.replace(digits, train_images=images, train_labels=np.zeros(300, np.uint8))
    words = timing.empty_words(experiment, data)
    assert len(words) == POINT.images
    assert set(words) == {20 // width, 40 // width}
    data = dataclasses.replace(data, train_images=np.zeros((300, 64), np.uint8))
    assert set(timing.empty_words(experiment, data)) == {64 // width}
    program = compile_experiment(experiment, experiment.rate)
    assert program.matrices[0].walk == Walk.ROWS


def test_runs_are_made_once_and_again_when_parameters_change(tmp_path, digits):
    said = []
    sweep.run([POINT], digits, said.append, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small-seed1.json", "small-seed2.json"]
    assert len(said) == 2
    sweep.run([POINT], digits, said.append, tmp_path)
    assert len(said) == 2
    sweep.run([dataclasses.replace(POINT, images=200)], digits, said.append, tmp_path)
    assert len(said) == 4
    assert json.loads((tmp_path / "small-seed1.json").read_text())["images_trained"] == 200


def test_a_point_alone_has_the_result_of_one_in_company(tmp_path, digits, result):
    alone = dataclasses.replace(POINT, alone=True, seeds=(1,))
    sweep.run([alone], digits, lambda _: None, tmp_path)
    other = json.loads((tmp_path / "small-seed1.json").read_text())
    for name in ("digest", "cycles_per_image", "events", "events_of_scans", "predicted"):
        assert other[name] == result[name], name


def test_fit():
    line = sweep.fit([1, 2, 3], [5, 7, 9])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((2, 3, 1))
    line = sweep.fit([0, 1, 2, 3], [0, 1, 1, 0])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((0, 0.5, 0))
    assert sweep.fit([1, 2], [4, 4]).r2 == 1


def test_table_and_picture(tmp_path, result):
    def put(point, seed, **changes):
        contents = {**result, "experiment": json.loads(json.dumps(point.experiment(seed).as_dict())), **changes}
        (tmp_path / f"{point.name}-seed{seed}.json").write_text(json.dumps(contents))

    for size, point in sweep.HIDDEN.items():
        put(point, 1, cycles_per_image=3.0 * size + 20, programming_cycles_per_image=10.0, refresh_cycles_per_image=10.0)
    for depth, point in sweep.DEPTH.items():
        put(point, 1, cycles_per_image=3.0 * depth + 20, programming_cycles_per_image=10.0, refresh_cycles_per_image=10.0)
    for seed, accuracy in ((1, 0.9), (2, 0.91), (3, 0.95)):
        put(sweep.DEFAULT, seed, test_accuracy=accuracy, lanes_busy=0.9, lanes_busy_with_loading=0.8, ms_per_image=0.1)
    put(sweep.RTL["default"], 1, cycles_per_image=1800.0, ms_per_image=1.5, equals_model=True)
    text = sweep.markdown(tmp_path)
    assert "| cycles without programming and refresh | 3 | " in text
    assert re.search(r"\| lanes 256, .* \| 92.00 \(90.00 to 95.00\) \| 0.100 \| 1800 \| 1.50 \| yes \|", text)
    assert "| lanes 64 | not run |" in text
    assert "**90.0 %** of phase_update" in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1, block
    sweep.draw(tmp_path, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_table_of_nothing(tmp_path):
    assert "| lanes 64 | not run |" in sweep.markdown(tmp_path)


def test_bad_options_are_one_line_and_exit_code_2(capsys):
    assert sweep.main(["run", "--only", "lains"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("crosstrain: unknown point lains: allowed are hidden-50")
    assert error.count("\n") == 1


def test_committed_results_are_of_the_points_declared():
    points = {point.name: point for point in sweep.POINTS}
    for path in sweep.RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        assert path.name == f"{result['point']}-seed{result['seed']}.json"
        assert result["seed"] in points[result["point"]].seeds
        assert result["conservation_ok"]
        assert result.get("equals_model", True)
        if result["point"] in {point.name for point in (*sweep.HIDDEN.values(), *sweep.DEPTH.values())}:
            rest = result["cycles_per_image"] - result["programming_cycles_per_image"] - result["refresh_cycles_per_image"]
            assert 0 <= rest - sum(result["predicted"].values()) <= dispatch(points[result["point"]].layers), path.name
