"""Compiler: a list of layers becomes a program of the unit, with descriptors, look-up tables and packet layout.

A layer of n inputs and m outputs is a matrix of (n + 1) rows and m columns; the last row is the bias, its input is 1.
Vectors are raw 16 bit elements; ``ONE`` raw is the full scale of a line. Values, for line code c of line_max steps:

    x = c / line_max * x_full            x_full: 1, or the largest output of the activation before it
    z = adc_code * range / adc_max * x_full
    delta = code * 2^E * unit            E: the shared exponent register of the vector, unit: a constant per layer

W += rate * delta * x, in chi LSB of step_us / weight_range_us / eps: ``U = round(x4 d4 rate 2^(E + exponent))``.

Entries: ``setup`` (look-up tables, one packet each), ``clear`` (constants, chi), ``train`` and ``evaluate`` (two images a
turn of the loop: one packet is received while the image before is computed), ``train_one`` and ``evaluate_one`` (a single
image), ``scan`` (refresh, if the build has it), ``dump_<k>``, ``load_<k>``. Source: design choice; equations
Nandakumar 2020 (papers.md B2).
"""
import math
from dataclasses import dataclass, field

import numpy as np

from model.commands import MatrixDescriptor
from model.errors import InputError
from model.isa import BKind, Half, Opcode, Sequence, VectorOp, Wait, Walk, encode
from model.params import Params, UnitParams

__all__ = ["ACTIVATIONS", "ONE", "CapacityError", "Compiler", "Program", "check_sides", "compile_experiment",
           "compile_network"]

ONE = 16320
"""Raw value of full scale: 255 (a pixel, a target) times 64; shifted right by 7 it is the largest line code."""

SLOPE_ONE = 32767
"""Raw value of the largest derivative."""

BACK_SHIFT = 1
"""Bits of a delta code that a transpose read leaves out; its window is 2^BACK_SHIFT times shorter than a forward read's.
Design choice, for the cycles. Its own effect on accuracy was not measured; every run of cosim/results/study.md has it."""

SCAN_STEPS = 15
"""Code and window of a scan read [PWM steps]. Design choice: short, for a scan reads every line programmed since the last."""

REFRESH_HIGH_US, REFRESH_LOW_US = 8.0, 6.0
"""A pair is rewritten when its larger device exceeds the first and its difference is below the second [uS].
Nandakumar 2020 [papers.md B4, M?]: parameters, not facts."""

REFRESH_BOUND = 15
"""Most SET pulses of a rewrite [pulses]. Design choice."""


class CapacityError(InputError):
    """The network does not fit the build; the message names what is missing and the parameter that gives it."""


@dataclass(frozen=True)
class Activation:
    """f and its derivative over real z, the largest |f| and the largest derivative; whether f is ever below 0."""

    f: object
    slope: object
    full: float
    slope_full: float
    signed: bool = False


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {
    "sigmoid": Activation(_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z)), 1.0, 0.25),
    "tanh": Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2, 1.0, 1.0, signed=True),
    "relu": Activation(lambda z: np.clip(z, 0, 4.0), lambda z: ((z > 0) & (z < 4.0)).astype(float), 4.0, 1.0),
}
"""Hidden activations; relu is clipped at 4, the full scale of its lines."""


