"""Update unit: twin of ``hdl/update_unit.py``. Compiled, integers only.

``update`` runs an UPDATE and programs the tile for every due word, in walk order, before it goes on. It is made of ``begin``,
``next_due`` and ``finish``, between which a bench can look at the pulse commands instead (``tests/test_update_unit.py``).

State: ``chi`` int32[chi_words, lanes]; ``vec`` as in ``model/digital/vector_memory.py``; ``exponents`` int64[8];
``dirty`` uint8[chi_words]: index chi_base + line is set when a threshold pulsed that line. A dump is
int32[words * beats, vector_width].

Timing: the cycles of ``model/digital/walker.py``. A due word that is read in cycle r enters the FIFO of pulse commands in cycle
r + 3 and is offered from cycle r + 5 on; the generator takes it when it is ready. In a cycle in which more than PULSE_DEPTH -
IN_FLIGHT commands were in the FIFO the cycle before, no word is issued, and everything before the accumulator waits. The unit is
ready one cycle after FIFO and pulse generator are, and two after the pipeline.
"""
from typing import NamedTuple

import numpy as np

from model.commands import UpdateOp
from model.compiled import borrowing, compiled
from model.digital import pulse_gen
from model.digital.accumulator import accumulate, accumulate_threshold, change
from model.digital.operands import code as operand_code
from model.digital.outer_product import multiplicand
from model.digital.walker import walk
from model.events import INDEX
from model.isa import Kind
from model.ledger import count_commanded

__all__ = ["IN_FLIGHT", "PULSE_DEPTH", "Run", "begin", "clear", "dump", "finish", "handed_over", "load", "new_chi",
           "next_due", "sweep_cycles", "update"]

PULSE_DEPTH = 16
"""Places of the FIFO of pulse commands. ``IN_FLIGHT``: of these, kept free for words on their way, see ``hdl/update_unit.py``."""
IN_FLIGHT = 6
_SET, _DUMP, _LOAD = int(Kind.SET), int(UpdateOp.DUMP), int(UpdateOp.LOAD)
_LANES, _UPDATE, _PROGRAM, _CHI = INDEX["phase_lanes"], INDEX["phase_update"], INDEX["phase_program"], INDEX["phase_chi"]
_RMW, _WORDS, _WALKED, _SKIPPED = INDEX["chi_rmw"], INDEX["chi_words"], INDEX["lines_walked"], INDEX["lines_skipped"]
_CLIPS, _SATURATIONS = INDEX["update_clips"], INDEX["chi_saturations"]


class Run(NamedTuple):
    """An UPDATE under way."""

    lines: np.ndarray
    """int32 (n,): lines walked. ``codes`` int32: their signed codes, without ``negate``."""
    codes: np.ndarray
    reads: np.ndarray
    """int64 (n * words_per_line,): cycle of each word's read, without holds."""
    changes: np.ndarray
    """int32 ((2 outer_max + 1) * words_per_line, lanes): U of code c, group g in row (c + outer_max) * words_per_line + g, made
    for the codes that occur."""
    at: np.ndarray
    """int64 (7,): next word, cycles held so far, cycle in which the pulse generator is ready, cycle ``loaded``, cycle in which
    the pipeline was empty, pulse commands so far, cycle in which the UPDATE may end."""
    pulses: np.ndarray
    """int64 (2, PULSE_DEPTH): cycles in which the last pulse commands entered the FIFO and left it; command n in place
    n % PULSE_DEPTH."""


def new_chi(u) -> np.ndarray:
    """A chi memory of zeros (the RTL's content after power-up is undefined)."""
    return np.zeros((u.chi_words, u.lanes), np.int32)


@compiled
def begin(u, command, vec, exponents, counters):
    """Walk the vectors; returns the Run."""
    width, groups, count = u.vector_width, command.words_per_line, command.walk_count
    sweep = command.accumulate == 0
    lines, codes = np.empty(count, np.int32), np.empty(count, np.int32)
    reads, at = np.empty(count * groups, np.int64), np.zeros(7, np.int64)
    n, at[3], idle = walk(u, command, vec, sweep, lines, codes, reads)
    at[4] = 1 + max(1, idle, reads[n * groups - 1] + 3 if n else 0)
    at[6] = at[4] + 1
    lane_codes = np.zeros(groups * u.lanes, np.int32)
    if not sweep:
        base, shift = command.lane_src * width, command.lane_shift
        for k in range(min(command.lane_count, groups * u.lanes)):
            lane_codes[k] = operand_code(u, vec[base + k], shift)
    grouped = lane_codes.reshape((groups, u.lanes))
    changes = np.empty(((2 * u.outer_max + 1) * groups, u.lanes), np.int32)
    clipped = np.full(2 * u.outer_max + 1, -1)           # -1: the code did not occur yet
    clips = 0
    for k in range(n):
        place = codes[k] + u.outer_max
        if clipped[place] < 0:
            t, clipped[place] = multiplicand(u, abs(codes[k]), command.rate, exponents[command.e] + command.exponent)
            t = t if (codes[k] > 0) != (command.negate != 0) else -t
            for group in range(groups):
                change(u, t, grouped, group, changes, place * groups + group)
        clips += clipped[place]
    counters[_WALKED] += n
    counters[_SKIPPED] += count - n
    counters[_CLIPS] += clips
    counters[_RMW] += n * groups
    return Run(lines[:n], codes[:n], reads, changes, at, np.zeros((2, PULSE_DEPTH), np.int64))


