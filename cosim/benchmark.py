"""``make bench``: what an image trained costs, in one run and on one thread each, against plain NumPy.

=========  ===============================================================================================================
yardstick  the same network in NumPy float32, one image per update (``Yardstick``)
model      the model backend
cosim      the cosimulation: the RTL under Verilator, Python and the analogue model around it
verilator  the RTL alone: what Python wrote to the very same simulation, replayed from C++ (``cosim.replay``)
=========  ===============================================================================================================

Each round trains the next images in all four, one after the other, so that a slow minute of the machine falls on all of them; the
ratios are of one round. Before the first round each trains as many images, not timed. The time of model and cosimulation holds
what the trainer does for a batch: packets, program, outputs, counters. A refresh scan is timed by itself, after the last round.
An image takes more pulses, and cycles, at the beginning of a training than later: 1,040 cycles after 20,000 images of MNIST,
where it begins, 2,200 in the first hundreds (``--trained 0``), 761 in the mean of 30 epochs.

Times are CPU times of all processes at work: where others use the machine, the elapsed time of a long chunk holds more of them
than that of a short one. Elapsed times stand beside them in the file; on a quiet machine they are equal.
"""
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cosim.backend import RtlBackend
from cosim.build import CosimError
from cosim.replay import Replay, build_replay
from model import datasets
from model.command_line import command_line, run_cli
from model.datasets import Dataset
from model.experiment import DEFAULTS, Experiment, parse_layers
from model.files import write_whole
from model.machine import ModelBackend
from model.program import compile_experiment
from model.trainer import sample_order, versions

__all__ = ["AIMS", "Yardstick", "figures", "main", "measure", "table"]

AIMS = {"model_ratio": 0.6, "cosim_ratio": 6.0, "share": 0.4}
"""Upper limits of medians: model and cosimulation over the yardstick, share of Python and VPI in the cosimulation [1]."""
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "NUMBA")}
KINDS = {"yardstick": "NumPy float32", "model": "model", "cosim": "cosimulation", "verilator": "bare Verilator"}

Samples = dict[str, list[tuple[float, float]]]
"""Elapsed and CPU time [s] of every round by kind, see KINDS; model_scan and cosim_scan: of one refresh scan."""


class Yardstick:
    """A perceptron with sigmoid hidden layers and softmax cross-entropy in NumPy float32, one image per update."""

    def __init__(self, layers: tuple[int, ...], rate: float, seed: int):
        random, self.rate = np.random.default_rng(seed), np.float32(rate)
        self.weights = [random.normal(0, n_in**-0.5, (n_out, n_in)).astype(np.float32)
                        for n_in, n_out in pairwise(layers)]
        self.biases = [np.zeros(n_out, np.float32) for n_out in layers[1:]]

    def train(self, images: np.ndarray, labels: np.ndarray) -> int:
        """Train on images (n, pixels) uint8; returns how many were right before their update."""
        hits = 0
        for x, label in zip(images.astype(np.float32) / 255, labels, strict=True):
            inputs = [x]
            for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
                inputs.append(1 / (1 + np.exp(-(w @ inputs[-1] + b))))
            z = self.weights[-1] @ inputs[-1] + self.biases[-1]
            hits += z.argmax() == label
            e = np.exp(z - z.max())
            deltas = [e / e.sum()]
            deltas[0][label] -= 1
            for w, y in zip(self.weights[:0:-1], inputs[:0:-1], strict=True):
                deltas.insert(0, w.T @ deltas[0] * y * (1 - y))
            for w, b, y, delta in zip(self.weights, self.biases, inputs, deltas, strict=True):
                w -= np.outer(self.rate * delta, y)
                b -= self.rate * delta
        return int(hits)


