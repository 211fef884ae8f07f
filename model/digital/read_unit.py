"""Twin of ``hdl.read_unit`` and ``hdl.line_driver``; integers only, compiled.

State: ``lines`` int32 (n_lines,): the signed code of every line driver; ``trains`` int32 (n_lines,): of every train driver;
``step_shift`` int64 (1,): of the train drivers; ``shift_register``: see ``model.digital.shift_register``.
"""
import numpy as np

from model.analog import tile as analog
from model.commands import LinesCommand
from model.compiled import borrowing, compiled
from model.digital.shift_register import dither, leap
from model.events import INDEX
from model.isa import Half, Sequence, Trim

__all__ = ["SEED_CYCLES", "drive", "driven", "fire", "lines_command", "patterns", "point", "read", "read_cycles",
           "slot_thresholds", "trim", "words"]

_DIFFERENCE, _INVERTED = int(Half.DIFFERENCE), int(Half.INVERTED)
_SPREAD = int(Sequence.SPREAD)
SEED_CYCLES = 2
"""Cycles of a SEED."""
_RESET, _RAMP = int(Trim.RESET), int(Trim.RAMP)
_FIRE_PHASE, _FIRES, _FIRED, _TRIM_PHASE, _TRIMS, _RAMPS = (
    INDEX[name] for name in ("phase_fire", "fires", "fired_codes", "phase_trim", "trims", "ramps"))
_DRIVE, _WINDOW, _CONVERT, _READOUT = (INDEX[f"phase_{name}"] for name in ("drive", "window", "convert", "readout"))
_LINE_CYCLES, _SATURATIONS = INDEX["line_cycles"], INDEX["line_saturations"]
_FORWARD, _TRANSPOSE, _SCAN = (INDEX[f"conversions_{name}"] for name in ("forward", "transpose", "scan"))


@borrowing
def lines_command(op, tile, transpose, half=0, select=0, first=0, count=0, address=0, shift=0, steps=0, store=0, trains=0,
                  scaled=0, e=0, dither=0, fine=0, sequence=0, rows=0, down=0, kind=0, line=0, seed=0):
    """LinesCommand with the fields named, ``select`` for its ``range``; the others are 0."""
    return LinesCommand(op, tile, transpose, half, select, first, count, address, shift, steps, store, trains, scaled, e,
                        dither, fine, sequence, rows, down, kind, line, seed)


