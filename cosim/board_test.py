"""``make board-test``: train a little through a virtual board, and compare the digest with the model backend's.

With ``--port`` the board is a real one. Faults of the line must end in the same digest, or in one line that says what is wrong.
"""
import argparse
import contextlib
import dataclasses
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from cosim.board import BoardBackend, build_of
from cosim.faults import Faults
from cosim.link import LinkError
from cosim.virtual_board import VirtualBoard
from hdl.board import TARGETS, Target
from model import datasets, trainer
from model.experiment import SCHEMES, Experiment
from model.machine import ModelBackend
from model.params import ParamsError, UnitParams
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
    """Counts what the link does for training alone: requests, bytes both ways, seconds."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.figures = [0.0, 0.0, 0.0]

    def run(self, entry, packets):
        link = self.link
        before = (link.requests, link.sent + link.received, time.perf_counter())
        outputs = super().run(entry, packets)
        if entry == "train":
            after = (link.requests, link.sent + link.received, time.perf_counter())
            self.figures = [total + b - a for total, a, b in zip(self.figures, before, after, strict=True)]
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
            requests, content, seconds = backend.figures
            outcome.requests_per_image, outcome.bytes_per_image = requests / experiment.images, content / experiment.images
            outcome.ms_per_image, outcome.repeated = 1e3 * seconds / experiment.images, backend.link.repeated
    return outcome


def verdict(outcome: Outcome, model: Outcome, message: str | None) -> str:
    """``right``, or what is wrong."""
    if message is None:
        if outcome.error:
            return f"WRONG: {outcome.error}"
        return "right" if (outcome.digest, outcome.time) == (model.digest, model.time) else "WRONG: another digest or time"
    return "one error" if message in outcome.error and not outcome.digest else f"WRONG: {outcome}"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cosim.board_test", description="Train through a board, compare the digest.")
    parser.add_argument("--target", choices=sorted(TARGETS), default="icebreaker", help="default: icebreaker")
    board = parser.add_mutually_exclusive_group()
    board.add_argument("--port", help="a real board, which is not spoilt [default: a virtual one]")
    board.add_argument("--netlist", action="store_true", help="simulate the netlist that Yosys makes of the board, not its RTL")
    parser.add_argument("--layers", default="64-54-10", help="default: 64-54-10")
    parser.add_argument("--images", type=int, default=60, help="training images [default: 60]")
    options = parser.parse_args(arguments)
    layers = tuple(map(int, options.layers.split("-")))
    if options.port:
        try:
            unit, convert_cycles = build_of(options.port)
        except LinkError as error:
            print(f"board-test: {error}", file=sys.stderr)
            return 2
        cases: dict = {"the board": CASES["no fault"]}
    else:
        target: Target = TARGETS[options.target]
        unit, convert_cycles, cases = target.unit, target.link.convert_cycles, CASES
        if options.netlist:
            cases = {"netlist": CASES["no fault"]}
    experiment = experiment_of(unit, convert_cycles, layers, options.images)
    model = expected(experiment)
    print(f"{options.layers}, {options.images} images, digest {model.digest[:16]}, {model.time} cycles")
    good = True
    for name, (faults, message) in cases.items():
        with ExitStack() as stack:
            port = options.port
            if not port:
                try:
                    virtual = VirtualBoard(TARGETS[options.target], Faults(**faults), netlist=options.netlist)
                except ParamsError as error:
                    print(f"board-test: {error}", file=sys.stderr)
                    return 2
                port = stack.enter_context(virtual).port
            outcome = train_on(port, experiment, NETLIST_PATIENCE_S if options.netlist else None)
        found = verdict(outcome, model, message)
        good &= not found.startswith("WRONG")
        print(f"{name:18} {found:10} {outcome.ms_per_image:7.1f} ms/image {outcome.bytes_per_image:6.0f} byte/image "
              f"{outcome.requests_per_image:5.1f} requests/image {outcome.repeated:4d} repeated  {outcome.error}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
