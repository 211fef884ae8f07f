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

    def _load(self, program):
        self.table = sequencer.predecode(program.instructions, self.u)
        self.matrices[:] = 0
        for index, descriptor in enumerate(program.matrices):
            self.matrices[index] = descriptor

    def _execute(self, entry, loop_count, packets, n_outputs, *, evaluating, time):
        side = self.side
        side.begin(time)
        emitted = vector_unit.new_emitted(2 + max(1, len(packets)) * (1 + self.u.n_lines))
        rngs_read = side.generators.evaluation if evaluating else side.generators.read
        error, pc = sequencer.run(
            self.constants, side.constants, self.params.tile.convert_cycles, self.unit, side.tiles, rngs_read,
            side.generators.program, self.table, self.matrices, entry, loop_count, packets, emitted, side.ledger.arrays,
            side.tick)
        if error == sequencer.STARVED:
            raise RuntimeError("the unit waits for a packet, but there is none left")
        outputs = vector_unit.packets(emitted)
        if not error and self.table[entry, 0] == Opcode.DUMP:
            outputs = [self._dump(self.table[entry, 2])]
        return outputs, error, pc

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
        self.side.ledger.clear(matrices)

    def _check_conservation(self, chi):
        return self.side.ledger.check(lambda matrix: chi[matrix])
