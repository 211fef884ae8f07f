"""Compiler: layout, capacities, tables, learning rate."""
import dataclasses
import math

import numpy as np
import pytest

from model.isa import Opcode, VectorOp, Walk, decode
from model.machine import ModelBackend
from model.params import CAPACITOR, MNIST, Params
from model.program import ONE, CapacityError, compile_network

LOSSES = ("mse", "sigmoid-ce", "softmax-ce")


def instructions(program, entry):
    """Decoded instructions from an entry to its HALT."""
    out = []
    for word in program.instructions[program.entries[entry]:]:
        opcode, wait, operands = decode(word)
        out.append((opcode, wait, operands))
        if opcode == Opcode.HALT:
            return out
    raise AssertionError(f"{entry} has no HALT")


@pytest.mark.parametrize("layers", [(784, 250, 10), (784, 100, 10), (64, 32, 16, 10), (64, 10), (100, 50, 40, 30, 20, 10)])
def test_matrices_fit_and_do_not_overlap(layers):
    program, u = compile_network(layers, MNIST), MNIST.unit
    cells, words = set(), set()
    for d, rows, cols in zip(program.matrices, layers, layers[1:], strict=False):
        assert (d.rows, d.cols) == (rows + 1, cols)
        assert d.row0 + d.rows <= u.n_rows
        assert d.col0 + d.cols <= u.n_cols
        assert d.tile < u.n_tiles
        assert d.row0 % u.vector_width == d.col0 % u.vector_width == 0
        lines, length = (d.rows, d.cols) if d.walk == Walk.ROWS else (d.cols, d.rows)
        assert d.words_per_line == math.ceil(length / u.lanes)
        mine = {(d.tile, row) for row in range(d.row0, d.row0 + d.rows)}
        assert not cells & mine
        cells |= mine
        chi = set(range(d.chi_base, d.chi_base + lines * d.words_per_line))
        assert not words & chi
        words |= chi
    assert max(words) < u.chi_words


def test_the_papers_network_walks_as_few_words_as_it_can():
    first, second = compile_network((784, 250, 10), MNIST).matrices
    assert (first.walk, first.words_per_line) == (Walk.ROWS, 1)
    assert (second.walk, second.words_per_line) == (Walk.COLS, 1)


def test_a_line_has_no_more_words_than_the_build_holds():
    unit = dataclasses.replace(MNIST.unit, lanes=64, line_words=4, chi_words=4096)
    first, second = compile_network((784, 250, 10), dataclasses.replace(MNIST, unit=unit)).matrices
    assert (first.walk, first.words_per_line) == (Walk.ROWS, 4)
    assert (second.walk, second.words_per_line) == (Walk.COLS, 4)
    unit = dataclasses.replace(unit, line_words=1)
    _, second = compile_network((60, 60, 10), dataclasses.replace(MNIST, unit=unit)).matrices
    assert second.words_per_line == 1
    message = r"layer 1 \(785 x 250\) needs 4 chi words for a line: the build has unit.line_words = 1"
    with pytest.raises(CapacityError, match=message):
        compile_network((784, 250, 10), dataclasses.replace(MNIST, unit=unit))


@pytest.mark.parametrize(("layers", "unit", "message"), [
    ((900, 10), {}, r"layer 1 \(900-10\) needs 901 rows: a tile of this build has unit.n_rows = 800"),
    ((784, 300, 10), {}, r"layer 1 \(784-300\) needs 300 cols: a tile of this build has unit.n_cols = 256"),
    ((700,) + (200,) * 30 + (10,), {"n_matrices": 16}, r"31 layers: the build has unit.n_matrices = 16"),
    ((784, 250, 10), {"chi_words": 512},
     r"layer 1 needs 785 chi words, 512 are left: the build has unit.chi_words = 512 of unit.lanes"),
    ((784, 250, 10), {"vector_words": 64}, r"network needs \d+ vector words: the build holds unit.vector_words = 64"),
    ((784, 250, 10), {"n_luts": 2}, r"network needs 4 look-up tables: the build holds unit.n_luts = 2"),
    ((784, 250, 10), {"program_words": 64}, r"program of \d+ instructions: the build holds unit.program_words = 64"),
    ((700, 250, 250, 250, 250, 250), {"n_tiles": 2, "chi_words": 4096}, r"layer \d+ \(251 rows\) fits no tile"),
    ((64, 32, 16, 16, 10), {"n_exponents": 4}, r"4 layers: the build has unit.n_exponents = 4, enough for 3"),
])
def test_what_does_not_fit_is_said(layers, unit, message):
    params = Params(unit=dataclasses.replace(MNIST.unit, **unit))
    with pytest.raises(CapacityError, match=message):
        compile_network(layers, params)


def test_loops_that_do_not_fit_are_said():
    params = dataclasses.replace(CAPACITOR, unit=dataclasses.replace(CAPACITOR.unit, loop_depth=2))
    message = r"program has 3 loops inside each other: the build holds unit.loop_depth = 2"
    with pytest.raises(CapacityError, match=message):
        compile_network((528, 250, 125, 10), params, "softmax-ce", 0.02, "relu", 4.0, "capacitor")


