"""A virtual board: the FPGA top of a target under Verilator, behind a pseudo-terminal that any program opens as a serial port.

``python -m cosim.virtual_board icebreaker --port build/board`` builds it, prints its port and serves until Ctrl-C.
"""
import contextlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cosim.board_bench import bench_verilog
from cosim.build import CosimError, build, start_cocotb
from cosim.faults import Faults
from hdl.board import TARGETS, Target, target_of
from hdl.synthesize import netlist_of
from model.command_line import command_line, run_cli
from model.errors import InputError

__all__ = ["VirtualBoard"]

START_S = 60.0


class VirtualBoard:
    """A simulator in a process of its own; a context manager. ``port``: the name to open, a link to the pseudo-terminal.

    target: what is simulated; faults: of its line; port: name to give it; fast: compile for speed; netlist: simulate what
    Yosys makes of it, instead of the RTL: some hundred times as slow.
    """

    def __init__(self, target: Target, faults: Faults | None = None, port: Path | None = None, fast: bool = True,
                 netlist: bool = False):
        if port and (not port.absolute().parent.is_dir() or (port.exists() and not port.is_symlink())):
            raise InputError(f"port = {port}: allowed is a new name in a directory that exists")
        made = netlist_of(target) if netlist else None
        sources, visible = bench_verilog(target, netlist)
        if made:
            sources = {**sources, **{name: (made / name).read_text(encoding="utf-8") for name in ("netlist.v", "cells.v")}}
        folder = build("board", sources, "bench", public=visible, fast=fast, timing=True)
        self.place = Path(tempfile.mkdtemp(prefix="crosstrain-"))
        self.port = str((port or self.place / "port").absolute())
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


_cli = command_line()


@_cli.command(help="Simulate a board behind a serial port, until Ctrl-C.")
def _serve(
    target: Annotated[str, typer.Argument(help=", ".join(TARGETS))],
    port: Annotated[Path | None, typer.Option(help="Name of the port. [default: one in a temporary directory]")] = None,
    flip: Annotated[float, typer.Option(help="Probability that a byte has a wrong bit.")] = 0.0,
    drop: Annotated[float, typer.Option(help="That it is lost.")] = 0.0,
    double: Annotated[float, typer.Option(help="That it comes twice.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 1,
) -> int:
    with (VirtualBoard(target_of(target), Faults(flip=flip, drop=drop, double=double, seed=seed), port) as board,
          contextlib.suppress(KeyboardInterrupt)):
        print(board.port, flush=True)
        code = board.process.wait()
        raise CosimError(f"the simulator ended ({code})\n{board.log()}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(_cli, "python -m cosim.virtual_board", argv, "stopped", failures=(CosimError,))


if __name__ == "__main__":
    sys.exit(main())
