"""model.analog.crossbar equals sums of Python integers."""
import numpy as np
import pytest

from model.analog import crossbar, pcm

ROWS, COLS = 13, 9


def naive(plane, weights, is_transpose, first, count):
    plane = plane.T if is_transpose else plane
    return [sum(int(weights[i]) * int(plane[i, j]) for i in range(len(plane))) for j in range(first, first + count)]


def call(plane, weights, is_transpose, first, count):
    out = np.zeros(count, np.int64)
    if is_transpose:
        crossbar.transpose(plane, weights, first, out)
    else:
        crossbar.forward(plane, weights, first, max(1, int(np.abs(plane.astype(np.int64)).max())), out)
    return out.tolist()


@pytest.mark.parametrize("is_transpose", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_equals_naive(is_transpose, dtype):
    rng = np.random.default_rng(1)
    driven, outputs = (COLS, ROWS) if is_transpose else (ROWS, COLS)
    for density in (0.0, 0.1, 0.5, 1.0):
        for first, count in ((0, outputs), (0, 1), (outputs - 1, 1), (3, 4), (0, 0)):
            plane = rng.integers(-32768, 32768, (ROWS, COLS)).astype(dtype)
            weights = (rng.integers(-255, 256, driven) * (rng.random(driven) < density)).astype(np.int32)
            assert call(plane, weights, is_transpose, first, count) == naive(plane, weights, is_transpose, first, count)


@pytest.mark.parametrize("is_transpose", [False, True])
def test_single_lines_at_the_edges(is_transpose):
    plane = np.arange(ROWS * COLS, dtype=np.int32).reshape(ROWS, COLS)
    driven, outputs = (COLS, ROWS) if is_transpose else (ROWS, COLS)
    for line in (0, driven - 1):
        weights = np.zeros(driven, np.int32)
        weights[line] = -3
        assert call(plane, weights, is_transpose, 0, outputs) == naive(plane, weights, is_transpose, 0, outputs)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("g", "w"), [(100 << 16, 255), (2 * pcm.VARIANCE_MAX, 255 * 255), (12 << 12, 127), (1, 1)])
@pytest.mark.parametrize("is_transpose", [False, True])
def test_largest_sum_does_not_overflow(is_transpose, g, w, sign):
    n = 4096
    plane = np.full((1, n) if is_transpose else (n, 1), sign * g, np.int32)
    assert call(plane, np.full(n, w, np.int32), is_transpose, 0, 1) == [sign * n * g * w]


def test_forward_adds_to_its_output():
    out = np.array([5, -5], np.int64)
    crossbar.forward(np.array([[1, 2]], np.int32), np.array([10], np.int32), 0, 2, out)
    assert out.tolist() == [15, 15]
