"""The model backend: the same program on the twins, in one compiled interpreter."""
import numpy as np

from model.analog.side import AnalogSide
from model.digital import host_stream, sequencer, vector_unit
from model.driver import Driver
from model.events import INDEX
from model.isa import Opcode
from model.params import Params

__all__ = ["ModelBackend"]


class ModelBackend(Driver):
    """Twins of the digital unit over the analogue side. seed: root of all generators."""

    name = "model"

    def __init__(self, params: Params, seed: int, follow_all: bool = False):
        super().__init__(params)
        self.constants = params.unit.constants
        self.side = AnalogSide(params, seed, follow_all)
        self.unit = sequencer.new_unit(params.unit)
        self.table = sequencer.predecode([], params.unit)
        self.matrices = np.zeros((params.unit.n_matrices, len(sequencer.MATRIX_FIELDS)), np.int64)
        # of the program that runs or is stopped
        self.entry, self.loop_count, self.packets, self.evaluating = 0, 0, np.zeros((0, 1), np.uint8), False

    def _load(self, program):
        self.unit.stopped[0] = 0
        self.table = sequencer.predecode(program.instructions, self.u)
        self.matrices[:] = 0
        for index, descriptor in enumerate(program.matrices):
            self.matrices[index] = descriptor

    def _execute(self, entry, loop_count, packets, n_outputs, *, evaluating, time, stop_after=None):
        self.side.begin(time)
        self.entry, self.loop_count, self.packets, self.evaluating = entry, loop_count, packets, evaluating
        return self._go(entry, stop_after)

    def _resume(self, stop_after=None):
        return self._go(sequencer.RESUME, stop_after)

    def _stopped(self):
        return bool(self.unit.stopped[0])

    def _go(self, entry, stop_after):
        side = self.side
        emitted = vector_unit.new_emitted(2 + max(1, len(self.packets)) * (1 + self.u.n_lines))
        rngs_read = side.generators.evaluation if self.evaluating else side.generators.read
        error, pc = sequencer.run(
            self.constants, side.constants, self.params.tile.convert_cycles, self.unit, side.tiles, rngs_read,
            side.generators.program, self.table, self.matrices, entry, self.loop_count, self.packets, emitted, side.ledger.arrays,
            side.tick, -1 if stop_after is None else stop_after)
        if error == sequencer.STARVED:
            raise RuntimeError("the unit waits for a packet, but there is none left")
        if not error and not self._stopped() and self.table[self.entry, 0] == Opcode.DUMP:
            return [self._dump(self.table[self.entry, 2])], error, pc
        return vector_unit.packets(emitted), error, pc

    def _dump(self, matrix):
        d = self.program.matrices[matrix]
        lines = d.rows if d.walk == 0 else d.cols
        words = self.unit.chi[d.chi_base:d.chi_base + lines * d.words_per_line]
        return host_stream.dump_packet(self.constants, words).view("<i2")

    def _counters(self, names):
        return [int(self.unit.counters[INDEX[name]]) for name in names]

    def _digest_parts(self):
        return self.side.digest_parts()

    def _dirty(self):
        return self.unit.dirty.copy()

    def _side_state(self):
        return self.side.state()

    def _restore_side(self, state, dirty):
        self.side.restore(state)

    def _clear_ledger(self, matrices):
        self.side.clear_ledger(matrices)

    def _check_transfers(self, transfers, trains, trims):
        return self.side.check_transfers(transfers, trains, trims)

    def _check_conservation(self, chi):
        return self.side.ledger.check(lambda matrix: chi[matrix])
