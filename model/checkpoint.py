"""Checkpoints: a run that was stopped goes on, on either backend, and ends as if nothing had happened.

They lie beside the run's directory, in ``<OUT>.checkpoint/images-<trained>.ckpt``, the last two, and go when the run is whole.
A file is one line of JSON, ``{"format": "crosstrain checkpoint", "version": 2, "bytes": n, "sha256": digest of these bytes}``,
then n bytes: arrays as ``numpy.savez`` writes them (without the line it is an .npz file), each integer array in the narrowest
type that holds it:

==================  =======================================================================================================
array               content
==================  =======================================================================================================
meta                JSON: identity (what must be equal to go on, see ``identity_of``), images, total, backend, and trainer:
                    position in the run, counters and wall time of training so far
log                 log.jsonl so far, zlib
hits                the last answers right or wrong, for the running accuracy
chi.<k>, dirty, counters, training_cycles
                    the unit: see ``Driver.state``
side.<name>         devices, generators, ledger: see ``AnalogSide.state``
==================  =======================================================================================================

A file is written under another name, synced, then renamed: it is whole or not there. One that is damaged all the same is named
and the one before it taken.
"""
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.datasets import Dataset
from model.errors import InputError
from model.experiment import Experiment

__all__ = ["DEFAULT_PERIOD", "Checkpoint", "Checkpoints", "DamagedError", "identity_of", "read", "write"]

FORMAT, VERSION = "crosstrain checkpoint", 2
DEFAULT_PERIOD = 10_000
"""Images between two checkpoints [1]."""
KEPT = 2
"""Checkpoints kept [1]."""


class DamagedError(ValueError):
    """A file that is no whole checkpoint; the message says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory."""

    meta: dict
    """``identity``, ``images``, ``total``, ``backend``, ``trainer``."""
    arrays: dict[str, np.ndarray]

    @property
    def log(self) -> bytes:
        """log.jsonl so far."""
        return zlib.decompress(self.arrays["log"].tobytes())


def identity_of(experiment: Experiment, data: Dataset) -> dict:
    """What a resumed run must have in common with the one begun, as plain JSON values by name."""
    sha = hashlib.sha256()
    for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        sha.update(array.tobytes())
    try:
        version = importlib.metadata.version("crosstrain")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    fields = json.loads(json.dumps(experiment.as_dict()))
    build = fields.pop("params")
    for table, values in build.items():
        fields |= {f"{table}.{name}": value for name, value in values.items()}
    return {**fields, "sha256 of the data": sha.hexdigest(), "version of crosstrain": version}


