"""The float reference: the network of an experiment in float32, one image per update, no devices, no converters.

Same layers, loss, activation, images, order (``model.trainer.sample_order``) and rate schedule as the unit; equations of
``model/program.py``: all errors of an image first, then ``W += rate * delta * x`` for every layer; the last row of W is the
bias, its input 1. Pixels are 0 to 255 as 0 to 1.

Initial weights: the spread of pairs of new devices, N(0, sqrt(2) init_us[1] / weight_range_us), with capacitors times the gain of
the pairs, from the generator
``numpy.random.default_rng([seed, INIT])``. Loops in numba without fastmath, sums in order of the index.
"""
import numpy as np

from model.compiled import compiled
from model.datasets import Dataset
from model.experiment import ACTIVATIONS, LOSSES, Experiment
from model.trainer import sample_order

__all__ = ["errors", "forward", "initial_weights", "run", "train"]

INIT = 2
"""Purpose of the generator of the initial weights; the order of samples is 1."""
RELU_MAX = 4.0
"""Where relu is clipped, as in ``model/program.py`` [1]."""

_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}
_LOSS = {name: index for index, name in enumerate(LOSSES)}
_SIGMOID, _TANH = _ACTIVATION["sigmoid"], _ACTIVATION["tanh"]
_MSE, _SOFTMAX = _LOSS["mse"], _LOSS["softmax-ce"]
_f = np.float32


def run(experiment: Experiment, data: Dataset) -> dict:
    """Train and test; returns test and training accuracy [1] after the last epoch, and the test accuracy after each."""
    experiment.check_data(data)
    weights = initial_weights(experiment)
    train_images, test_images = _scaled(data.train_images), _scaled(data.test_images)
    tests = min(experiment.test_images or len(test_images), len(test_images))
    train_accuracy, test_accuracies = 0.0, []
    for epoch, order in enumerate(sample_order(experiment, len(train_images))):
        hits = train(weights, train_images, data.train_labels, order, experiment.rate_of(epoch), experiment.loss,
                     experiment.activation)
        train_accuracy = hits / len(order)
        test_accuracies.append(_test(weights, test_images[:tests], data.test_labels, _ACTIVATION[experiment.activation]) / tests)
    return {"test_accuracy": test_accuracies[-1], "train_accuracy": train_accuracy, "test_accuracies": test_accuracies}


def initial_weights(experiment: Experiment) -> tuple[np.ndarray, ...]:
    """Weights of every layer, (inputs + 1, outputs) float32 [1]."""
    tile = experiment.params.tile
    gain = experiment.params.capacitor.pair_gain if experiment.scheme == "capacitor" else 1.0
    sigma = gain * np.sqrt(2) * tile.init_us[1] / tile.weight_range_us
    generator = np.random.default_rng([experiment.seed, INIT])
    return tuple((sigma * generator.standard_normal((n_in + 1, n_out))).astype(np.float32)
                 for n_in, n_out in zip(experiment.layers[:-1], experiment.layers[1:], strict=True))


def train(weights, images, labels, order, rate: float, loss: str, activation: str) -> int:
    """Train on ``images[order]`` (n, inputs) float32, one update each; returns how many were right before their update."""
    return _train(weights, images, labels, order, _f(rate), _LOSS[loss], _ACTIVATION[activation])


def forward(weights, image, activation: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of every layer, and the sums of the last one, before softmax or sigmoid."""
    return _forward(weights, image, _ACTIVATION[activation])


def errors(weights, inputs, z, label: int, loss: str, activation: str) -> list[np.ndarray]:
    """Delta of every layer, the negative derivative of the loss with respect to its sums."""
    return _errors(weights, inputs, z, label, _LOSS[loss], _ACTIVATION[activation])


def _scaled(images):
    return images.astype(np.float32) / _f(255)


@compiled
def _train(weights, images, labels, order, rate, loss, activation):
    hits = 0
    for index in order:
        inputs, z = _forward(weights, images[index], activation)
        hits += z.argmax() == labels[index]
        deltas = _errors(weights, inputs, z, labels[index], loss, activation)
        for layer in range(len(weights)):
            w, x, step = weights[layer], inputs[layer], rate * deltas[layer]
            for i in range(len(x)):
                if x[i] != 0:
                    for j in range(len(step)):
                        w[i, j] += x[i] * step[j]
            for j in range(len(step)):
                w[-1, j] += step[j]
    return hits


@compiled
def _test(weights, images, labels, activation):
    hits = 0
    for index in range(len(images)):
        hits += _forward(weights, images[index], activation)[1].argmax() == labels[index]
    return hits


@compiled
def _forward(weights, image, activation):
    x, inputs = image, [image]
    z = _sums(weights[0], x)
    for layer in range(1, len(weights)):
        x = _activate(z, activation)
        inputs.append(x)
        z = _sums(weights[layer], x)
    return inputs, z


@compiled
def _sums(w, x):
    z = w[-1].copy()
    for i in range(len(x)):
        if x[i] != 0:
            for j in range(len(z)):
                z[j] += x[i] * w[i, j]
    return z


@compiled
def _errors(weights, inputs, z, label, loss, activation):
    last = len(weights) - 1
    y = _softmax(z) if loss == _SOFTMAX else _activate(z, _SIGMOID)
    delta = -y
    delta[label] += _f(1)
    if loss == _MSE:
        delta *= y * (_f(1) - y)
    deltas = [delta]
    for layer in range(last, 0, -1):
        w, x = weights[layer], inputs[layer]
        below = np.zeros(len(x), np.float32)
        for i in range(len(x)):
            for j in range(len(delta)):
                below[i] += w[i, j] * delta[j]
        delta = below * _slope(x, activation)
        deltas.insert(0, delta)
    return deltas


@compiled
def _softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


@compiled
def _activate(z, activation):
    if activation == _SIGMOID:
        return _f(1) / (_f(1) + np.exp(-z))
    if activation == _TANH:
        return np.tanh(z)
    return np.minimum(np.maximum(z, _f(0)), _f(RELU_MAX))


@compiled
def _slope(x, activation):
    """Derivative of an activation by its value."""
    if activation == _SIGMOID:
        return x * (_f(1) - x)
    if activation == _TANH:
        return _f(1) - x * x
    return np.where((x > _f(0)) & (x < _f(RELU_MAX)), _f(1), _f(0))
