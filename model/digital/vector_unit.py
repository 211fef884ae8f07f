"""Twin of ``hdl/vector_unit.py``: one command on the vector memory, its cycles and its events.

Compiled and integer-only. State: ``vec`` int32[vector_words * vector_width], ``luts`` int32[n_luts, 2^lut_bits] (index = signed
index as two's complement), ``exponents`` int64[8] (-128..127), ``peak`` int64[1], ``emitted`` int32[capacity].

``peak`` is the OR of |r| over the elements of the last elementwise, LUT, SUM or PEAK_MAX command: only its bit length is ever
used, and that is the bit length of max |r|.

``emitted`` collects EMIT packets: ``emitted[0]`` is the number of int32 used, itself included; a packet is its length, then its
elements. Start with ``emitted[0] = 1``; read with ``packets``.

Preconditions, not checked (the sequencer refuses such commands): operands inside the vector memory, ``count``, ``count0``,
``count1`` >= 1, ``lut`` < n_luts, ``op`` a VectorOp. GATHER's source wraps around the memory.
"""
import numpy as np
from numba import njit

from model.compiled import borrowing
from model.digital.arith import round_shift, sat
from model.digital.vector_alu import (
    ELEMENT_MAX,
    ELEMENT_MIN,
    combine,
    f,
    lut_index,
    reduce_stages,
    sat16,
    scale_element,
    scale_shift,
)
from model.events import INDEX
from model.isa import BKind, VectorOp

__all__ = ["cycles", "execute", "new_emitted", "packets"]

_SHL, _LUT, _SUM, _PEAK_MAX = int(VectorOp.SHL), int(VectorOp.LUT), int(VectorOp.SUM), int(VectorOp.PEAK_MAX)
_ADD, _SUB, _MUL, _MAX = int(VectorOp.ADD), int(VectorOp.SUB), int(VectorOp.MUL), int(VectorOp.MAX)
_COMPARE = int(VectorOp.COMPARE)
_SCALE, _SET_EXPONENT = int(VectorOp.SCALE), int(VectorOp.SET_EXPONENT)
_GATHER, _EMIT = int(VectorOp.GATHER), int(VectorOp.EMIT)
_VECTOR, _ELEMENT = int(BKind.VECTOR), int(BKind.ELEMENT)
_PHASE, _WORDS, _CLIPS = INDEX["phase_vector"], INDEX["vector_words"], INDEX["vector_saturations"]


@borrowing
def cycles(u, command):
    """Cycles from the acceptance of ``command`` to the next ready, stalls of the output stream apart."""
    words = (command.count + u.vector_width - 1) // u.vector_width
    op = command.op
    if op == _SET_EXPONENT:
        return 1
    if op == _EMIT:
        return words + 2
    if op == _GATHER:
        return command.count0 * command.count1 + 6
    if op == _SUM or op == _PEAK_MAX:
        return words + 5 + reduce_stages(u.vector_width)
    return words + 8 if op == _LUT else words + 6


@borrowing
def execute(u, command, vec, luts, exponents, peak, counters, emitted):
    """Run ``command``; returns its cycles."""
    op, count, shift, width = command.op, command.count, command.shift, u.vector_width
    a, dst = command.a * width, command.dst * width
    words = (count + width - 1) // width
    if op <= _COMPARE:
        kind, base, scalar = command.b_kind, command.b * width, command.imm
        if kind == _ELEMENT:
            scalar = vec[base]
        peak[0], clips = _elementwise(op, vec, dst, a, base, kind == _VECTOR, scalar, count, shift)
        counters[_CLIPS] += clips
    elif op == _SHL:
        peak[0], clips = _shl(vec, dst, a, count, shift & 15)
        counters[_CLIPS] += clips
    elif op == _LUT:
        peak[0] = _lut(vec, dst, a, luts[command.lut], u.lut_bits, count, shift)
    elif op == _SUM or op == _PEAK_MAX:
        peak[0], clips = _reduce(op, vec, dst, a, count, shift)
        counters[_CLIPS] += clips
        words = 1
    elif op == _SCALE:
        n = scale_shift(u.line_bits, peak[0])
        for k in range(count):
            vec[dst + k] = scale_element(u.line_max, vec[a + k], n)
        exponents[command.e_dst] = _wrap8(exponents[command.e_src] + n)
    elif op == _SET_EXPONENT:
        exponents[command.e_dst] = _wrap8(command.imm)
        words = 0
    elif op == _GATHER:
        _gather(u, command, vec, dst)
        words = (command.count0 * command.count1 + width - 1) // width
    elif op == _EMIT:
        _emit(vec, a, count, emitted)
        words = 0
    taken = cycles(u, command)
    counters[_PHASE] += taken
    counters[_WORDS] += words
    return taken


