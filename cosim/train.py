"""The command behind ``make train``: options to an experiment, a backend, a run, a run's directory.

Exit codes: 0 done, 1 conservation broken or a simulator that ended, 2 bad input or a board that failed (one line on stderr),
130 Ctrl-C or SIGTERM.
"""
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cosim.build import CosimError
from cosim.link import LinkError
from hdl.board import TARGETS, target_of
from model import datasets
from model.backend import Backend, CompileProgram, P
from model.checkpoint import DEFAULT_PERIOD, Checkpoints, identity_of
from model.command_line import command_line, fail, run_cli
from model.errors import InputError
from model.experiment import ACTIVATIONS, DEFAULTS, LOSSES, SCHEMES, TRAINS, Experiment, default_rate, parse_layers
from model.params import Params, ParamsError, UnitParams
from model.program import Program, compile_experiment
from model.progress import Display, print_summary
from model.run_directory import RunDirectory, uninterrupted
from model.trainer import run

__all__ = ["BACKENDS", "main", "open_product_backend"]

BACKENDS = ("rtl", "model", "board")

OpenBackend = Callable[[str, Experiment, Path | None], Backend[P]]
"""(backend name, experiment, file for the waves or None) -> backend."""

_cli = command_line()


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, as given."""

    scheme: str
    dataset: str
    backend: str
    port: str | None
    target: str | None
    layers: str | None
    images: int | None
    epochs: int | None
    seed: int
    lanes: int | None
    params: Path | None
    waves: bool
    out: Path | None
    checkpoint: int
    resume: bool
    loss: str
    activation: str | None
    rate: float | None
    rate_decay: float | None
    refresh: int | None
    transfer: int
    inversion: bool
    trains: str
    output_scale: float | None
    test_images: int


def _option(text: str) -> Any:
    return typer.Option(help=text, show_default=False)


def _each(name: str) -> str:
    return ", ".join(f"{getattr(defaults, name)} for {data}" for data, defaults in DEFAULTS.items())


def _of(name: str) -> str:
    return ", ".join(f"{getattr(scheme, name)} for {key}" for key, scheme in SCHEMES.items())


_RATES = "; ".join(", ".join(f"{default_rate(loss, scheme):.3g} for {loss}" for loss in LOSSES) + f" with scheme {scheme}"
                   for scheme in SCHEMES)
_UNSET = Experiment(dataset="", layers=(1, 1), images=1, epochs=1)


@_cli.command(help="Train and test a network whose weights are simulated PCM pairs, on the digital unit as RTL or as its model.")
def _parse(
    scheme: Annotated[str, _option(
        f"{', '.join(SCHEMES)}: mixed precision (Nandakumar 2020), or capacitors with transfer to PCM pairs (Ambrogio 2018). "
        f"[default: {_UNSET.scheme}]")] = _UNSET.scheme,
    dataset: Annotated[str, _option(
        f"{', '.join(datasets.DATASETS)}; auto: MNIST where it can be had (mnist-22x24 with scheme capacitor), else the 8x8 "
        "digits. [default: auto]")] = "auto",
    backend: Annotated[str, _option(
        "rtl (cosimulation), model (bit-exact twins, faster) or board (an FPGA at --port). [default: rtl]")] = "rtl",
    port: Annotated[str | None, _option("Serial port of the board, as /dev/ttyUSB0; board only.")] = None,
    target: Annotated[str | None, _option(
        f"Build of a board, with any backend: {', '.join(TARGETS)}. [default with board: the one found there]")] = None,
    layers: Annotated[str | None, _option(f"Sizes of the layers from input to output. [default: {_each('layers')}]")] = None,
    images: Annotated[int | None, _option(
        f"Training images per epoch, 1 up; at most all there are. [default: {_each('images')}]")] = None,
    epochs: Annotated[int | None, _option(f"Passes over these images, 1 to 10000. [default: {_each('epochs')}]")] = None,
    seed: Annotated[int, _option(
        f"Seed of sample order, devices and noise, 0 to 4294967295. [default: {_UNSET.seed}]")] = _UNSET.seed,
    lanes: Annotated[int | None, _option(
        "chi words updated per cycle, 1 to 1024; chi_words follows, so that the capacity stays. "
        f"[default: {UnitParams().lanes}]")] = None,
    params: Annotated[Path | None, _option(
        "TOML file of overrides in tables [unit], [tile] and [capacitor]; fields as in model/params.py.")] = None,
    waves: Annotated[bool, _option("Write waves.fst of a window of the run; rtl only. [default: no]")] = False,
    out: Annotated[Path | None, _option(
        "Directory of the run; an earlier run's is replaced. [default: runs/<dataset>-<layers>-seed<seed>-<backend>]")] = None,
    checkpoint: Annotated[int, _option(
        "Images between two checkpoints, in <out>.checkpoint; 0: only at Ctrl-C and SIGTERM. "
        f"[default: {DEFAULT_PERIOD}]")] = DEFAULT_PERIOD,
    resume: Annotated[bool, _option(
        "Go on from the last checkpoint; all but backend, out and checkpoint must be as before. [default: no]")] = False,
    loss: Annotated[str, _option(f"{', '.join(LOSSES)}; mse has sigmoid outputs. [default: {_UNSET.loss}]")] = _UNSET.loss,
    activation: Annotated[str | None, _option(
        f"Of hidden layers: {', '.join(ACTIVATIONS)}. [default: {_of('activation')}]")] = None,
    rate: Annotated[float | None, _option(f"Learning rate of the first epoch, 1e-6 to 16. [default: {_RATES}]")] = None,
    rate_decay: Annotated[float | None, _option(
        f"Factor on the rate after each epoch, 0.001 to 1. [default: {_of('rate_decay')}]")] = None,
    refresh: Annotated[int | None, _option(
        f"Images between two refresh scans of scheme mixed; 0: never. [default: {_UNSET.refresh}, or 0 without SCAN]")] = None,
    transfer: Annotated[int, _option(
        f"Images between two transfers of scheme capacitor; 0: never. [default: {_UNSET.transfer}]")] = _UNSET.transfer,
    inversion: Annotated[bool, _option(
        "Invert the polarity of the capacitors at every transfer. [default: yes]")] = _UNSET.inversion,
    trains: Annotated[str, _option(
        f"Coincidence updates of scheme capacitor: {', '.join(TRAINS)}. [default: {_UNSET.trains}]")] = _UNSET.trains,
    output_scale: Annotated[float | None, _option(
        "Weights of the last layer are this times those of the others for the same conductances, 0.001 to 1000. "
        f"[default: {_of('output_scale')}]")] = None,
    test_images: Annotated[int, _option("Test images per evaluation; 0: all. [default: 0]")] = _UNSET.test_images,
) -> Options:
    return Options(**locals())


def main(argv: list[str] | None = None, open_backend: OpenBackend | None = None,
         compile_program: CompileProgram | None = None) -> int:
    """Run the command line; returns the exit code. Tests pass a backend and a compiler of their own."""
    def act(options: Options) -> int:
        return _train(options, open_backend or partial(open_product_backend, port=options.port),
                      compile_program or compile_experiment)

    return run_cli(_cli, "python -m cosim.train", argv, "stopped: nothing of this run was kept", act=act)


def open_product_backend(name: str, experiment: Experiment, waves: Path | None, port: str | None = None) -> Backend[Program]:
    """Open ``rtl``, ``model`` or ``board`` (at ``port``) for an experiment."""
    if name == "board":
        from cosim.board import BoardBackend

        return BoardBackend(experiment.params, experiment.seed, _port(port))
    if name == "model":
        from model.machine import ModelBackend

        return ModelBackend(experiment.params, experiment.seed)
    from cosim.backend import RtlBackend

    return RtlBackend(experiment.params, experiment.seed, waves=waves)


def _train(options: Options, open_backend: OpenBackend[P], compile_program: CompileProgram[P]) -> int:
    console = Console()

    def say(line: str):
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    if options.backend not in BACKENDS:
        raise InputError(f"unknown backend {options.backend!r}: allowed are {', '.join(BACKENDS)}")
    if options.port and options.backend != "board":
        raise InputError(f"port = {options.port}: only the backend board has one")
    if options.waves and options.backend != "rtl":
        raise InputError("waves are of the RTL: they need the backend rtl")
    if options.waves and options.resume:
        raise InputError("waves are of the first images trained: a resumed run has none")
    layers = parse_layers(options.layers) if options.layers else None
    default_rate(options.loss, options.scheme)                       # both must be known
    build = _build(options)
    data = datasets.load(options.dataset, say=say, auto=SCHEMES[options.scheme].auto)
    experiment = _experiment(options, layers, build, data)
    experiment.check_data(data)
    compile_program(experiment, experiment.rate)                     # capacities, before anything is written or built
    kind = data.name if experiment.scheme == "mixed" else f"{data.name}-{experiment.scheme}"
    names = {name: Path("runs") / f"{kind}-{experiment.layers_text}-seed{experiment.seed}-{name}" for name in BACKENDS}
    out = options.out or names.pop(options.backend)
    others = [] if options.out else list(names.values())
    with (RunDirectory(out) as directory,
          Checkpoints(out, identity_of(experiment, data), backend=options.backend, log=directory.log_path,
                      every=options.checkpoint, resume=options.resume, others=others, say=say) as checkpoints):
        try:
            result = _run(options, experiment, data, open_backend, compile_program, console, directory, checkpoints)
            directory.commit(result)
        except KeyboardInterrupt:
            return fail(checkpoints.stopped(), 130)
        except LinkError as error:                                   # the board's state is out of reach: none is written now
            return fail(f"{error}; {checkpoints.stopped()}", 2)
        except CosimError as error:                                  # not built, or ended: the end of its log says why
            print(error, file=sys.stderr)
            return fail(checkpoints.stopped(), 1)
        checkpoints.remove()
    print_summary(console, result, str(out))
    if not result["conservation_ok"]:
        law = ("the sum of updates is not eps * pulses + chi for every weight" if experiment.scheme == "mixed" else
               "not every weight was transferred once by each transfer, or a train or TRIM was lost on the way to its tile")
        return fail(f"conservation is broken: {law}", 1)
    return 0


def _run(options: Options, experiment: Experiment, data: datasets.Dataset, open_backend: OpenBackend[P],
         compile_program: CompileProgram[P], console: Console, directory: RunDirectory, checkpoints: Checkpoints) -> dict:
    """Open the backend and train; returns the contents of ``result.json``."""
    directory.write_json("params.json", {"experiment": experiment.as_dict(), "backend": options.backend})
    begun = f"{data.name} from {data.source}, layers {experiment.layers_text}, seed {experiment.seed}, backend {options.backend}"
    if checkpoints.found:
        directory.resume_log(checkpoints.found.log)
        begun += f", resumed after {checkpoints.found.meta['images']} of {checkpoints.found.meta['total']} images"
    console.print(begun, highlight=False, markup=False, soft_wrap=True)
    with Display(console) as display:
        backend = open_backend(options.backend, experiment, directory.path / "waves.fst" if options.waves else None)
        try:
            def record(entry: dict):
                directory.record(entry)
                display.record(entry)

            with checkpoints.deferring_stops():
                return run(experiment, data, backend, compile_program, record, checkpoints)
        finally:
            with uninterrupted():
                backend.close()


def _port(port: str | None) -> str:
    if port is None:
        raise InputError("the backend board needs the serial port of the board: PORT=/dev/ttyUSB0")
    return port


def _build(options: Options) -> Params:
    params = SCHEMES[options.scheme].params
    if options.target is not None:
        target = target_of(options.target)
        params = _with_build(params, target.unit, target.link.convert_cycles, options.target)
    elif options.backend == "board" and options.params is None and options.lanes is None:
        from cosim.board import build_of

        params = _with_build(params, *build_of(_port(options.port)), str(options.port))
    if options.params:
        params = Params.from_toml(options.params, params)
    if options.lanes is None:
        return params
    try:
        return dataclasses.replace(params, unit=params.unit.with_lanes(options.lanes))
    except ParamsError as error:
        raise InputError(f"unit.{error}") from None


def _with_build(params: Params, unit: UnitParams, convert_cycles: int, name: str) -> Params:
    """``params`` with the build of a board."""
    if unit.capacitor < params.unit.capacitor:
        raise InputError(f"{name}: the build has capacitor = 0, and scheme capacitor needs 1: use SCHEME=mixed")
    return dataclasses.replace(params, unit=unit, tile=dataclasses.replace(params.tile, convert_cycles=convert_cycles))


def _experiment(options: Options, layers: tuple[int, ...] | None, params: Params, data: datasets.Dataset) -> Experiment:
    defaults, scheme = DEFAULTS[data.name], SCHEMES[options.scheme]
    return Experiment(
        scheme=options.scheme, transfer=options.transfer, inversion=options.inversion, trains=options.trains,
        dataset=data.name, layers=layers or parse_layers(defaults.layers), params=params, seed=options.seed,
        images=defaults.images if options.images is None else options.images,
        epochs=defaults.epochs if options.epochs is None else options.epochs,
        loss=options.loss, activation=scheme.activation if options.activation is None else options.activation,
        rate=default_rate(options.loss, options.scheme) if options.rate is None else options.rate,
        refresh=params.unit.refresh * _UNSET.refresh if options.refresh is None else options.refresh,
        rate_decay=scheme.rate_decay if options.rate_decay is None else options.rate_decay,
        output_scale=scheme.output_scale if options.output_scale is None else options.output_scale,
        test_images=options.test_images)


if __name__ == "__main__":
    sys.exit(main())
