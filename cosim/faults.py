"""Faults of a line, byte by byte, from a seeded generator: for ``cosim.virtual_board``."""
from dataclasses import dataclass

import numpy as np

from model.errors import InputError

__all__ = ["Faults"]


@dataclass
class Faults:
    """What happens to bytes in either direction.

    flip, drop, double: probability per byte that one of its bits is inverted, that it is lost, that it comes twice [1], 0 to 1;
    reset_after, pull_after: bytes to the board after which its reset button is pushed, or its cable pulled; 0: never; seed.
    """

    flip: float = 0.0
    drop: float = 0.0
    double: float = 0.0
    reset_after: int = 0
    pull_after: int = 0
    seed: int = 1

    def __post_init__(self):
        for name in ("flip", "drop", "double"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name):g}: allowed is 0 to 1, the probability per byte")
        self.random = np.random.default_rng(self.seed)
        self.passed = 0
        self.reset = self.pull = False
        """Due now: whoever acts on it clears ``reset``."""

    def to_board(self, content: bytes) -> bytes:
        """Bytes of the host as they arrive."""
        before, self.passed = self.passed, self.passed + len(content)
        self.reset |= before < self.reset_after <= self.passed
        self.pull |= before < self.pull_after <= self.passed
        return self._spoil(content)

    def to_host(self, content: bytes) -> bytes:
        """Bytes of the board as they arrive."""
        return self._spoil(content)

    def _spoil(self, content):
        if not content or not (self.flip or self.drop or self.double):
            return content
        values = np.frombuffer(content, np.uint8).copy()
        flips = self.random.random(len(values)) < self.flip
        values[flips] ^= 1 << self.random.integers(8, size=int(flips.sum())).astype(np.uint8)
        drops = self.random.random(len(values)) < self.drop
        doubles = self.random.random(len(values)) < self.double
        return np.repeat(values, 1 - drops + doubles * ~drops).tobytes()
