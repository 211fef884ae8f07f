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
from cosim.waves import vcd_to_fst
from model.driver import Driver
from model.params import Params, ParamsError

__all__ = ["WAVE_IMAGES", "RtlBackend"]


WAVE_IMAGES = 2
"""Images in the window of ``waves``: the first ones of the training [1]."""

CONVERT_CYCLES_MIN = 2
"""Cycles the bench needs from the convert strobe to the first code [cycles]: ``attention``, then the read port of ``codes``."""


class RtlBackend(Driver):
    """Cosimulation of the whole unit.

    seed: root of all generators; waves: FST file for a window, the first WAVE_IMAGES images trained, which a second, traced
    simulation repeats; follow_all: the ledger follows every weight; gated: the wide units' clocks stop while they are idle
    (faster, equal results); fast: compile for speed (long runs) or compile fast (tests); trace: FST file for all of this
    simulation; record: file for everything that is written to this simulation (``cosim.recording``).
    """

    name = "rtl"

    def __init__(self, params: Params, seed: int, *, waves: Path | None = None, follow_all: bool = False, gated: bool = True,
                 fast: bool = True, trace: Path | None = None, record: Path | None = None):
        super().__init__(params)
        if params.tile.convert_cycles < CONVERT_CYCLES_MIN:
            raise ParamsError(f"tile.convert_cycles = {params.tile.convert_cycles}: the bench answers a convert strobe after "
                              f"{CONVERT_CYCLES_MIN} cycles at the earliest; raise it or use the backend model")
        self.seed, self.waves, self.fast, self.trace = seed, waves, fast, trace
        self.held = False                              # a program is stopped
        sources, visible = bench_verilog(params)
        self.folder = build("unit", sources, "bench", public=visible, fast=fast, timing=True, waves=trace is not None)
        self.place = Path(tempfile.mkdtemp(prefix="crosstrain-"))
        key = secrets.token_bytes(16)
        with Listener(str(self.place / "socket"), "AF_UNIX", authkey=key) as listener:
            env = {"CROSSTRAIN_SOCKET": str(self.place / "socket"), "CROSSTRAIN_KEY": key.hex(),
                   "CROSSTRAIN_RECORD": str(record.resolve()) if record else ""}
            self.process = start_cocotb(self.folder, "bench", "cosim.simulator", self.place, env, waves=trace is not None)
            self.connection = self._accept(listener)
        self._call_raw((params.to_json(), seed, follow_all, gated))

    def run(self, entry, packets):
        """See ``Driver.run``; the first training also writes ``waves``."""
        if self.waves is not None and entry == "train":
            waves, self.waves = self.waves, None
            window = RtlBackend(self.params, self.seed, fast=self.fast, trace=waves)
            try:
                window.configure(self.program)
                window.execute("clear")
                window.run("train", packets[:WAVE_IMAGES])
            finally:
                window.close()
        return super().run(entry, packets)

    def inject(self, fault: str) -> None:
        """Test the checks: ``lose_pulse`` drops the next SET pulse of a threshold on its way to the tile, ``lose_train`` the next
        train, ``move_trim`` has the next TRIM act on the line after its own.
        """
        self._call("inject", fault)

    def cpu_seconds(self) -> float:
        """CPU time of this process and the simulator so far [s]."""
        return super().cpu_seconds() + self._call("cpu_seconds")

    def mark(self) -> None:
        """Mark this place in the recording, see ``cosim.recording``."""
        self._call("mark")

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

    def _execute(self, entry, loop_count, packets, n_outputs, *, evaluating, time, stop_after=None):
        *result, self.held = self._call("execute", entry, loop_count, packets, evaluating, time, stop_after)
        return result

    def _resume(self, stop_after=None):
        *result, self.held = self._call("resume", stop_after)
        return result

    def _stopped(self):
        return self.held

    def _counters(self, names):
        return self._call("counters", names)

    def _digest_parts(self):
        return self._call("digest_parts")

    def _after(self, entry, *result):
        """See ``Driver._after``; CLEAR and SCAN leave no line marked."""
        outputs = super()._after(entry, *result)
        if entry in ("clear", "scan") and not self.stopped:
            self._call("set_programmed", set())
        return outputs

    def _dirty(self):
        return self._dirty_map(self._call("get_programmed"))

    def _side_state(self):
        return self._call("side_state")

    def _restore_side(self, state, dirty):
        self._call("restore_side", state)
        self._call("set_programmed", self._programmed(dirty))

    def memory(self):
        """See ``Driver.memory``; the simulator holds the devices."""
        return {**super().memory(), "simulator": self._call("memory")}

    def _clear_ledger(self, matrices):
        self._call("clear_ledger", matrices)

    def _check_transfers(self, transfers, trains, trims):
        return self._call("check_transfers", transfers, trains, trims)

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
        if self.trace is not None and (self.place / "dump.vcd").exists():
            vcd_to_fst(self.place / "dump.vcd", self.trace)
        shutil.rmtree(self.place, ignore_errors=True)
