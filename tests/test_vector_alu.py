"""hdl.vector_alu against its twin: every pair of corner values, clipping at the very limits, reductions, tables, latency."""
from itertools import chain, product

import numpy as np
import pytest

from hdl.vector_alu import VectorAlu, asks_of
from model.digital import vector_alu as twin
from model.digital.arith import round_shift
from model.isa import VectorOp
from model.params import SMALL
from tests.sim import simulate

U = SMALL.unit
W = U.vector_width
CORNERS = (-32768, -32767, -16385, -16384, -182, -181, -2, -1, 0, 1, 2, 181, 182, 16383, 16384, 32766, 32767)
PAIRS = list(product(CORNERS, CORNERS))
ELEMENTWISE = (VectorOp.ADD, VectorOp.SUB, VectorOp.MUL, VectorOp.MAX, VectorOp.COMPARE)


def run(jobs, table=()):
    """Run jobs (setup, words of a, words of b), a step in every cycle of a job. Returns for each job its results
    [(cycle, data, mask, last)], cycle 0 being that of the first step, and the number of clipped elements."""
    dut, out = VectorAlu(U), []

    async def bench(ctx):
        for index, value in enumerate(table):
            for name, bits in (("en", 1), ("lut", 0), ("index", index), ("data", int(value))):
                ctx.set(getattr(dut.lut_write, name), bits)
            await ctx.tick()
        ctx.set(dut.lut_write.en, 0)
        for setup, words_a, words_b in jobs:
            results, clipped = [], 0
            ctx.set(dut.setup, {**asks_of(setup["op"]), **{name: value for name, value in setup.items() if name != "op"}})
            ctx.set(dut.above, sum((setup.get("shift", 0) <= place) << place for place in range(len(dut.above))))
            for cycle in range(len(words_a) + 10):
                active = cycle < len(words_a)
                ctx.set(dut.step, {"valid": active, "last": cycle == len(words_a) - 1})
                if active:
                    ctx.set(dut.a, words_a[cycle])
                    ctx.set(dut.b, words_b[cycle])
                if ctx.get(dut.o.valid):
                    results.append((cycle, list(ctx.get(dut.o.data)), ctx.get(dut.o.mask), ctx.get(dut.o.last)))
                clipped += ctx.get(dut.clipped).bit_count()
                await ctx.tick()
            out.append((results, clipped))

    simulate(dut, bench)
    return out


def elements(results):
    return [x for _, data, _, _ in results for x in data]


def words(values):
    return [list(values[k:k + W]) for k in range(0, len(values), W)]


def padded(pairs):
    pairs = pairs + [(0, 0)] * (-len(pairs) % W)
    return words([a for a, _ in pairs]), words([b for _, b in pairs])


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_every_pair_of_corners(op):
    a, b = padded(PAIRS)
    shifts = (0, 1, 14, 15, 16, 31)
    jobs = [({"op": op, "b_vector": 1, "shift": shift, "tail": W - 1}, a, b) for shift in shifts]
    for shift, (results, clipped) in zip(shifts, run(jobs), strict=True):
        exact = [round_shift(twin.f(op, x, y), shift) for x, y in zip(chain(*a), chain(*b), strict=True)]
        assert elements(results) == [twin.sat16(x) for x in exact]
        assert clipped == sum(twin.sat16(x) != x for x in exact)
        assert [cycle for cycle, *_ in results] == [k + 4 for k in range(len(a))]
        assert [last for *_, last in results] == [0] * (len(a) - 1) + [1]


def test_results_at_the_limits():
    """Sums whose result is max - 1, max, max + 1, min, min - 1: exactly those beyond are clipped and counted."""
    pairs = [(32766, 0), (32767, 0), (32767, 1), (-32768, 0), (-32768, -1), (-32767, -1), (32766, 1), (16384, 16384)]
    halved = [(32767, 32767), (32767, 32766), (-32768, -32768), (-32768, -32767)]
    (results, clipped), (results_halved, clipped_halved) = run([
        ({"op": VectorOp.ADD, "b_vector": 1, "tail": W - 1}, *padded(pairs)),
        ({"op": VectorOp.ADD, "b_vector": 1, "shift": 1, "tail": W - 1}, *padded(halved))])
    assert (elements(results), clipped) == ([32766, 32767, 32767, -32768, -32768, -32768, 32767, 32767], 3)
    assert (elements(results_halved), clipped_halved) == ([32767, 32767, -32768, -32767], 0)


