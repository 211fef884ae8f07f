import dataclasses
import itertools

import numpy as np
import pytest

from model import reference, trainer
from model.datasets import load_digits
from model.experiment import ACTIVATIONS, LOSSES, Experiment

EXPERIMENT = Experiment(dataset="digits", layers=(64, 32, 10), images=1498, epochs=3, seed=3, rate=0.2, rate_decay=0.7)


def loss_of(weights, image, label, loss, activation):
    """Loss in float64, written from its definition."""
    x = np.asarray(image, np.float64)
    for layer, w in enumerate(weights):
        z = x @ w[:-1] + w[-1]
        if layer < len(weights) - 1:
            x = {"sigmoid": 1 / (1 + np.exp(-z)), "tanh": np.tanh(z), "relu": np.clip(z, 0, 4)}[activation]
    y, target = 1 / (1 + np.exp(-z)), np.arange(len(z)) == label
    if loss == "mse":
        return ((target - y) ** 2).sum() / 2
    if loss == "sigmoid-ce":
        return -np.log(np.where(target, y, 1 - y)).sum()
    return np.log(np.exp(z).sum()) - z[label]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_is_that_of_finite_differences(loss, activation):
    rng = np.random.default_rng(5)
    layers = (6, 5, 4, 3)
    weights = tuple((0.7 * rng.standard_normal((n + 1, m))).astype(np.float32)
                    for n, m in itertools.pairwise(layers))
    image, label, rate = rng.random(6).astype(np.float32), 2, 1e-2
    image[3] = 0
    trained = tuple(w.copy() for w in weights)
    reference.train(trained, image[None], np.array([label], np.uint8), np.array([0]), rate, loss, activation)
    exact = [w.astype(np.float64) for w in weights]
    step = 1e-6
    for layer, w in enumerate(exact):
        for at in np.ndindex(w.shape):
            kept = w[at]
            w[at] = kept + step
            above = loss_of(exact, image, label, loss, activation)
            w[at] = kept - step
            below = loss_of(exact, image, label, loss, activation)
            w[at] = kept
            given = (float(trained[layer][at]) - float(weights[layer][at])) / rate
            assert given == pytest.approx(-(above - below) / (2 * step), abs=1e-4)


def test_order_is_the_trainers(monkeypatch):
    data, seen = load_digits(), []
    monkeypatch.setattr(reference, "train", lambda weights, images, labels, order, *_: seen.append(order) or 0)
    reference.run(EXPERIMENT, data)
    for order, expected in zip(seen, trainer.sample_order(EXPERIMENT, len(data.train_images)), strict=True):
        assert (order == expected).all()


def test_rate_falls_with_the_epochs(monkeypatch):
    rates = []
    monkeypatch.setattr(reference, "train", lambda *arguments: rates.append(arguments[4]) or 0)
    reference.run(EXPERIMENT, load_digits())
    assert rates == [EXPERIMENT.rate_of(epoch) for epoch in range(3)]


def test_learns_the_digits():
    result = reference.run(EXPERIMENT, load_digits())
    assert result["test_accuracy"] > 0.94
    assert result["test_accuracies"][-1] == result["test_accuracy"]
    assert result == reference.run(EXPERIMENT, load_digits())


def test_initial_weights_have_the_spread_of_new_devices():
    experiment = dataclasses.replace(EXPERIMENT, layers=(784, 250, 10))
    first, second = reference.initial_weights(experiment)
    assert (first.shape, second.shape, first.dtype) == ((785, 250), (251, 10), np.float32)
    assert first.std() == pytest.approx(np.sqrt(2) * 0.83 / 16, rel=0.01)
    assert abs(first.mean()) < 0.002
    other, _ = reference.initial_weights(dataclasses.replace(experiment, seed=4))
    assert (first != other).all()
