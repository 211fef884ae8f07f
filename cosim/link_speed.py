"""What training an image costs on the link to a board: ``python -m cosim.link_speed [--target NAME | --port PORT]``.

Trains MNIST images (``--dataset digits``: 8x8 digits) with the board's build on a virtual board, or on the one at PORT, and
prints bytes both ways, requests, the host's CPU time, and how many images a second the wires allow: a request waits for the
answer to the one before, so the two ways add up. A virtual board's own speed is the simulator's. The first images are left out,
as their updates are larger than others; there is no refresh.
"""
import dataclasses
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Annotated

import numpy as np
import typer

from cosim.board import BoardBackend, build_of
from cosim.board_test import experiment_of
from cosim.build import CosimError
from cosim.virtual_board import VirtualBoard
from hdl.board import TARGETS, target_of
from model import datasets
from model.command_line import command_line, run_cli
from model.errors import InputError
from model.experiment import DEFAULTS, Experiment, parse_layers
from model.link_format import BAUD
from model.program import Program, compile_experiment

__all__ = ["main"]

BITS_PER_BYTE = 10
"""On the wire, start and stop bit included [bit]."""
FIRST = 2
"""Images that are trained before [1]."""
PATIENCE_S = 60.0
"""A simulated board is waited for as long, so that no request is sent twice [s]."""


_cli = command_line()


@_cli.command(help="Bytes and time of an image over the link.")
def _run(
    target: Annotated[str, typer.Option(help=f"A virtual board: {', '.join(TARGETS)}.")] = "ulx3s-85f",
    port: Annotated[str | None, typer.Option(help="A real board. [default: a virtual one]")] = None,
    dataset: Annotated[str, typer.Option(help=f"{', '.join(DEFAULTS)}.")] = "mnist",
    layers: Annotated[str | None, typer.Option(help="Sizes of the layers. [default: the dataset's]")] = None,
    images: Annotated[int, typer.Option(help="Training images.")] = 40,
) -> None:
    if dataset not in DEFAULTS:
        raise InputError(f"dataset = {dataset}: allowed are {', '.join(DEFAULTS)}")
    board = target_of(target)
    build = build_of(port) if port else (board.unit, board.link.convert_cycles)
    experiment = experiment_of(*build, parse_layers(layers or DEFAULTS[dataset].layers), images)
    experiment = dataclasses.replace(experiment, dataset=dataset, refresh=0)
    program, packets = _prepared(experiment)
    with ExitStack() as stack:
        at = port or stack.enter_context(VirtualBoard(board)).port
        _measure(experiment, program, packets, BoardBackend(experiment.params, experiment.seed, at,
                                                            patience_s=None if port else PATIENCE_S))


def _prepared(experiment: Experiment) -> tuple[Program, np.ndarray]:
    """Program and packets, before anything is built; raises InputError where they do not fit."""
    data = datasets.load(experiment.dataset)
    experiment.check_data(data)
    program = compile_experiment(experiment, experiment.rate)
    count = FIRST + experiment.images
    return program, program.packets("train", data.train_images[:count], data.train_labels[:count])


def _measure(experiment: Experiment, program: Program, packets: np.ndarray, backend: BoardBackend) -> None:
    images = len(packets) - FIRST
    try:
        backend.configure(program)
        backend.execute("clear")
        backend.run("train", packets[:FIRST])
        before, host_s, all_s = Counter(backend.link.traffic), time.process_time(), time.perf_counter()
        backend.run("train", packets[FIRST:])
        traffic, host_s, all_s = backend.link.traffic - before, time.process_time() - host_s, time.perf_counter() - all_s
    finally:
        backend.close()
    wires_s = (traffic["sent"] + traffic["received"]) * BITS_PER_BYTE / BAUD / images
    print(f"{experiment.layers_text}, {images} images of {experiment.dataset}, each: {traffic['sent'] / images:.0f} bytes to the "
          f"board, {traffic['received'] / images:.0f} back, {traffic['requests'] / images:.1f} requests; "
          f"the host's model {1e3 * host_s / images:.1f} ms; in all {1e3 * all_s / images:.1f} ms")
    print(f"at {BAUD / 1e6:g} Mbit/s the wires take {1e3 * wires_s:.1f} ms: {1 / wires_s:.0f} images/s")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(_cli, "python -m cosim.link_speed", argv, "stopped", failures=(CosimError,))


if __name__ == "__main__":
    sys.exit(main())
