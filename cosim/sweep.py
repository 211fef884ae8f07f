"""How cost grows with the network and with the capacities of the build, and where the cycles of an image go.

    python -m cosim.sweep run      runs what has no result yet; Ctrl-C loses the run under way only
    python -m cosim.sweep table    writes table and picture from the results there are

A result is ``<point>-seed<seed>.json`` in ``cosim/results/sweep``; one whose parameters are not those declared here is run again.
Times are processor time, so that other work on the machine counts little. What the data path predicts is the sum of the timing
formulas in the docstrings of ``hdl/`` over one image of the program (``predicted``).
"""
import dataclasses
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from cosim.study import SEEDS, keep, kept, plain, spread
from cosim.timing import DRAIN, PARTS, empty_words, predicted
from model import datasets, trainer
from model.command_line import command_line, run_cli
from model.datasets import Dataset
from model.driver import Driver
from model.errors import InputError
from model.experiment import Experiment, parse_layers
from model.files import write_whole
from model.isa import Walk
from model.machine import ModelBackend
from model.params import Params, UnitParams
from model.program import BACK_SHIFT, SCAN_STEPS, CapacityError, compile_experiment, compile_network

__all__ = ["CAPACITIES", "DEPTH", "HIDDEN", "POINTS", "RESULTS", "RTL", "Fit", "Point", "draw", "fit", "fitted", "main",
           "markdown", "run", "run_one", "with_capacity"]

NETWORK = (784, 250, 10)
GROWTH_IMAGES, CAPACITY_IMAGES, RTL_IMAGES = 2_000, 10_000, 1_000
"""Training images of a point of the growth, of the capacities, on the RTL; one epoch each [1]."""
FEW_TESTS = 100
"""Test images where the accuracy is not looked at [1]."""
ONE_BY_ONE = 1_000
"""Images trained singly after the default run, for figures averaged per image [1]."""

_ROOT = Path(__file__).resolve().parents[1]
RESULTS = _ROOT / "cosim" / "results" / "sweep"
TABLE = _ROOT / "cosim" / "results" / "sweep.md"
PICTURE = _ROOT / "cosim" / "results" / "sweep.png"


# ---- points -------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement: the default run with these layers on a build of these parameters."""

    name: str
    layers: tuple[int, ...] = NETWORK
    unit: UnitParams = field(default_factory=UnitParams)
    tile: Mapping[str, Any] = field(default_factory=dict)
    images: int = CAPACITY_IMAGES
    seeds: Sequence[int] = SEEDS
    rtl: bool = False
    """On the RTL, and on the model for comparison."""
    alone: bool = False
    """In a process of its own, so that its peak memory is its own."""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def experiment(self, seed: int) -> Experiment:
        """The experiment of one run."""
        params = dataclasses.replace(Params.from_dict({"tile": dict(self.tile)}), unit=self.unit)
        return Experiment(**{"dataset": "mnist", "layers": self.layers, "images": self.images, "epochs": 1, "seed": seed,
                             "params": params, **self.fields})