def test_operand_sources_and_tail():
    a, b = [[1, 2, 3, 4], [5, 6, 7, 8]], [[10, 20, 30, 40], [50, 60, 70, 80]]
    *by_tail, immediate = run([
        *(({"op": VectorOp.ADD, "b_element": 1, "tail": tail}, a, b) for tail in range(W)),
        ({"op": VectorOp.SUB, "scalar": -32768, "tail": 3}, [[-1, 0, 1, -32768]], b)])
    for tail, (results, _) in enumerate(by_tail):
        assert results == [(4, [11, 12, 13, 14], 15, 0), (5, [55, 56, 57, 58], (2 << tail) - 1, 1)]
    assert (elements(immediate[0]), immediate[1]) == ([32767, 32767, 32767, 0], 2)


def test_left_shift():
    values = [*CORNERS, 0, 0, 0]
    jobs = [({"op": VectorOp.SHL, "shift": 16 - shift, "tail": W - 1}, *padded([(x, 9) for x in values])) for shift in range(16)]
    for shift, (results, clipped) in enumerate(run(jobs)):
        assert elements(results) == [twin.sat16(x << shift) for x in values]
        assert clipped == sum(twin.sat16(x << shift) != x << shift for x in values)


def test_scale():
    values = [*CORNERS, 127, 128, -128, -127, 255, -255, 64]
    a, b = padded([(x, 9) for x in values])
    ns = range(-7, 10)
    jobs = [({"op": VectorOp.SCALE, "shift": 16 + n, "tail": W - 1}, a, b) for n in ns]
    for n, (results, clipped) in zip(ns, run(jobs), strict=True):
        assert elements(results) == [twin.scale_element(U.line_max, x, n) for x in values]
        assert clipped == 0


@pytest.mark.parametrize("op", [VectorOp.SUM, VectorOp.PEAK_MAX])
def test_reductions(op):
    rng = np.random.default_rng(1)
    vectors = [values.tolist() for count in (1, W - 1, W, 5 * W + 2) for values in (
        rng.integers(-32768, 32768, count), np.full(count, -32768), np.full(count, 32767), rng.integers(-9, 0, count))]
    vectors += [[-32768, -32768, -1], [-32768, -32768, -2], [32767, 32767, 1]]
    neutral = -32768 if op is VectorOp.PEAK_MAX else 0
    shifts = [*rng.integers(0, 9, len(vectors) - 3).tolist(), 1, 1, 1]      # the last: rounded to the limits, or clipped to them
    jobs = []
    for values, shift in zip(vectors, shifts, strict=True):
        filled = words(values + [12345] * (-len(values) % W))          # what lies behind the vector must not matter
        jobs.append(({"op": op, "shift": shift, "tail": (len(values) - 1) % W, "scalar": neutral}, filled, filled))
    for values, shift, (_, filled, _), (results, clipped) in zip(vectors, shifts, jobs, run(jobs), strict=True):
        total = round_shift(sum(values) if op is VectorOp.SUM else max(values), shift)
        ((cycle, data, mask, last),) = results
        assert (cycle, data[0], mask, last) == (len(filled) - 1 + 3 + twin.reduce_stages(W), twin.sat16(total), 1, 1)
        assert clipped == (twin.sat16(total) != total)


def test_tables():
    table = np.random.default_rng(2).integers(-32768, 32768, 1 << U.lut_bits)
    half = 1 << (U.lut_bits - 1)
    values = [-32768, -half - 1, -half, 1 - half, -1, 0, 1, half - 2, half - 1, half, 32767, 3, -3, 5, -5, 7]
    shifts = (0, 1, 7, 15)
    a, b = padded([(x, 9) for x in values])
    jobs = [({"op": VectorOp.LUT, "shift": shift, "tail": W - 1}, a, b) for shift in shifts]
    for shift, (results, clipped) in zip(shifts, run(jobs, table), strict=True):
        assert elements(results) == [int(table[twin.lut_index(U.lut_bits, x, shift)]) for x in values]
        assert [cycle for cycle, *_ in results] == [k + 6 for k in range(len(a))]
        assert clipped == 0
    assert twin.lut_index(U.lut_bits, -half - 1, 0) == half
    assert twin.lut_index(U.lut_bits, half, 0) == half - 1
