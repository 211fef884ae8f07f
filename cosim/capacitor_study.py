"""The study of the capacitor scheme: what variability of the devices costs, with and without polarity inversion.

    python -m cosim.capacitor_study run      runs what has no result yet
    python -m cosim.capacitor_study table    writes cosim/results/capacitor.md and capacitor.png from the results there are

As ``cosim.study``: a JSON of each setting and seed in ``cosim/results/capacitor``, made again when its parameters change.
"""
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from cosim import study
from cosim.study import SEEDS, Setting, kept, spread
from model import datasets
from model.command_line import command_line, run_cli
from model.experiment import SCHEMES, Experiment
from model.files import write_whole
from model.params import Params

__all__ = ["DATASETS", "EPOCHS", "PICTURE", "RESULTS", "SETTINGS", "TABLE", "CapacitorSetting", "draw", "main", "markdown"]

EPOCHS, RATE, DECAY = 5, 0.01, 0.55
"""Schedule of the short runs: epochs [1], learning rate of the first one [1], factor after each [1]."""
PAIRS_RATE = 0.005
"""Learning rate of the first epoch without capacitors [1]. Chosen on images held out of the training set."""
LONG = {"epochs": 20, "rate_decay": 0.88}
"""Schedule of the long runs, seed 1: that of the kept run on the RTL."""
FLOAT_LONG = {"epochs": 20, "rate_decay": 0.9}
RESULTS = study.RESULTS.parent / "capacitor"
TABLE = study.RESULTS.parent / "capacitor.md"
PICTURE = study.RESULTS.parent / "capacitor.png"
DATASETS = {"mnist-22x24": "MNIST", "mnist-backrand": "MNIST over a random background"}
"""Data sets and their titles; names of settings on the second one begin with ``backrand-``."""


@dataclass(frozen=True, kw_only=True)
class CapacitorSetting(Setting):
    """A row of the table; ``capacitor``: parameters of that table changed; ``seeds``: those it runs with."""

    capacitor: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "mnist-22x24"
    seeds: tuple[int, ...] = SEEDS

    @property
    def label(self) -> str:
        """Name without the data set."""
        return self.name.removeprefix("backrand-")

    def experiment(self, seed: int) -> Experiment:
        """The experiment of one run."""
        scheme = SCHEMES["capacitor"]
        params = Params.from_dict({"unit": dict(self.unit), "tile": dict(self.tile), "capacitor": dict(self.capacitor)},
                                  scheme.params)
        return Experiment(**{"scheme": "capacitor", "dataset": self.dataset, "layers": (528, 250, 125, 10), "images": 60_000,
                             "epochs": EPOCHS, "rate": RATE, "rate_decay": DECAY, "activation": scheme.activation,
                             "output_scale": scheme.output_scale, "seed": seed, "params": params, **self.fields})


_ALIKE = {"step_spread": (0.0, 0.0), "threshold": (0.3, 0.0)}

_PAIRS = {"capacitor": {"present": 0}, "fields": {"rate": PAIRS_RATE, "transfer": 1000, "activation": "tanh"}}
"""tanh, for units with relu die of the first SET pulses and are not seen again."""


def _settings(dataset, prefix):
    def row(name, change, **changes):
        return CapacitorSetting(name=prefix + name, change=change, dataset=dataset, **changes)

    return (
        row("float", "float32 weights, no devices", is_float=True),
        row("alike", "no variability: all transistors alike, inversion", capacitor=_ALIKE),
        row("inversion", "the default: variability, inversion"),
        row("no-inversion", "variability, no inversion", fields={"inversion": False}),
        row("alike-no-inversion", "no variability, no inversion", capacitor=_ALIKE, fields={"inversion": False}),
        row("pairs", "PCM pairs alone, steps are SET pulses; tanh, refresh every 1,000 images", **_PAIRS),
        row("float-long", "float, 20 epochs, rate times 0.9 an epoch", is_float=True, seeds=SEEDS[:1],
            fields=FLOAT_LONG),
        row("inversion-long", "the default, 20 epochs, rate times 0.88 an epoch", seeds=SEEDS[:1], fields=LONG),
    )


SETTINGS = _settings("mnist-22x24", "") + _settings("mnist-backrand", "backrand-")
"""In the order of the table."""

_HEAD = """# Capacitors and PCM pairs: 528-250-125-10, 22 x 24 pixels

60,000 images an epoch, {epochs} epochs, a transfer every 8,000 images, rate {rate:g} (pairs alone {pairs_rate:g}) times
{decay:g} after each epoch, one image per update, all noise on, model backend (same results as the RTL), 10,000 test images
through the same noisy reads. Written by `python -m cosim.capacitor_study table`; runs and parameters are in `capacitor/`.
Accuracies in %, gaps in points, seed by seed against the float reference of the same images, order and epochs: mean (least to
largest)."""

