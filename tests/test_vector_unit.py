"""hdl.vector_unit with hdl.vector_memory against the twin: results, cycles, events, stalls, gating, proof."""
import dataclasses
import itertools
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from amaranth import Assert, Cover, Elaboratable, EnableInserter, Module, Signal
from amaranth.asserts import AnySeq
from amaranth.lib import wiring

from hdl.vector_memory import VectorMemory
from hdl.vector_unit import VectorUnit
from model.commands import VectorCommand
from model.digital import vector_unit
from model.events import INDEX, N_EVENTS
from model.isa import BKind, VectorOp
from model.params import SMALL
from tests.formal import drive_stream, prove, stream_contract
from tests.sim import pauses, simulate

U = SMALL.unit
W = U.vector_width
CORNERS = np.array([-32768, -32767, -129, -128, -127, -1, 0, 1, 2, 127, 128, 129, 16384, 32766, 32767])
EVENTS = ("phase_vector", "vector_words", "vector_saturations")
ZERO = VectorCommand(*[0] * len(VectorCommand._fields))


def command(op, **fields):
    return ZERO._replace(op=int(op), **{"count": 1, "count0": 1, "count1": 1, **{k: int(v) for k, v in fields.items()}})


class State:
    """Twin and its state."""

    def __init__(self, u, rng):
        self.u = u.constants
        self.vec = rng.choice(CORNERS, u.vector_words * u.vector_width).astype(np.int32)
        self.luts = rng.integers(-32768, 32768, (u.n_luts, 1 << u.lut_bits)).astype(np.int32)
        self.exponents, self.peak = np.zeros(8, np.int64), np.zeros(1, np.int64)
        self.counters, self.emitted = np.zeros(N_EVENTS, np.int64), vector_unit.new_emitted(1 << 16)

    def execute(self, c):
        assert min(c.count, c.count0, c.count1) >= 1
        assert max(c.a, c.b if c.b_kind == BKind.VECTOR else 0, c.dst) * self.u.vector_width + c.count <= self.vec.size
        return vector_unit.execute(self.u, c, self.vec, self.luts, self.exponents, self.peak, self.counters, self.emitted)


class Bench(wiring.Component):
    """Unit and memory; with ``gated`` the unit is clocked in active cycles only."""

    def __init__(self, u, gated):
        self.unit, self.memory, self.gated = VectorUnit(u), VectorMemory(u), gated
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        m.submodules.unit = EnableInserter(self.unit.active)(self.unit) if self.gated else self.unit
        for ours, theirs in (("a", "a"), ("b", "b"), ("w", "w_vector")):
            wiring.connect(m, getattr(self.unit, ours), getattr(self.memory, theirs))
        return m


