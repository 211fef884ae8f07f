"""Image sets as unsigned bytes: MNIST from IDX files (found or downloaded), or the 8x8 digits of scikit-learn.

MNIST is looked for in this order; the first folder that holds any of the four files is taken, and must then be whole:
the folder named by the environment variable ``MNIST_DIR``, ``data/mnist``, ``../shared/mnist`` (both from the project's folder),
then a download into ``data/mnist``. Files may be raw or gzip (``.gz``). Its own split is used: 60,000 for training, 10,000 for
test.

``mnist-22x24`` is MNIST without its outer rows and columns: rows 3 to 24, columns 2 to 25, 528 pixels [papers.md A7]; the
digits lie in the middle 20 x 20. ``mnist-backrand`` has the same pixels over a random background: each is the larger of the
digit's and of a noise that is uniform from 0 to 255, drawn from ``numpy.random.default_rng(BACKRAND_SEED)``, training images
first. Recipe of the noise: Larochelle et al. 2007 (mnist-back-rand); taking the larger one, and MNIST's own split, are design
choices.

The digits are 1,797 images of 64 pixels, 0 to 16, scaled to 0 to 255 by ``(16 p' = 255 p)`` rounded. Every sixth image
(index 5, 11, ...) is for test: 1,498 for training, 299 for test. Source of the split: design choice.
"""
import dataclasses
import gzip
import hashlib
import os
import queue
import struct
import threading
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.errors import InputError
from model.files import write_whole

__all__ = ["DATASETS", "MNIST_FILES", "Dataset", "load", "load_digits", "load_mnist", "read_idx"]

DATASETS = ("auto", "mnist", "digits", "mnist-22x24", "mnist-backrand")

MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The four files and the sha256 of their raw contents, checked after a download."""

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
CONNECT_LIMIT_S = 3.0
"""Longest wait for the first, smallest file of a mirror [s]: two mirrors without a network cost at most twice this."""
DOWNLOAD_LIMIT_S = 60.0
"""Longest wait for each further file [s]."""

BACKRAND_SEED = 2007
"""Seed of the backgrounds of ``mnist-backrand``: they are the same in every run."""

_ROOT = Path(__file__).resolve().parents[1]
_SIDE = 28
_N_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images (n, features) uint8, 0 to 255, and labels (n,) uint8, 0 to n_classes - 1, split for training and test."""

    name: str
    source: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    n_classes: int = _N_CLASSES

    @property
    def n_features(self) -> int:
        """Pixels of an image [1]."""
        return self.train_images.shape[1]


def load(name: str, say: Callable[[str], None] = print, auto: str = "mnist") -> Dataset:
    """Load one of DATASETS; ``auto`` is ``auto`` where MNIST is to be had, and ``say`` receives one line when it falls back to
    the digits.

    ``auto`` falls back only when MNIST is nowhere to be had: files that are found but broken are an error.
    Raises InputError.
    """
    if name not in DATASETS:
        raise InputError(f"unknown dataset {name!r}: allowed are {', '.join(DATASETS)}")
    if name == "digits":
        return load_digits()
    folder = find_mnist()
    if folder is None:
        try:
            folder = download_mnist(_ROOT / "data" / "mnist")
        except InputError as error:
            if name != "auto":
                raise
            say(f"{error}; using the 8x8 digits that come with scikit-learn instead.")
            return load_digits()
    return _made(auto if name == "auto" else name, load_mnist(folder))


def _made(name: str, mnist: Dataset) -> Dataset:
    """``mnist``, or what is made from it."""
    if name == "mnist":
        return mnist
    train, test = (np.ascontiguousarray(images.reshape(-1, _SIDE, _SIDE)[:, 3:25, 2:26].reshape(len(images), -1))
                   for images in (mnist.train_images, mnist.test_images))
    if name == "mnist-backrand":
        generator = np.random.default_rng(BACKRAND_SEED)
        train, test = (np.maximum(images, generator.integers(0, 256, images.shape, np.uint8)) for images in (train, test))
    return dataclasses.replace(mnist, name=name, train_images=train, test_images=test)


def find_mnist(root: Path = _ROOT) -> Path | None:
    """Folder of the first place that holds any MNIST file; raises InputError when MNIST_DIR is set and holds none."""
    if named := os.environ.get("MNIST_DIR"):
        if _holds_any(Path(named)):
            return Path(named)
        raise InputError(f"MNIST_DIR={named}: holds none of {', '.join(MNIST_FILES)} (raw or .gz)")
    return next((folder for folder in (root / "data" / "mnist", root.parent / "shared" / "mnist") if _holds_any(folder)), None)


def _holds_any(folder: Path) -> bool:
    return any((folder / (name + suffix)).is_file() for name in MNIST_FILES for suffix in ("", ".gz"))


