"""hdl.accumulator equals model.digital.accumulator; conservation as property, and proved for a watched word and lane."""
import random

import numpy as np
import pytest
from amaranth import Assert, Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.asserts import AnyConst
from amaranth.hdl import Assume, Cover
from amaranth.lib.wiring import In, Out
from hypothesis import given, settings
from hypothesis import strategies as st

from hdl.accumulator import Accumulator
from model.digital import accumulator as twin
from model.params import UnitParams
from tests.formal import any_value, prove
from tests.sim import simulate

SHAPE = dict(vector_width=4, n_rows=8, n_cols=8, chi_words=16)
TINY = UnitParams(lanes=2, outer_bits=2, eps_log2=4, chi_bits=5, update_max_steps=1, rate_bits=2, **SHAPE)
SHAPES = [
    UnitParams(lanes=7, eps_log2=5, chi_bits=6, update_max_steps=3, **SHAPE),
    UnitParams(lanes=4, eps_log2=5, chi_bits=9, outer_bits=3, update_max_steps=7, **SHAPE),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([*SHAPES, TINY, UnitParams()]))
def test_model_conserves(seed, u):
    """For every weight: sum of U == eps * signed pulses + chi, |chi| < eps, over many updates."""
    rng, c = np.random.default_rng(seed), u.constants
    chi, total, pulses = np.zeros(u.lanes, np.int32), np.zeros(u.lanes, np.int64), np.zeros(u.lanes, np.int64)
    counts, negative = np.zeros(u.lanes, np.int32), np.zeros(u.lanes, np.uint8)
    for _ in range(40):
        t = int(rng.integers(-u.multiplicand_max, u.multiplicand_max + 1))
        codes = rng.integers(-u.outer_max, u.outer_max + 1, u.lanes).astype(np.int32)
        total += np.sign(t * codes) * ((abs(t * codes) + (1 << u.outer_bits >> 1)) >> u.outer_bits)
        if twin.accumulate_threshold(c, t, codes[None], 0, chi[None], 0, counts, negative):
            assert counts.any()
            assert counts.max() <= u.count_max
            pulses += np.where(negative, -counts, counts)
        assert (total == u.eps * pulses + chi).all()
        assert (abs(chi) < u.eps).all()


@pytest.mark.parametrize("u", SHAPES)
@pytest.mark.parametrize("threshold", [1, 0])
def test_rtl_is_the_twin(u, threshold):
    """Corner and random words, back to back and held: memory, pulses and clips."""
    dut, c, source = Accumulator(u), u.constants, random.Random(3)
    n_words, rounds = 5, 40
    chi = np.zeros((n_words, u.lanes), np.int32)
    corners = [-u.multiplicand_max, 1 - u.multiplicand_max, -1, 0, 1, u.multiplicand_max]
    expected_pulses, seen, expected_clips, clips, jobs, states = [], [], 0, 0, [], []
    counts, negative = np.zeros(u.lanes, np.int32), np.zeros(u.lanes, np.uint8)
    for n in range(rounds * n_words):
        t = source.choice(corners) if source.random() < 0.5 else source.randint(-u.multiplicand_max, u.multiplicand_max)
        codes = np.array([source.choice([-u.outer_max, u.outer_max, 0, source.randint(-u.outer_max, u.outer_max)])
                          for _ in range(u.lanes)], np.int32)
        word = n % n_words
        jobs.append((word, t, codes))
        if threshold:
            if twin.accumulate_threshold(c, t, codes[None], 0, chi, word, counts, negative):
                expected_pulses.append((counts.tolist(), [int(s) for s, n in zip(negative, counts, strict=True) if n]))
        else:
            expected_clips += twin.accumulate(c, t, codes[None], 0, chi, word)
        states.append(chi[word].copy())

    async def step(ctx, go):
        nonlocal clips
        ctx.set(dut.go, go)
        clips += ctx.get(dut.saturations)
        if go and ctx.get(dut.pulse_valid):
            got = [ctx.get(dut.counts[k]) for k in range(u.lanes)]
            signs = ctx.get(dut.negative)
            seen.append((got, [signs >> k & 1 for k in range(u.lanes) if got[k]]))
        await ctx.tick()

    async def bench(ctx):
        ctx.set(dut.clear, 1)                           # memory content is undefined before
        for n in range(n_words + 3):
            ctx.set(dut.valid, n < n_words)
            ctx.set(dut.address, min(n, n_words - 1))
            await step(ctx, 1)
        ctx.set(dut.clear, 0)
        ctx.set(dut.threshold, threshold)
        for word, t, codes in jobs:
            ctx.set(dut.valid, 1)
            ctx.set(dut.address, word)
            ctx.set(dut.multiplicand, abs(t))
            ctx.set(dut.treble, 3 * abs(t))
            ctx.set(dut.line_negative, t < 0)
            packed = [abs(int(d)) | int(d < 0) << u.outer_bits for d in codes]
            ctx.set(dut.codes, sum(code << k * (u.outer_bits + 1) for k, code in enumerate(packed)))
            while source.random() < 0.3:
                await step(ctx, 0)
            await step(ctx, 1)
        ctx.set(dut.valid, 0)
        for _ in range(5):
            await step(ctx, 1)
        for word in range(n_words):
            ctx.set(dut.threshold, 0)
            ctx.set(dut.valid, 1)
            ctx.set(dut.multiplicand, 0)
            ctx.set(dut.treble, 0)
            ctx.set(dut.address, word)
            await step(ctx, 1)
            stored = ctx.get(dut.word)
            ctx.set(dut.valid, 0)
            await step(ctx, 1)
            await step(ctx, 1)
            values = [stored >> k * u.chi_bits & (1 << u.chi_bits) - 1 for k in range(u.lanes)]
            assert [v - (v >> u.chi_bits - 1 << u.chi_bits) for v in values] == chi[word].tolist()

    simulate(dut, bench)
    assert seen == expected_pulses
    assert clips == expected_clips
    assert (seen if threshold else clips)               # the situation was reached


class Watched(Accumulator):
    """Accumulator with a second look at the memory: ``stored`` is the word at ``watch`` of bank 0."""

    def __init__(self, u):
        super().__init__(u)
        self.watch, self.stored = Signal(range(u.chi_words)), Signal(u.vector_width * u.chi_bits)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        port = m.submodules["bank0"].read_port(domain="comb")
        m.d.comb += [port.addr.eq(self.watch), self.stored.eq(port.data)]
        return m