@dataclass
class Program:
    """Everything a backend needs to run a network, and what the host needs to feed it."""

    params: Params
    layers: tuple[int, ...]
    instructions: list[int] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)
    matrices: list[MatrixDescriptor] = field(default_factory=list)
    luts: list[np.ndarray] = field(default_factory=list)
    target_element: int = 0
    packet_bytes: int = 0
    accumulates: bool = True
    """Whether the matrices have an accumulator, chi."""

    @property
    def n_matrices(self) -> int:
        """Matrix descriptors in use [1]."""
        return len(self.matrices)

    @property
    def n_outputs(self) -> int:
        """Elements emitted per image [1]."""
        return self.layers[-1]

    def upkeep(self, n: int) -> str:
        """Entry that the trainer runs as upkeep number ``n`` = 1, 2, ...: ``scan``, or the transfer to the next polarity."""
        return "scan" if "scan" in self.entries else f"transfer_{n & 1}" if "transfer_1" in self.entries else "transfer_0"

    def packets(self, entry: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """One packet per image, (n, packet_bytes) uint8: pixels, bias 255, padding, one-hot target 255.

        images (n, features) uint8; labels (n,) class numbers, or None: target 0.
        """
        out = np.zeros((len(images), self.packet_bytes), np.uint8)
        out[:, :self.layers[0]] = images
        out[:, self.layers[0]] = 255
        if labels is not None:
            out[np.arange(len(images)), self.target_element + np.asarray(labels, np.int64)] = 255
        return out

    def lut_packet(self, lut: int) -> np.ndarray:
        """Packet of a look-up table for entry ``setup``: little-endian int16 entries in index order, as uint8."""
        return self.luts[lut].astype("<i2").view(np.uint8)


def compile_experiment(experiment, rate: float) -> Program:
    """Compile the network of an ``Experiment`` with learning rate ``rate`` [1]."""
    return compile_network(experiment.layers, experiment.params, experiment.loss, rate, experiment.activation,
                           experiment.output_scale, experiment.scheme, experiment.trains, experiment.inversion)


def compile_network(layers, params: Params, loss: str = "mse", rate: float = 0.4, activation: str = "sigmoid",
                    output_scale: float = 1.0, scheme: str = "mixed", trains: str = "random", inversion: bool = True) -> Program:
    """Compile an MLP. layers: sizes from input to output; loss: mse, sigmoid-ce or softmax-ce; rate [1]; output_scale: weights of
    the last layer are this times (G+ - G-) / weight_range_us [1]; scheme: mixed, or capacitor with its ``trains`` (spread or
    random) and ``inversion``.

    Raises CapacityError if the network does not fit the build.
    """
    common = tuple(layers), params, loss, rate, ACTIVATIONS[activation], output_scale
    if scheme == "mixed":
        return Compiler(*common).program
    from model.capacitor_program import CapacitorCompiler  # which is made from this module

    return CapacitorCompiler(*common, Sequence[trains.upper()], inversion).program


class Compiler:
    """Lays out tiles, chi and vector memory, then writes the entries one after the other."""

    first_exponent = 0
    """Exponent of the output error before it is scaled [1]."""

    def __init__(self, layers, params, loss, rate, activation, output_scale):
        self.params, self.u, self.layers = params, params.unit, layers
        self.loss, self.rate, self.activation = loss, rate, activation
        self.n_layers = len(layers) - 1
        self.zero_exponent = params.unit.n_exponents - 1
        """Exponent register that every chain of exponents starts from; it stays ``first_exponent``."""
        self.output_scale = output_scale
        self.program = Program(params, layers)
        self.loops = 0                                   # open where the program is being written
        self.program.matrices = self._place_matrices()
        if self.n_layers > self.zero_exponent:
            raise CapacityError(f"{self.n_layers} layers: the build has unit.n_exponents = {self.u.n_exponents}, enough for "
                                f"{self.zero_exponent}")
        self._place_vectors()
        self._tables()
        self._entries()
        if len(self.program.instructions) > self.u.program_words:
            raise CapacityError(f"program of {len(self.program.instructions)} instructions: the build holds "
                                f"unit.program_words = {self.u.program_words}; use fewer layers or a larger build")

    # ---- layout -------------------------------------------------------------------------------------------------------

    def _words(self, count):
        return -(-count // self.u.vector_width)

    def _place_matrices(self):
        return _place_matrices(self.layers, self.u)

    def _place_vectors(self):
        """Allocate the vector memory: two packet buffers, then per layer z, h, slope, delta, code, back; and scratch."""
        self.next_word = 0
        n_in, n_out = self.layers[0], self.layers[-1]
        self.target_word = self._words(n_in + 1)
        self.program.target_element = self.target_word * self.u.vector_width
        self.program.packet_bytes = self.program.target_element + n_out
        self.buffers = [self._allocate(self.program.packet_bytes) for _ in range(2)]
        self.z, self.h, self.slope, self.delta, self.code = {}, {}, {}, {}, {}
        for layer in range(1, self.n_layers + 1):
            size = self.layers[layer]
            self.z[layer], self.delta[layer], self.code[layer] = (self._allocate(size) for _ in range(3))
            self.h[layer] = self._allocate(size + 1)
            self.slope[layer] = self._allocate(size)
        self.scalar = self._allocate(1)
        self._place_more()
        if self.next_word > self.u.vector_words:
            raise CapacityError(f"network needs {self.next_word} vector words: the build holds unit.vector_words = "
                                f"{self.u.vector_words}; choose a larger power of two")

    def _place_more(self):
        """Vectors of a scheme of its own."""

    def _allocate(self, count):
        word, self.next_word = self.next_word, self.next_word + self._words(count)
        return word

    # ---- tables -------------------------------------------------------------------------------------------------------

    def _lut_codes(self):
        """Signed value of every look-up index, in the order of the table (two's complement)."""
        index = np.arange(1 << self.u.lut_bits)
        return np.where(index >> self.u.lut_bits - 1, index - (1 << self.u.lut_bits), index)

    def _z_of_code(self, select):
        """Real z of every look-up index (two's complement order) for range ``select``, in units of the line full scale."""
        return self._lut_codes() * self.params.tile.adc_range[select] / self.u.adc_max

    def _x_full(self, layer):
        """Value of full-scale lines that drive ``layer`` [1]."""
        return 1.0 if layer == 1 else self.activation.full

    def _scale(self, layer):
        """Weight of ``layer`` per (G+ - G-) / weight_range_us [1]."""
        return self.output_scale if layer == self.n_layers else 1.0

    def _tables(self):
        """Tables: hidden f and slope per line full scale in use; output tables by loss."""
        self.lut = {}
        for layer in range(1, self.n_layers):
            full, act = self._x_full(layer), self.activation
            z = self._z_of_code(0) * full
            self._table(("f", full), act.f(z) / act.full * ONE)
            self._table(("slope", full), act.slope(z) / act.slope_full * SLOPE_ONE)
        full = self._x_full(self.n_layers)
        z = self._z_of_code(1) * full * self.output_scale
        if self.loss == "softmax-ce":
            # s = sum of exp in [1, n] is (index + 256) levels above 1: a level is 2^sum_shift / exp_one
            n, half = max(self.layers[-1], 2), 1 << self.u.lut_bits - 1
            self.sum_shift = max(0, math.floor(math.log2((n - 1) * 32767 / (2 * half - 1))))
            self.exp_one = ((2 * half - 1) << self.sum_shift) // (n - 1)
            self.sum_offset = (self.exp_one >> self.sum_shift) + half
            self._table("exp", np.exp(np.minimum(z, 0)) * self.exp_one)
            index = np.arange(2 * half)
            level = np.where(index >= half, index - 2 * half, index) + self.sum_offset
            total = np.maximum(level * 2.0**self.sum_shift, self.exp_one)
            self._table("reciprocal", ONE * 2.0**self._p_shift() / total)
        else:
            self._table("y", _sigmoid(z) * ONE)
            if self.loss == "mse":
                self._table("y_slope", _sigmoid(z) * (1 - _sigmoid(z)) * 4 * SLOPE_ONE)
        if len(self.program.luts) > self.u.n_luts:
            raise CapacityError(f"network needs {len(self.program.luts)} look-up tables: "
                                f"the build holds unit.n_luts = {self.u.n_luts}")

    def _p_shift(self):
        """Largest shift for which the reciprocal of the smallest sum still is 16 bit."""
        return math.floor(math.log2(32767 * self.exp_one / ONE))

    def _table(self, name, values):
        if name not in self.lut:
            self.lut[name] = len(self.program.luts)
            self.program.luts.append(np.clip(np.round(values), -32768, 32767).astype(np.int16))

    # ---- code ---------------------------------------------------------------------------------------------------------

    def _emit(self, opcode, wait=Wait.NONE, **operands):
        self.program.instructions.append(encode(opcode, wait, **operands))
        self.loops += (opcode == Opcode.LOOP) - (opcode == Opcode.NEXT)
        if self.loops > self.u.loop_depth:
            raise CapacityError(f"program has {self.loops} loops inside each other: the build holds unit.loop_depth = "
                                f"{self.u.loop_depth}; use a larger build")

    def _vector(self, op, dst, a, count, wait=Wait.NONE, **operands):
        self._emit(Opcode.VECTOR, wait, op=op, dst=dst, a=a, count=count, **operands)

    def _entry(self, name):
        self.program.entries[name] = len(self.program.instructions)

    def _accept(self, buffer):
        self._emit(Opcode.ACCEPT, dst=buffer, count=self.program.packet_bytes)

    def _entries(self):
        self._entry("setup")
        for lut in range(len(self.program.luts)):
            self._emit(Opcode.ACCEPT, count=1 << self.u.lut_bits, wide=1, to_lut=1, lut=lut)
            self._emit(Opcode.WAIT)
        self._emit(Opcode.HALT)

        self._entry("clear")
        for layer in range(1, self.n_layers):
            count = self.layers[layer] + 1
            self._vector(VectorOp.MUL, self.h[layer], self.h[layer], count, b_kind=BKind.IMMEDIATE, imm=0)
            self._vector(VectorOp.ADD, self.h[layer], self.h[layer], count, b_kind=BKind.IMMEDIATE,
                         imm=round(ONE / self.activation.full))
        self._clear_more()
        self._vector(VectorOp.SET_EXPONENT, 0, 0, 1, e_dst=self.zero_exponent,
                     imm=self.first_exponent)
        for matrix in range(self.n_layers if self.program.accumulates else 0):
            self._emit(Opcode.CLEAR, matrix=matrix)
        self._emit(Opcode.HALT)

        for name, image in (("train", self._train), ("evaluate", self._evaluate)):
            first, second = self.buffers
            self._entry(name)
            self._accept(first)
            self._emit(Opcode.LOOP, count=0)
            for current, following in ((first, second), (second, first)):
                self._emit(Opcode.WAIT)
                self._accept(following)
                image(current)
            self._emit(Opcode.NEXT)
            self._emit(Opcode.HALT)
            self._entry(f"{name}_one")
            self._accept(first)
            self._emit(Opcode.WAIT)
            image(first)
            self._emit(Opcode.HALT)

        self._upkeep()
        for matrix in range(self.n_layers if self.program.accumulates else 0):
            for opcode in (Opcode.DUMP, Opcode.LOAD):
                self._entry(f"{opcode.name.lower()}_{matrix}")
                self._emit(opcode, matrix=matrix)
                self._emit(Opcode.HALT)

    def _clear_more(self):
        """Constants of a scheme of its own."""

    def _upkeep(self):
        """Entries that the trainer runs from time to time."""
        if not self.u.refresh:
            return
        self._entry("scan")
        for matrix in range(self.n_layers):
            self._scan(matrix)
        self._emit(Opcode.HALT)

    def _source(self, layer, buffer):
        """Vector word and line shift of the input of ``layer``."""
        if layer == 1:
            return buffer, 8 - self.u.line_bits
        return self.h[layer - 1], 14 - self.u.line_bits

    def _forward(self, buffer, training):
        for layer in range(1, self.n_layers + 1):
            source, shift = self._source(layer, buffer)
            output = layer == self.n_layers
            self._emit(Opcode.DRIVE, Wait.VECTOR, matrix=layer - 1, src=source, shift=shift)
            if training:
                self._beside_drive(layer, buffer)
            self._emit(Opcode.READ, Wait.UPDATE | Wait.VECTOR, matrix=layer - 1, half=Half.DIFFERENCE, range=int(output),
                       dst=self.z[layer])
            if not output:
                lut = self.lut["f", self._x_full(layer)]
                self._vector(VectorOp.LUT, self.h[layer], self.z[layer], self.layers[layer], Wait.LINES, lut=lut)

    def _beside_drive(self, layer, buffer):
        """Work of the vector unit while the lines of ``layer`` are loaded: slope of the layer below, target of the output."""
        if layer > 1:
            lut = self.lut["slope", self._x_full(layer - 1)]
            self._vector(VectorOp.LUT, self.slope[layer - 1], self.z[layer - 1], self.layers[layer - 1], lut=lut)
        if layer == self.n_layers:
            self._vector(VectorOp.MUL, self.delta[layer], buffer + self.target_word, self.layers[-1], b_kind=BKind.IMMEDIATE,
                         imm=ONE // 255)

    def _evaluate(self, buffer):
        self._forward(buffer, training=False)
        self._emit(Opcode.EMIT, src=self.z[self.n_layers], count=self.layers[-1])

    def _train(self, buffer):
        last, unit = self.n_layers, {}
        self._forward(buffer, training=True)
        unit[last] = self._output_error(buffer)
        for layer in range(last, 0, -1):
            if layer < last:
                unit[layer] = self._hidden_error(layer, unit[layer + 1])
            self._vector(VectorOp.SCALE, self.code[layer], self.delta[layer], self.layers[layer],
                         e_dst=layer % self.zero_exponent,
                         e_src=self.zero_exponent if layer == last else (layer + 1) % self.zero_exponent)
            if layer == last:
                self._emit(Opcode.EMIT, src=self.h[last], count=self.layers[-1])
        for layer in range(last, 0, -1):
            self._update(layer, buffer, unit[layer])

    def _output_error(self, buffer):
        """Error of the outputs, delta = target - y (times the slope of y for squared error); returns its unit.

        Softmax: the table of reciprocals has steps of 2 %, more than most errors of a trained network, so the error of the
        label is made the sum of the others with its sign changed: target - y, then less target x the sum of all.
        """
        last, size = self.n_layers, self.layers[-1]
        y, delta, z = self.h[last], self.delta[last], self.z[last]
        if self.loss == "softmax-ce":
            self._vector(VectorOp.PEAK_MAX, self.scalar, z, size, Wait.LINES)
            self._vector(VectorOp.SUB, y, z, size, b=self.scalar, b_kind=BKind.ELEMENT)
            self._vector(VectorOp.LUT, y, y, size, lut=self.lut["exp"])
            self._vector(VectorOp.SUM, self.scalar, y, size, shift=self.sum_shift)
            self._vector(VectorOp.SUB, self.scalar, self.scalar, 1, b_kind=BKind.IMMEDIATE, imm=self.sum_offset)
            self._vector(VectorOp.LUT, self.scalar, self.scalar, 1, lut=self.lut["reciprocal"])
            self._vector(VectorOp.MUL, y, y, size, b=self.scalar, b_kind=BKind.ELEMENT, shift=self._p_shift())
        else:
            self._vector(VectorOp.LUT, y, z, size, Wait.LINES, lut=self.lut["y"])
        if self.loss == "mse":
            self._vector(VectorOp.LUT, self.slope[last], z, size, lut=self.lut["y_slope"])
        self._vector(VectorOp.SUB, delta, delta, size, b=y)
        if self.loss == "softmax-ce":
            self._vector(VectorOp.SUM, self.scalar, delta, size)
            self._vector(VectorOp.MUL, self.slope[last], buffer + self.target_word, size, b=self.scalar, b_kind=BKind.ELEMENT,
                         shift=8)
            self._vector(VectorOp.SUB, delta, delta, size, b=self.slope[last])
        if self.loss != "mse":
            return 1 / ONE
        self._vector(VectorOp.MUL, delta, delta, size, b=self.slope[last], shift=14)
        return 2.0**14 / (ONE * 4 * SLOPE_ONE)

    def _hidden_error(self, layer, unit_above):
        """Error of a hidden layer, delta = W^T delta_above * slope: transpose read (bias row left out); returns its unit."""
        size, shift = self.layers[layer], self.u.adc_bits - 1
        self._emit(Opcode.DRIVE, Wait.VECTOR, matrix=layer, transpose=1, src=self.code[layer + 1], shift=BACK_SHIFT)
        self._emit(Opcode.READ, matrix=layer, transpose=1, half=Half.DIFFERENCE, range=2, dst=self.delta[layer], count=size,
                   steps=self.u.line_max >> BACK_SHIFT)
        self._vector(VectorOp.MUL, self.delta[layer], self.delta[layer], size, Wait.LINES, b=self.slope[layer], shift=shift)
        back = self.params.tile.adc_range[2] / self.u.adc_max * self.u.line_max * self._scale(layer + 1) * unit_above
        return back * 2.0**(shift + BACK_SHIFT) * self.activation.slope_full / SLOPE_ONE

    def _update(self, layer, buffer, unit):
        u, tile = self.u, self.params.tile
        source, source_shift = self._source(layer, buffer)
        x_operand = (source, source_shift)
        d_operand = (self.code[layer], 0)
        by_rows = self.program.matrices[layer - 1].walk == Walk.ROWS
        walk, lanes = (x_operand, d_operand) if by_rows else (d_operand, x_operand)
        drop = 2.0 ** (u.line_bits - u.outer_bits)
        chi_lsb = tile.step_us / tile.weight_range_us / u.eps
        factor = drop * drop / u.line_max * self._x_full(layer) * unit * self.rate / (chi_lsb * self._scale(layer))
        mantissa, exponent = math.frexp(factor)
        mantissa, exponent = round(mantissa * (1 << u.rate_bits)), exponent - u.rate_bits
        if mantissa == 1 << u.rate_bits:
            mantissa, exponent = mantissa >> 1, exponent + 1
        self._emit(Opcode.UPDATE, Wait.VECTOR | Wait.LINES, matrix=layer - 1, accumulate=1, threshold=1, walk_src=walk[0],
                   walk_shift=walk[1], lane_src=lanes[0], lane_shift=lanes[1], rate=mantissa, e=layer % self.zero_exponent,
                   exponent=exponent)

    def _scan(self, matrix):
        codes_per_us = self.u.adc_max / (self.params.tile.adc_range[3] * self.params.tile.g_max_us)
        self._emit(Opcode.SCAN, matrix=matrix, steps=min(SCAN_STEPS, self.u.line_max), high=round(REFRESH_HIGH_US * codes_per_us),
                   low=round(REFRESH_LOW_US * codes_per_us), bound=REFRESH_BOUND,
                   floor=round(self.params.tile.step_us / 2 * codes_per_us))


def check_sides(layers, u: UnitParams) -> None:
    """Raise CapacityError if there are more layers than descriptors, or one has more rows or columns than a tile."""
    if len(layers) - 1 > u.n_matrices:
        raise CapacityError(f"{len(layers) - 1} layers: the build has unit.n_matrices = {u.n_matrices} descriptors")
    for layer in range(len(layers) - 1):
        rows, cols = layers[layer] + 1, layers[layer + 1]
        if rows > u.n_rows or cols > u.n_cols:
            name, need, have = ("n_rows", rows, u.n_rows) if rows > u.n_rows else ("n_cols", cols, u.n_cols)
            raise CapacityError(f"layer {layer + 1} ({layers[layer]}-{cols}) needs {need} {name[2:]}: "
                                f"a tile of this build has unit.{name} = {have}")


def _place_matrices(layers, u: UnitParams) -> list[MatrixDescriptor]:
    """Give every layer a tile region, chi words and a walk axis."""
    n_layers = len(layers) - 1
    check_sides(layers, u)
    free_rows = [0] * u.n_tiles
    chi_base, matrices = 0, []
    for layer in range(n_layers):
        rows, cols = layers[layer] + 1, layers[layer + 1]
        tile = next((k for k in range(u.n_tiles) if free_rows[k] + rows <= u.n_rows), None)
        if tile is None:
            raise CapacityError(f"layer {layer + 1} ({rows} rows) fits no tile: the build has unit.n_tiles = {u.n_tiles} "
                                f"of {u.n_rows} rows")
        if min(rows, cols) > u.groups_max * u.lanes:
            raise CapacityError(f"layer {layer + 1} ({rows} x {cols}) needs {-(-min(rows, cols) // u.lanes)} chi words for a "
                                f"line: the build has unit.line_words = {u.line_words} of unit.lanes = {u.lanes}")
        walk, words = _choose_walk(rows, cols, u, sparse_rows=layer == 0, free=u.chi_words - chi_base)
        lines = rows if walk == Walk.ROWS else cols
        if chi_base + lines * words > u.chi_words:
            raise CapacityError(f"layer {layer + 1} needs {lines * words} chi words, {u.chi_words - chi_base} are left: "
                                f"the build has unit.chi_words = {u.chi_words} of unit.lanes = {u.lanes}")
        matrices.append(MatrixDescriptor(tile=tile, row0=free_rows[tile], col0=0, rows=rows, cols=cols, walk=int(walk),
                                         chi_base=chi_base, words_per_line=words))
        free_rows[tile] += -(-rows // u.vector_width) * u.vector_width
        chi_base += lines * words
    return matrices


def _choose_walk(rows, cols, u, sparse_rows, free):
    """Axis with the fewer chi words walked per update (a fifth of the input rows is active), among those that fit."""
    options = []
    for walk, lines, length in ((Walk.COLS, cols, rows), (Walk.ROWS, rows, cols)):
        words = -(-length // u.lanes)
        if words > u.groups_max:
            continue
        active = 0.2 if walk == Walk.ROWS and sparse_rows else 1.0
        options.append((lines * words > free, lines * words * active, walk, words))
    return min(options)[2:]
