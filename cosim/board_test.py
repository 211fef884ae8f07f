"""``make board-test``: train a little through a virtual board, and compare the digest with the model backend's.

With ``--port`` the board is a real one. Faults of the line must end in the same digest, or in one line that says what is wrong.
"""
import dataclasses
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import typer

from cosim.board import BoardBackend, build_of
from cosim.build import CosimError
from cosim.faults import Faults
from cosim.link import LinkError
from cosim.virtual_board import VirtualBoard
from hdl.board import TARGETS, target_of
from hdl.synthesize import ToolError, netlist_of
from model import datasets, trainer
from model.command_line import command_line, run_cli
from model.errors import InputError
from model.experiment import SCHEMES, Experiment, parse_layers
from model.machine import ModelBackend
from model.params import UnitParams
from model.program import compile_experiment

__all__ = ["CASES", "NETLIST_PATIENCE_S", "Outcome", "expected", "experiment_of", "main", "train_on", "verdict"]

CASES: dict[str, tuple[dict, str | None]] = {
    "no fault": ({}, None),
    "wrong bits": ({"flip": 3e-4}, None),
    "lost bytes": ({"drop": 3e-4}, None),
    "doubled bytes": ({"double": 3e-4}, None),
    "all three": ({"flip": 1e-4, "drop": 1e-4, "double": 1e-4}, None),
    "reset in mid-run": ({"reset_after": 20_000}, "the board was reset"),
    "cable pulled": ({"pull_after": 20_000}, "check cable"),
    "every byte wrong": ({"flip": 1.0}, "no answer"),
}
"""Name -> (faults, what the error must say; None: the run must end with the model's digest)."""


NETLIST_PATIENCE_S = 60.0
"""How long an answer of a simulated netlist is waited for at first [s]."""


@dataclass
class Outcome:
    """How a run ended: ``digest`` or ``error``; per image of training what the link did, refresh and dumps left out."""

    digest: str = ""
    error: str = ""
    time: int = 0
    weights_checked: int = 0
    ms_per_image: float = 0.0
    requests_per_image: float = 0.0
    bytes_per_image: float = 0.0
    repeated: int = 0


def experiment_of(u: UnitParams, convert_cycles: int, layers: tuple[int, ...], images: int, seed: int = 1) -> Experiment:
    """A short training on the 8x8 digits with a board's build."""
    scheme = "capacitor" if u.capacitor else "mixed"
    params = SCHEMES[scheme].params
    params = dataclasses.replace(params, unit=u, tile=dataclasses.replace(params.tile, convert_cycles=convert_cycles))
    return Experiment(scheme=scheme, dataset="digits", layers=layers, images=images, epochs=1, params=params, seed=seed,
                      refresh=u.refresh * max(1, images // 2), transfer=max(1, images // 2), test_images=10,
                      activation=SCHEMES[scheme].activation, output_scale=SCHEMES[scheme].output_scale)


def expected(experiment: Experiment) -> Outcome:
    """The model backend's run."""
    backend = ModelBackend(experiment.params, experiment.seed)
    result = trainer.run(experiment, datasets.load("digits"), backend, compile_experiment, lambda entry: None)
    return Outcome(digest=result["digest"], time=backend.counters()["time"], weights_checked=result["weights_checked"])


class _Metered(BoardBackend):
    """Counts what the link does for training alone, and the seconds."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.traffic: Counter[str] = Counter()
        self.seconds = 0.0

    def run(self, entry, packets):
        before, begun = Counter(self.link.traffic), time.perf_counter()
        outputs = super().run(entry, packets)
        if entry == "train":
            self.traffic += self.link.traffic - before
            self.seconds += time.perf_counter() - begun
        return outputs


def train_on(port: str, experiment: Experiment, patience_s: float | None = None) -> Outcome:
    """The same on the board at ``port``."""
    backend, outcome = None, Outcome()
    try:
        backend = _Metered(experiment.params, experiment.seed, port, patience_s=patience_s)
        result = trainer.run(experiment, datasets.load("digits"), backend, compile_experiment, lambda entry: None)
        outcome = Outcome(digest=result["digest"], time=backend.counters()["time"], weights_checked=result["weights_checked"])
        if not result["conservation_ok"]:
            outcome.error = "conservation is broken"
    except LinkError as error:
        outcome.error = str(error)
    finally:
        if backend is not None:
            backend.close()
            traffic, images = backend.traffic, experiment.images
            outcome.requests_per_image = traffic["requests"] / images
            outcome.bytes_per_image = (traffic["sent"] + traffic["received"]) / images
            outcome.ms_per_image, outcome.repeated = 1e3 * backend.seconds / images, backend.link.traffic["repeated"]
    return outcome


def verdict(outcome: Outcome, model: Outcome, message: str | None) -> str:
    """``right``, or what is wrong."""
    if message is None:
        if outcome.error:
            return f"WRONG: {outcome.error}"
        return "right" if (outcome.digest, outcome.time) == (model.digest, model.time) else "WRONG: another digest or time"
    return "one error" if message in outcome.error and not outcome.digest else f"WRONG: {outcome}"


_cli = command_line()


@_cli.command(help="Train through a board, compare the digest with the model's.")
def _run(
    target: Annotated[str, typer.Option(help=f"A virtual board: {', '.join(TARGETS)}.")] = "icebreaker",
    port: Annotated[str | None, typer.Option(help="A real board, which is not spoilt. [default: a virtual one]")] = None,
    netlist: Annotated[bool, typer.Option(
        "--netlist", help="Simulate the netlist that Yosys makes of the board, not its RTL.")] = False,
    layers: Annotated[str, typer.Option(help="Sizes of the layers.")] = "64-54-10",
    images: Annotated[int, typer.Option(help="Training images.")] = 60,
) -> int:
    if port and netlist:
        raise InputError("a real board has no netlist: give port or netlist")
    board = target_of(target)
    build = build_of(port) if port else (board.unit, board.link.convert_cycles)
    experiment = experiment_of(*build, parse_layers(layers), images)
    compile_experiment(experiment, experiment.rate)                  # capacities, and that there is a netlist, before all work
    if netlist:
        netlist_of(board)
    model = expected(experiment)
    print(f"{layers}, {images} images, digest {model.digest[:16]}, {model.time} cycles")
    cases = {"the board": CASES["no fault"]} if port else {"netlist": CASES["no fault"]} if netlist else CASES
    good = True
    for name, (faults, message) in cases.items():
        with ExitStack() as stack:
            at = port or stack.enter_context(VirtualBoard(board, Faults(**faults), netlist=netlist)).port
            outcome = train_on(at, experiment, NETLIST_PATIENCE_S if netlist else None)
        found = verdict(outcome, model, message)
        good &= not found.startswith("WRONG")
        print(f"{name:18} {found:10} {outcome.ms_per_image:7.1f} ms/image {outcome.bytes_per_image:6.0f} byte/image "
              f"{outcome.requests_per_image:5.1f} requests/image {outcome.repeated:4d} repeated  {outcome.error}", flush=True)
    return 0 if good else 1


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 where a case ended wrong, 2 bad input."""
    return run_cli(_cli, "python -m cosim.board_test", argv, "stopped", failures=(CosimError, ToolError))


if __name__ == "__main__":
    sys.exit(main())
