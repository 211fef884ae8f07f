"""A virtual board: the FPGA top of a target under Verilator, behind a pseudo-terminal that any program opens as a serial port.

``python -m cosim.virtual_board icebreaker --port build/board`` builds it, prints its port and serves until Ctrl-C.
"""
import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from cosim.board_bench import bench_verilog
from cosim.build import CosimError, build, start_cocotb
from cosim.faults import Faults
from hdl.board import TARGETS, Target
from hdl.synthesize import netlist_of

__all__ = ["VirtualBoard"]

START_S = 60.0


class VirtualBoard:
    """A simulator in a process of its own; a context manager. ``port``: the name to open, a link to the pseudo-terminal.

    target: what is simulated; faults: of its line; port: name to give it; fast: compile for speed; netlist: simulate what
    Yosys makes of it, instead of the RTL: some hundred times as slow.
    """

    def __init__(self, target: Target, faults: Faults | None = None, port: Path | None = None, fast: bool = True,
                 netlist: bool = False):
        sources, visible = bench_verilog(target, netlist)
        if netlist:
            made = netlist_of(target)
            sources = {**sources, **{name: (made / name).read_text(encoding="utf-8") for name in ("netlist.v", "cells.v")}}
        self.place = Path(tempfile.mkdtemp(prefix="crosstrain-"))
        self.port = str((port or self.place / "port").absolute())
        folder = build("board", sources, "bench", public=visible, fast=fast, timing=True)
        environment = {"CROSSTRAIN_PORT": self.port, "CROSSTRAIN_FAULTS": json.dumps(asdict(faults or Faults()))}
        self.process = start_cocotb(folder, "bench", "cosim.virtual_agent", self.place, environment)
        deadline = time.monotonic() + START_S
        while not Path(self.port).exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.log()
                self.close()
                raise CosimError(f"the virtual board did not start\n{log}")
            time.sleep(0.02)

    def log(self) -> str:
        """End of the simulator's output."""
        return (self.place / "run.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def close(self) -> None:
        """End the simulator and remove its files."""
        self.process.kill()
        self.process.wait()
        Path(self.port).unlink(missing_ok=True)
        shutil.rmtree(self.place, ignore_errors=True)

    def __enter__(self) -> "VirtualBoard":
        return self

    def __exit__(self, *_):
        self.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cosim.virtual_board", description="Simulate a board behind a serial port.")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--port", type=Path, metavar="NAME", help="name of the port [default: one in a temporary directory]")
    for name, text in (("flip", "probability that a byte has a wrong bit"), ("drop", "that it is lost"),
                       ("double", "that it comes twice")):
        parser.add_argument(f"--{name}", type=float, default=0.0, help=f"{text} [default: 0]")
    parser.add_argument("--seed", type=int, default=1, help="of the faults [default: 1]")
    options = parser.parse_args(arguments)
    faults = Faults(flip=options.flip, drop=options.drop, double=options.double, seed=options.seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with VirtualBoard(TARGETS[options.target], faults, options.port) as board, contextlib.suppress(KeyboardInterrupt):
        print(board.port, flush=True)
        board.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
