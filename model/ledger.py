"""Conservation: for every weight, sum of updates == eps * (signed SET pulses commanded by thresholds) + chi, exactly.

The ledger is independent of the update unit and of its twin: it recomputes each update from the operand vectors recorded at
UPDATE, with its own formula in plain integers, and counts the pulses that left through the tile port. After ``FULL_IMAGES``
updates of a matrix it goes on with a seeded sample of ``SAMPLE`` weights (an option keeps all). Source: design 3.7.

The capacitor scheme has no accumulators. There, since the last CLEAR or restore, with what the tiles have counted at the cells:
for every weight RECHARGEs == transfers and RESETs >= transfers, nothing of both elsewhere; and as many trains and TRIMs have come
as the unit counts. Source: design choice.
"""
import numpy as np

from model.compiled import borrowing, compiled
from model.isa import Walk
from model.params import UnitParams

__all__ = ["Ledger", "count_commanded", "count_pulse", "record_update"]

FULL_IMAGES = 10_000
"""Updates of a matrix after which only a sample of its weights is followed [1]."""
SAMPLE = 4096
"""Weights of a matrix in the sample [1]."""


@compiled
def record_update(sums, lines, walk_codes, lane_codes, scale, rate, outer_bits, outer_max, update_max):
    """Add one outer product to ``sums`` int64 (walk lines, lanes), for the lines listed in ``lines``.

    walk_codes, lane_codes: signed operands of ``outer_bits``; scale: exponent [log2 chi LSB]; rate: integer learning rate.
    The aligned multiplicand is rounded to 2^-outer_bits chi LSB and limited, the product rounded to the chi LSB.
    """
    n_lanes = lane_codes.shape[0]
    changes = np.empty((2 * outer_max + 1, n_lanes), np.int32)       # of a line with code x in row x + outer_max
    known = np.zeros(2 * outer_max + 1, np.uint8)
    for line in lines:
        x = walk_codes[line]
        if x == 0:
            continue
        row = x + outer_max
        if not known[row]:
            known[row] = 1
            _changes_of(x, lane_codes, scale, rate, outer_bits, outer_max, update_max, changes[row])
        for lane in range(n_lanes):
            sums[line, lane] += changes[row, lane]


@borrowing
def _changes_of(x, lane_codes, scale, rate, outer_bits, outer_max, update_max, out):
    """The change of each weight of a line with code ``x``."""
    limit = update_max * (1 << outer_bits) // outer_max
    shift = scale + outer_bits
    product = abs(x) * rate
    if shift >= 0:
        multiplicand = limit if shift > 40 or product << min(shift, 40) > limit else product << shift
    else:
        multiplicand = (product + (1 << -shift - 1)) >> -shift if shift > -40 else 0
        multiplicand = min(multiplicand, limit)
    for lane in range(lane_codes.shape[0]):
        d = lane_codes[lane]
        change = (multiplicand * abs(d) + (1 << outer_bits - 1)) >> outer_bits
        out[lane] = change if (d > 0) == (x > 0) else -change


@borrowing
def count_pulse(net, walk, line, first, pos, neg):
    """Count one SET pulse of a threshold: ``net`` int32 (rows, cols) of a tile, +1 on G+, -1 on G-; lanes from ``first`` up."""
    for lane in range(pos.shape[0]):
        change = np.int32(pos[lane]) - np.int32(neg[lane])
        if change != 0:
            if walk == 0:
                net[line, first + lane] += change
            else:
                net[first + lane, line] += change


@borrowing
def count_commanded(net, walk, line, first, counts, negative):
    """Count the pulses of one command: counts[lane] SET pulses, on G- where negative[lane]."""
    for lane in range(counts.shape[0]):
        change = -counts[lane] if negative[lane] else counts[lane]
        if change != 0:
            if walk == 0:
                net[line, first + lane] += change
            else:
                net[first + lane, line] += change


