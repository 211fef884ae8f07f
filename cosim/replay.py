"""Bare Verilator: a recording (``cosim.recording``) replayed by ``cosim/replay.cpp``, linked with the objects of the build."""
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from cosim.build import CosimError, use_verilator

__all__ = ["Replay", "build_replay"]

_SOURCE = Path(__file__).with_suffix(".cpp")
_MAKE = """include Vtop.mk
{name}: {source} $(VK_GLOBAL_OBJS) $(VM_PREFIX)__ALL.a
\t$(CXX) $(CXXFLAGS) $(CPPFLAGS) $(OPT_FAST) $^ -lpthread -o $@.unfinished
\tmv $@.unfinished $@
"""
"""Same compiler and flags as the build; without cocotb's library."""


def build_replay(folder: Path) -> Path:
    """The replay program of a build (see ``cosim.build``), beside its objects, kept by content; raises CosimError."""
    source = _SOURCE.read_bytes()
    program = folder / f"replay-{hashlib.sha256(source + _MAKE.encode()).hexdigest()[:16]}"
    use_verilator()
    with (folder / "replay.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        copy, make = program.with_suffix(".cpp"), program.with_suffix(".mk")
        copy.write_bytes(source)
        make.write_text(_MAKE.format(name=program.name, source=copy.name), encoding="utf-8")
        result = subprocess.run(["make", "-f", make.name, f"VERILATOR_ROOT={os.environ['VERILATOR_ROOT']}", program.name],
                                cwd=folder, capture_output=True, text=True)
        if result.returncode:
            raise CosimError(f"build of the replay failed\n{(result.stdout + result.stderr)[-4000:]}")
    return program


class Replay:
    """The replay of a recording, from mark to mark."""

    def __init__(self, folder: Path, recording: Path):
        program = build_replay(folder)
        self.place = Path(tempfile.mkdtemp(prefix="crosstrain-"))
        with (self.place / "log").open("w") as log:
            self.process = subprocess.Popen([str(program), str(recording)], cwd=self.place, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        self.waits = False

    def step(self) -> tuple[float, float]:
        """Go on to the next mark; returns elapsed and CPU time since the last one [s].

        Raises CosimError when the replay is not at every mark where the recording was, or has no further mark.
        """
        assert self.process.stdin
        assert self.process.stdout
        if self.waits:
            with contextlib.suppress(OSError):                   # it may have ended: the answer tells
                self.process.stdin.write("\n")
                self.process.stdin.flush()
        self.waits = True
        if not (line := self.process.stdout.readline()):
            log = (self.place / "log").read_text(encoding="utf-8").strip()
            raise CosimError(log or "replay: the recording has no more marks")
        elapsed, cpu = map(float, line.split())
        return elapsed, cpu

    def close(self) -> None:
        """End the replay."""
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.place, ignore_errors=True)
