"""Twin of ``hdl.refresh``; integers only, compiled.

State: ``dirty`` uint8 (chi_words,): 1 for a line programmed since its last scan, at index chi_base + line within the matrix.
"""
import numpy as np

from model.commands import LinesOp
from model.compiled import borrowing, compiled
from model.digital import pulse_gen, read_unit
from model.digital.read_unit import lines_command
from model.events import INDEX
from model.isa import Half, Kind

__all__ = ["fill", "is_due", "mark", "scan"]

SCAN_RANGE = 3
"""Range select of half reads."""

_READ, _POINT = LinesOp.READ, LinesOp.POINT
_POSITIVE, _NEGATIVE = int(Half.POSITIVE), int(Half.NEGATIVE)
_SET, _RESET = int(Kind.SET), int(Kind.RESET)
_PHASE, _LINES = INDEX["phase_scan"], INDEX["lines_scanned"]
_REFRESHES, _MISSES = INDEX["refreshes"], INDEX["refresh_misses"]


@borrowing
def mark(dirty, index):
    """A line was programmed (a train without ``refresh`` was accepted)."""
    dirty[index] = 1


@borrowing
def fill(dirty, base, count, value):
    """CLEAR (value 0) or LOAD (1) of a matrix of ``count`` lines; returns cycles."""
    dirty[base:base + count] = value
    return count


@borrowing
def is_due(code_pos, code_neg, high, low):
    """Is a cell with these codes rewritten?"""
    return max(code_pos, code_neg) > high and abs(code_pos - code_neg) < low


@compiled
def _read(u, command, half, first, count, tile_constants, convert_cycles, tile_state, rngs_read, lines, counters, codes):
    read = lines_command(_READ, command.tile, command.walk, half=half, select=SCAN_RANGE, first=first, count=count,
                         steps=command.steps)
    return read_unit.read(u, read, tile_constants, convert_cycles, tile_state, rngs_read, lines, codes, counters, codes)


@compiled
def scan(u, command, tile_constants, convert_cycles, tile_state, rngs_read, rngs_program, lines, dirty, counters, tick):
    """SCAN; programs the tile, leaves ``lines`` pointed at the last line scanned, returns cycles.

    ``tick``: drift tick of all its pulses; ``convert_cycles``, ``rngs_*``: as in ``read_unit.read``, ``pulse_gen.fire``.
    """
    codes = np.zeros((3, max(u.n_rows, u.n_cols)), np.int32)
    one, side, sides = np.ones(1, np.int32), np.zeros(1, np.uint8), np.zeros((2, 1), np.uint8)
    cycles = 2 + command.walk_count
    for line in range(command.walk_count):
        if dirty[command.dirty_base + line] == 0:
            continue
        dirty[command.dirty_base + line] = 0
        counters[_LINES] += 1
        at = command.walk_first + line
        point = lines_command(_POINT, command.tile, command.walk, first=at, steps=command.steps)
        cycles += 3 + read_unit.point(u, point, lines, counters)
        for k, half in enumerate((_POSITIVE, _NEGATIVE)):
            cycles += _read(u, command, half, command.lane_first, command.lane_count, tile_constants, convert_cycles, tile_state,
                            rngs_read, lines, counters, codes[k])
        any_due = False
        for cell in range(command.lane_count):
            difference = codes[0, cell] - codes[1, cell]
            if not is_due(codes[0, cell], codes[1, cell], command.high, command.low):
                continue
            any_due = True
            counters[_REFRESHES] += 1
            cycles += 4
            for half in range(2):
                side[0] = half
                cycles += pulse_gen.fire(u, tile_constants, tile_state, rngs_program, counters, command.tile, command.walk, at,
                                         command.lane_first + cell, _RESET, 1, one, side, sides, tick)
            side[0] = difference < 0
            target, n = abs(difference), 0
            codes[2, 0] = 0
            while target > command.floor and codes[2, 0] < target:
                if n == command.bound:
                    counters[_MISSES] += 1
                    break
                n += 1
                cycles += 2 + pulse_gen.fire(
                    u, tile_constants, tile_state, rngs_program, counters, command.tile, command.walk, at,
                    command.lane_first + cell, _SET, 1, one, side, sides, tick)
                cycles += _read(u, command, _NEGATIVE if side[0] else _POSITIVE, command.lane_first + cell, 1, tile_constants,
                                convert_cycles, tile_state, rngs_read, lines, counters, codes[2])
        if any_due:
            cycles += 2 * read_unit.words(u, command.lane_count)
    counters[_PHASE] += cycles
    return cycles
