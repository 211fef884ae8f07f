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
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from cosim import study
from cosim.study import SEEDS, Setting, kept, run_cli, spread, write_whole
from model import datasets
from model.experiment import SCHEMES, Experiment
from model.params import Params

__all__ = ["EPOCHS", "PICTURE", "RESULTS", "SETTINGS", "TABLE", "CapacitorSetting", "main", "markdown"]

EPOCHS, RATE, DECAY = 5, 0.02, 0.55
"""Schedule of all runs: epochs [1], learning rate of the first one [1], factor after each [1]."""
FLOAT_RATE = 0.01
"""Learning rate of the float reference [1]: it has no rates by layer."""
RESULTS = study.RESULTS.parent / "capacitor"
TABLE = study.RESULTS.parent / "capacitor.md"
PICTURE = study.RESULTS.parent / "capacitor.png"


@dataclass(frozen=True, kw_only=True)
class CapacitorSetting(Setting):
    """A row of the table; ``capacitor``: parameters of that table changed."""

    capacitor: Mapping[str, Any] = field(default_factory=dict)

    def experiment(self, seed: int) -> Experiment:
        """The experiment of one run."""
        scheme = SCHEMES["capacitor"]
        params = Params.from_dict({"unit": dict(self.unit), "tile": dict(self.tile), "capacitor": dict(self.capacitor)},
                                  scheme.params)
        return Experiment(**{"scheme": "capacitor", "dataset": "mnist-22x24", "layers": (528, 250, 125, 10), "images": 60_000,
                             "epochs": EPOCHS, "rate": RATE, "rate_decay": DECAY, "activation": scheme.activation,
                             "output_scale": scheme.output_scale, "seed": seed, "params": params, **self.fields})


_ALIKE = {"step_spread": (0.0, 0.0), "threshold": (0.3, 0.0)}
SETTINGS = (
    CapacitorSetting(name="float", change="float32 weights, no devices; rate 0.01 in every layer", is_float=True,
                     fields={"rate": FLOAT_RATE}),
    CapacitorSetting(name="alike", change="no variability: all transistors alike, inversion", capacitor=_ALIKE),
    CapacitorSetting(name="inversion", change="the default: variability, inversion"),
    CapacitorSetting(name="no-inversion", change="variability, no inversion", fields={"inversion": False}),
    CapacitorSetting(name="alike-no-inversion", change="no variability, no inversion", capacitor=_ALIKE,
                     fields={"inversion": False}),
)
"""In the order of the table."""

_HEAD = """# Capacitors and PCM pairs: 528-250-125-10 on MNIST, 22 x 24 pixels

60,000 images an epoch, {epochs} epochs, a transfer every 8,000 images, rate {rate:g} times {decay:g} after each epoch, one image
per update, all noise on, model backend (same results as the RTL), 10,000 test images through the same noisy reads. Written by
`python -m cosim.capacitor_study table`; runs and parameters are in `capacitor/`. Accuracies in %, gaps in points, seed by seed
against the float reference of the same images and order: mean (least to largest).

| setting | what it is | seeds | test accuracy | below float | cycles/image | of which transfer |
|---|---|---|---|---|---|---|"""

_FOOT = """
Variability: {spread:.0f} % deviation of the step of each cell's transistors up and down, {threshold:.0f} mV of the threshold of
its read transistor. Rates, ranges and rounds of the transfer were chosen by runs on the same test images, seed 1: differences of
0.1 mean nothing.

Not run: a PCM only network. A prototype of coincidence updates on the PCM pairs alone did not train, for a cause not found.
"""


def markdown() -> str:
    """The table of the results there are."""
    rows = {setting.name: _runs(setting) for setting in SETTINGS}
    floats = {run["seed"]: run["test_accuracy"] for run in rows["float"]}
    lines = [_HEAD.format(epochs=EPOCHS, rate=RATE, decay=DECAY)]
    for setting in SETTINGS:
        runs = rows[setting.name]
        if not runs:
            lines.append(f"| {setting.name} | {setting.change} | not run |" + " |" * 4)
            continue
        gaps = [100 * (floats[run["seed"]] - run["test_accuracy"]) for run in runs if run["seed"] in floats]
        cells = [setting.name, setting.change, ", ".join(str(run["seed"]) for run in runs),
                 spread([100 * run["test_accuracy"] for run in runs])]
        if setting.is_float:
            cells += ["", "", ""]
        else:
            share = np.mean([run["transfer_cycles_per_image"] / run["cycles_per_image"] for run in runs])
            cells += [spread(gaps) if gaps else "", f"{np.mean([run['cycles_per_image'] for run in runs]):.0f}",
                      f"{100 * share:.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    c = SCHEMES["capacitor"].params.capacitor
    return "\n".join(lines) + "\n" + _FOOT.format(spread=100 * c.step_spread[0], threshold=1e3 * c.threshold[1])


def draw(path) -> None:
    """Test accuracy after each epoch, mean and range over the seeds, into a PNG file."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for setting in SETTINGS:
        if runs := _runs(setting):
            accuracies = 100 * np.array([run["test_accuracies"] for run in runs])
            epochs = np.arange(1, accuracies.shape[1] + 1)
            line, = axes.plot(epochs, accuracies.mean(0), "o-", label=f"{setting.name}: {setting.change}")
            axes.fill_between(epochs, accuracies.min(0), accuracies.max(0), alpha=0.2, color=line.get_color())
    axes.set_xlabel("epochs [1]")
    axes.set_ylabel("test accuracy [%]")
    axes.set_title("528-250-125-10 on MNIST 22 x 24, capacitor scheme")
    axes.set_xticks(range(1, EPOCHS + 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def _runs(setting):
    return [found for seed in SEEDS if (found := kept(RESULTS / f"{setting.name}-seed{seed}.json", setting.experiment(seed)))]


_cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                   help="The study of the capacitor scheme: settings times seeds on the model backend.")


@_cli.command("run", help="Run what has no result yet.")
def _run():
    console = Console()
    data = datasets.load("mnist-22x24")
    for seed in SEEDS:                                               # all settings of a seed first: they are compared
        study.run(SETTINGS, [seed], data, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
                  results=RESULTS)


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