@pytest.mark.parametrize("lanes", [1, 7, 64, 250, 256, 1000])
def test_any_number_of_lanes_holds_the_network(lanes):
    params = Params(unit=MNIST.unit.with_lanes(lanes))
    if lanes == 1:
        with pytest.raises(CapacityError, match="chi words"):
            compile_network((784, 250, 10), params)
    else:
        compile_network((784, 250, 10), params)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_every_entry_runs_to_halt_inside_the_memories(loss, activation):
    u = dataclasses.replace(MNIST.unit, n_luts=8)    # relu has tables of its own for layers fed by pixels and by relu
    program = compile_network((784, 100, 50, 10), Params(unit=u), loss, 0.1, activation)
    assert len(program.instructions) <= u.program_words
    for entry in program.entries:
        for opcode, _, operands in instructions(program, entry):
            if opcode == Opcode.VECTOR and operands["op"] != VectorOp.SET_EXPONENT:
                words = math.ceil(operands["count"] / u.vector_width)
                assert operands["dst"] + words <= u.vector_words
                assert operands["a"] + words <= u.vector_words


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.4, 3.0])
def test_the_rate_is_coded_to_half_a_percent(rate):
    """U per x4 d4 at E = 0, for squared error: derived from the units in the module's docstring."""
    u, tile = MNIST.unit, MNIST.tile
    program = compile_network((784, 10), MNIST, "mse", rate)
    update, = [operands for opcode, _, operands in instructions(program, "train_one") if opcode == Opcode.UPDATE]
    coded = update["rate"] * 2.0 ** update["exponent"]
    delta_unit = 2.0**14 / (ONE * 4 * 32767)
    chi_lsb = tile.step_us / tile.weight_range_us / u.eps
    x_per_code, delta_per_code = 8 / u.line_max, 8 * delta_unit
    assert coded == pytest.approx(rate * x_per_code * delta_per_code / chi_lsb, rel=0.5 / 128)


def test_softmax_tables_against_float():
    """Probability from the two tables, element by element as the program computes it, within one percent of full scale."""
    params = MNIST
    program = compile_network((784, 10), params, "softmax-ce", 0.1)
    ops = [o for opcode, _, o in instructions(program, "train_one") if opcode == Opcode.VECTOR]
    total_shift = next(o["shift"] for o in ops if o["op"] == VectorOp.SUM)
    offset = next(o["imm"] for o in ops if o["op"] == VectorOp.SUB and o["count"] == 1)
    p_shift = next(o["shift"] for o in ops if o["op"] == VectorOp.MUL and o["shift"])
    exp, reciprocal = (table.astype(np.int64) for table in program.luts)
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(300):
        z = rng.integers(-127, 128, 10)
        e = exp[(z - z.max()) & 511]
        s = np.clip(((e.sum() + (1 << total_shift >> 1)) >> total_shift) - offset, -256, 255)
        p = (e * reciprocal[s & 511] + (1 << p_shift >> 1)) >> p_shift
        real = np.exp((z - z.max()) * params.tile.adc_range[1] / params.unit.adc_max)
        worst = max(worst, np.abs(p / ONE - real / real.sum()).max())
    assert worst < 0.01


def test_output_scale_moves_rates_only_and_the_tables_of_the_outputs():
    plain, scaled = (compile_network((784, 250, 10), MNIST, "mse", 0.4, output_scale=scale) for scale in (1.0, 4.0))
    rates = []
    for program in (plain, scaled):
        updates = [o for opcode, _, o in instructions(program, "train_one") if opcode == Opcode.UPDATE]
        rates.append({o["matrix"]: o["rate"] * 2.0 ** o["exponent"] for o in updates})
    assert rates[1][1] == rates[0][1] / 4                 # the same step of the weight is a quarter of the conductance
    assert rates[1][0] == rates[0][0] * 4                 # errors come back through weights four times as large
    changed = [not np.array_equal(*pair) for pair in zip(plain.luts, scaled.luts, strict=True)]
    assert changed == [False, False, True, True]          # f and slope of the hidden layer, y and its slope
    index = 20
    assert scaled.luts[2][index] == plain.luts[2][4 * index]


def test_softmax_error_of_the_label_is_that_of_the_others():
    """One image through the unit's vector memory: small errors survive the coarse table of reciprocals."""
    params = dataclasses.replace(MNIST, tile=dataclasses.replace(MNIST.tile, noise=False, adc_range=(12.0, 12.0, 12.0, 1.0)))
    program = compile_network((784, 10), params, "softmax-ce", 0.1)
    backend = ModelBackend(params, 3)
    backend.configure(program)
    backend.execute("clear")
    scale, = [o for opcode, _, o in instructions(program, "train_one") if opcode == Opcode.VECTOR and o["op"] == VectorOp.SCALE]
    images = np.random.default_rng(0).integers(0, 256, (60, 784)).astype(np.uint8)
    small = 0
    for image in images:
        z = backend.run("evaluate", program.packets("evaluate", image[None], np.array([0])))[0]
        label = int(z.argmax())
        backend.run("train", program.packets("train", image[None], np.array([label])))
        delta = backend.unit.vec[scale["a"] * params.unit.vector_width:][:10].astype(float)
        real = np.exp((z.astype(float) - z.max()) * params.tile.adc_range[1] / params.unit.adc_max)
        error = 1 - real[label] / real.sum()
        assert abs(delta.sum()) <= 0.005 * np.abs(delta).sum() + 3
        assert delta[label] / ONE == pytest.approx(error, rel=0.02, abs=1e-3)
        small += error < 0.008
    assert small


def test_packets():
    program = compile_network((784, 250, 10), MNIST)
    images = np.arange(2 * 784).reshape(2, 784).astype(np.uint8)
    packets = program.packets("train", images, np.array([3, 9]))
    assert packets.shape == (2, 810)
    np.testing.assert_array_equal(packets[:, :784], images)
    np.testing.assert_array_equal(packets[:, 784], 255)
    np.testing.assert_array_equal(packets[:, 800:].argmax(axis=1), [3, 9])
    assert packets[:, 785:].sum() == 2 * 255