def write(path: Path, checkpoint: Checkpoint):
    """Write a file, whole or not at all."""
    content = io.BytesIO()
    meta = np.frombuffer(json.dumps(checkpoint.meta).encode(), np.uint8)
    np.savez(content, allow_pickle=False, meta=meta, **{name: _narrow(array) for name, array in checkpoint.arrays.items()})
    payload = content.getbuffer()
    head = {"format": FORMAT, "version": VERSION, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(json.dumps(head).encode() + b"\n")
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> Checkpoint:
    """Read a file; raises DamagedError unless every byte of it is as it was written."""
    with path.open("rb") as file:
        try:
            head = json.loads(file.readline(1000))
            known = (head["format"], head["version"]) == (FORMAT, VERSION)
            length, digest = head["bytes"], head["sha256"]
        except (ValueError, KeyError, TypeError):
            raise DamagedError("its first line is not that of a checkpoint") from None
        if not known:
            raise DamagedError(f"it is not a {FORMAT} of version {VERSION}")
        payload = file.read()
    if len(payload) != length:
        raise DamagedError(f"{len(payload)} bytes of {length}")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise DamagedError("its content is not what its digest says")
    with np.load(io.BytesIO(payload), allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    return Checkpoint(json.loads(arrays.pop("meta").tobytes()), arrays)


def _narrow(array: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    return array.astype(np.min_scalar_type(min(low, ~high) if low < 0 else high))


class Checkpoints:
    """The checkpoints of a run; a context manager that leaves no empty directory behind.

    out: the run's directory; log: its log.jsonl; every: images between two, 0: only at a stop; resume: go on from the newest;
    others: directories the run may have been begun under; say: takes a line for the user. Raises InputError when there is
    nothing to go on from, or another run's, or (without ``resume``) when there is something.
    """

    def __init__(self, out: Path, identity: dict, *, backend: str, log: Path, every: int = DEFAULT_PERIOD, resume: bool = False,
                 others: Sequence[Path] = (), say: Callable[[str], None] = lambda line: None):
        if every < 0:
            raise InputError(f"checkpoint = {every}: allowed is 0 (only when stopped) and up")
        self.identity, self.backend, self.log, self.every, self.say = identity, backend, log, every, say
        self.folder = _folder(out)
        self.found: Checkpoint | None = None
        """What the run goes on from."""
        self.stop = False
        """Ctrl-C or SIGTERM has come: the trainer writes a checkpoint and ends."""
        self.kept: list[Path] = []
        self.last = 0
        self.lock: int | None = None
        try:
            if resume:
                self._resume([self.folder, *map(_folder, others)])
            else:
                self._begin()
        except InputError:
            self._unlock()
            raise
        except OSError as error:
            self._unlock()
            raise InputError(f"{self.folder}: the checkpoints cannot be used ({error.strerror})") from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        """Remove the directory if there is nothing in it."""
        for partial in self.folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        self._unlock()

    def due(self, images: int) -> bool:
        """Is it time for one, ``images`` having been trained?"""
        return self.every > 0 and images - self.last >= self.every

    def write(self, images: int, total: int, trainer: dict, arrays: dict[str, np.ndarray]):
        """Write one and keep the one before it; a disk that is full does not end the run."""
        meta = {"identity": self.identity, "images": images, "total": total, "backend": self.backend, "trainer": trainer}
        path = self.folder / f"images-{images:09d}.ckpt"
        self.last = images
        try:
            log = np.frombuffer(zlib.compress(self.log.read_bytes(), 1), np.uint8)
            write(path, Checkpoint(meta, {**arrays, "log": log}))
        except OSError as error:
            self.say(f"{path}: the checkpoint cannot be written ({error.strerror}); the run goes on")
            return
        self.kept = [*(other for other in self.kept if other != path), path][-KEPT:]
        for other in set(_files(self.folder)) - set(self.kept):
            other.unlink()

    def remove(self):
        """Remove all of them: the run is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def stopped(self) -> str:
        """What a run that was stopped has to say."""
        if not self.kept:
            return "stopped: nothing of this run was kept"
        return f"stopped: {self.folder} holds the first {_images(self.kept[-1])} images, RESUME=1 goes on from there"

    @contextmanager
    def deferring_stops(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM set ``stop``; the second one raises KeyboardInterrupt at once."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, self._ask) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)

    def _ask(self, *_):
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

    def _begin(self):
        if files := _files(self.folder):
            raise InputError(f"{self.folder}: holds a run stopped after {_images(files[-1])} images: go on with "
                             f"RESUME=1, or remove this directory to start anew")
        self.folder.mkdir(exist_ok=True)
        self._take(self.folder)

    def _resume(self, folders):
        folder = next((folder for folder in folders if _files(folder)), None)
        if folder is None:
            raise InputError(f"{self.folder}: there is no checkpoint to resume; start without RESUME=1, or give the OUT, "
                             "layers and seed of the run that was stopped")
        self._take(folder)
        self.found = self._newest(folder)
        for name, begun in self.found.meta["identity"].items():
            if (now := self.identity.get(name)) != begun:
                raise InputError(f"{folder}: the run was begun with {name} = {begun}, not {now}: resume it with the same, "
                                 "or start another without RESUME=1")
        if folder != self.folder:
            if self.folder.is_dir():
                self.folder.rmdir()
            folder.rename(self.folder)
            self.kept = [self.folder / path.name for path in self.kept]
        self.last = self.found.meta["images"]

    def _newest(self, folder):
        """The newest whole checkpoint."""
        files = _files(folder)
        while files:
            try:
                found = read(files[-1])
            except DamagedError as error:
                self.say(f"{files.pop()}: damaged ({error}): " + (f"going on from {files[-1].name}" if files else "none is left"))
            else:
                self.kept = files[-KEPT:]
                return found
        raise InputError(f"{folder}: no checkpoint here is whole; remove this directory and start without RESUME=1")

    def _take(self, folder):
        """Lock the directory, for as long as this process lives."""
        self.lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run is using it; wait for its end, or choose another OUT") from None

    def _unlock(self):
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def _folder(out: Path) -> Path:
    """Beside the run's directory."""
    return out.with_name(f"{out.name}.checkpoint")


def _images(path: Path) -> int:
    """Images trained when it was written."""
    return int(path.stem.removeprefix("images-"))


def _files(folder: Path) -> list[Path]:
    """Checkpoints, the oldest first."""
    return sorted(folder.glob("images-*.ckpt"))