@borrowing
def words(u, count):
    """Words of ``count`` elements, at least 1."""
    return max(1, (count + u.vector_width - 1) // u.vector_width)


@borrowing
def read_cycles(u, convert_cycles, steps, count):
    """From the accept of a READ to ``ready`` [cycles], waiting for a pulse not counted."""
    return 2 + steps + convert_cycles + words(u, count)


@borrowing
def drive(u, command, vec, exponents, shift_register, lines, step_shift, counters):
    """DRIVE: line first + e = sign(v) min(|v| >> shift, line_max), v = vec[address * vector_width + e]; all others 0.

    With ``trains`` the caller passes the train drivers as ``lines``, and ``step_shift`` takes its part of the shift.
    """
    lines[:] = 0
    shift = np.int64(command.shift)
    if command.scaled:
        shift = max(shift - exponents[command.e], 0)
    if command.trains:
        step_shift[0] = min(max(shift - u.line_bits, 0), command.fine)
        shift -= step_shift[0]
    shift = min(shift, 31)
    added = dither(shift_register[0], shift) if command.dither else 0
    for e in range(command.count):
        v = np.int64(vec[command.address * u.vector_width + e])
        magnitude = abs(v) + added >> shift
        if magnitude > u.line_max:
            magnitude = u.line_max
            counters[_SATURATIONS] += 1
        lines[command.first + e] = -magnitude if v < 0 else magnitude
    cycles = words(u, command.count) + 4
    counters[_DRIVE] += cycles
    return cycles


@borrowing
def point(u, command, lines, counters):
    """POINT: line ``first`` = ``steps``; all others 0."""
    lines[:] = 0
    lines[command.first] = command.steps
    counters[_DRIVE] += 2
    return 2


@compiled
def driven(u, lines, steps):
    """What the lines carry within a window of ``steps``: codes limited to +-steps."""
    if steps >= u.line_max:
        return lines
    return np.minimum(np.maximum(lines, -steps), steps).astype(np.int32)


@borrowing
def count_read(u, command, convert_cycles, lines, counters):
    """Events of a READ; returns its cycles."""
    total = np.int64(0)
    for code in lines:
        total += abs(code)
    counters[_LINE_CYCLES] += total
    counters[_WINDOW] += 2 + command.steps
    counters[_CONVERT] += convert_cycles
    counters[_READOUT] += words(u, command.count)
    whole = command.half == _DIFFERENCE or command.half == _INVERTED
    counters[_SCAN if not whole else _TRANSPOSE if command.transpose else _FORWARD] += command.count
    return read_cycles(u, convert_cycles, command.steps, command.count)


@compiled
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


@borrowing
def slot_thresholds(u, sequence, slot, state):
    """Thresholds of a slot for rows and columns: a line is high in it when its code is larger.

    ``state``: of the shift register, as the train began.
    """
    step = u.line_bits - u.slot_bits
    reverse = 0
    for bit in range(u.slot_bits):
        reverse = reverse << 1 | slot >> bit & 1
    half = 1 << step >> 1
    row, column = (slot << step) + half, (reverse << step) + half
    if sequence == _SPREAD:
        return row, column
    return row ^ state & u.line_max, column ^ state >> u.line_bits & u.line_max


@compiled
def patterns(u, command, lines, trains, shift_register, rows, ups, downs):
    """Slot patterns of a FIRE, uint32 by absolute line; the shift register goes on by a train."""
    rows[:], ups[:], downs[:] = 0, 0, 0
    row_at, col_at = np.zeros(u.slots, np.int64), np.zeros(u.slots, np.int64)
    for slot in range(u.slots):
        row_at[slot], col_at[slot] = slot_thresholds(u, command.sequence, slot, shift_register[0])
    if command.sequence != _SPREAD:
        for _ in range(u.slots):
            shift_register[0] = leap(shift_register[0])
    for line in range(len(rows)):
        code = -lines[line] if command.rows else lines[line]
        if code > 0:
            for slot in range(u.slots):
                rows[line] |= np.uint32(code > row_at[slot]) << np.uint32(slot)
    for line in range(len(ups)):
        code = trains[line]
        pattern = np.uint32(0)
        for slot in range(u.slots):
            pattern |= np.uint32(abs(code) > col_at[slot]) << np.uint32(slot)
        if (code < 0) != (command.down != 0):
            downs[line] = pattern
        else:
            ups[line] = pattern


@compiled
def fire(u, command, tile_constants, tile_state, rngs_program, lines, trains, step_shift, shift_register, counters, tick):
    """FIRE: a coincidence train of all rows and columns; returns its cycles."""
    rows, ups, downs = np.zeros(u.n_rows, np.uint32), np.zeros(u.n_cols, np.uint32), np.zeros(u.n_cols, np.uint32)
    patterns(u, command, lines, trains, shift_register, rows, ups, downs)
    analog.fire(tile_constants, tile_state, rngs_program, command.tile, rows, ups, downs, step_shift[0], tick)
    cycles = u.slots + 3
    counters[_FIRE_PHASE] += cycles
    counters[_FIRES] += 1
    for code in lines:
        counters[_FIRED] += abs(code)
    return cycles


@compiled
def trim(u, command, tile_constants, tile_state, rngs_program, lines, counters, tick):
    """TRIM: one operation on the cells of a line; returns its cycles."""
    analog.trim(tile_constants, tile_state, rngs_program, command.tile, command.transpose, command.line,
                driven(u, lines, command.steps), command.kind, command.steps, command.down, tick)
    cycles = command.steps + 3
    if command.kind == _RESET:
        cycles += u.reset_gap_cycles
    counters[_TRIM_PHASE] += cycles
    counters[_TRIMS] += 1
    counters[_RAMPS] += command.kind == _RAMP
    return cycles
