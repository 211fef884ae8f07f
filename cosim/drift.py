"""Inference after training: accuracy against the time since programming, 1 s to 1 year, with and without drift compensation.

    python -m cosim.drift      trains what ``cosim.study run`` has not left in build/study, tests, writes picture and JSON

The unit stands still after training while its devices drift (``model/analog/pcm.py``: G (1 + t/T0)^-nu). Global drift
compensation is digital: the look-up table of the hidden layer is written anew for codes times ``mean |code| right after training
/ mean |code| now``, both over the same calibration images, read with all noise. The output layer needs none: a factor on all
outputs moves no maximum. Source: aihwkit's GlobalDriftCompensation (papers.md B4).
"""
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from cosim.study import DEFAULT, SEEDS, trained
from model import datasets
from model.analog import tile as analog
from model.command_line import command_line, run_cli
from model.datasets import Dataset
from model.experiment import Experiment
from model.files import write_whole
from model.isa import Half
from model.machine import ModelBackend
from model.program import compile_experiment

__all__ = ["CALIBRATION_IMAGES", "TIMES_S", "accuracies", "draw", "main", "mean_code"]

YEAR_S = 365.25 * 24 * 3600
TIMES_S = (0.0, *np.geomspace(1.0, YEAR_S, 16))
"""Times since the end of training [s]; 0: right after it."""
CALIBRATION_IMAGES = 100
"""Training images, the first of the set, that the factor is estimated with [1]."""
TEST_CHUNK = 500
"""Test images per call of the backend [1]."""
RESULTS = Path(__file__).resolve().parent / "results"


def accuracies(backend: ModelBackend, experiment: Experiment, data: Dataset, times_s=TIMES_S) -> list[dict]:
    """Test accuracy [1] without and with compensation, and its factor, at each time [s] after the backend's training."""
    calibration = data.train_images[:CALIBRATION_IMAGES]
    trained_cycles = backend.training_cycles
    plain = compile_experiment(experiment, experiment.rate)
    points, fresh = [], 0.0
    for seconds in times_s:
        backend.training_cycles = trained_cycles + round(seconds / experiment.params.tile.cycle_s)
        backend.configure(plain)
        accuracy = _test(backend, data)
        code = mean_code(backend, calibration)
        fresh = fresh or code
        factor = fresh / code
        backend.configure(compile_experiment(_scaled(experiment, factor), experiment.rate))
        points.append({"seconds": float(seconds), "plain": accuracy, "compensated": _test(backend, data), "factor": factor})
    backend.training_cycles = trained_cycles
    return points


def mean_code(backend: ModelBackend, images: np.ndarray) -> float:
    """Mean |converter code| of the first hidden layer over images (n, pixels), at the tick of the last program [1]."""
    side, u, d = backend.side, backend.u, backend.program.matrices[0]
    lines, codes, total = np.zeros(u.n_lines, np.int32), np.zeros(d.cols, np.int32), 0
    for image in images:
        lines[d.row0:d.row0 + d.rows] = np.append(image, 255) >> (8 - u.line_bits)
        analog.read(side.constants, side.tiles, side.generators.evaluation, d.tile, lines, 0, int(Half.DIFFERENCE), 0, u.line_max,
                    d.col0, d.cols, codes)
        total += np.abs(codes).sum()
    return float(total / (len(images) * d.cols))


def _scaled(experiment, factor):
    """The experiment for a compiler that takes codes of the hidden layer for sums ``factor`` times as large."""
    tile = experiment.params.tile
    ranges = (tile.adc_range[0] * factor, *tile.adc_range[1:])
    tile = dataclasses.replace(tile, adc_range=ranges)
    return dataclasses.replace(experiment, params=dataclasses.replace(experiment.params, tile=tile))


def _test(backend, data):
    hits = 0
    for first in range(0, len(data.test_images), TEST_CHUNK):
        images, labels = data.test_images[first:first + TEST_CHUNK], data.test_labels[first:first + TEST_CHUNK]
        outputs = backend.run("evaluate", backend.program.packets("evaluate", images, labels))
        hits += int((outputs.argmax(axis=1) == labels).sum())
    return hits / len(data.test_images)


def draw(runs: dict[str, list[dict]], path: Path):
    """Draw the accuracies of every seed, thin, and their mean, thick, against time on a logarithmic axis, into a PNG file."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour, label in (("plain", "tab:red", "without compensation"),
                                ("compensated", "tab:blue", "with global drift compensation")):
        curves = []
        for points in runs.values():
            later = [point for point in points if point["seconds"] > 0]
            curves.append([100 * point[name] for point in later])
            axes.plot([point["seconds"] for point in later], curves[-1], color=colour, alpha=0.35, linewidth=0.8)
        axes.plot([point["seconds"] for point in later], np.mean(curves, axis=0), "o-", color=colour, markersize=4,
                  label=label if len(curves) == 1 else f"{label} (thin: {len(curves)} seeds, thick: mean)")
    fresh = float(np.mean([100 * points[0]["plain"] for points in runs.values()]))
    axes.axhline(fresh, color="0.4", linestyle="--", linewidth=1, label=f"right after training, {fresh:.2f} %")
    axes.set_xscale("log")
    axes.set_xticks([1, 60, 3600, 86400, 30 * 86400, YEAR_S], ["1 s", "1 min", "1 h", "1 day", "1 month", "1 year"])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("time since the end of training")
    axes.set_ylabel("test accuracy [%]")
    axes.set_title("784-250-10, MNIST: inference while the devices drift, seed " + ", ".join(runs))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


_cli = command_line()


@_cli.command(help="Accuracy against time since programming, with and without drift compensation: drift.png and drift.json.")
def _parse(
    out: Annotated[Path, typer.Option(help="Directory of both files. [default: cosim/results]", show_default=False)] = RESULTS,
    seeds: Annotated[int, typer.Option(
        min=1, max=len(SEEDS), help=f"The first seeds, how many. [default: {len(SEEDS)}]", show_default=False)] = len(SEEDS),
):
    console = Console()

    def say(line):
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    data, runs = datasets.load("mnist"), {}
    for seed in SEEDS[:seeds]:
        experiment = DEFAULT.experiment(seed)
        backend = trained(DEFAULT, seed, data, say)
        runs[str(seed)] = accuracies(backend, experiment, data)
        last = runs[str(seed)][-1]
        say(f"seed {seed}: right after training {100 * runs[str(seed)][0]['plain']:.2f} %, after a year "
            f"{100 * last['plain']:.2f} %, compensated {100 * last['compensated']:.2f} %")
    with write_whole(out / "drift.json") as path:
        contents = {"experiment": DEFAULT.experiment(SEEDS[0]).as_dict(), "calibration_images": CALIBRATION_IMAGES, "seeds": runs}
        path.write_text(json.dumps(contents, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    with write_whole(out / "drift.png") as path:
        draw(runs, path)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 is bad input, 130 Ctrl-C."""
    return run_cli(_cli, "python -m cosim.drift", argv, "stopped")


if __name__ == "__main__":
    sys.exit(main())
