"""Compiler of the capacitor scheme: coincidence updates, and the transfer of weights to the PCM pairs, as a program.

Differences from ``model.program``, whose layers, tables and reads it shares:

``train``       an update is DRIVE rows by x | DRIVE columns by rate delta | FIRE: an expected overlap of x delta / slots steps.
``transfer_0``, ``transfer_1``  instead of ``scan``: write every weight to its PCM pair, from the polarity of the capacitor's part
                at present to polarity 0 (added) or 1 (subtracted), line by line.

Transfer of a line (a column), its cells in parallel; a value is the sum of codes of the converter's range 3, in units of a code
divided by the reads of w:

    w = reads, in the old polarity                                      RESET both devices, RECHARGE capacitor and reference
    d = a read, in the new polarity: what the recharged capacitor adds
    t = w - d -+ offset; t = 0 where 0 < +-t < offset (- and < 0 when the new polarity subtracts)       RAMP(t) on G+ or G-
    AGAIN times: e = t0 + d - reads, t0 the first t; where |e| > tolerance: t += e, RESET, RAMP(t)
    e = w - reads; w' = w + (HOLD - 1) e
    twice: e = w' - reads, the second time as many as of w; TUNE(e)

What the ramps miss, the capacitor makes up for, but it decays: so it is tuned beyond w, to be right in the mean of an interval.

Without capacitors (``capacitor.present`` 0) a step is a SET pulse, and a transfer, from polarity 0 to 0, is a refresh. Of a line:

    w = reads;  m: the larger device above HIGH, |w| below LOW
    where m: RESET both devices, RAMP(w) on G+ or G-; AGAIN times: e = w - reads; where |e| > a SET pulse: again, with e added

Source: Ambrogio et al. 2018 [papers.md A5, A6]; refresh: as the mixed-precision scheme's [papers.md B4]; reads and rounds: design
choice.
"""
import math

import numpy as np

from model.commands import MatrixDescriptor
from model.isa import BKind, Half, Opcode, Sequence, Trim, VectorOp, Wait, Walk
from model.program import ONE, REFRESH_HIGH_US, REFRESH_LOW_US, CapacityError, Compiler, check_sides

__all__ = ["CapacitorCompiler"]

READ_STEPS = 15
"""Shortest code and window of a transfer's reads [PWM steps]. Design choice: the model has no noise that depends on it. It is
longer where the read before would still be being added up when the codes come: both write to the vector memory."""
READ_RANGE = 3
READS_LOG2 = 3
"""log2 of the reads of w, and of the last look at the error [1]: the noise of a read is larger than a code. Design choice."""
FIRST_READS_LOG2 = 2
"""log2 of the reads of every look at the error but the last [1]. Design choice."""
OFFSET_US = 0.0
"""What the PCM pair is written below (above) its share, for the capacitor to make up for [uS]. Ambrogio 2018 has 2
(Extended Data Fig. 9 [S]). Design choice: 0, since what a capacitor holds decays, here coherently in all weights, for the
reference decays from V_init and the cells from above it."""
AGAIN = 1
"""Rounds of reading and writing the PCM pairs again [1]. Design choice."""
TOLERANCE_US = 1.5
"""Error of a weight up to which its pair is left as it is [uS]. Design choice."""
HOLD = 1.2
"""What the capacitor is tuned to, over what the pair misses [1]. Design choice: 1 over the mean of the decay in an interval of
8,000 images, (1 - exp(-0.4)) / 0.4."""
RECHARGE_STEPS = 4
"""Window of RECHARGE [cycles]. Design choice."""


