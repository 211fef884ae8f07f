"""The directory of a run: whole or absent.

Everything is written into a hidden sibling ``.<name>.partial-<pid>`` and renamed at the end; after an error or Ctrl-C nothing
is left.
An existing directory is replaced only if it is that of an earlier run (it holds ``result.json``) or empty.

Contents: ``params.json`` (experiment and parameters), ``log.jsonl`` (one record of ``model/trainer.py`` per line), ``curve.png``,
``result.json``, and ``waves.fst`` when asked for.
"""
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.curve import draw_curve
from model.errors import InputError

__all__ = ["RunDirectory", "uninterrupted"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C inside: a second one must not stop the clean-up half-way."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class RunDirectory:
    """A run's directory in the making; a context manager that discards what was not committed.

    Raises InputError at once when ``out`` is taken by something else or cannot be written.
    """

    def __init__(self, out: Path):
        self.out = Path(out)
        target = self.target = Path.cwd() / self.out
        self.path = target.with_name(f".{target.name}.partial-{os.getpid()}")
        """Where files are written until ``commit``."""
        try:
            if os.path.lexists(target) and not _replaceable(target):
                raise InputError(f"{out}: exists and is not the directory of an earlier run (no result.json); choose another OUT")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not os.access(target, os.W_OK):
                raise PermissionError(13, "Permission denied")
            self.path.mkdir()
            self.log_path = self.path / "log.jsonl"
            self.log = self.log_path.open("w", encoding="utf-8")
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise InputError(f"{out}: the output directory cannot be written ({error.strerror})") from None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_):
        """Discard what is left."""
        with uninterrupted():
            self.log.close()
            shutil.rmtree(self.path, ignore_errors=True)

    def record(self, entry: dict):
        """Append a record to ``log.jsonl``; progress of an evaluation is left out."""
        if entry["event"] != "test":
            self.log.write(json.dumps(entry) + "\n")
            self.log.flush()

    def resume_log(self, log: bytes):
        """Begin with the log of a run that is resumed; what was left behind where it was killed is removed."""
        self.log.write(log.decode())
        self.log.flush()
        for other in self.path.parent.glob(f".{self.target.name}.partial-*"):
            if not _alive(other.name.rsplit("-", 1)[1]):
                shutil.rmtree(other, ignore_errors=True)

    def write_json(self, name: str, contents: dict):
        """Write a file of the run, sorted and indented."""
        (self.path / name).write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def commit(self, result: dict):
        """Write result and curve, then put the whole directory in its place."""
        self.write_json("result.json", result)
        self.log.close()
        records = [json.loads(line) for line in self.log_path.read_text(encoding="utf-8").splitlines()]
        draw_curve(records, result, self.path / "curve.png")
        with uninterrupted():
            self._rename()

    def _rename(self):
        if not self.target.exists():
            self.path.rename(self.target)
            return
        old = self.path.with_name(f".{self.target.name}.old-{os.getpid()}")
        self.target.rename(old)
        try:
            self.path.rename(self.target)
        except OSError:
            old.rename(self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _alive(pid: str) -> bool:
    """Is there such a process? True when in doubt."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        pass
    return True


def _replaceable(target: Path) -> bool:
    if target.is_symlink() or not target.is_dir():
        return False
    return (target / "result.json").is_file() or not any(target.iterdir())
