"""The analogue side of a unit: tiles, generators, the conservation ledger, and the time base of drift.

Both backends keep one: ``model`` in its own process, ``rtl`` in the simulator's. Drift follows unit time on a coarse grid: at the
start of a program the tiles are brought to the tick of the training time reached by then. Source: design 3.3, 3.8.
"""
import hashlib

import numpy as np

from model.analog import tile as analog
from model.ledger import Ledger
from model.params import Params

__all__ = ["AnalogSide", "digest_of"]


class AnalogSide:
    """State of tiles and generators of a run. seed: root of all generators; follow_all: no sampling in the ledger."""

    def __init__(self, params: Params, seed: int, follow_all: bool = False):
        self.params, self.u = params, params.unit.constants
        self.generators = analog.spawn_generators(seed, params.unit.n_tiles)
        self.constants, self.tiles = analog.new_tiles(params, self.generators.init)
        self.ledger = Ledger(params.unit, seed, follow_all)
        self.tick = 0

    def begin(self, tick: int):
        """Before a program: drift to ``tick``, thin the ledger."""
        if tick != self.tick:
            self.tick = tick
            for tile in range(self.params.unit.n_tiles):
                analog.drift(self.constants, self.tiles, tile, tick)
        self.ledger.thin()

    def digest_parts(self) -> list[tuple[str, bytes]]:
        """Names and bytes of the analogue part of a run's digest, pulse totals and generators included."""
        return list(analog.digest_parts(self.tiles, self.generators))


def digest_of(parts: list[tuple[str, bytes]], chi: list[np.ndarray]) -> str:
    """The sha256 of a run: per part its name, length [byte], bytes; then ``chi.<matrix>``, int32 (rows, cols) little endian."""
    sha = hashlib.sha256()
    for name, content in [*parts, *((f"chi.{k}", array.astype("<i4").tobytes()) for k, array in enumerate(chi))]:
        sha.update(f"{name}:{len(content)}:".encode())
        sha.update(content)
    return sha.hexdigest()