def run(commands, u=U, seed=0, idle="none", stall="none", gated=False):
    """Run commands on RTL and twin; compare memory, exponents, cycles, packets and events. Returns the twin and the stalls."""
    state = State(u, np.random.default_rng(seed))
    dut = Bench(u, gated)
    unit, rows = dut.unit, dut.memory.rows
    beats, counted, stalls = [], dict.fromkeys(EVENTS, 0), 0
    idles, stalled = pauses(idle, seed), pauses(stall, seed + 1)

    async def cycle(ctx):
        nonlocal stalls
        ctx.set(unit.o.ready, not next(stalled))
        for name in EVENTS:
            counted[name] += ctx.get(unit.events[name])
        stalls += ctx.get(unit.host_stall)
        if ctx.get(unit.o.valid) and ctx.get(unit.o.ready):
            payload = ctx.get(unit.o.payload)
            beats.append((list(payload.elements)[:payload.count], payload.last))
        await ctx.tick()

    async def bench(ctx):
        for addr, word in enumerate(state.vec.reshape(u.vector_words, u.vector_width).tolist()):
            ctx.set(rows[addr], word)
        for lut in {c.lut for c in commands if c.op == VectorOp.LUT}:
            for index in range(1 << u.lut_bits):
                for name, value in (("en", 1), ("lut", lut), ("index", index), ("data", int(state.luts[lut, index]))):
                    ctx.set(getattr(unit.lut_write, name), value)
                await ctx.tick()
        ctx.set(unit.lut_write.en, 0)
        for c in commands:
            while next(idles):
                await cycle(ctx)
            assert ctx.get(unit.i.ready)
            ctx.set(unit.i.payload, c._asdict())
            ctx.set(unit.i.valid, 1)
            before, taken = stalls, 1
            await cycle(ctx)
            ctx.set(unit.i.valid, 0)
            while not ctx.get(unit.i.ready):
                await cycle(ctx)
                taken += 1
            assert taken - (stalls - before) == state.execute(c), c
            assert list(ctx.get(unit.exponents)) == state.exponents.tolist(), c
            for addr, word in enumerate(state.vec.reshape(u.vector_words, u.vector_width).tolist()):
                assert list(ctx.get(rows[addr])) == word, (addr, c)
        for _ in range(2):
            await cycle(ctx)

    simulate(dut, bench)
    assert counted == {name: state.counters[INDEX[name]] for name in EVENTS}
    assert beats == [
        (packet[k:k + u.vector_width].tolist(), k + u.vector_width >= len(packet))
        for packet in vector_unit.packets(state.emitted) for k in range(0, len(packet), u.vector_width)]
    return state, stalls


def naive(u, c, vec, luts, exponents, peak_max):
    """The instruction set's sentences in plain Python: new vec, exponents, max |r| (None: kept), clipped elements."""
    vec, exponents, out = [int(v) for v in vec], [int(e) for e in exponents], vec.tolist()
    w, op = u.vector_width, VectorOp(c.op)
    a = vec[c.a * w:c.a * w + c.count]
    b = {BKind.VECTOR: vec[c.b * w:c.b * w + c.count], BKind.ELEMENT: [vec[c.b * w]] * c.count,
         BKind.IMMEDIATE: [c.imm] * c.count}[BKind(c.b_kind)]

    def rounded(value, shift):
        return floor(Fraction(value) / Fraction(2) ** shift + Fraction(1, 2))

    def clip(value, low=-32768, high=32767):
        return min(max(value, low), high)

    values, keeps_peak = [], False
    if op is VectorOp.ADD:
        values = [rounded(x + y, c.shift) for x, y in zip(a, b, strict=True)]
    elif op is VectorOp.SUB:
        values = [rounded(x - y, c.shift) for x, y in zip(a, b, strict=True)]
    elif op is VectorOp.MUL:
        values = [rounded(x * y, c.shift) for x, y in zip(a, b, strict=True)]
    elif op is VectorOp.MAX:
        values = [rounded(max(x, y), c.shift) for x, y in zip(a, b, strict=True)]
    elif op is VectorOp.COMPARE:
        values = [rounded(int(x > y), c.shift) for x, y in zip(a, b, strict=True)]
    elif op is VectorOp.SHL:
        values = [x * 2 ** c.shift for x in a]
    elif op is VectorOp.LUT:
        half = 2 ** (u.lut_bits - 1)
        values = [int(luts[c.lut][clip(rounded(x, c.shift), -half, half - 1) % (2 * half)]) for x in a]
    elif op is VectorOp.SUM:
        values = [rounded(sum(a), c.shift)]
    elif op is VectorOp.PEAK_MAX:
        values = [rounded(max(a), c.shift)]
    else:
        keeps_peak = True
        if op is VectorOp.SCALE:
            n = 0 if peak_max == 0 else max(peak_max.bit_length() - u.line_bits, -15)
            values = [clip(rounded(x, n), -u.line_max, u.line_max) for x in a]
            exponents[c.e_dst] = (exponents[c.e_src] + n + 128) % 256 - 128
        elif op is VectorOp.SET_EXPONENT:
            exponents[c.e_dst] = (c.imm + 128) % 256 - 128
        elif op is VectorOp.GATHER:
            values = [vec[(c.element + i * c.stride1 + j * c.stride0) % len(vec)]
                      for i in range(c.count1) for j in range(c.count0)]
    results = [clip(value) for value in values]
    out[c.dst * w:c.dst * w + len(results)] = results
    clipped = sum(x != y for x, y in zip(values, results, strict=True))
    return out, exponents, peak_max if keeps_peak else max(map(abs, results)), clipped


