import gzip
import hashlib
import http.server
import struct
import threading
import time

import numpy as np
import pytest

from model import datasets
from model.errors import InputError


def idx(array):
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def contents(n_train=20, n_test=10):
    generator = np.random.default_rng(0)
    out = {}
    for part, count in (("train", n_train), ("t10k", n_test)):
        out[f"{part}-images-idx3-ubyte"] = idx(generator.integers(0, 256, (count, 28, 28)).astype(np.uint8))
        out[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return out


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "mnist"
    place.mkdir()
    for index, (name, raw) in enumerate(contents().items()):
        if index % 2:
            (place / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (place / name).write_bytes(raw)
    return place


def test_raw_and_gzip_are_read(folder):
    data = datasets.load_mnist(folder)
    raw = contents()
    assert data.train_images.shape == (20, 784)
    assert data.test_images.shape == (10, 784)
    assert data.train_images.dtype == data.train_labels.dtype == np.uint8
    assert data.train_images.tobytes() == raw["train-images-idx3-ubyte"][16:]
    assert data.test_labels.tolist() == list(range(10))
    assert (data.n_features, data.n_classes) == (784, 10)


TRAIN = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(("name", "damage", "message"), [
    (TRAIN, lambda raw: raw[:-1], r"15679 bytes of data, its header says 20x28x28 = 15680"),
    (TRAIN, lambda raw: raw + b"\0", r"15681 bytes of data"),
    (TRAIN, lambda raw: raw[:10], r"10 bytes, too short for the 16 bytes of an IDX header"),
    (TRAIN, lambda raw: b"", r"0 bytes, too short"),
    (TRAIN, lambda raw: b"\0\0\x09\x03" + raw[4:], r"magic 0x00000903, not 0x00000803"),
    (TRAIN, lambda raw: contents()[LABELS], r"magic 0x00000801, not 0x00000803|too short"),
    (TRAIN, lambda raw: idx(np.zeros((20, 27, 28), np.uint8)), r"27x28 pixels, not 28x28"),
    (TRAIN, lambda raw: idx(np.zeros((0, 28, 28), np.uint8)), r"empty, its header says 0x28x28"),
    (TRAIN, lambda raw: gzip.compress(raw)[:-20], r"cannot be read"),
    (TRAIN, lambda raw: gzip.compress(raw)[:60] + b"\xff" * 40 + gzip.compress(raw)[100:], r"cannot be read"),
    (LABELS, lambda raw: idx(np.zeros(19, np.uint8)), r"20 train images but 19 labels"),
    (LABELS, lambda raw: idx(np.full(20, 10, np.uint8)), r"train label 10 is not a digit"),
])
def test_broken_files_are_named(folder, name, damage, message):
    for suffix in ("", ".gz"):
        (folder / (name + suffix)).unlink(missing_ok=True)
    (folder / name).write_bytes(damage(contents()[name]))
    with pytest.raises(InputError, match=message) as caught:
        datasets.load_mnist(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_missing_file_is_named(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte .* is missing"):
        datasets.load_mnist(folder)


def test_mnist_dir_comes_first(folder, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", str(folder))
    assert datasets.load("auto").source == str(folder)
    assert datasets.load("mnist").source == str(folder)


def test_mnist_dir_without_mnist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"MNIST_DIR=.*holds none of"):
        datasets.load("auto")


def test_search_order(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MNIST_DIR", raising=False)
    root = tmp_path / "project"
    shared = tmp_path / "shared"
    own = root / "data" / "mnist"
    assert datasets.find_mnist(root) is None
    shared.mkdir()
    folder.rename(shared / "mnist")
    assert datasets.find_mnist(root) == shared / "mnist"
    own.mkdir(parents=True)
    assert datasets.find_mnist(root) == shared / "mnist"
    (own / TRAIN).write_bytes(b"")
    assert datasets.find_mnist(root) == own


def test_auto_does_not_hide_broken_files(folder, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", str(folder))
    (folder / TRAIN).write_bytes(b"")
    with pytest.raises(InputError, match="too short"):
        datasets.load("auto")


def test_unknown_dataset():
    with pytest.raises(InputError, match=r"unknown dataset 'mnits': allowed are auto, mnist, digits"):
        datasets.load("mnits")


def test_digits_split_and_scale():
    data = datasets.load("digits")
    assert data.train_images.shape == (1498, 64)
    assert data.test_images.shape == (299, 64)
    assert data.train_images.max() == 255
    assert set(np.unique(data.train_images)) == {(value * 255 + 8) // 16 for value in range(17)}
    assert np.bincount(data.test_labels).min() >= 20
    assert (datasets.load("digits").test_labels == data.test_labels).all()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror on loopback; the test puts its files into the returned folder."""
    place = tmp_path / "mirror"
    place.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(place))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets, "MIRRORS", (f"http://127.0.0.1:{server.server_port}",))
    monkeypatch.setattr(datasets, "MNIST_FILES", {
        name: hashlib.sha256(raw).hexdigest() for name, raw in contents().items()})
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for name, raw in contents().items():
        (place / f"{name}.gz").write_bytes(gzip.compress(raw))
    yield place
    server.shutdown()
    server.server_close()


def test_download(mirror, tmp_path):
    target = tmp_path / "data" / "mnist"
    assert datasets.download_mnist(target) == target
    assert datasets.load_mnist(target).train_labels.tolist() == [index % 10 for index in range(20)]
    assert sorted(path.name for path in target.iterdir()) == sorted(f"{name}.gz" for name in contents())


def test_download_with_wrong_digest_leaves_nothing(mirror, tmp_path):
    (mirror / f"{TRAIN}.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(InputError, match=f"{TRAIN} has the wrong sha256"):
        datasets.download_mnist(tmp_path / "data" / "mnist")
    assert not (tmp_path / "data").exists()


def test_download_that_fails_half_way_leaves_nothing(mirror, tmp_path):
    (mirror / f"{TRAIN}.gz").unlink()
    with pytest.raises(InputError, match=r"cannot be downloaded .*File not found"):
        datasets.download_mnist(tmp_path / "data" / "mnist")
    assert not (tmp_path / "data").exists()


def test_mirror_that_never_answers(tmp_path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda *args, **kwargs: released.wait(20))
    monkeypatch.setattr(datasets, "CONNECT_LIMIT_S", 0.2)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"no answer within 0\.2 s"):
        datasets.download_mnist(tmp_path / "mnist")
    assert time.monotonic() - start < 5
    released.set()


def test_time_without_a_network_is_bounded():
    assert len(datasets.MIRRORS) * datasets.CONNECT_LIMIT_S < 10


def test_auto_falls_back_with_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setattr(datasets, "find_mnist", lambda: None)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", refuse)
    said = []
    assert datasets.load("auto", say=said.append).name == "digits"
    assert len(said) == 1
    assert "\n" not in said[0]
    assert "using the 8x8 digits" in said[0]
    with pytest.raises(InputError, match=r"cannot be downloaded .*network is unreachable"):
        datasets.load("mnist", say=said.append)
    assert len(said) == 1


def mnist_of(folder, value, monkeypatch):
    """A MNIST of 20 and 10 images, each pixel ``value``, or random where it is None."""
    if value is not None:
        for part, count in (("train", 20), ("t10k", 10)):
            (folder / f"{part}-images-idx3-ubyte.gz").unlink(missing_ok=True)
            (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(np.full((count, 28, 28), value, np.uint8)))
    monkeypatch.setenv("MNIST_DIR", str(folder))
    return [datasets.load(name) for name in ("mnist", "mnist-22x24", "mnist-backrand")]


def test_inner_pixels(folder, monkeypatch):
    mnist, inner, _ = mnist_of(folder, None, monkeypatch)
    for whole, cut in ((mnist.train_images, inner.train_images), (mnist.test_images, inner.test_images)):
        assert (cut.reshape(-1, 22, 24) == whole.reshape(-1, 28, 28)[:, 3:25, 2:26]).all()
    assert (inner.train_labels == mnist.train_labels).all()


def test_random_background_is_uniform_and_below_the_digit(folder, monkeypatch):
    """Over black images the background is all there is: uniform from 0 to 255, each image's own, the same at every load."""
    _, inner, noisy = mnist_of(folder, None, monkeypatch)
    _, _, background = mnist_of(folder, 0, monkeypatch)
    _, _, again = mnist_of(folder, 0, monkeypatch)
    for digits, both, noise, repeated in zip(*((data.train_images, data.test_images)
                                               for data in (inner, noisy, background, again)), strict=True):
        assert (both == np.maximum(digits, noise)).all()
        assert (noise == repeated).all()
        assert len(np.unique(noise, axis=0)) == len(noise)
        counts = np.bincount(noise.ravel(), minlength=256)
        expected = noise.size / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)