def measure(experiment: Experiment, data: Dataset, rounds: int, images: int, *, trained: int = 0, fast: bool = True,
            say: Callable[[str], None] = lambda line: None) -> tuple[Samples, float]:
    """Time ``rounds`` rounds of ``images`` images each, and return the cycles per image too; raises CosimError.

    trained: images of training before, on the model, with a scan after each ``experiment.refresh``; fast: see ``RtlBackend``.
    """
    program = compile_experiment(experiment, experiment.rate)
    order = np.resize(next(sample_order(experiment, len(data.train_labels))), trained + (1 + rounds) * images)
    scans = range(experiment.refresh, trained, experiment.refresh)
    before, batches = ([(data.train_images[chosen], data.train_labels[chosen]) for chosen in parts] for parts in (
        np.split(order[:trained], scans), np.split(order[trained:], 1 + rounds)))

    def ready(backend):
        backend.configure(program)
        backend.execute("clear")
        if trained:
            backend.restore(state)
        return backend

    def train(backend, batch):
        backend.run("train", program.packets("train", *batch))
        backend.counters()

    def timed(cpu_seconds, action, *arguments):
        start, cpu_start = time.perf_counter(), cpu_seconds()
        action(*arguments)
        return time.perf_counter() - start, cpu_seconds() - cpu_start

    model, state = ModelBackend(experiment.params, experiment.seed), {}
    yardstick = Yardstick(experiment.layers, experiment.rate, experiment.seed)
    model.configure(program)
    model.execute("clear")
    if trained:
        say(f"training on {trained} images before")
        for batch in before:
            train(model, batch)
            model.execute("scan")
            yardstick.train(*batch)
        state = model.state()
    with ExitStack() as stack:
        recording = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crosstrain-"))) / "recording"
        say("building the simulation, unless it is there (minutes)")
        with closing(RtlBackend(experiment.params, experiment.seed, fast=fast, record=recording)) as backend:
            build_replay(backend.folder)
            say(f"recording {len(batches)} x {images} images")
            ready(backend)
            for batch in batches:
                train(backend, batch)
                backend.mark()
            backend.execute("scan")
            backend.mark()
        cosim = ready(stack.enter_context(closing(RtlBackend(experiment.params, experiment.seed, fast=fast))))
        replay = stack.enter_context(closing(Replay(backend.folder, recording)))
        actions = {
            "yardstick": lambda batch: timed(time.process_time, yardstick.train, *batch),
            "model": lambda batch: timed(model.cpu_seconds, train, model, batch),
            "cosim": lambda batch: timed(cosim.cpu_seconds, train, cosim, batch), "verilator": lambda batch: replay.step(),
        }
        say("warming up")
        for action in actions.values():
            action(batches[0])
        samples: Samples = {kind: [] for kind in actions}
        cycles = -model.counters()["time"]
        for number, batch in enumerate(batches[1:], 1):
            for kind, action in actions.items():
                samples[kind].append(action(batch))
            say(f"round {number} of {rounds}")
        cycles += model.counters()["time"]
        samples["model_scan"] = [timed(model.cpu_seconds, model.execute, "scan")]
        samples["cosim_scan"] = [timed(cosim.cpu_seconds, cosim.execute, "scan")]
        replay.step()                                    # the simulation is still the one recorded
    return samples, cycles / (rounds * images)


def figures(samples: Samples, images: int) -> dict:
    """Medians, minima and maxima of CPU time [ms per image] and its ratios [1]: ``x``, ``x_min``, ``x_max``; elapsed; scans."""
    elapsed, cpu = ({name: [pair[k] for pair in pairs] for name, pairs in samples.items()} for k in range(2))
    columns = {f"{kind}_ms": [1e3 * seconds / images for seconds in cpu[kind]] for kind in KINDS}
    for kind in KINDS:
        columns[f"{kind}_ratio"] = [a / b for a, b in zip(cpu[kind], cpu["yardstick"], strict=True)]
    columns["share"] = [1 - a / b for a, b in zip(cpu["verilator"], cpu["cosim"], strict=True)]
    result = {}
    for name, values in columns.items():
        result |= {name: median(values), f"{name}_min": min(values), f"{name}_max": max(values)}
    result |= {f"{kind}_elapsed_ms": 1e3 * median(elapsed[kind]) / images for kind in KINDS}
    return result | {f"{name}_ms": 1e3 * cpu[name][0] for name in ("model_scan", "cosim_scan")}


