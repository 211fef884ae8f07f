"""Cycles of a training image as the data path predicts them: the timing formulas in the docstrings of ``hdl/``, in series."""
import numpy as np

from model import trainer
from model.datasets import Dataset
from model.experiment import Experiment
from model.isa import Opcode, VectorOp, Walk, decode
from model.program import Program

__all__ = ["DRAIN", "PARTS", "empty_words", "predicted"]

PARTS = ("windows", "walked words", "words of vectors", "fixed latencies")
_REDUCTIONS = (VectorOp.SUM, VectorOp.PEAK_MAX)
_WALK_WORDS_FIRST = 4
"""Words of the walked vector that an UPDATE fetches before its last lanes, empty ones apart [1]: ``hdl/operands.py``."""
_LOADED, _FILL, DRAIN = 4, 11, 5
"""Cycles of an UPDATE from the last of these words to the walk; at least from the first non-empty one to the walk; after the last
chi word [cycles]: ``model/digital/walker.py``, ``hdl/update_unit.py``."""


def predicted(program: Program, walked_words: float, empty: np.ndarray, convert_cycles: int) -> dict[str, float]:
    """Cycles of a training image by PARTS, pulses, refresh and dispatch left out: the formulas of ``hdl/`` in series.

    walked_words: chi words of an image's updates, a mean over images; empty: ``empty_words``, one per image. Vector commands
    between a DRIVE and its READ run beside it: the longer of the two counts.
    """
    total, drive, beside = np.zeros(4), None, np.zeros(4)
    start = program.entries["train_one"] + 2                         # after ACCEPT and WAIT
    for word in program.instructions[start:]:
        opcode, _, operands = decode(word)
        if opcode == Opcode.HALT:
            break
        cycles = np.array(_parts(program, opcode, operands, empty, convert_cycles), float)
        if opcode == Opcode.DRIVE:
            drive = cycles
        elif opcode == Opcode.VECTOR and drive is not None:
            beside += cycles
        else:
            total += cycles
            if drive is not None:
                total += max(drive, beside, key=np.sum)
                drive, beside = None, np.zeros(4)
    total[1] += walked_words
    return dict(zip(PARTS, total.tolist(), strict=True))


def _parts(program, opcode, operands, empty, convert_cycles):
    """Cycles of one instruction by PARTS, without the walked words of an UPDATE."""
    width = program.params.unit.vector_width

    def words(count):
        return -(-count // width)

    if opcode == Opcode.VECTOR:
        fixed = 5 + width.bit_length() if operands["op"] in _REDUCTIONS else 6 + 2 * (operands["op"] == VectorOp.LUT)
        return 0, 0, words(operands["count"]), fixed
    if opcode == Opcode.EMIT:
        return 0, 0, words(operands["count"]), 2
    d = program.matrices[operands["matrix"]]
    if opcode == Opcode.DRIVE:
        return 0, 0, words(d.cols if operands["transpose"] else d.rows), 4
    if opcode == Opcode.READ:
        count = operands["count"] or (d.rows if operands["transpose"] else d.cols)
        return operands["steps"] or program.params.unit.line_max, 0, words(count), 2 + convert_cycles
    assert opcode == Opcode.UPDATE, opcode
    walk, lanes = (words(side) for side in ((d.rows, d.cols) if d.walk == Walk.ROWS else (d.cols, d.rows)))
    before = empty if operands["matrix"] == 0 and d.walk == Walk.ROWS else np.zeros(1, int)
    fetched = np.minimum(np.minimum(before - before % 2 + _WALK_WORDS_FIRST, 2 * lanes), walk) + lanes
    first_word = before + np.minimum(before // 2, lanes)
    return 0, 0, fetched.mean(), np.maximum(_LOADED, first_word + _FILL - fetched).mean() + DRAIN


def empty_words(experiment: Experiment, data: Dataset) -> np.ndarray:
    """Vector words of each training image before its first pixel whose operand in the outer product is not 0: int, (n,)."""
    u = experiment.params.unit
    chosen = next(trainer.sample_order(experiment, len(data.train_labels)))
    lines = data.train_images[chosen] >> (8 - u.line_bits)
    counts = lines + (1 << u.line_bits - u.outer_bits >> 1) >= 1 << u.line_bits - u.outer_bits
    first = np.where(counts.any(axis=1), counts.argmax(axis=1), data.n_features)          # at last the bias
    return first // u.vector_width
