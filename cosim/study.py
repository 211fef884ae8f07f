"""The accuracy study: declared settings times seeds on the model backend, a JSON of each run, and a table.

    python -m cosim.study run      runs what has no result yet; Ctrl-C loses the run under way only
    python -m cosim.study table    writes the table from the results there are

A setting is the default (``SETTINGS[0]``) with the fields it names changed. A run's result is ``<setting>-seed<seed>.json`` in
``cosim/results/study``; one whose parameters are not those declared here is run again. The devices that the runs of the default
leave are kept in ``build/study``, for ``cosim.drift``.
"""
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from model import datasets, reference, trainer
from model.command_line import command_line, run_cli
from model.datasets import Dataset
from model.errors import InputError
from model.experiment import LOSSES, Experiment
from model.files import write_whole
from model.machine import ModelBackend
from model.params import Params
from model.program import compile_experiment

__all__ = ["DEFAULT", "RESULTS", "SEEDS", "SETTINGS", "STATES", "TABLE", "Setting", "is_of", "keep", "kept", "main", "markdown",
           "plain", "run", "run_one", "spread", "trained"]

SEEDS = (1, 2, 3)
FULL_EPOCHS = 30
"""Epochs of the default and of the float reference [1]."""
SWEEP_EPOCHS = 5
"""Epochs of the other settings [1]."""
RATE, DECAY = LOSSES["softmax-ce"], 0.9
"""Learning rate of the first epoch, and its factor after each epoch of a full run [1]."""
SWEEP_DECAY = DECAY ** ((FULL_EPOCHS - 1) / (SWEEP_EPOCHS - 1))
"""Factor of a short run: its last epoch has the rate of the last epoch of a full run [1]."""

_ROOT = Path(__file__).resolve().parents[1]
RESULTS = _ROOT / "cosim" / "results" / "study"
TABLE = _ROOT / "cosim" / "results" / "study.md"
STATES = _ROOT / "build" / "study"

_KEPT_EVENTS = ("line_saturations", "vector_saturations", "update_clips", "refresh_misses")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: the default with ``fields`` of the experiment and parameters of ``unit`` and ``tile`` changed."""

    name: str
    change: str
    """What it changes and to what, for the reader."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    unit: Mapping[str, Any] = field(default_factory=dict)
    tile: Mapping[str, Any] = field(default_factory=dict)
    full: bool = False
    """All FULL_EPOCHS epochs; else SWEEP_EPOCHS."""
    is_float: bool = False
    """The float reference in place of the unit."""

    def experiment(self, seed: int) -> Experiment:
        """The experiment of one run."""
        params = Params.from_dict({"unit": dict(self.unit), "tile": dict(self.tile)})
        schedule = {"epochs": FULL_EPOCHS, "rate_decay": DECAY} if self.full else {
            "epochs": SWEEP_EPOCHS, "rate_decay": SWEEP_DECAY}
        return Experiment(**{"dataset": "mnist", "layers": (784, 250, 10), "images": 60_000, "seed": seed, "params": params,
                             "rate": RATE, **schedule, **self.fields})


DEFAULT = Setting(name="default", change="nothing", full=True)
SETTINGS = (
    DEFAULT,
    Setting(name="float", change="float32 weights, no converters, no devices", full=True, is_float=True),
    Setting(name="rate-0.1", change="rate 0.1", full=True, fields={"rate": 0.1}),
    Setting(name="rate-0.04", change="rate 0.04", full=True, fields={"rate": 0.04}),
    Setting(name="rate-0.04-outer-6", change="rate 0.04, outer product from 6 bit of x and delta", full=True,
            fields={"rate": 0.04}, unit={"outer_bits": 6}),
    Setting(name="full-outer-6", change="outer product from 6 bit of x and delta", full=True, unit={"outer_bits": 6}),
    Setting(name="full-no-set-noise", change="every SET pulse gives its mean step", full=True,
            tile={"set_sigma": (0.0, 0.0, 0.0)}),
    Setting(name="full-no-set-noise-outer-6", change="every SET pulse gives its mean step; outer product from 6 bit", full=True,
            tile={"set_sigma": (0.0, 0.0, 0.0)}, unit={"outer_bits": 6}),
    Setting(name="short", change="nothing"),
    Setting(name="short-float", change="float32 weights, no converters, no devices", is_float=True),
    Setting(name="range-8", change="8 uS for a weight of 1: the step of a SET pulse is 0.096", tile={"weight_range_us": 8.0}),
    Setting(name="scale-1", change="output_scale 1, converter ranges 8, 12, 1: weights of the last layer up to 0.75",
            fields={"output_scale": 1.0}, tile={"adc_range": (8.0, 12.0, 1.0, 1.0)}),
    Setting(name="outer-6", change="outer product from 6 bit of x and delta", unit={"outer_bits": 6}),
    Setting(name="no-set-noise", change="every SET pulse gives its mean step", tile={"set_sigma": (0.0, 0.0, 0.0)}),
    Setting(name="no-read-noise", change="reads without noise", tile={"read_sigma": (0.0, 0.0)}),
    Setting(name="refresh-3000", change="a scan every 3,000 images", fields={"refresh": 3000}),
    Setting(name="adc-9-bit", change="converters of 9 bit", unit={"adc_bits": 9}),
    Setting(name="eps-8", change="eps = 2^8 chi LSB, chi of 9 bit", unit={"chi_bits": 9, "eps_log2": 8}),
    Setting(name="eps-14", change="eps = 2^14 chi LSB, chi of 15 bit", unit={"chi_bits": 15, "eps_log2": 14}),
    Setting(name="clip-1", change="an update is at most 1 eps", unit={"update_max_steps": 1}),
    Setting(name="adc-12", change="converter ranges 12, 12, 12", tile={"adc_range": (12.0, 12.0, 12.0, 1.0)}),
    Setting(name="outer-3", change="outer product from 3 bit of x and delta", unit={"outer_bits": 3}),
    Setting(name="range-24", change="24 uS for a weight of 1: the step of a SET pulse is 0.032", tile={"weight_range_us": 24.0}),
    Setting(name="refresh-100", change="a scan every 100 images", fields={"refresh": 100}),
    Setting(name="mse", change="squared error, rate 0.4", fields={"loss": "mse", "rate": 0.4}),
)
"""In the order of the table."""