def table(result: dict) -> Table:
    """The table of ``figures``, with the aims."""
    table = Table(title=result["title"], title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "ms/image (min-max)", "x NumPy (min-max)", "aim"):
        table.add_column(name, justify="right" if name else "left")

    def spread(name, scale=1):
        middle, low, high = (f"{scale * result[key]:#.3g}".removesuffix(".") for key in (name, f"{name}_min", f"{name}_max"))
        return f"{middle} ({low}-{high})"

    def aim(name, form):
        return f"<= {form.format(AIMS[name])}, {'met' if result[name] <= AIMS[name] else 'missed'}" if name in AIMS else ""

    for kind, title in KINDS.items():
        table.add_row(title, spread(f"{kind}_ms"), spread(f"{kind}_ratio"), aim(f"{kind}_ratio", "{:g}"))
    table.add_row("Python, VPI", f"{spread('share', 100)} %", "of cosimulation", aim("share", "{:.0%}"))
    return table


def machine() -> dict:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"machine": platform.machine(), "processor": names[0] if names else platform.processor(), "cpus": os.cpu_count(),
            "load": os.getloadavg()[0]}


_cli = command_line()


@_cli.command(help="Time training on NumPy, model, cosimulation and bare Verilator, interleaved, one thread each.")
def _run(
    dataset: Annotated[str, typer.Option(help="auto, mnist or digits.")] = "auto",
    rounds: Annotated[int, typer.Option(help="Rounds timed.", min=1, max=1000)] = 10,
    images: Annotated[int, typer.Option(help="Images per round.", min=1, max=10_000)] = 100,
    trained: Annotated[int, typer.Option(help="Images of training before, on the model.", min=0, max=1_000_000)] = 20_000,
    out: Annotated[Path, typer.Option(help="File of the figures.")] = Path("build/bench.json"),
):
    console = Console()

    def say(line: str):
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    data = datasets.load(dataset, say=say)
    experiment = Experiment(dataset=data.name, layers=parse_layers(DEFAULTS[data.name].layers), epochs=1,
                            images=trained + (1 + rounds) * images)
    where = machine()
    samples, cycles = measure(experiment, data, rounds, images, trained=trained, say=say)
    title = f"{data.name} {experiment.layers_text}, {rounds} rounds of {images} images, CPU time, one thread each"
    result = {"title": title, **figures(samples, images), "aims": AIMS, "dataset": data.name, "layers": list(experiment.layers),
              "rounds": rounds, "images": images, "trained": trained, "cycles_per_image": cycles,
              "refresh": experiment.refresh, "seconds": samples, **where, "versions": versions()}
    console.print(table(result))
    say(f"{cycles:.0f} cycles per image, {trained} images trained before; "
        f"{1e3 * result['verilator_ms'] / cycles:.2f} us of Verilator a cycle")
    say(f"a refresh scan, one in {experiment.refresh} images: model {result['model_scan_ms']:.1f} ms, "
        f"cosimulation {result['cosim_scan_ms']:.1f} ms")
    say(f"{where['processor']} ({where['machine']}), {where['cpus']} processors, load before {where['load']:.1f}")
    with write_whole(out) as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"written: {out}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 a failed simulation, 2 bad input, 130 Ctrl-C or SIGTERM."""
    return run_cli(_cli, "python -m cosim.benchmark", argv, "stopped: nothing was written", failures=(CosimError,))


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):      # NumPy reads them once, when imported
        os.execve(sys.executable, [sys.executable, "-m", "cosim.benchmark", *sys.argv[1:]], {**os.environ, **ONE_THREAD})
    sys.exit(main())