class Ledger:
    """Sums of updates per matrix, and signed threshold pulses per tile.

    ``net``: int32 (tiles, rows, cols), written through ``count_pulse`` by whoever hands pulses to the tiles.
    """

    def __init__(self, u: UnitParams, seed: int, follow_all: bool = False):
        self.u, self.follow_all = u, follow_all
        self.random = np.random.default_rng([seed, 7])
        self.net = np.zeros((u.n_tiles, u.n_rows, u.n_cols), np.int32)
        self.matrices, self.sums, self.updates, self.lines = [], [], np.zeros(0, np.int64), []

    def clear(self, matrices):
        """Start again: chi of every matrix is 0 now."""
        self.matrices = list(matrices)
        self.net[:] = 0
        shapes = [(d.rows, d.cols) if d.walk == Walk.ROWS else (d.cols, d.rows) for d in self.matrices]
        self.sums = [np.zeros(shape, np.int64) for shape in shapes]
        self.updates = np.zeros(len(shapes), np.int64)
        self.lines = [np.arange(lines) for lines, _ in shapes]

    @property
    def arrays(self):
        """(sums, followed lines, updates, net) for the compiled interpreter; tuples of at least one array."""
        sums, lines = tuple(self.sums), tuple(self.lines)
        return sums or (np.zeros((0, 0), np.int64),), lines or (np.zeros(0, np.int64),), self.updates, self.net

    def record(self, matrix, walk_codes, lane_codes, scale, rate):
        """Account for one UPDATE (accumulate) of a matrix with the recorded operands."""
        self.updates[matrix] += 1
        record_update(self.sums[matrix], self.lines[matrix], walk_codes, lane_codes, scale, rate,
                      self.u.outer_bits, self.u.outer_max, self.u.update_max)

    def thin(self):
        """Between runs: go on with a sample of lines for matrices that have had FULL_IMAGES updates."""
        for matrix, sums in enumerate(self.sums):
            n_lines, n_lanes = sums.shape
            keep = min(n_lines, -(-SAMPLE // n_lanes))
            if self.updates[matrix] > FULL_IMAGES and len(self.lines[matrix]) > keep and not self.follow_all:
                self.lines[matrix] = np.sort(self.random.choice(n_lines, keep, replace=False))

    def check(self, chi_of) -> tuple[bool, int]:
        """Compare with chi, ``chi_of(matrix)`` int (rows, cols); returns (holds, weights checked)."""
        holds, checked = True, 0
        for index, d in enumerate(self.matrices):
            chi, net = chi_of(index).astype(np.int64), self.net[d.tile, d.row0:d.row0 + d.rows, d.col0:d.col0 + d.cols]
            expected = (self.u.eps * net.astype(np.int64) + chi)
            if d.walk == Walk.COLS:
                expected = expected.T
            lines = self.lines[index]
            holds &= bool(np.array_equal(self.sums[index][lines], expected[lines]))
            holds &= bool(np.abs(chi).max(initial=0) < self.u.eps)
            checked += len(lines) * self.sums[index].shape[1]
        return holds, checked

    def check_transfers(self, rewritten, arrived, transfers, trains, trims, pairs=False) -> tuple[bool, int]:
        """Was every weight transferred once by each transfer, and did all the unit sent come? Returns (holds, weights checked).

        rewritten: int (2, tiles, rows, cols), RESETs and RECHARGEs of every cell; arrived: int (tiles, 2), trains and TRIMs;
        transfers: of all matrices, that have ended; trains, trims: counted by the unit; pairs: without capacitors, then a
        transfer RESETs some of the pairs and recharges nothing.
        """
        resets, recharges = rewritten
        expected = np.full(resets.shape, -1)
        for d in self.matrices:
            expected[d.tile, d.row0:d.row0 + d.rows, d.col0:d.col0 + d.cols] = 0 if pairs else transfers
        holds = (np.array_equal(recharges, np.maximum(expected, 0)) and bool((resets >= expected).all())
                 and (not resets[expected < 0].any() if transfers else not resets.any())
                 and arrived.sum(axis=0).tolist() == [trains, trims])
        return holds, sum(d.rows * d.cols for d in self.matrices)