def run_one(setting: Setting, seed: int, data: Dataset, say: Callable[[str], None]) -> tuple[dict, ModelBackend | None]:
    """Train and test one setting; returns its result and, unless it is the float reference, the backend as it was left."""
    experiment = setting.experiment(seed)
    head = {"setting": setting.name, "seed": seed, "float": setting.is_float, "experiment": plain(experiment)}
    if setting.is_float:
        result = reference.run(experiment, data)
        return {**head, **result, "test_accuracies": [round(value, 6) for value in result["test_accuracies"]]}, None
    accuracies = []

    def record(entry):
        if entry["event"] == "epoch":
            accuracies.append(entry["test_accuracy"])
            say(f"{setting.name} seed {seed}: epoch {len(accuracies)} of {experiment.epochs}, "
                f"test accuracy {100 * accuracies[-1]:.2f} %")

    backend = ModelBackend(experiment.params, seed)
    result = trainer.run(experiment, data, backend, compile_experiment, record)
    figures = ("test_accuracy", "train_accuracy", "pulses_per_image", "cycles_per_image", "programming_cycles_per_image",
            "refresh_cycles_per_image", "transfer_cycles_per_image", "refreshes", "conservation_ok", "digest", "versions")
    return {**head, **{name: result[name] for name in figures}, "test_accuracies": accuracies,
            "events": {name: result["events"][name] for name in _KEPT_EVENTS}}, backend


def run(settings: Sequence[Setting], seeds: Sequence[int], data: Dataset, say: Callable[[str], None],
        results: Path = RESULTS, states: Path = STATES):
    """Run every setting and seed that has no result; devices of the first setting are kept in ``states``."""
    for setting in settings:
        for seed in seeds:
            path = results / f"{setting.name}-seed{seed}.json"
            if kept(path, setting.experiment(seed)) is not None:
                continue
            result, backend = run_one(setting, seed, data, say)
            if backend is not None and setting == DEFAULT:
                _keep(states, setting.experiment(seed), backend)
            keep(path, result)
            say(f"{setting.name} seed {seed}: done, test accuracy {100 * result['test_accuracy']:.2f} %")


def trained(setting: Setting, seed: int, data: Dataset, say: Callable[[str], None], states: Path = STATES) -> ModelBackend:
    """A backend with the devices that a run of ``setting`` leaves: those kept, or from training it now."""
    if setting.is_float:
        raise InputError(f"setting {setting.name}: the float reference has no devices")
    experiment = setting.experiment(seed)
    path = states / f"seed{seed}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            if is_of(json.loads(str(arrays["experiment"])), experiment):
                backend = ModelBackend(experiment.params, seed)
                for name in _STATE:
                    getattr(backend.side.tiles, name)[:] = arrays[name]
                backend.training_cycles = int(arrays["cycles"])
                backend.side.tick = -1                               # the next program brings the devices to its own tick
                return backend
    backend = run_one(setting, seed, data, say)[1]
    assert backend is not None
    _keep(states, experiment, backend)
    return backend


def markdown(results: Path = RESULTS, settings: "Sequence[Setting] | None" = None) -> str:
    """Write the table: per setting the runs there are, their mean, least and largest accuracy, the gap to float seed by seed."""
    settings = settings or SETTINGS
    rows = {setting.name: [found for seed in SEEDS
                           if (found := kept(results / f"{setting.name}-seed{seed}.json", setting.experiment(seed)))]
            for setting in settings}
    lines = [_HEAD.format(full=FULL_EPOCHS, short=SWEEP_EPOCHS, rate=RATE, decay=DECAY, short_decay=SWEEP_DECAY,
                          last=RATE * DECAY ** (FULL_EPOCHS - 1))]
    for full in (True, False):
        baseline = next((setting.name for setting in settings if setting.is_float and setting.full == full), "")
        floats = {run["seed"]: run["test_accuracy"] for run in rows.get(baseline, [])}
        lines += [f"\n## {FULL_EPOCHS if full else SWEEP_EPOCHS} epochs\n", _COLUMNS, "|---" * 8 + "|"]
        lines += [_row(setting, rows[setting.name], floats) for setting in settings if setting.full == full]
    return "\n".join(lines) + "\n"


