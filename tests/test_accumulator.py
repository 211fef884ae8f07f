"""hdl.accumulator equals model.digital.accumulator; conservation as property, and proved for a watched word and lane."""
import itertools
import random

import numpy as np
import pytest
from amaranth import Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover
from hypothesis import given, settings
from hypothesis import strategies as st

from hdl.accumulator import LATENCY, Accumulator, n_parts
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
    counts, negative, changes = np.zeros(u.lanes, np.int32), np.zeros(u.lanes, np.uint8), np.zeros((1, u.lanes), np.int32)
    for _ in range(40):
        t = int(rng.integers(-u.multiplicand_max, u.multiplicand_max + 1))
        codes = rng.integers(-u.outer_max, u.outer_max + 1, u.lanes).astype(np.int32)
        total += np.sign(t * codes) * ((abs(t * codes) + (1 << u.outer_bits >> 1)) >> u.outer_bits)
        twin.change(c, t, codes[None], 0, changes, 0)
        if twin.accumulate_threshold(c, changes, 0, chi[None], 0, counts, negative):
            assert counts.any()
            assert counts.max() <= u.count_max
            pulses += np.where(negative, -counts, counts)
        assert (total == u.eps * pulses + chi).all()
        assert (abs(chi) < u.eps).all()


@pytest.mark.parametrize("u", SHAPES)
@pytest.mark.parametrize("threshold", [1, 0])
def test_rtl_is_the_twin(u, threshold):
    """Words cleared, shifted in, then corner and random ones, back to back and with gaps: memory, pulses and clips; ``keep``."""
    dut, c, source = Accumulator(u), u.constants, random.Random(3)
    n_words, rounds, part_bits = 5, 40, u.vector_width * u.chi_bits
    chi = np.zeros((n_words, u.lanes), np.int32)
    limit = u.eps - 1 if threshold else u.chi_max
    loaded = {1: [source.choice([limit, -limit, 0, source.randint(-limit, limit)]) for _ in range(u.lanes)],
              4: [-limit] * u.lanes}
    for word, values in loaded.items():
        chi[word] = values
    corners = [-u.multiplicand_max, 1 - u.multiplicand_max, -1, 0, 1, u.multiplicand_max]
    expected_pulses, seen, expected_clips, clips, jobs, states = [], [], 0, 0, [], []
    counts, negative, changes = np.zeros(u.lanes, np.int32), np.zeros(u.lanes, np.uint8), np.zeros((1, u.lanes), np.int32)
    for n in range(rounds * n_words):
        t = source.choice(corners) if source.random() < 0.5 else source.randint(-u.multiplicand_max, u.multiplicand_max)
        codes = np.array([source.choice([-u.outer_max, u.outer_max, 0, source.randint(-u.outer_max, u.outer_max)])
                          for _ in range(u.lanes)], np.int32)
        word = n % n_words
        jobs.append((word, t, codes))
        twin.change(c, t, codes[None], 0, changes, 0)
        if threshold:
            if twin.accumulate_threshold(c, changes, 0, chi, word, counts, negative):
                expected_pulses.append((counts.tolist(), [int(s) for s, n in zip(negative, counts, strict=True) if n]))
        else:
            expected_clips += twin.accumulate(c, changes, 0, chi, word)
        states.append(chi[word].copy())

    multiplied = 0                                      # codes of the word that was issued a cycle before

    async def step(ctx, valid=0, fetch=None, codes=0):
        nonlocal clips, multiplied
        ctx.set(dut.codes, multiplied)
        multiplied = codes
        ctx.set(dut.valid, valid)
        ctx.set(dut.fetch, fetch is not None)
        ctx.set(dut.address, fetch or 0)
        clips += ctx.get(dut.saturations)
        if ctx.get(dut.pulse_valid):
            got = [ctx.get(dut.counts[k]) for k in range(u.lanes)]
            signs = ctx.get(dut.negative)
            seen.append((got, [signs >> k & 1 for k in range(u.lanes) if got[k]]))
        await ctx.tick()

    async def bench(ctx):
        ctx.set(dut.clear, 1)                           # memory content is undefined before
        await step(ctx, fetch=0)
        for word in range(n_words):
            await step(ctx, 1, word + 1 if word + 1 < n_words else None)
        for _ in range(LATENCY):
            await step(ctx)
        ctx.set(dut.clear, 0)
        ctx.set(dut.load, 1)
        for word, values in loaded.items():
            await step(ctx, fetch=word)
            packed = sum((value & (1 << u.chi_bits) - 1) << k * u.chi_bits for k, value in enumerate(values))
            for part in range(n_parts(u)):
                ctx.set(dut.shift, 1)
                ctx.set(dut.shift_in, packed >> part * part_bits & (1 << part_bits) - 1)
                await step(ctx, part == n_parts(u) - 1)
            ctx.set(dut.shift, 0)
            await step(ctx)
        for _ in range(LATENCY):
            await step(ctx)
        ctx.set(dut.load, 0)
        ctx.set(dut.threshold, threshold)
        following = [word for word, _, _ in jobs[1:]] + [None]
        await step(ctx, fetch=jobs[0][0])
        for (_, t, codes), fetch in zip(jobs, following, strict=True):
            while source.random() < 0.3:
                await step(ctx)
            ctx.set(dut.multiplicand, abs(t))
            ctx.set(dut.line_negative, t < 0)
            packed = [abs(int(d)) | int(d < 0) << u.outer_bits for d in codes]
            await step(ctx, 1, fetch, sum(code << k * (u.outer_bits + 1) for k, code in enumerate(packed)))
        for _ in range(LATENCY + 2):
            await step(ctx)
        ctx.set(dut.keep, 1)
        ctx.set(dut.line_negative, 0)
        for word in range(n_words):
            await step(ctx, fetch=word)
            await step(ctx, 1)
            await step(ctx)
            stored = 0
            for part in range(n_parts(u)):
                stored |= ctx.get(dut.word) << part * part_bits
                ctx.set(dut.shift, 1)
                await step(ctx)
            ctx.set(dut.shift, 0)
            values = [stored >> k * u.chi_bits & (1 << u.chi_bits) - 1 for k in range(u.lanes)]
            assert [v - (v >> u.chi_bits - 1 << u.chi_bits) for v in values] == chi[word].tolist()

    simulate(dut, bench)
    assert seen == expected_pulses
    assert clips == expected_clips
    assert (seen if threshold else clips)               # the situation was reached