def with_capacity(**changes: int) -> UnitParams:
    """The default build with other lanes, words or formats, and at least the same tiles, chi and vector memory."""
    default = UnitParams()
    unit = default.with_lanes(changes.pop("lanes", default.lanes))
    width = changes.get("vector_width", default.vector_width)
    return dataclasses.replace(
        unit, n_rows=-(-unit.n_rows // width) * width, n_cols=-(-unit.n_cols // width) * width,
        vector_words=min(unit.vector_words * default.vector_width // width, 4096), **changes)


def fitted(layers: tuple[int, ...]) -> UnitParams:
    """The default build with the smallest capacities that hold a network: tiles, memories, tables, descriptors, program."""
    def words(count):
        return max(16, 1 << (count - 1).bit_length())

    width = UnitParams().vector_width
    rows, cols = (-(-size // width) * width for size in (max(layers[:-1]) + 1, max(layers[1:])))
    ample = UnitParams(n_rows=rows, n_cols=cols, n_tiles=16, n_matrices=16, chi_words=65536, vector_words=4096, n_luts=8,
                       program_words=2048)
    program = compile_network(layers, Params(unit=ample), loss="softmax-ce")
    last = program.matrices[-1]
    chi_words = last.chi_base + (last.rows if last.walk == Walk.ROWS else last.cols) * last.words_per_line
    unit = dataclasses.replace(
        ample, n_tiles=1 + max(d.tile for d in program.matrices), n_matrices=len(program.matrices), n_luts=len(program.luts),
        chi_words=words(chi_words), program_words=words(len(program.instructions)))
    for vector_words in (1 << bits for bits in range(4, 13)):
        try:
            smaller = dataclasses.replace(unit, vector_words=vector_words)
            compile_network(layers, Params(unit=smaller), loss="softmax-ce")
            return smaller
        except CapacityError:
            pass
    return unit


def _grown(name, text):
    layers = parse_layers(text)
    return Point(name=name, layers=layers, unit=fitted(layers), images=GROWTH_IMAGES, seeds=SEEDS[:1], alone=True,
                 fields={"test_images": FEW_TESTS})


def _on_rtl(name, unit):
    return Point(name=name, unit=unit, images=RTL_IMAGES, seeds=SEEDS[:1], rtl=True, fields={"test_images": FEW_TESTS})


HIDDEN = {size: _grown(f"hidden-{size}", f"784-{size}-10") for size in (50, 100, 250, 500, 1000)}
"""By hidden size."""
DEPTH = {1: _grown("depth-1", "784-10"), 2: HIDDEN[250], 3: _grown("depth-3", "784-250-250-10"),
         4: _grown("depth-4", "784-250-250-250-10")}
"""By number of layers of weights."""
DEFAULT = Point(name="default")
CAPACITIES = {
    "lanes 256, vector_width 32, chi_bits 12, convert_cycles 3 (the default)": DEFAULT,
    **{f"lanes {lanes}": Point(name=f"lanes-{lanes}", unit=with_capacity(lanes=lanes)) for lanes in (32, 64, 128)},
    **{f"vector_width {width}": Point(name=f"vector-{width}", unit=with_capacity(vector_width=width)) for width in (8, 16, 64)},
    **{f"chi_bits {bits}, eps_log2 {bits - 1}": Point(name=f"chi-{bits}", unit=with_capacity(chi_bits=bits, eps_log2=bits - 1))
       for bits in (8, 9, 10, 16)},
    **{f"convert_cycles {cycles}": Point(name=f"convert-{cycles}", tile={"convert_cycles": cycles}) for cycles in (8, 32, 130)},
}
"""By what is said in the table."""
RTL = {
    "default": _on_rtl("rtl-default", DEFAULT.unit),
    "lanes-64": _on_rtl("rtl-lanes-64", with_capacity(lanes=64)),
    "vector-16": _on_rtl("rtl-vector-16", with_capacity(vector_width=16)),
}
"""By the name of the capacity's point."""
POINTS = tuple({point.name: point for points in (HIDDEN, DEPTH, CAPACITIES, RTL) for point in points.values()}.values())


# ---- measurement --------------------------------------------------------------------------------------------------------

class _Metered(Driver):
    """Notes the processor time of every call that trains, and the counters of the refresh scans."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.steps: list[list[float]] = []
        """Images [1], processor time and wall time [s] of each call, and of the scans after it."""
        self.scans: dict[str, int] = {}

    def run(self, entry, packets):
        begun = self._clock()
        outputs = super().run(entry, packets)
        if entry == "train":
            self.steps.append([len(packets), *(self._clock() - begun)])
        return outputs

    def execute(self, entry):
        before, begun = self.counters() if entry == "scan" else {}, self._clock()
        super().execute(entry)
        if entry == "scan":
            self.steps[-1][1:] = (np.array(self.steps[-1][1:]) + self._clock() - begun).tolist()
            self.scans = {name: value - before[name] + self.scans.get(name, 0) for name, value in self.counters().items()}

    def _clock(self):
        """Processor time of the trainer and its simulator, wall time [s]."""
        return np.array([self.cpu_seconds(), time.perf_counter()])

    def times(self) -> dict[str, float]:
        """Processor and wall time per image [ms], without the first call, which loads compiled code."""
        images, processor, wall = np.sum(self.steps[1:] or self.steps, axis=0)
        return {"ms_per_image": 1e3 * processor / images, "wall_ms_per_image": 1e3 * wall / images}


class _MeteredModel(_Metered, ModelBackend):
    pass


def _metered_rtl(params, seed):
    from cosim.backend import RtlBackend

    class MeteredRtl(_Metered, RtlBackend):
        pass

    return MeteredRtl(params, seed)


def run_one(point: Point, seed: int, data: Dataset) -> dict:
    """Train and test one point; returns its result."""
    experiment = point.experiment(seed)
    backend = _metered_rtl(experiment.params, seed) if point.rtl else _MeteredModel(experiment.params, seed)
    try:
        result = trainer.run(experiment, data, backend, compile_experiment, lambda _: None)
        times = backend.times()
        single = _one_by_one(backend, experiment, data) if point == DEFAULT else {}
    finally:
        backend.close()
    figures = ("test_accuracy", "cycles_per_image", "programming_cycles_per_image", "refresh_cycles_per_image",
               "pulses_per_image", "images_trained", "test_images", "conservation_ok", "digest", "versions")
    result = {"point": point.name, "seed": seed, "experiment": plain(experiment), "peak_mib": _peak_mib(), **times,
              **{name: result[name] for name in figures}, **single,
              "events": {**result["cycles_by_phase"], **result["events"]}, "events_of_scans": backend.scans}
    walked = result["events"]["chi_rmw"] / experiment.images
    result["predicted"] = predicted(compile_experiment(experiment, experiment.rate), walked,
                                    empty_words(experiment, data), experiment.params.tile.convert_cycles)
    if point.rtl:
        twin = trainer.run(experiment, data, ModelBackend(experiment.params, seed), compile_experiment, lambda _: None)
        result["equals_model"] = all(twin[name] == result[name] for name in ("digest", "cycles_per_image", "test_accuracy"))
    return result


def _peak_mib():
    """Peak resident memory of this program [MiB]; that of getrusage is inherited from the process that started it."""
    line, = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(line) >> 10


def _one_by_one(backend, experiment, data):
    """Means over ONE_BY_ONE more images of: read-modify-writes per cycle of UPDATE, without and with the loading of lanes [1]."""
    chosen = next(trainer.sample_order(experiment, len(data.train_labels)))[:ONE_BY_ONE]
    packets = backend.program.packets("train", data.train_images[chosen], data.train_labels[chosen])
    walking, whole, before = [], [], backend.counters()
    for packet in packets:
        backend.run("train", packet[None])
        now = backend.counters()
        words, update, lanes = (now[name] - before[name] for name in ("chi_rmw", "phase_update", "phase_lanes"))
        walking.append(words / update)
        whole.append(words / (update + lanes))
        before = now
    return {"lanes_busy": float(np.mean(walking)), "lanes_busy_with_loading": float(np.mean(whole))}


def run(points: Sequence[Point], data: Dataset, say: Callable[[str], None], results: Path = RESULTS):
    """Run every point and seed that has no result."""
    for point in points:
        for seed in point.seeds:
            path = results / f"{point.name}-seed{seed}.json"
            if kept(path, point.experiment(seed)) is not None:
                continue
            if point.alone:
                _compile(point, seed, data)
                result = _alone(point, seed)
            else:
                result = run_one(point, seed, data)
            keep(path, result)
            say(f"{point.name} seed {seed}: {result['cycles_per_image']:.0f} cycles, {result['ms_per_image']:.3f} ms an image, "
                f"test accuracy {100 * result['test_accuracy']:.2f} %")


def _compile(point, seed, data):
    """Fill the cache of compiled code, so that no compiler is part of a measured process."""
    run_one(dataclasses.replace(point, images=2), seed, data)


def _alone(point, seed):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_load_and_run, point, seed).result()


def _load_and_run(point, seed):
    return run_one(point, seed, datasets.load(point.experiment(seed).dataset))


# ---- table and picture --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Fit:
    """A straight line through points."""

    slope: float
    intercept: float
    r2: float


def fit(x: Sequence[float] | np.ndarray, y: Sequence[float]) -> Fit:
    """Least squares; ``r2`` is the part of the variance of y that the line explains [1]."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.sum((np.array(y) - intercept - slope * np.array(x)) ** 2)
    variance = np.sum((np.array(y) - np.mean(y)) ** 2)
    return Fit(float(slope), float(intercept), float(1 - rest / variance) if variance else 1.0)


_FIGURES = {
    "cycles without programming and refresh": lambda run: _core_cycles(run),
    "predicted cycles": lambda run: sum(run["predicted"].values()),
    "cycles with both": lambda run: run["cycles_per_image"],
    "SET pulses": lambda run: run["pulses_per_image"],
    "model backend [ms]": lambda run: run["ms_per_image"],
    "peak memory [MiB]": lambda run: run["peak_mib"],
}
"""Figures per image of the growth, and how they follow from a result."""


def _core_cycles(run):
    return run["cycles_per_image"] - run["programming_cycles_per_image"] - run["refresh_cycles_per_image"]


def _load(results, point):
    """The results of a point that are there."""
    found = [kept(results / f"{point.name}-seed{seed}.json", point.experiment(seed)) for seed in point.seeds]
    return [run for run in found if run is not None]


def markdown(results: Path = RESULTS) -> str:
    """The tables, of the results there are."""
    lines = [_HEAD.format(growth=GROWTH_IMAGES)]
    for title, unit, points in (("hidden size, 784-H-10", "unit of H", HIDDEN), ("depth, 784-250-...-10", "layer", DEPTH)):
        lines += _growth(title, unit, points, results)
    return "\n".join([*lines, *_capacities(results), *_phases(results)]) + "\n"


_HEAD = """# How cost grows, and where the cycles go

MNIST, one epoch, one image per update, devices noisy, refresh every 1,000 images. Written by `python -m cosim.sweep table`; runs
and parameters are in `sweep/`. Cycles and milliseconds are per training image; milliseconds are processor time of all processes
of a run, the first 100 images left out.

## Growth

Model backend, {growth:,} images, seed 1, each network on a build whose tiles and memories are the smallest that hold it.
Predicted: the timing formulas in the docstrings of `hdl/` in series, with the number of chi words walked that was measured;
dispatch is left out. Its parts: steps of the read windows; chi words walked; words of vectors through drivers, converters, vector
unit and operand fetch; fixed latencies. A row of the first layer is ceil(H / lanes) chi words, so walked words grow in steps of
256. Programming and refresh follow the pulses, and these how the network learns: in 2,000 images the deepest learns nothing yet.
Peak memory is that of the whole process: Python, compiled code and MNIST included."""


def _growth(title, unit, points, results):
    runs = {x: found[0] for x, point in points.items() if (found := _load(results, point))}
    lines = [f"\n### {title[0].upper()}{title[1:]}\n",
             f"| network | {' | '.join(_FIGURES)} | {' | '.join(PARTS)} |", "|---" * (1 + len(_FIGURES) + len(PARTS)) + "|"]
    for x, run in runs.items():
        cells = ["-".join(map(str, points[x].layers)), *(_short(figure(run)) for figure in _FIGURES.values()),
                 *(_short(run["predicted"][part]) for part in PARTS)]
        lines.append("| " + " | ".join(cells) + " |")
    if len(runs) > 2:
        lines += [f"\n| straight line | slope per {unit} | intercept | R^2 |", "|---|---|---|---|"]
        for name, figure in _FIGURES.items():
            line = fit(list(runs), [figure(run) for run in runs.values()])
            lines.append(f"| {name} | {line.slope:.4g} | {line.intercept:.4g} | {line.r2:.4f} |")
    return lines


def _short(value):
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


_CAPACITIES = """
## Capacities

784-250-10, {capacity:,} images, 10,000 test images, model backend, seeds {seeds}: means, for the accuracy with least and
greatest. RTL: the first {rtl:,} images, which pulse the most, seed 1. chi_words and vector_words
follow lanes and vector_width, so that the capacity stays.

| build | cycles | without programming and refresh | test accuracy [%] | model backend [ms] | RTL: cycles | [ms] | equals model |
|---|---|---|---|---|---|---|---|"""


def _capacities(results):
    lines = [_CAPACITIES.format(capacity=CAPACITY_IMAGES, rtl=RTL_IMAGES, seeds=", ".join(map(str, SEEDS)))]
    for change, point in CAPACITIES.items():
        runs, on_rtl = _load(results, point), _load(results, RTL[point.name]) if point.name in RTL else []
        cells = ["not run", "", "", ""] if not runs else [
            f"{_mean(runs, 'cycles_per_image'):.0f}", f"{np.mean([_core_cycles(run) for run in runs]):.0f}",
            spread([100 * run["test_accuracy"] for run in runs]), f"{_mean(runs, 'ms_per_image'):.3f}"]
        cells += [f"{_mean(on_rtl, 'cycles_per_image'):.0f}", f"{_mean(on_rtl, 'ms_per_image'):.2f}",
                  "yes" if on_rtl[0]["equals_model"] else "no"] if on_rtl else ["", "", ""]
        lines.append(f"| {change} | {' | '.join(cells)} |")
    return lines


def _mean(runs, name):
    return float(np.mean([run[name] for run in runs]))


_PHASES = """
## Cycles by phase beside the floor

784-250-10 on the default build, model backend, {images:,} images, mean of {runs} seeds, cycles per image. The floor is what the
numbers of words and steps leave no way around. Reads of the refresh scans count in the row `scan` only.

| phase | measured | floor | what the floor is | overlaps with |
|---|---|---|---|---|"""

_LANES_BUSY = """
`chi lanes busy`, read-modify-writes of chi per cycle of UPDATE, mean over {single:,} images trained one by one after the run,
{runs} seeds: **{walking:.1f} %** of phase_update, which begins when the lane operands are loaded; the rest is the {drain} cycles
per UPDATE in which the pipeline runs empty. **{whole:.1f} %** when their loading (phase_lanes), in which no chi word can pass, is
counted too. Cycles in which pulses hold the walk (phase_program) are in neither. Aim: 95 %."""


def _phases(results):
    runs = _load(results, DEFAULT)
    if not runs:
        return []
    u, tile, images = DEFAULT.unit, DEFAULT.experiment(1).params.tile, runs[0]["images_trained"]

    def events(name, scans=False):
        """Events per image, of the training alone or of the scans alone."""
        of_scans = [run["events_of_scans"].get(name, 0) for run in runs]
        return float(np.mean(of_scans if scans else np.subtract([run["events"][name] for run in runs], of_scans))) / images

    rows, lanes, hidden, out = (-(-size // u.vector_width) for size in (NETWORK[0] + 1, NETWORK[1] + 1, NETWORK[1], NETWORK[2]))
    full, back = u.line_max, u.line_max >> BACK_SHIFT
    table = [
        ("phase_drive", rows + lanes + out, f"{rows} + {lanes} + {out} words", "vector unit, in the output layer"),
        ("phase_window", 2 * full + back, f"2 x {full} + {back} steps", ""),
        ("phase_convert", 3 * tile.convert_cycles, f"3 reads x {tile.convert_cycles} of the converters", ""),
        ("phase_readout", hidden + out + hidden, f"{hidden} + {out} + {hidden} words", ""),
        ("phase_vector", events("vector_words"), "words written; the rest is latency", "drive, in the output layer"),
        ("phase_lanes", hidden + lanes, f"{hidden} + {lanes} words", ""),
        ("phase_update", events("chi_rmw"), "chi words walked: active input rows, output errors that are not 0", ""),
        ("phase_program", None, f"{events('set_pos') + events('set_neg'):.1f} pulses; those of a line at once",
         "update, until the queue is full"),
        ("control", None, "", "first cycle of the phase that is dispatched"),
    ]
    floors = sum(floor for _, floor, *_ in table if floor is not None)
    steps, scanned = 2 * SCAN_STEPS, events("lines_scanned", scans=True)
    lines = [_PHASES.format(images=images, runs=len(runs))]
    for name, floor, what, overlap in table:
        limit = "" if floor is None else f"{floor:.1f}"
        lines.append(f"| {name.removeprefix('phase_')} | {events(name):.1f} | {limit} | {what} | {overlap} |")
    whole, twice, program = events("time"), events("time") - sum(events(name) for name, *_ in table), events("phase_program")
    scan = events("time", scans=True)
    lines += [
        f"| counted twice | {twice:.1f} | | | |",
        f"| training, together | {whole:.1f} | | | |",
        f"| of which not program | {whole - program:.1f} | {floors:.1f} | sum of the floors above | |",
        f"| scan | {scan:.1f} | {scanned * steps:.1f} | {scanned:.2f} lines x {steps} steps, without rewrites | |",
        _LANES_BUSY.format(drain=DRAIN, single=ONE_BY_ONE, runs=len(runs), walking=100 * _mean(runs, "lanes_busy"),
                           whole=100 * _mean(runs, "lanes_busy_with_loading"))]
    return lines


def draw(results: Path, path: Path):
    """Draw the growth of cycles, time and memory over hidden size and depth, with their lines, into a PNG file."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Cost per training image, MNIST")
    panels = (("cycles", (("cycles with both", "with programming and refresh", "tab:red"),
                          ("cycles without programming and refresh", "without", "tab:blue"),
                          ("predicted cycles", "predicted by the timing formulas", "black"))),
              ("model backend [ms]", (("model backend [ms]", "processor time", "tab:green"),)),
              ("peak memory of the process [MiB]", (("peak memory [MiB]", "peak resident memory", "tab:purple"),)))
    for line, (points, label) in zip(figure.subplots(2, 3), ((HIDDEN, "hidden size H of 784-H-10"),
                                                             (DEPTH, "layers of weights, hidden ones of 250")), strict=True):
        runs = {x: found[0] for x, point in points.items() if (found := _load(results, point))}
        xs = np.array(list(runs), float)
        for axes, (title, curves) in zip(line, panels, strict=True):
            for name, text, colour in curves:
                values = [_FIGURES[name](run) for run in runs.values()]
                if name == "predicted cycles":
                    axes.plot(xs, values, "x", color=colour, markersize=8, label=text)
                    continue
                through = fit(xs, values)
                axes.plot(xs, values, "o", color=colour, markersize=5)
                axes.plot(xs, through.intercept + through.slope * xs, "-", color=colour, linewidth=1,
                          label=f"{text}\n{through.slope:.3g} x {through.intercept:+.3g}, R² {through.r2:.3f}")
            axes.set_xlabel(label)
            axes.set_ylabel(title)
            axes.set_ylim(0, 1.6 * axes.get_ylim()[1])               # room for the legend
            axes.set_xlim(left=0)
            axes.grid(alpha=0.3)
            axes.legend(loc="upper left", fontsize="small")
        if points is DEPTH:
            for axes in line:
                axes.set_xticks([1, 2, 3, 4])
                axes.set_xlim(0.5, 4.5)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


# ---- command line -------------------------------------------------------------------------------------------------------

_cli = command_line("How cost grows with network and capacities, and where the cycles of an image go.")


@_cli.command("run", help="Run what has no result yet.")
def _run(
    only: Annotated[str, typer.Option(help="Points to run, names joined by commas; empty: all.", show_default=False)] = "",
):
    names = [name for name in only.split(",") if name]
    if unknown := set(names) - {point.name for point in POINTS}:
        raise InputError(f"unknown point {', '.join(sorted(unknown))}: allowed are {', '.join(point.name for point in POINTS)}")
    console = Console()
    chosen = [point for point in POINTS if not names or point.name in names]
    run(chosen, datasets.load("mnist"), lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))


@_cli.command("table", help="Write table and picture from the results there are.")
def _table():
    with write_whole(TABLE) as path:
        path.write_text(markdown(), encoding="utf-8")
    with write_whole(PICTURE) as path:
        draw(RESULTS, path)
    print(f"written: {TABLE.relative_to(_ROOT)}, {PICTURE.relative_to(_ROOT)}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 2 is bad input, 130 Ctrl-C."""
    return run_cli(_cli, "python -m cosim.sweep", argv, "stopped: finished runs are kept")


if __name__ == "__main__":
    sys.exit(main())