_HEAD = """# Accuracy of 784-250-10 on MNIST

60,000 images an epoch, one image per update, model backend (same results as the RTL), 10,000 test images through the same noisy
reads. Written by `python -m cosim.study table`; runs and parameters are in `study/`. Accuracies in %, gaps in points, each over
the seeds named; a gap is taken seed by seed against the float reference (`model/reference.py`) of the same order and number of
epochs, at the rates of the default.

Full runs: {full} epochs, rate {rate:g}, times {decay:g} after each. Short runs, to rank settings: {short} epochs, rate {rate:g},
times {short_decay:.3f} after each: both end at {last:.4f}. A setting changes the default in what is said there and nothing
else. Differences below the spread over seeds mean nothing."""


_COLUMNS = ("| setting | what it changes | seeds | test accuracy: mean (min to max) | below float: mean (min to max) "
            "| training accuracy, last epoch | pulses/image | cycles/image |")


def _row(setting, runs, floats):
    if not runs:
        return f"| {setting.name} | {setting.change} | not run |" + " |" * 5
    accuracies = [100 * run["test_accuracy"] for run in runs]
    gaps = [100 * (floats[run["seed"]] - run["test_accuracy"]) for run in runs if run["seed"] in floats]
    trained = np.mean([100 * run["train_accuracy"] for run in runs])
    cells = [setting.name, setting.change, ", ".join(str(run["seed"]) for run in runs), spread(accuracies),
             "" if setting.is_float or not gaps else spread(gaps), f"{trained:.2f}"]
    if setting.is_float:
        cells += ["", ""]
    else:
        cells += [f"{np.mean([run['pulses_per_image'] for run in runs]):.1f}",
                  f"{np.mean([run['cycles_per_image'] for run in runs]):.0f}"]
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float]) -> str:
    """Mean, least and largest of ``values``, two decimals."""
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


_STATE = ("g_programmed", "n_set", "tick")


def _keep(states, experiment, backend):
    arrays = {name: getattr(backend.side.tiles, name) for name in _STATE}
    with write_whole(states / f"seed{experiment.seed}.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, experiment=json.dumps(plain(experiment)), cycles=backend.training_cycles, **arrays)


def kept(path: Path, experiment: Experiment) -> dict | None:
    """The result in ``path``, or None where there is none of this experiment."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if is_of(result["experiment"], experiment) else None


def keep(path: Path, result: dict):
    """Write a result; the file is whole or not there."""
    with write_whole(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def plain(experiment: Experiment) -> dict:
    """An experiment as it stands in a result."""
    return json.loads(json.dumps(experiment.as_dict(), sort_keys=True))


def is_of(stored: dict, experiment: Experiment) -> bool:
    """Whether ``stored``, of ``plain``, is ``experiment``; what did not exist when it was stored had today's default.

    Parameters of capacitors are compared only where the scheme has capacitors.
    """
    def filled(values, defaults):
        return {name: filled(values.get(name, {}), default) if isinstance(default, dict) else values.get(name, default)
                for name, default in defaults.items()}

    now = plain(experiment)
    fresh = plain(Experiment(dataset=experiment.dataset, layers=experiment.layers, images=1, epochs=1))
    then = filled(stored, fresh)
    if experiment.scheme == "mixed":
        then["params"]["capacitor"] = now["params"]["capacitor"]
    return stored.keys() <= now.keys() and then == now


_cli = command_line("The accuracy study: settings times seeds on the model backend.")


@_cli.command("run", help="Run what has no result yet.")
def _run(
    only: Annotated[str, typer.Option(help="Settings to run, names joined by commas; empty: all.", show_default=False)] = "",
    seed: Annotated[int, typer.Option(help="The one seed to run; 0: all three.", show_default=False)] = 0,
):
    names = [name for name in only.split(",") if name]
    if unknown := set(names) - {setting.name for setting in SETTINGS}:
        raise InputError(f"unknown setting {', '.join(sorted(unknown))}: "
                         f"allowed are {', '.join(setting.name for setting in SETTINGS)}")
    console = Console()
    chosen = [setting for setting in SETTINGS if not names or setting.name in names]
    run(chosen, [seed] if seed else SEEDS, datasets.load("mnist"),
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))


@_cli.command("table", help="Write the table from the results there are.")
def _table():
    with write_whole(TABLE) as path:
        path.write_text(markdown(), encoding="utf-8")
    print(f"written: {TABLE.relative_to(_ROOT)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 is bad input, 130 Ctrl-C."""
    return run_cli(_cli, "python -m cosim.study", argv, "stopped: finished runs are kept")


if __name__ == "__main__":
    sys.exit(main())