@borrowing
def next_due(u, command, run, chi, counters, counts, negative):
    """Go on to the next due word, whose pulses are in ``counts`` int32 (lanes,), ``negative`` uint8 (lanes,).

    Returns (line, group) within the matrix, or (-1, -1) at the end. Without ``threshold`` no word is due.
    """
    groups = command.words_per_line
    lines, codes, reads, changes, at, pulses = run
    for k in range(at[0], lines.shape[0] * groups):
        n, group = k // groups, k % groups
        if at[5] > PULSE_DEPTH - IN_FLIGHT:
            at[1] = _held(reads[k], at[1], at[5], pulses)
        row, word = (codes[n] + u.outer_max) * groups + group, command.chi_base + lines[n] * groups + group
        if command.threshold:
            if accumulate_threshold(u, changes, row, chi, word, counts, negative):
                at[0] = k + 1
                return lines[n], group
        else:
            counters[_SATURATIONS] += accumulate(u, changes, row, chi, word)
    at[0] = lines.shape[0] * groups
    return -1, -1


@borrowing
def _held(read, held, newest, pulses):
    """Cycles held so far, ``held``, once there are places in the FIFO for the word whose read is in cycle ``read`` without."""
    entered, left = pulses
    while True:
        before = read + held - 3                        # what a register shows two cycles before the issue happened before that
        if left[(newest - 1 - PULSE_DEPTH + IN_FLIGHT) % PULSE_DEPTH] <= before:     # they leave in order: no more are left
            return held
        waiting = 0
        for n in range(max(0, newest - PULSE_DEPTH), newest):
            waiting += entered[n % PULSE_DEPTH] <= before < left[n % PULSE_DEPTH]
        if waiting <= PULSE_DEPTH - IN_FLIGHT:
            return held
        held += 1


@borrowing
def handed_over(run, pulse_cycles):
    """Account for the pulse command of the word that ``next_due`` returned: the generator takes ``pulse_cycles``."""
    place = run.at[5] % PULSE_DEPTH
    run.pulses[0, place] = run.reads[run.at[0] - 1] + run.at[1] + 3
    run.pulses[1, place] = max(run.pulses[0, place] + 2, run.at[2])
    run.at[2] = run.pulses[1, place] + pulse_cycles
    run.at[5] += 1


@borrowing
def finish(run, counters):
    """Cycles of the UPDATE."""
    idle = run.at[4] + run.at[1]
    end = max(run.at[6] + run.at[1], run.at[2] + 1)
    program = run.at[1] + max(0, run.at[2] + 1 - idle)
    counters[_LANES] += run.at[3]
    counters[_PROGRAM] += program
    counters[_UPDATE] += end - program - run.at[3]
    return end


@compiled
def update(u, command, vec, exponents, chi, dirty, net, tile_constants, tile_state, rngs_program, counters, tick):
    """Run an UPDATE; returns its cycles. ``rngs_program``: ``Generators.program``; ``net``: see ``model.ledger``."""
    run = begin(u, command, vec, exponents, counters)
    counts, negative, sides = np.zeros(u.lanes, np.int32), np.zeros(u.lanes, np.uint8), np.zeros((2, u.lanes), np.uint8)
    while True:
        line, group = next_due(u, command, run, chi, counters, counts, negative)
        if line < 0:
            return finish(run, counters)
        dirty[command.chi_base + line] = 1
        count_commanded(net[command.tile], command.walk, command.walk_first + line, command.lane_first + group * u.lanes, counts,
                        negative)
        handed_over(run, pulse_gen.fire(
            u, tile_constants, tile_state, rngs_program, counters, command.tile, command.walk, command.walk_first + line,
            command.lane_first + group * u.lanes, _SET, 0, counts, negative, sides, tick))


@borrowing
def sweep_cycles(u, command):
    """CLEAR, DUMP and LOAD: cycles without waiting for the host."""
    words, parts = command.walk_count * command.words_per_line, (u.lanes + u.vector_width - 1) // u.vector_width
    if words == 0:
        return 3
    if command.op == _DUMP:
        return words * (parts + 3) + 13
    return words * (parts + 1) + 16 if command.op == _LOAD else words + 16


@borrowing
def clear(u, command, chi, counters):
    """CLEAR; returns its cycles."""
    words = command.walk_count * command.words_per_line
    chi[command.chi_base:command.chi_base + words] = 0
    cycles = sweep_cycles(u, command)
    counters[_CHI] += cycles
    counters[_WORDS] += words
    return cycles


@compiled
def dump(u, command, chi, out, counters):
    """DUMP into ``out`` int32[words * beats, vector_width]; returns its cycles."""
    words, beats = command.walk_count * command.words_per_line, (u.lanes + u.vector_width - 1) // u.vector_width
    out[:words * beats] = 0
    for word in range(words):
        for lane in range(u.lanes):
            out[word * beats + lane // u.vector_width, lane % u.vector_width] = chi[command.chi_base + word, lane]
    cycles = sweep_cycles(u, command)
    counters[_CHI] += cycles
    counters[_WORDS] += words
    return cycles


@compiled
def load(u, command, chi, data, counters):
    """LOAD from ``data``, the layout of ``dump``; returns its cycles."""
    words, beats = command.walk_count * command.words_per_line, (u.lanes + u.vector_width - 1) // u.vector_width
    for word in range(words):
        group = word % command.words_per_line
        for lane in range(u.lanes):
            value = data[word * beats + lane // u.vector_width, lane % u.vector_width]
            inside = group * u.lanes + lane < command.lane_count
            chi[command.chi_base + word, lane] = min(max(value, -u.chi_max), u.chi_max) if inside else 0
    cycles = sweep_cycles(u, command)
    counters[_CHI] += cycles
    counters[_WORDS] += words
    return cycles