def every_command(rng, u=U):
    """Every operation x kind of b x count, in place and apart, in random order with random shifts."""
    commands, w = [], u.vector_width
    for op, kind, count in itertools.product(VectorOp, BKind, sorted({1, max(w - 1, 1), w, w + 1, 3 * w})):
        a, b, dst = (int(v) for v in rng.choice(u.vector_words // 4, 3, replace=False) * 4)
        inner = int(rng.choice([1, count]))
        commands.append(command(
            op, a=a, b=b, dst=rng.choice([a, b, dst]) if op is not VectorOp.GATHER else dst, b_kind=kind, count=count,
            shift=rng.choice([0, 1, 7, 8, 15] if op is VectorOp.SHL else [0, 0, 1, 7, 16, 31]), imm=rng.choice(CORNERS),
            lut=rng.integers(2), e_dst=rng.integers(8), e_src=rng.integers(8), **_source(rng, u, dst, inner, count // inner)))
    return [commands[k] for k in rng.permutation(len(commands))]


def _source(rng, u, dst, count0, count1):
    """A source of GATHER that does not touch the destination; strides of both signs, wrap-around included."""
    size = u.vector_words * u.vector_width
    while True:
        place = {"element": int(rng.integers(size)), "count0": count0, "count1": count1,
                 "stride0": int(rng.integers(-9, 10)), "stride1": int(rng.integers(-20, 21))}
        touched = {(place["element"] + i * place["stride1"] + j * place["stride0"]) % size
                   for i in range(count1) for j in range(count0)}
        if touched.isdisjoint(range(dst * u.vector_width, dst * u.vector_width + count0 * count1)):
            return place


def test_twin_is_the_instruction_set():
    rng = np.random.default_rng(1)
    state, peak_max = State(U, rng), 0
    for c in itertools.chain(*(every_command(rng) for _ in range(5))):
        if rng.random() < 0.1:
            state.vec[:] = rng.choice(CORNERS, state.vec.size)
        vec, exponents, peak_max, clipped = naive(state.u, c, state.vec, state.luts, state.exponents, peak_max)
        before = state.counters[INDEX["vector_saturations"]]
        state.execute(c)
        assert state.vec.tolist() == vec, c
        assert state.exponents.tolist() == exponents, c
        assert int(state.peak[0]).bit_length() == peak_max.bit_length(), c
        assert state.counters[INDEX["vector_saturations"]] - before == clipped, c


@pytest.mark.parametrize(("idle", "stall", "gated", "width"), [
    ("none", "none", False, W), ("random", "none", True, W), ("none", "random", True, W), ("random", "random", False, W),
    ("none", "random", True, 1), ("random", "random", False, 2)])
def test_rtl_is_the_twin(idle, stall, gated, width):
    u = dataclasses.replace(U, vector_width=width)
    run(every_command(np.random.default_rng(2), u), u, seed=3, idle=idle, stall=stall, gated=gated)


@pytest.mark.parametrize("width", [8, 32])
def test_rtl_is_the_twin_at_other_widths(width):
    u = dataclasses.replace(U, vector_width=width, n_rows=64, n_cols=64, vector_words=16, n_luts=1)
    run([command(op, a=1, b=5, dst=9, count=count, count0=count, element=width + 3, stride0=1, imm=5, e_dst=1)
         for op in VectorOp for count in (1, 2 * width + 1)], u, seed=4)


@pytest.mark.parametrize("width", [1, W])
def test_rtl_is_the_twin_without_gather(width):
    u = dataclasses.replace(U, vector_width=width, gather=0)
    run([c for c in every_command(np.random.default_rng(5), u) if c.op != VectorOp.GATHER], u, seed=5, stall="random", gated=True)


def test_scale_at_every_peak():
    """Every bit length of peak, both signs and the powers of two around it; also a vector that peak does not describe."""
    peaks = sorted({
        max(min(sign * (2 ** bits + offset), 32767), -32768) for bits in range(16) for offset in (-1, 0, 1) for sign in (1, -1)})
    commands = []
    for value in peaks:
        commands += [
            command(VectorOp.MUL, b_kind=BKind.IMMEDIATE, imm=0, dst=1, count=3),
            command(VectorOp.ADD, a=1, b_kind=BKind.IMMEDIATE, imm=value, dst=1, count=1),     # the peak
            command(VectorOp.SCALE, a=1, dst=2, count=3, e_src=1, e_dst=1),
            command(VectorOp.SCALE, a=4, dst=8, count=4 * W, e_src=2, e_dst=3),                # corner values, clipped
        ]
    state, _ = run(commands, seed=5)
    for value in peaks:                                                                        # the statement, on the twin
        for c in (command(VectorOp.MUL, b_kind=BKind.IMMEDIATE, imm=0, dst=1), command(
                VectorOp.ADD, a=1, b_kind=BKind.IMMEDIATE, imm=value, dst=1), command(VectorOp.SET_EXPONENT, e_dst=0),
                command(VectorOp.SCALE, a=1, dst=2, e_src=0, e_dst=0)):
            state.execute(c)
        r, n = int(state.vec[2 * W]), int(state.exponents[0])
        assert abs(r * 2.0 ** n - value) <= 2.0 ** (n - 1) + (2.0 ** n if abs(r) == U.line_max else 0)
        assert value == 0 or abs(r) >= U.line_max // 2 + 1


def test_emit_waits_for_the_host():
    commands = [command(VectorOp.EMIT, a=3, count=count) for count in (1, W, 4 * W + 1)] * 4
    state, stalls = run(commands, seed=6, stall="random", gated=True)
    assert stalls > 0
    assert [len(packet) for packet in vector_unit.packets(state.emitted)] == [c.count for c in commands]
    assert run(commands, seed=6)[1] == 0


def test_emitted_buffer_is_guarded():
    state = State(U, np.random.default_rng(0))
    state.emitted = vector_unit.new_emitted(8)
    with pytest.raises(IndexError, match="too small"):
        state.execute(command(VectorOp.EMIT, count=8))


class StreamSpec(Elaboratable):
    """Unit and memory under any commands, output readiness and competing writes."""

    def elaborate(self, platform):
        u = dataclasses.replace(U, vector_words=16, n_rows=32, n_luts=1, lut_bits=8)
        m = Module()
        m.submodules.bench = bench = Bench(u, gated=False)
        drive_stream(m, bench.unit.i)
        m.d.comb += bench.unit.o.ready.eq(AnySeq(1))
        drive_stream(m, bench.memory.w_host)
        stream_contract(m, bench.unit.o)
        waited = Signal()
        with m.If(bench.unit.host_stall):
            m.d.sync += waited.eq(1)
        m.d.comb += Cover(waited & bench.unit.o.valid & bench.unit.o.ready & bench.unit.o.payload.last)
        m.d.comb += Assert(bench.unit.host_stall == (bench.unit.o.valid & ~bench.unit.o.ready))
        return m


@pytest.mark.formal
def test_formal_stream():
    # granted: commands do not read what they write, see the unit's data sheet
    prove(StreamSpec(), "vector_unit_stream", depth=3, cover_depth=8, granted=["bench.memory"])


LAMBDA = 1 / 64                  # step of the exponent axis [1]: index i of the exp table stands for exp((i - 255) LAMBDA)


def softmax_program(u, n, logit_per_code):
    """Softmax over n classes of codes in word 0 -> probabilities in word 7, units of 1 / one. Returns commands, tables, one."""
    log_shift = 9                                                    # of (sum - one): sums one .. n * one on 512 indices
    one = min(32767, (511 << log_shift) // (n - 1))
    index = np.arange(-256, 256)
    exp_table = np.where(index == -256, 0, np.round(one * np.exp((index - 255) * LAMBDA)))
    log_table = np.round(np.log1p(((index + 256) << log_shift) / one) / LAMBDA)
    tables = np.zeros((u.n_luts, 512), np.int32)
    tables[0], tables[1] = np.roll(exp_table, -256), np.roll(log_table, -256)        # to two's complement order
    imm = BKind.IMMEDIATE
    return [
        command(VectorOp.MUL, a=0, dst=1, count=n, b_kind=imm, imm=round(logit_per_code / LAMBDA * 256), shift=8),   # Z
        command(VectorOp.PEAK_MAX, a=1, dst=2, count=n),
        command(VectorOp.SUB, a=2, dst=2, b_kind=imm, imm=255),
        command(VectorOp.SUB, a=1, b=2, dst=3, count=n, b_kind=BKind.ELEMENT),                      # i = Z - max Z + 255
        command(VectorOp.LUT, a=3, dst=4, count=n, lut=0),
        command(VectorOp.SUM, a=4, dst=5, count=n, shift=4),                                        # one .. n * one, / 16
        command(VectorOp.ADD, a=5, dst=5, b_kind=imm, imm=-(one >> 4) - (256 << log_shift - 4), shift=log_shift - 4),
        command(VectorOp.LUT, a=5, dst=6, lut=1),                                                   # ln(sum / one) / LAMBDA
        command(VectorOp.SUB, a=3, b=6, dst=7, count=n, b_kind=BKind.ELEMENT),
        command(VectorOp.LUT, a=7, dst=7, count=n, lut=0),
    ], tables, one


def test_softmax_by_instructions():
    """Ten classes, 8-bit codes: the operations suffice, with an error bound derived from the roundings."""
    u = dataclasses.replace(U, vector_width=16, vector_words=16)
    n, logit_per_code = 10, 12 / 127
    rng = np.random.default_rng(7)
    commands, tables, one = softmax_program(u, n, logit_per_code)
    state = State(u, rng)
    state.luts[:] = tables
    cut = np.exp(-511 * LAMBDA)                                      # smaller terms are dropped
    z_error = LAMBDA / 2 + 127 * logit_per_code / 2 / round(logit_per_code / LAMBDA * 256)      # rounding of Z, of its factor
    sum_error = n * (cut + 0.5 / one) + (8 + 1) / one + 2 ** 9 / 2 / one              # table, >> 4, index; relative, sum >= one
    log_error = 4 * z_error + sum_error + LAMBDA / 2                                  # of ln p: z - max, its sum, log table
    worst = 0.0
    for spread in (0.2, 5, 20, 60, 127):
        for _ in range(200):
            codes = np.clip(np.round(rng.normal(0, spread, n)), -127, 127).astype(int)
            state.vec[:n] = codes
            cycles_taken = sum(state.execute(c) for c in commands)
            p = state.vec[7 * 16:7 * 16 + n] / one
            exact = np.exp(codes * logit_per_code - np.max(codes * logit_per_code))
            exact /= exact.sum()
            error = np.abs(p - exact)
            assert (error <= exact * np.expm1(log_error) + cut + 0.5 / one).all()
            worst = max(worst, error.max())
    assert worst <= 0.02
    assert cycles_taken == 5 * 7 + 3 * 9 + 2 * 11         # elementwise, LUT, reductions
    assert state.counters[INDEX["vector_saturations"]] == 0