class ConservationSpec(Elaboratable):
    """Anything the walker may do, for a watched word and lane: sum of U == eps * signed pulses + chi (mod 2^16), |chi| < eps."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m = Module()
        u, bits = self.u, 16
        m.submodules.dut = dut = Accumulator(u)
        bank, = dut.banks
        looks = [one.memory.read_port(domain="comb") for one in bank.slices]      # a second look at the memory
        address, lane = Signal(range(u.chi_words)), Signal(range(u.lanes))
        m.d.comb += [address.eq(AnyConst(len(address))), lane.eq(AnyConst(len(lane))), *(look.addr.eq(address) for look in looks)]
        for port in (dut.fetch, dut.valid, dut.address, dut.multiplicand, dut.line_negative, dut.codes):
            m.d.comb += port.eq(any_value(m, port.shape()))
        m.d.comb += [dut.threshold.eq(1), Assume(dut.multiplicand <= u.multiplicand_max)]

        # the watched lane's U, and its way through the pipeline (ghosts of address and U)
        code_bits = u.outer_bits + 1
        code, multiplicand, line_negative = Signal(code_bits), Signal.like(dut.multiplicand), Signal()
        m.d.sync += [multiplicand.eq(dut.multiplicand), line_negative.eq(dut.line_negative)]
        m.d.comb += code.eq(dut.codes.word_select(lane, code_bits))
        magnitude = (multiplicand * code[:-1] + (1 << u.outer_bits >> 1)) >> u.outer_bits
        update = Signal(signed(bits))
        m.d.comb += update.eq(Mux(code[-1] ^ line_negative, -magnitude, magnitude))
        m.d.comb += Assert(magnitude <= u.update_max)
        waits, reading, adding, writing, pulsing = (Signal(name=name) for name in (
            "waits", "reading", "adding", "writing", "pulsing"))   # waits: a fetched word is not yet issued
        head, first_look = Signal.like(address), Signal()
        addresses = [Signal.like(address, name=f"address{n}") for n in range(3)]
        amounts = [update, *(Signal.like(update, name=f"amount{n}") for n in (1, 2))]
        m.d.sync += [
            waits.eq(dut.fetch | (waits & ~dut.valid)), first_look.eq(dut.fetch),
            reading.eq(dut.valid), adding.eq(reading), writing.eq(adding), pulsing.eq(writing & (addresses[2] == address)),
            *(new.eq(old) for new, old in zip(addresses, [head, *addresses], strict=False)),
            *(new.eq(old) for old, new in itertools.pairwise(amounts)),
        ]
        with m.If(dut.fetch):
            m.d.sync += head.eq(dut.address)
        m.d.comb += [Assert(dut.read_valid == reading), Assert(dut.sum_valid == adding), Assert(dut.write_valid == writing),
                     Assert(bank.valid_stages == Cat(reading, adding, writing)), Assert(bank.fetched == first_look),
                     Assert(~first_look | waits), Assert(bank.read_address == head),
                     Assert(bank.multiply_address == addresses[0]), Assert(bank.add_address == addresses[1]),
                     Assert(bank.write_address == addresses[2])]
        # the walker's promise: a word waits where the one before was issued; none is fetched that is on its way, or issued now
        m.d.comb += [Assume(~dut.valid | waits), Assume(~dut.fetch | ~waits | dut.valid)]
        stages = ((waits, head), (reading, addresses[0]), (adding, addresses[1]), (writing, addresses[2]))
        for valid, one in stages[:3]:
            m.d.comb += Assume(~(dut.fetch & valid & (dut.address == one)))
        for (valid, one), (other_valid, other) in itertools.combinations(stages, 2):    # what it means a stage later
            m.d.comb += Assert(~(valid & other_valid & (one == other)))

        m.d.comb += [Assert(bank.held_multiplicand == multiplicand), Assert(bank.held_negative == line_negative)]

        # ledger of the watched weight
        stored, count = Signal(signed(u.chi_bits)), Signal(signed(bits))
        total, pulses, steps = Signal(signed(bits)), Signal(signed(bits)), Signal(signed(bits))
        m.d.comb += [
            stored.eq(Cat(look.data.as_value() for look in looks).word_select(lane, u.chi_bits).as_signed()),
            count.eq(Cat(dut.counts).word_select(lane, u.count_bits)),
            steps.eq(Mux(dut.negative.bit_select(lane, 1), -count, count)),
        ]
        with m.If(writing & (addresses[2] == address)):
            m.d.sync += total.eq(total + amounts[2])
        waiting = Mux(pulsing & dut.pulse_valid, steps, 0)  # in this cycle the command leaves
        m.d.sync += pulses.eq(pulses + waiting)
        m.d.comb += Assert(total == ((pulses + waiting) * u.eps + stored)[:bits].as_signed())
        m.d.comb += [Assert(stored < u.eps), Assert(stored > -u.eps)]
        with m.If(pulsing & ~dut.pulse_valid):
            m.d.comb += Assert(count == 0)

        # the sum in flight is exact, so it did not overflow; both are kept ^ the sign of U
        sums, read, in_flight = Signal(signed(bits)), Signal(signed(u.chi_bits)), Signal(u.update_max.bit_length() + 1)
        negative, whole = Signal(), Signal()
        lanes = [(one, k) for one in bank.slices for k in range(one.n_lanes)]
        with m.Switch(lane):
            for index, (one, k) in enumerate(lanes):
                with m.Case(index):
                    m.d.comb += [sums.eq(one.sums[k] ^ one.summed[k].replicate(len(one.sums[k])).as_signed()),
                                 read.eq(one.held[k] ^ one.added[k].replicate(u.chi_bits)),
                                 in_flight.eq(one.updates[k]), negative.eq(one.added[k]), whole.eq(one.whole[k])]
        magnitude_in_flight = in_flight[1:] + in_flight[0]
        for valid, amount in zip((reading, adding, writing), amounts, strict=True):
            with m.If(valid):
                m.d.comb += [Assert(amount <= u.update_max), Assert(amount >= -u.update_max)]
        with m.If(adding & (addresses[1] == address)):
            m.d.comb += Assert(read == stored)
        fetched = Signal(signed(u.chi_bits))                # the memory output, once it was looked at
        outputs = Cat(one.output.as_value() for one in bank.slices)
        m.d.comb += fetched.eq(outputs.word_select(lane, u.chi_bits).as_signed())
        with m.If((waits & ~first_look & (head == address)) | (reading & (addresses[0] == address))):
            m.d.comb += Assert(fetched == stored)
        with m.If(adding):
            m.d.comb += Assert(amounts[1] == Mux(negative, -magnitude_in_flight, magnitude_in_flight))
        with m.If(writing & (addresses[2] == address)):
            m.d.comb += [Assert(sums == stored + amounts[2]), Assert(whole == (sums[:u.eps_log2] == 0))]
        m.d.comb += [Cover((pulses == 3) & (stored == 2 - u.eps)), Cover((pulses == -2) & writing & dut.pulse_valid)]
        return m


@pytest.mark.formal
def test_formal_conservation():
    prove(ConservationSpec(TINY), "accumulator", depth=6, cover_depth=20)
