"""Inside the simulator of a virtual board: bytes between the UART peer and a pseudo-terminal, with faults (a cocotb test).

Simulated time stands still while the board is silent and the host has nothing to say. Python acts once per burst.
"""
import contextlib
import json
import os
import select
import tty
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import First, Timer, ValueChange

from cosim import vpi
from cosim.board_bench import BURST, RING, STATUS
from cosim.faults import Faults

__all__ = ["serve"]

PARENT_S = 2.0
"""How often a silent board sees whether whoever started it is still there [s]."""
POLL_NS = 2_000_000
"""The host is looked at again after so long also while the board is busy [ns of simulation, two a cycle]."""


class Port:
    """A pseudo-terminal: what is written to its other end is read here."""

    def __init__(self, link):
        self.master, other = os.openpty()
        tty.setraw(other)
        self.link, self.name = link, os.ttyname(other)
        self.other = other                              # held open, so that a host may come and go
        self.parent = os.getppid()
        os.set_blocking(self.master, False)
        link.unlink(missing_ok=True)
        link.symlink_to(self.name)

    def read(self, wait):
        """Bytes from the host; with ``wait`` at least one, else perhaps none. Raises SystemExit when the starter is gone."""
        while not select.select([self.master], [], [], PARENT_S if wait else 0)[0]:
            if os.getppid() != self.parent:
                raise SystemExit
            if not wait:
                return b""
        try:
            return os.read(self.master, BURST // 2)
        except BlockingIOError:
            return b""

    def write(self, content):
        """Bytes to the host; what it does not take is lost, as on a wire."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.master, content)

    def pull(self):
        """The cable is pulled: the port goes away."""
        self.link.unlink(missing_ok=True)
        os.close(self.other)
        os.close(self.master)


class VirtualBoard:
    """The board under simulation behind its port."""

    def __init__(self, dut, port, faults):
        self.dut, self.port, self.faults = dut, port, faults
        self.status = vpi.Signal("bench.status", STATUS.size)
        self.inputs = {name: vpi.Signal(f"bench.{name}", 16) for name in ("rst", "reset_n", "go", "n_bytes")}
        self.to_board = vpi.Memory("bench.core.peer.to_board", 8, BURST)
        self.from_board = vpi.Memory("bench.core.peer.from_board", 8, RING)
        self.go = self.seen = 0

    async def run(self):
        """Serve for ever, or until the cable is pulled."""
        await Timer(20, "ns")
        self.inputs["rst"].put(0)
        await Timer(1000, "ns")
        while True:
            word = self.status.get_int()
            sending, quiet, seen = (word >> STATUS[name].offset & 1 for name in ("sending", "quiet", "seen"))
            count = word & 0xFFFF
            if new := (count - self.seen) % (1 << 16):
                content = self.from_board.get(self.seen, new).tobytes()
                self.seen = count
                self.port.write(self.faults.to_host(content))
            if not sending and seen == self.go:
                content = self.faults.to_board(self.port.read(wait=bool(quiet) and not new))
                if self.faults.pull:
                    self.port.pull()
                    return
                if self.faults.reset:
                    self.faults.reset = False
                    await self._reset()
                if content:
                    self.to_board.put(np.frombuffer(content, np.uint8)[:, None])
                    self.go ^= 1
                    self.inputs["n_bytes"].put(len(content))
                    self.inputs["go"].put(self.go)
                elif quiet:
                    continue
            await First(ValueChange(self.dut.attention), Timer(POLL_NS, "ns"))

    async def _reset(self):
        """Push the button."""
        self.inputs["reset_n"].put(0)
        await Timer(200, "ns")
        self.inputs["reset_n"].put(1)
        await Timer(1000, "ns")


@cocotb.test()
async def serve(dut):
    """Serve the port named in CROSSTRAIN_PORT."""
    port = Port(Path(os.environ["CROSSTRAIN_PORT"]))
    await VirtualBoard(dut, port, Faults(**json.loads(os.environ["CROSSTRAIN_FAULTS"]))).run()