@borrowing
def _wrap8(value):
    return ((value + 128) & 255) - 128


@borrowing
def _elementwise(op, vec, dst, a, b, is_vector, scalar, count, shift):
    """ADD to COMPARE; one loop per operation, so that each compiles to a short body."""
    if op == _ADD:
        return _loop(_ADD, vec, dst, a, b, is_vector, scalar, count, shift)
    if op == _SUB:
        return _loop(_SUB, vec, dst, a, b, is_vector, scalar, count, shift)
    if op == _MUL:
        return _loop(_MUL, vec, dst, a, b, is_vector, scalar, count, shift)
    if op == _MAX:
        return _loop(_MAX, vec, dst, a, b, is_vector, scalar, count, shift)
    return _loop(_COMPARE, vec, dst, a, b, is_vector, scalar, count, shift)


@njit(cache=True, inline="always")
def _loop(op, vec, dst, a, b, is_vector, scalar, count, shift):
    magnitudes, clips = 0, 0
    for k in range(count):
        value = round_shift(f(op, np.int64(vec[a + k]), np.int64(vec[b + k]) if is_vector else np.int64(scalar)), shift)
        result = sat16(value)
        clips += result != value
        magnitudes |= abs(result)
        vec[dst + k] = result
    return magnitudes, clips


@borrowing
def _shl(vec, dst, a, count, shift):
    magnitudes, clips = 0, 0
    for k in range(count):
        value = np.int64(vec[a + k]) << shift
        result = sat16(value)
        clips += result != value
        magnitudes |= abs(result)
        vec[dst + k] = result
    return magnitudes, clips


@borrowing
def _lut(vec, dst, a, table, lut_bits, count, shift):
    magnitudes = 0
    for k in range(count):
        result = np.int64(table[lut_index(lut_bits, np.int64(vec[a + k]), shift)])
        magnitudes |= abs(result)
        vec[dst + k] = result
    return magnitudes


@borrowing
def _reduce(op, vec, dst, a, count, shift):
    total = 0 if op == _SUM else ELEMENT_MIN
    for k in range(count):
        total = combine(op, total, np.int64(vec[a + k]))
    value = round_shift(total, shift)
    result = sat(value, ELEMENT_MIN, ELEMENT_MAX)
    vec[dst] = result
    return abs(result), np.int64(result != value)


@borrowing
def _gather(u, command, vec, dst):
    mask = u.vector_words * u.vector_width - 1
    for i in range(command.count1):
        source = command.element + i * command.stride1
        for j in range(command.count0):
            vec[(dst + i * command.count0 + j) & mask] = vec[(source + j * command.stride0) & mask]


@borrowing
def _emit(vec, a, count, emitted):
    place = emitted[0]
    if place + 1 + count > emitted.size:
        raise IndexError("emitted is too small for the packet")
    emitted[place] = count
    for k in range(count):
        emitted[place + 1 + k] = vec[a + k]
    emitted[0] = place + 1 + count


def new_emitted(capacity: int) -> np.ndarray:
    """A buffer for EMIT packets of ``capacity`` int32, empty."""
    buffer = np.zeros(capacity, np.int32)
    buffer[0] = 1
    return buffer


def packets(emitted: np.ndarray) -> list[np.ndarray]:
    """The packets in ``emitted``, in order; copies."""
    out, place = [], 1
    while place < emitted[0]:
        out.append(emitted[place + 1:place + 1 + emitted[place]].copy())
        place += 1 + int(emitted[place])
    return out