_COLUMNS = """
## {title}

| setting | what it is | seeds | test accuracy | below float | cycles/image | of which transfer |
|---|---|---|---|---|---|---|"""

_FOOT = """
Variability: {spread:.0f} % deviation of the step of each cell's transistors up and down, {threshold:.0f} mV of the threshold of
its read transistor. Rates, ranges and steps were chosen on images held out of the training set, the rounds of the transfer by
early runs on the test images. How the settings were found, and where the gap to float comes from:
[capacitor_exploration.md](capacitor_exploration.md).
"""


def markdown() -> str:
    """The tables of the results there are, one for each data set."""
    lines = [_HEAD.format(epochs=EPOCHS, rate=RATE, pairs_rate=PAIRS_RATE, decay=DECAY)]
    for dataset, title in DATASETS.items():
        lines.append(_COLUMNS.format(title=title))
        settings = [setting for setting in SETTINGS if setting.dataset == dataset]
        floats = {(run["experiment"]["epochs"], run["seed"]): run["test_accuracy"]
                  for setting in settings if setting.is_float for run in _runs(setting)}
        lines += [_row(setting, floats) for setting in settings]
    c = SCHEMES["capacitor"].params.capacitor
    return "\n".join(lines) + "\n" + _FOOT.format(spread=100 * c.step_spread[0], threshold=1e3 * c.threshold[1])


def _row(setting, floats):
    if not (runs := _runs(setting)):
        return f"| {setting.label} | {setting.change} | not run |" + " |" * 4
    cells = [setting.label, setting.change, ", ".join(str(run["seed"]) for run in runs),
             spread([100 * run["test_accuracy"] for run in runs])]
    if setting.is_float:
        cells += ["", "", ""]
    else:
        of_float = [floats.get((run["experiment"]["epochs"], run["seed"])) for run in runs]
        gaps = [100 * (goal - run["test_accuracy"]) for goal, run in zip(of_float, runs, strict=True) if goal is not None]
        share = np.mean([run["transfer_cycles_per_image"] / run["cycles_per_image"] for run in runs])
        cells += [spread(gaps) if gaps else "", f"{np.mean([run['cycles_per_image'] for run in runs]):.0f}",
                  f"{100 * share:.1f} %"]
    return "| " + " | ".join(cells) + " |"


def draw(path) -> None:
    """Test error after each epoch of the short runs, mean and range over the seeds, into a PNG file.

    A panel for each data set that has results.
    """
    short = {dataset: [setting for setting in SETTINGS if setting.dataset == dataset and setting.seeds == SEEDS]
             for dataset in DATASETS}
    panels = {dataset: settings for dataset, settings in short.items() if any(map(_runs, settings))}
    figure = Figure(figsize=(2 + 4.5 * len(panels), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    drawn = {}
    for axes, (dataset, settings) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, setting in enumerate(settings):
            if runs := _runs(setting):
                errors = 100 - 100 * np.array([run["test_accuracies"] for run in runs])
                epochs = np.arange(1, errors.shape[1] + 1)
                line, = axes.plot(epochs, errors.mean(0), "ks--" if setting.is_float else f"C{index - 1}o-")
                axes.fill_between(epochs, errors.min(0), errors.max(0), alpha=0.2, color=line.get_color(), linewidth=0)
                drawn.setdefault(f"{setting.label}: {setting.change}", line)
        axes.set_title(f"{DATASETS[dataset]}, 528-250-125-10")
        axes.set_xlabel("epochs [1]")
        axes.set_ylabel("test error [%]")
        axes.set_yscale("log")
        axes.set_xticks(range(1, EPOCHS + 1))
        low, high = axes.get_ylim()
        ticks = [tick for tick in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 90) if low <= tick <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=len(panels), fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def _runs(setting):
    return [found for seed in setting.seeds
            if (found := kept(RESULTS / f"{setting.name}-seed{seed}.json", setting.experiment(seed)))]


_cli = command_line("The study of the capacitor scheme: settings times seeds on the model backend.")


@_cli.command("run", help="Run what has no result yet.")
def _run():
    console = Console()
    data = {name: datasets.load(name) for name in DATASETS}
    for seed in SEEDS:                                               # all settings of a seed first: they are compared
        for setting in SETTINGS:
            if seed in setting.seeds:
                study.run([setting], [seed], data[setting.dataset],
                          lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True), results=RESULTS)


@_cli.command("table", help="Write table and picture from the results there are.")
def _table():
    with write_whole(TABLE) as path:
        path.write_text(markdown(), encoding="utf-8")
    with write_whole(PICTURE) as path:
        draw(path)
    print(f"written: {TABLE.relative_to(TABLE.parents[2])}, {PICTURE.relative_to(PICTURE.parents[2])}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 is bad input, 130 Ctrl-C."""
    return run_cli(_cli, "python -m cosim.capacitor_study", argv, "stopped: finished runs are kept")


if __name__ == "__main__":
    sys.exit(main())
