"""Walker and operand fetch: twin of ``hdl/walker.py`` and the order of ``hdl/operands.py``. Which line is read in which cycle.

Cycles count from the acceptance of the command (cycle 0) over cycles in which the unit moves: what holds the unit (pulse
generator, streams) is added by ``model/digital/update_unit.py``. With L lane words, w0 empty leading walk words and
n_first = min(2 L, w0 + 4 - w0 % 2, walk words), in cycles:

    address of walk word w    1 + w + min(w // 2, L) for w < n_first; 1 + w + L for the others
    lane codes loaded         n_first + L + 4 (``loaded``)
    walk word w offered       R = 4 after its address, after the word before, and not while DEPTH words wait
    line picked               one per cycle, from R + 1 on; not from the first pick + 5 to ``loaded``: the head waits
    word of chi read          6 cycles after the pick, or one after the lanes are loaded
"""
import numpy as np

from model.compiled import compiled
from model.digital.operands import code as operand_code

__all__ = ["DEPTH", "FRONT", "walk"]

DEPTH = 4
"""Words in the walker's FIFO."""
FRONT = 6
"""Stages from the pick of a line to the read of its chi word [cycles]."""


@compiled
def walk(u, command, vec, sweep, lines, codes, reads):
    """Walk the walk vector; returns (lines walked, cycle ``loaded`` or 0, cycle from which nothing is fetched or walked).

    Writes per walked line its number and signed code (without ``negate``), and per word (line, group) its ``reads`` cycle.
    Arrays of at least walk_count, walk_count and walk_count * words_per_line entries.
    """
    width, groups, count = u.vector_width, command.words_per_line, command.walk_count
    base, shift = command.walk_src * width, command.walk_shift
    n_words = (count + width - 1) // width
    lane_words = 0 if sweep else (command.lane_count + width - 1) // width
    pops = np.zeros(DEPTH, np.int64)                     # cycle in which the last DEPTH non-empty words left the FIFO
    n, n_reads, filled = 0, 0, 0
    loaded, waits, gone = 0, -1, 4                       # gone: word offered last; waits: cycle in which the head waits for lanes
    lanes, empty = 0, n_words                            # lane words fetched; empty leading walk words
    pick = 0
    for w in range(n_words):
        before, lanes = lanes, min(w // 2, lane_words) if w < empty + 4 - empty % 2 else lane_words
        offered = gone + 1 + lanes - before
        if filled >= DEPTH:
            offered = max(offered, pops[filled % DEPTH] + 1)
        gone = offered
        start = n
        for position in range(w * width, min((w + 1) * width, count)):
            signed = 0 if sweep else operand_code(u, vec[base + position], shift)
            if sweep or signed != 0:
                lines[n], codes[n] = position, signed
                n += 1
        if n == start:
            continue
        if start == 0:
            empty = w
            loaded = min(2 * lane_words, w + 4 - w % 2, n_words) + lane_words + 4 if lane_words else 0
        pick = max(pick, offered)
        for _ in range((n - start) * groups):
            pick += 1
            if waits < 0:
                waits = pick + FRONT - 1
            if waits <= pick < loaded:
                pick = loaded
            reads[n_reads] = pick + FRONT if pick >= waits or waits >= loaded else pick + FRONT + loaded - waits
            n_reads += 1
        pops[filled % DEPTH] = pick
        filled += 1
    if n == 0 and lane_words:
        loaded = min(2 * lane_words, n_words) + lane_words + 4
    return n, loaded, max(gone + 1, loaded)
