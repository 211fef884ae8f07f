"""The analogue side of a unit: tiles, generators, the conservation ledger, and the time base of drift.

Both backends keep one: ``model`` in its own process, ``rtl`` in the simulator's. Drift and the decay of capacitors follow unit
time on coarse grids: at the start of a program the tiles are brought to the ticks of the training time reached by then.
Source: design 3.3, 3.8.
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
        self.made = self.tiles.g_programmed.copy()
        self.ledger = Ledger(params.unit, seed, follow_all)
        self.tick = self.decay_tick = 0

    def begin(self, time: int):
        """Before a program, ``time`` cycles of unit time into training: drift and decay up to it, thin the ledger."""
        p = self.params
        tick, decay_tick = time >> p.tile.drift_tick_log2, time >> p.capacitor.decay_tick_log2
        if decay_tick != self.decay_tick:
            for tile in range(p.unit.n_tiles):
                analog.decay(self.constants, self.tiles, tile, decay_tick - self.decay_tick)
            self.decay_tick = decay_tick
        if tick != self.tick:
            self.tick = tick
            for tile in range(p.unit.n_tiles):
                analog.drift(self.constants, self.tiles, tile, tick)
        self.ledger.thin()

    def clear_ledger(self, matrices):
        """Start the ledger again for ``matrices``."""
        self.ledger.clear(matrices)
        self.tiles.rewritten[:], self.tiles.arrived[:] = 0, 0

    def check_transfers(self, transfers: int, trains: int, trims: int) -> tuple[bool, int]:
        """See ``Ledger.check_transfers``."""
        return self.ledger.check_transfers(self.tiles.rewritten, self.tiles.arrived, transfers, trains, trims,
                                           pairs=not self.params.capacitor.present)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a run changes here. Devices as they were made from the seed, and their spread, are left out.

        tick, decay_tick; devices (bits: which are in g, n_set and ticks), g, n_set, ticks; pulses; v, v_reference;
        generators.<purpose>, ledger.random: (tiles, 37) bytes as in ``tile.digest_parts``; ledger.net, .updates, .sums.<matrix>,
        .lines.<matrix>.
        """
        tiles, ledger = self.tiles, self.ledger
        changed = (tiles.g_programmed != self.made) | (tiles.n_set != 0) | (tiles.tick != 0)
        return {
            "tick": np.array(self.tick), "decay_tick": np.array(self.decay_tick),
            "devices": np.packbits(changed), "g": tiles.g_programmed[changed], "n_set": tiles.n_set[changed],
            "ticks": tiles.tick[changed], "pulses": tiles.pulses.copy(), "v": tiles.cells.v.copy(),
            "v_reference": tiles.cells.v_reference.copy(),
            **{f"generators.{purpose}": np.stack([_pack(generator) for generator in generators])
               for purpose, generators in self.generators._asdict().items()},
            "ledger.random": _pack(ledger.random), "ledger.net": ledger.net.copy(), "ledger.updates": ledger.updates.copy(),
            **{f"ledger.sums.{k}": sums.copy() for k, sums in enumerate(ledger.sums)},
            **{f"ledger.lines.{k}": lines.copy() for k, lines in enumerate(ledger.lines)},
        }

    def restore(self, state: dict[str, np.ndarray]):
        """Go back to a ``state`` of the same parameters and seed; the ledger has been cleared for the matrices of the run."""
        tiles, ledger = self.tiles, self.ledger
        changed = np.unpackbits(state["devices"], count=self.made.size).astype(bool).reshape(self.made.shape)
        tiles.g_programmed[:], tiles.n_set[:], tiles.tick[:] = self.made, 0, 0
        tiles.g_programmed[changed], tiles.n_set[changed], tiles.tick[changed] = state["g"], state["n_set"], state["ticks"]
        tiles.pulses[:] = state["pulses"]
        tiles.cells.v[:], tiles.cells.v_reference[:] = state["v"], state["v_reference"]
        for purpose, generators in self.generators._asdict().items():
            for generator, packed in zip(generators, state[f"generators.{purpose}"], strict=True):
                _unpack(generator, packed)
        _unpack(ledger.random, state["ledger.random"])
        ledger.net[:], ledger.updates[:] = state["ledger.net"], state["ledger.updates"]
        for k, sums in enumerate(ledger.sums):
            sums[:] = state[f"ledger.sums.{k}"]
            ledger.lines[k] = state[f"ledger.lines.{k}"].astype(np.int64)
        self.tick, self.decay_tick = int(state["tick"]), int(state["decay_tick"])
        for tile in range(len(tiles.g)):
            analog.drift(self.constants, tiles, tile, self.tick)

    def digest_parts(self) -> list[tuple[str, bytes]]:
        """Names and bytes of the analogue part of a run's digest, pulse totals and generators included."""
        return list(analog.digest_parts(self.tiles, self.generators))


def _pack(generator: np.random.Generator) -> np.ndarray:
    s = generator.bit_generator.state
    return np.frombuffer(s["state"]["state"].to_bytes(16, "little") + s["state"]["inc"].to_bytes(16, "little")
                         + bytes([s["has_uint32"]]) + s["uinteger"].to_bytes(4, "little"), np.uint8)


def _unpack(generator: np.random.Generator, packed: np.ndarray):
    def number(first, last):
        return int.from_bytes(packed[first:last].tobytes(), "little")

    generator.bit_generator.state = {
        "bit_generator": "PCG64", "state": {"state": number(0, 16), "inc": number(16, 32)},
        "has_uint32": number(32, 33), "uinteger": number(33, 37)}


def digest_of(parts: list[tuple[str, bytes]], chi: list[np.ndarray]) -> str:
    """The sha256 of a run: per part its name, length [byte], bytes; then ``chi.<matrix>``, int32 (rows, cols) little endian."""
    sha = hashlib.sha256()
    for name, content in [*parts, *((f"chi.{k}", array.astype("<i4").tobytes()) for k, array in enumerate(chi))]:
        sha.update(f"{name}:{len(content)}:".encode())
        sha.update(content)
    return sha.hexdigest()
