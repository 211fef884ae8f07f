"""What training an image costs on the link to a board: ``python -m cosim.link_speed [--target NAME | --port PORT]``.

Trains MNIST images (``--dataset digits``: 8x8 digits) with the board's build on a virtual board, or on the one at PORT, and
prints bytes both ways, requests, the host's CPU time, and how many images a second the wires allow: a request waits for the
answer to the one before, so the two ways add up. A virtual board's own speed is the simulator's. The first images are left out,
as their updates are larger than others; there is no refresh.

Exit codes: 0, 2: bad input or a board that failed, one line.
"""
import argparse
import dataclasses
import sys
import time
from contextlib import ExitStack

from cosim.board import BoardBackend, build_of
from cosim.board_test import experiment_of
from cosim.virtual_board import VirtualBoard
from hdl.board import TARGETS
from model import datasets
from model.errors import InputError
from model.experiment import DEFAULTS, Experiment, parse_layers
from model.link_format import BAUD
from model.params import ParamsError
from model.program import CapacityError, compile_experiment

__all__ = ["main"]

BITS_PER_BYTE = 10
"""On the wire, start and stop bit included [bit]."""
FIRST = 2
"""Images that are trained before [1]."""
PATIENCE_S = 60.0
"""A simulated board is waited for as long, so that no request is sent twice [s]."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cosim.link_speed", description="Bytes and time of an image over the link.")
    board = parser.add_mutually_exclusive_group()
    board.add_argument("--target", choices=sorted(TARGETS), default="ulx3s-85f", help="a virtual board [default: ulx3s-85f]")
    board.add_argument("--port", help="a real board")
    parser.add_argument("--dataset", default="mnist", choices=("mnist", "digits"), help="default: mnist")
    parser.add_argument("--layers", help="default: the dataset's")
    parser.add_argument("--images", type=int, default=40, help="default: 40")
    options = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            if options.port:
                unit, convert_cycles, port, patience_s = *build_of(options.port), options.port, None
            else:
                target = TARGETS[options.target]
                unit, convert_cycles, patience_s = target.unit, target.link.convert_cycles, PATIENCE_S
                port = stack.enter_context(VirtualBoard(target)).port
            layers = parse_layers(options.layers or DEFAULTS[options.dataset].layers)
            experiment = experiment_of(unit, convert_cycles, layers, options.images)
            _measure(dataclasses.replace(experiment, dataset=options.dataset, refresh=0), port, patience_s)
    except (InputError, ParamsError, CapacityError) as error:
        print(f"link_speed: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(experiment: Experiment, port: str, patience_s: float | None) -> None:
    data, images = datasets.load(experiment.dataset), experiment.images
    experiment.check_data(data)
    program = compile_experiment(experiment, experiment.rate)
    packets = program.packets("train", data.train_images[:FIRST + images], data.train_labels[:FIRST + images])
    backend = BoardBackend(experiment.params, experiment.seed, port, patience_s=patience_s)
    try:
        backend.configure(program)
        backend.execute("clear")
        backend.run("train", packets[:FIRST])
        link = backend.link

        def now():
            return (link.sent, link.received, link.requests, time.process_time(), time.perf_counter())

        before = now()
        backend.run("train", packets[FIRST:])
        sent, received, requests, host_s, all_s = ((b - a) / images for a, b in zip(before, now(), strict=True))
    finally:
        backend.close()
    wires_s = (sent + received) * BITS_PER_BYTE / BAUD
    print(f"{experiment.layers_text}, {images} images of {data.name}, each: {sent:.0f} bytes to the board, {received:.0f} back, "
          f"{requests:.1f} requests; the host's model {1e3 * host_s:.1f} ms; "
          f"in all {1e3 * all_s:.1f} ms ({'simulated' if patience_s else 'measured'})")
    print(f"at {BAUD / 1e6:g} Mbit/s the wires take {1e3 * wires_s:.1f} ms: {1 / wires_s:.0f} images/s")


if __name__ == "__main__":
    sys.exit(main())
