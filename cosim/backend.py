"""The rtl backend: the unit's Verilog under Verilator, driven by ``cosim.simulator`` in a process of its own.

Simulated time passes only inside a command. The simulator runs in a session of its own, so that Ctrl-C reaches the trainer alone.
"""
import contextlib
import secrets
import shutil
import tempfile
import threading
from multiprocessing.connection import Listener
from pathlib import Path

from cosim.bench import bench_verilog
from cosim.build import CosimError, build, start_cocotb
from model.driver import Driver
from model.params import Params

__all__ = ["RtlBackend"]


class RtlBackend(Driver):
    """Cosimulation of the whole unit. seed: root of all generators; gated: gated clocks (faster, equal results);
    fast: compile for speed (long runs) or compile fast (tests)."""

    name = "rtl"

    def __init__(self, params: Params, seed: int, *, waves: Path | None = None, follow_all: bool = False, gated: bool = True,
                 fast: bool = True):
        super().__init__(params)
        folder = build("unit", bench_verilog(params), "bench", public=["bench"], parameters={"GATED": int(gated)}, fast=fast, timing=True,
                       waves=waves is not None)
        self.place = Path(tempfile.mkdtemp(prefix="crosstrain-"))
        key = secrets.token_bytes(16)
        with Listener(str(self.place / "socket"), "AF_UNIX", authkey=key) as listener:
            env = {"CROSSTRAIN_SOCKET": str(self.place / "socket"), "CROSSTRAIN_KEY": key.hex()}
            self.process = start_cocotb(folder, "bench", "cosim.simulator", self.place, env)
            self.connection = self._accept(listener)
        self._call_raw((params.to_json(), seed, follow_all))

    def _accept(self, listener):
        """Wait for the simulator's connection; raise CosimError if it ends instead."""
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()), daemon=True)
        thread.start()
        while not accepted:
            thread.join(0.1)
            if self.process.poll() is not None:
                raise CosimError(f"the simulator did not start\n{self._log()}")
        return accepted[0]

    def _log(self):
        log = self.place / "run.log"
        return log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else "(no log)"

    def _call(self, name, *arguments):
        return self._call_raw((name, arguments))

    def _call_raw(self, message):
        try:
            self.connection.send(message)
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            raise CosimError(f"the simulator ended\n{self._log()}") from None
        if kind == "error":
            raise CosimError(value)
        return value

    def _load(self, program):
        self._call("load", program.instructions, program.matrices)

    def _execute(self, entry, loop_count, packets, n_outputs, *, evaluating, tick):
        return self._call("execute", entry, loop_count, packets, evaluating, tick)

    def _counters(self, names):
        return self._call("counters", names)

    def _digest_parts(self):
        return self._call("digest_parts")

    def _clear_ledger(self, matrices):
        self._call("clear_ledger", matrices)

    def _check_conservation(self, chi):
        return self._call("check_conservation", chi)

    def close(self):
        """End the simulator and remove its directory."""
        with contextlib.suppress(OSError, AttributeError):
            self.connection.send(("close", ()))
            self.connection.close()
        process = getattr(self, "process", None)
        if process is not None:
            try:
                process.wait(timeout=10)
            except Exception:
                process.kill()
                process.wait()
        shutil.rmtree(self.place, ignore_errors=True)
