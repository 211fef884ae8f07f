"""A softmax regression in floating point behind the ``Backend`` protocol: drives the trainer's tests without a unit.

Run as a program it is the product's command line on this backend: ``python -m tests.softmax_backend --dataset digits``.
"""
import hashlib
import sys
import time
from types import SimpleNamespace

import numpy as np

from cosim.train import main
from model.events import EVENTS
from model.program import CapacityError

__all__ = ["SoftmaxBackend", "SoftmaxProgram", "compile_softmax", "open_softmax"]


class SoftmaxProgram(SimpleNamespace):
    n_matrices = 1
    accumulates = True

    def upkeep(self, n):
        return "scan"

    def packets(self, entry, images, labels):
        return np.concatenate([images, labels[:, None]], axis=1)


def compile_softmax(experiment, rate):
    if experiment.layers[0] > 1000:
        raise CapacityError("too large")
    return SoftmaxProgram(shape=(experiment.layers[0], experiment.layers[-1]), rate=rate)


class SoftmaxBackend:
    name = "model"

    def __init__(self, sleep_s=0.0):
        self.sleep_s = sleep_s
        self.weights = None
        self.counts = dict.fromkeys((event.name for event in EVENTS), 0)
        self.calls = []
        self.closed = 0

    def configure(self, program):
        self.program = program
        self.calls.append(("configure", program.rate))

    def run(self, entry, packets):
        time.sleep(self.sleep_s)
        self.calls.append((entry, len(packets)))
        x = packets[:, :-1] / 255
        z = np.empty((len(x), self.program.shape[1]))
        for index, (image, label) in enumerate(zip(x, packets[:, -1], strict=True)):
            z[index] = image @ self.weights
            if entry == "train":
                share = np.exp(z[index] - z[index].max())
                delta = (np.arange(len(share)) == label) - share / share.sum()
                self.weights += self.program.rate * np.outer(image, delta)
                self.counts["set_pos"] += 2
                self.counts["phase_program"] += 5
            self.counts["time"] += 100
            self.counts["host_wait"] += 7
        return np.clip(z * 1000, -32768, 32767).astype(np.int16)

    def execute(self, entry):
        self.calls.append((entry, 0))
        if entry == "clear":
            self.weights = np.zeros(self.program.shape)
            self.counts["phase_chi"] += 1000
        else:
            self.counts["phase_scan"] += 50
            self.counts["time"] += 50
            self.counts["refreshes"] += 3

    def chi(self, matrix):
        self.counts["phase_chi"] += 1000
        return np.round(np.tanh(self.weights) * 2047).astype(np.int32)

    def counters(self):
        return dict(self.counts)

    def digest(self):
        return hashlib.sha256(self.weights.tobytes()).hexdigest()

    def conservation(self):
        return True, self.weights.size

    def state(self):
        return {"weights": self.weights.copy(), "counters": np.array(list(self.counts.values()))}

    def restore(self, state):
        self.calls.append(("restore", 0))
        self.weights = state["weights"].copy()
        self.counts = {name: int(value) for name, value in zip(self.counts, state["counters"], strict=True)}

    def memory(self):
        return {"trainer": 1}

    def close(self):
        self.closed += 1


def open_softmax(name, experiment, waves):
    return SoftmaxBackend()


def open_slow(name, experiment, waves):
    return SoftmaxBackend(sleep_s=0.3)


if __name__ == "__main__":
    slow = "--slow" in sys.argv
    sys.exit(main([item for item in sys.argv[1:] if item != "--slow"], open_slow if slow else open_softmax, compile_softmax))