def load_mnist(folder: Path) -> Dataset:
    """Read the four IDX files of a folder, raw or gzip; raises InputError naming the file and what is wrong with it."""
    arrays = {}
    for part in ("train", "t10k"):
        images = _read_part(folder, f"{part}-images-idx3-ubyte", 3)
        labels = _read_part(folder, f"{part}-labels-idx1-ubyte", 1)
        if images.shape[1:] != (_SIDE, _SIDE):
            raise InputError(f"{folder}: {part} images are {images.shape[1]}x{images.shape[2]} pixels, not {_SIDE}x{_SIDE}")
        if len(images) != len(labels):
            raise InputError(f"{folder}: {len(images)} {part} images but {len(labels)} labels")
        if labels.max() >= _N_CLASSES:
            raise InputError(f"{folder}: {part} label {labels.max()} is not a digit 0 to {_N_CLASSES - 1}")
        arrays[part] = images.reshape(len(images), -1), labels
    return Dataset(name="mnist", source=str(folder), train_images=arrays["train"][0], train_labels=arrays["train"][1],
                   test_images=arrays["t10k"][0], test_labels=arrays["t10k"][1])


def _read_part(folder: Path, name: str, n_dims: int) -> np.ndarray:
    for path in (folder / name, folder / (name + ".gz")):
        if path.is_file():
            return read_idx(path, n_dims)
    raise InputError(f"{folder}: {name} (or {name}.gz) is missing")


def read_idx(path: Path, n_dims: int) -> np.ndarray:
    """Unsigned bytes of an IDX file, raw or gzip, with ``n_dims`` dimensions.

    Raises InputError when it cannot be read, is not IDX of bytes in ``n_dims`` dimensions, is empty, or when its length is not
    exactly what its header says.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    header = 4 + 4 * n_dims
    if len(raw) < header:
        raise InputError(f"{path}: {len(raw)} bytes, too short for the {header} bytes of an IDX header")
    if (magic := struct.unpack_from(">I", raw)[0]) != 0x800 + n_dims:
        raise InputError(f"{path}: magic {magic:#010x}, not {0x800 + n_dims:#010x} (IDX of bytes in {n_dims} dimensions)")
    shape = struct.unpack_from(f">{n_dims}I", raw, 4)
    n_bytes = 1
    for size in shape:
        n_bytes *= size
    if n_bytes == 0:
        raise InputError(f"{path}: empty, its header says {'x'.join(map(str, shape))}")
    if len(raw) - header != n_bytes:
        raise InputError(f"{path}: {len(raw) - header} bytes of data, its header says {'x'.join(map(str, shape))} = {n_bytes}")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def download_mnist(folder: Path) -> Path:
    """Fetch MNIST into ``folder`` from the first mirror that answers; raises InputError, leaving nothing half-written.

    Each file is checked against its sha256, then written to a temporary name and renamed.
    """
    reasons = []
    for mirror in MIRRORS:
        try:
            contents = {}
            for name, digest in reversed(MNIST_FILES.items()):      # the smallest first: it finds out whether there is a network
                packed = _fetch(f"{mirror}/{name}.gz", DOWNLOAD_LIMIT_S if contents else CONNECT_LIMIT_S)
                if hashlib.sha256(gzip.decompress(packed)).hexdigest() != digest:
                    raise OSError(f"{name} has the wrong sha256")
                contents[name] = packed
            for name, packed in contents.items():
                with write_whole(folder / f"{name}.gz") as path:
                    path.write_bytes(packed)
            return folder
        except (OSError, EOFError, zlib.error) as error:
            reasons.append(f"{mirror.split('/')[2]}: {getattr(error, 'reason', None) or error}")
    raise InputError("MNIST is in none of MNIST_DIR, data/mnist, ../shared/mnist, and cannot be downloaded "
                     f"({'; '.join(reasons)})")


def _fetch(url: str, limit_s: float) -> bytes:
    """Contents of ``url`` within ``limit_s``, name resolution included (which no socket time-out covers); raises OSError."""
    answers: queue.Queue = queue.Queue()

    def work():
        try:
            with urllib.request.urlopen(url, timeout=limit_s) as response:
                answers.put(response.read())
        except Exception as error:          # handed to the caller
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if isinstance(answer, Exception):
        raise answer if isinstance(answer, OSError) else OSError(str(answer))
    return answer


def load_digits() -> Dataset:
    """Load the 8x8 digits of scikit-learn with the split documented above."""
    from sklearn.datasets import load_digits as sklearn_digits  # takes a second: only when needed

    images, labels = sklearn_digits(return_X_y=True)
    images = ((images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    labels = labels.astype(np.uint8)
    test = np.arange(len(images)) % 6 == 5
    return Dataset(name="digits", source="scikit-learn", train_images=images[~test], train_labels=labels[~test],
                   test_images=images[test], test_labels=labels[test])
