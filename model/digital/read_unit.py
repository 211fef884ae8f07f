"""Twin of ``hdl.read_unit`` and ``hdl.line_driver``; integers only, compiled.

State: ``lines`` int32 (n_lines,): the signed code of every line driver.
"""
import numpy as np
from numba import njit

from model.analog import tile as analog
from model.events import INDEX
from model.isa import Half

__all__ = ["drive", "driven", "point", "read", "read_cycles", "words"]

_DIFFERENCE = int(Half.DIFFERENCE)
_DRIVE, _WINDOW, _CONVERT, _READOUT = (INDEX[f"phase_{name}"] for name in ("drive", "window", "convert", "readout"))
_LINE_CYCLES, _SATURATIONS = INDEX["line_cycles"], INDEX["line_saturations"]
_FORWARD, _TRANSPOSE, _SCAN = (INDEX[f"conversions_{name}"] for name in ("forward", "transpose", "scan"))


@njit(cache=True)
def words(u, count):
    """Words of ``count`` elements, at least 1."""
    return max(1, (count + u.vector_width - 1) // u.vector_width)


@njit(cache=True)
def read_cycles(u, convert_cycles, steps, count):
    """From the accept of a READ to ``ready`` [cycles], waiting for a pulse not counted."""
    return 1 + steps + convert_cycles + words(u, count)


@njit(cache=True)
def drive(u, command, vec, lines, counters):
    """DRIVE: line first + e = sign(v) min(|v| >> shift, line_max), v = vec[address * vector_width + e]; all others 0."""
    lines[:] = 0
    for e in range(command.count):
        v = np.int64(vec[command.address * u.vector_width + e])
        magnitude = abs(v) >> command.shift
        if magnitude > u.line_max:
            magnitude = u.line_max
            counters[_SATURATIONS] += 1
        lines[command.first + e] = -magnitude if v < 0 else magnitude
    cycles = words(u, command.count) + 2
    counters[_DRIVE] += cycles
    return cycles


@njit(cache=True)
def point(u, command, lines, counters):
    """POINT: line ``first`` = ``steps``; all others 0."""
    lines[:] = 0
    lines[command.first] = command.steps
    counters[_DRIVE] += 2
    return 2


@njit(cache=True)
def driven(u, lines, steps):
    """What the lines carry within a window of ``steps``: codes limited to +-steps."""
    if steps >= u.line_max:
        return lines
    return np.minimum(np.maximum(lines, -steps), steps).astype(np.int32)


@njit(cache=True)
def count_read(u, command, convert_cycles, lines, counters):
    """Events of a READ; returns its cycles."""
    total = np.int64(0)
    for code in lines:
        total += abs(code)
    counters[_LINE_CYCLES] += total
    counters[_WINDOW] += 1 + command.steps
    counters[_CONVERT] += convert_cycles
    counters[_READOUT] += words(u, command.count)
    counters[_SCAN if command.half != _DIFFERENCE else _TRANSPOSE if command.transpose else _FORWARD] += command.count
    return read_cycles(u, convert_cycles, command.steps, command.count)


@njit(cache=True)
def read(u, command, tile_constants, convert_cycles, tile_state, rngs_read, lines, vec, counters, codes_out):
    """READ: ``codes_out[:count]`` (int32) = codes, and the vector words from ``address`` on if ``store``.

    ``convert_cycles``: ``TileParams.convert_cycles``; ``rngs_read``: ``Generators.read`` or ``.evaluation``.
    """
    analog.read(
        tile_constants, tile_state, rngs_read, command.tile, driven(u, lines, command.steps), command.transpose, command.half,
        command.range, command.steps, command.first, command.count, codes_out)
    if command.store:
        start = command.address * u.vector_width
        vec[start:start + command.count] = codes_out[:command.count]
    return count_read(u, command, convert_cycles, lines, counters)