class CapacitorCompiler(Compiler):
    """See the module; ``sequence``: of the trains; ``inversion``: False keeps polarity 0, as cells without a capacitor do."""

    first_exponent = -8
    """Brings the shifts of trains, 15 to 27 bits for 528-250-125-10 at rate 0.01, into the middle of a shift's range. Design
    choice."""

    def __init__(self, layers, params, loss, rate, activation, output_scale, sequence: Sequence, inversion: bool):
        self.sequence, self.inversion = sequence, inversion and params.capacitor.present
        self.longest = max(layers[:-1]) + 1
        self.read_steps = max(READ_STEPS, -(-self.longest // params.unit.vector_width) + 2)
        super().__init__(layers, params, loss, rate, activation, output_scale)

    # ---- layout -------------------------------------------------------------------------------------------------------

    def _place_matrices(self):
        """A tile each, since the cells of a column share a reference; lines are columns; no chi."""
        u = self.u
        self.program.accumulates = False
        check_sides(self.layers, u)
        if self.n_layers > u.n_tiles:
            raise CapacityError(f"{self.n_layers} layers: the build has unit.n_tiles = {u.n_tiles}, and a matrix with capacitors "
                                f"needs a tile of its own")
        return [MatrixDescriptor(tile=k, row0=0, col0=0, rows=self.layers[k] + 1, cols=self.layers[k + 1], walk=int(Walk.COLS),
                                 chi_base=0, words_per_line=1) for k in range(self.n_layers)]

    def _place_more(self):
        """Vectors of a transfer: full codes, w, d, t, t0 + d, a sum, what is driven, where to write again; two for reads."""
        (self.full, self.w, self.d, self.t, self.goal, self.sum, self.codes, self.again, *self.once) = (
            self._allocate(self.longest) for _ in range(10))

    def _tables(self):
        super()._tables()
        c, code = self.params.capacitor, self._lut_codes()
        target_us = np.abs(code) * self._code_us() / c.pair_gain
        share = np.clip(target_us / (c.ramp_us[1] - c.ramp_us[0]), 0, 1)
        steps = np.minimum(np.round(c.ramp_steps * share ** (1 / c.ramp_power)), c.ramp_steps_used)
        self._table("ramp", np.sign(code) * steps)

    def _code_us(self):
        """Weight of a code of a transfer's read [uS]."""
        return self.params.tile.adc_range[READ_RANGE] * self.params.tile.g_max_us / self.u.adc_max

    # ---- training -----------------------------------------------------------------------------------------------------

    def _update(self, layer, buffer, unit):
        """DRIVE rows by x, columns by rate delta; FIRE."""
        u, c, tile = self.u, self.params.capacitor, self.params.tile
        source, shift = self._source(layer, buffer)
        step_us, fine = (c.step_us, c.step_shift) if c.present else (tile.step_us, 0)
        slot_weight = step_us / tile.weight_range_us * self._scale(layer)
        full = (u.line_max + 1) ** 2 / u.line_max                 # codes of both sides count in 1 / 2^line_bits
        factor = self.rate * unit * self._x_full(layer) * full / (u.slots * slot_weight)
        mantissa, exponent = math.frexp(factor)
        mantissa, exponent = round(mantissa * u.line_max), exponent - u.line_bits
        self._vector(VectorOp.MUL, self.delta[layer], self.code[layer], self.layers[layer], b_kind=BKind.IMMEDIATE, imm=mantissa)
        self._emit(Opcode.DRIVE, matrix=layer - 1, src=source, shift=shift)
        self._emit(Opcode.DRIVE, Wait.VECTOR, matrix=layer - 1, transpose=1, src=self.delta[layer], trains=1, scaled=1,
                   shift=self.first_exponent - exponent, e=layer % self.zero_exponent, fine=fine,
                   dither=int(self.sequence == Sequence.RANDOM))
        self._emit(Opcode.FIRE, matrix=layer - 1, sequence=int(self.sequence))
        if layer > 1 and self.activation.signed:
            self._emit(Opcode.FIRE, matrix=layer - 1, sequence=int(self.sequence), rows=1)

    # ---- transfer -----------------------------------------------------------------------------------------------------

    def _upkeep(self):
        for old, new in ((1, 0), (0, 1)) if self.inversion else ((0, 0),):
            self._entry(f"transfer_{new}")
            for matrix in range(self.n_layers):
                self._transfer(matrix, old, new)
            self._emit(Opcode.HALT)

        for inverted in (0, 1):
            self._entry(f"polarity_{inverted}")
            for matrix in range(self.n_layers):
                self._emit(Opcode.FLIP, matrix=matrix, inverted=inverted)
                self._emit(Opcode.SEAL, matrix=matrix)
            self._emit(Opcode.HALT)

    def _clear_more(self):
        self._vector(VectorOp.MUL, self.full, self.full, self.longest, b_kind=BKind.IMMEDIATE, imm=0)
        self._vector(VectorOp.ADD, self.full, self.full, self.longest, b_kind=BKind.IMMEDIATE, imm=ONE)

    def _transfer(self, matrix, old, new):
        """All lines of a matrix, from polarity ``old`` to ``new``."""
        d = self.program.matrices[matrix]
        self.rows, self.matrix, self.new = d.rows, matrix, new
        self._emit(Opcode.FLIP, matrix=matrix, inverted=new)
        self._emit(Opcode.LINE, zero=1)
        self._emit(Opcode.LOOP, count=d.cols)
        self._reads(self.w, READS_LOG2, old)
        (self._write if self.params.capacitor.present else self._rewrite)()
        self._emit(Opcode.LINE)
        self._emit(Opcode.NEXT)
        self._emit(Opcode.SEAL, Wait.LINES, matrix=matrix)

    def _write(self):
        """W to the line's pairs, and what they miss to the capacitors."""
        self._drive(self.full)
        self._trim(Trim.RESET, self.u.reset_cycles)
        self._trim(Trim.RECHARGE, RECHARGE_STEPS)
        self._reads(self.d, 0)
        self._target(-1 if self.new else 1)
        self._op(VectorOp.ADD, self.goal, self.t, self.d)
        self._op(VectorOp.LUT, self.codes, self.t, shift=READS_LOG2, lut=self.lut["ramp"])
        self._drive(self.codes)
        self._trim(Trim.RAMP, self.params.capacitor.ramp_steps_used)
        if AGAIN:
            self._emit(Opcode.LOOP, count=AGAIN)
            self._write_again(self.goal, TOLERANCE_US)
            self._emit(Opcode.NEXT)
        self._reads(self.sum, FIRST_READS_LOG2)
        self._op(VectorOp.SUB, self.again, self.w, self.sum)                   # e
        self._op(VectorOp.MUL, self.again, self.again, imm=round((HOLD - 1) * 128), shift=7)
        self._op(VectorOp.ADD, self.goal, self.w, self.again)                  # w'
        self._tune()
        self._reads(self.sum, READS_LOG2)
        self._tune()

    def _rewrite(self):
        """The refresh of a line without capacitors: w anew to those pairs that SET pulses have brought close to their end."""
        mask = self.d
        self._read(self.sum, 0, Half.POSITIVE)
        self._read(self.again, 0, Half.NEGATIVE)
        self._op(VectorOp.MAX, self.sum, self.sum, self.again, Wait.LINES)
        self._op(VectorOp.COMPARE, mask, self.sum, imm=round(REFRESH_HIGH_US / self._code_us()))
        self._magnitude(self.again, self.w)
        self._op(VectorOp.COMPARE, self.again, self.again, imm=round(REFRESH_LOW_US / self._code_us() * (1 << READS_LOG2)) - 1)
        self._op(VectorOp.SUB, self.again, mask, self.again)                   # 1 where |w| < LOW, too
        self._op(VectorOp.MAX, mask, self.again, imm=0)
        self._op(VectorOp.MUL, self.again, mask, imm=ONE)
        self._drive(self.again)
        self._trim(Trim.RESET, self.u.reset_cycles)
        self._op(VectorOp.MUL, self.t, self.w, mask)
        self._op(VectorOp.LUT, self.codes, self.t, shift=READS_LOG2, lut=self.lut["ramp"])
        self._drive(self.codes)
        self._trim(Trim.RAMP, self.params.capacitor.ramp_steps_used)
        if AGAIN:
            self._emit(Opcode.LOOP, count=AGAIN)
            self._write_again(self.w, self.params.tile.step_us, mask)
            self._emit(Opcode.NEXT)

    def _magnitude(self, dst, a):
        self._op(VectorOp.MUL, dst, a, imm=-1)
        self._op(VectorOp.MAX, dst, dst, a)

    def _op(self, op, dst, a, b=None, wait=Wait.NONE, **operands):
        """An operation over a line's cells; ``b``: a vector, or by ``imm``."""
        kind = {"b": b, "b_kind": BKind.VECTOR} if b is not None else {"b_kind": BKind.IMMEDIATE}
        self._vector(op, dst, a, self.rows, wait, **kind, **operands)

    def _reads(self, dst, reads_log2, polarity=None):
        """2^reads_log2 reads of the line, in the unit of the module's text; one is added up while the next one is made.

        Until SEAL the matrix has no polarity that all its weights are in, so a read names its own; default: the new one.
        """
        polarity = self.new if polarity is None else polarity
        self._emit(Opcode.POINT, matrix=self.matrix, transpose=1, code=self.read_steps)
        first, second = self.once
        if reads_log2 == 0:
            self._read(dst, polarity)
        else:
            self._op(VectorOp.MUL, dst, self.full, imm=0)
            self._emit(Opcode.LOOP, count=1 << reads_log2 - 1)
            for once in (first, second):
                self._read(once, polarity)
                self._op(VectorOp.ADD, dst, dst, once, Wait.LINES)
            self._emit(Opcode.NEXT)
        if reads_log2 < READS_LOG2:
            self._vector(VectorOp.SHL, dst, dst, self.rows, Wait.LINES, shift=READS_LOG2 - reads_log2)

    def _read(self, dst, polarity, half=Half.DIFFERENCE):
        self._emit(Opcode.READ, matrix=self.matrix, transpose=1, half=half, range=READ_RANGE, dst=dst,
                   steps=self.read_steps, polarity=2 | polarity)

    def _drive(self, vector):
        self._emit(Opcode.DRIVE, Wait.VECTOR, matrix=self.matrix, src=vector)

    def _trim(self, kind, steps):
        self._emit(Opcode.TRIM, matrix=self.matrix, transpose=1, kind=int(kind), steps=steps)

    def _target(self, sign):
        """T from w and d, with the offset and its special case."""
        offset = round(OFFSET_US / self._code_us() * (1 << READS_LOG2))
        self._op(VectorOp.SUB, self.t, self.w, self.d)
        if offset == 0:
            return
        if sign < 0:
            self._op(VectorOp.MUL, self.t, self.t, imm=-1)
        self._op(VectorOp.ADD, self.t, self.t, imm=-offset)
        self._op(VectorOp.MAX, self.sum, self.t, imm=0)
        self._op(VectorOp.SUB, self.t, self.t, self.sum)                       # below 0
        self._op(VectorOp.COMPARE, self.codes, self.sum, imm=offset - 1)
        self._op(VectorOp.MUL, self.sum, self.sum, self.codes)
        self._op(VectorOp.ADD, self.t, self.t, self.sum)
        if sign < 0:
            self._op(VectorOp.MUL, self.t, self.t, imm=-1)

    def _write_again(self, goal, tolerance_us, mask=None):
        """RESET and ramp the cells, of those in ``mask``, that read off ``goal`` by more than the tolerance, the error added to
        what they aim at.
        """
        tolerance = max(1, round(tolerance_us / self._code_us() * (1 << READS_LOG2)))
        self._reads(self.sum, FIRST_READS_LOG2)
        self._op(VectorOp.SUB, self.sum, goal, self.sum)                       # e
        self._magnitude(self.again, self.sum)
        self._op(VectorOp.COMPARE, self.again, self.again, imm=tolerance)
        if mask is not None:
            self._op(VectorOp.MUL, self.again, self.again, mask)
        self._op(VectorOp.MUL, self.sum, self.sum, self.again)
        self._op(VectorOp.ADD, self.t, self.t, self.sum)
        self._op(VectorOp.LUT, self.codes, self.t, shift=READS_LOG2, lut=self.lut["ramp"])
        self._op(VectorOp.MUL, self.codes, self.codes, self.again)
        self._op(VectorOp.MUL, self.again, self.again, imm=ONE)
        self._drive(self.again)
        self._trim(Trim.RESET, self.u.reset_cycles)
        self._drive(self.codes)
        self._trim(Trim.RAMP, self.params.capacitor.ramp_steps_used)

    def _tune(self):
        """Steps of the capacitor by what the reads are off the goal."""
        self._op(VectorOp.SUB, self.sum, self.goal, self.sum)
        steps = self._code_us() / (1 << READS_LOG2) / self.params.capacitor.step_us
        shift = max(0, 7 - math.ceil(math.log2(max(steps, 1e-3))))
        self._op(VectorOp.MUL, self.codes, self.sum, imm=round(steps * 2**shift), shift=shift)
        self._drive(self.codes)
        self._trim(Trim.TUNE, self.u.line_max)

