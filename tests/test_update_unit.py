"""hdl.update_unit equals model.digital.update_unit: chi, pulse commands in order, cycles, events; streams, gating, proofs."""
import numpy as np
import pytest
from amaranth import Elaboratable, EnableInserter, Module
from amaranth.hdl import Assert, Cover
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from hdl.update_unit import IN_FLIGHT, PULSE_DEPTH, UpdateUnit
from model.analog import tile
from model.commands import UpdateCommand, UpdateOp
from model.digital import pulse_gen
from model.digital import update_unit as twin
from model.events import EVENTS, INDEX, N_EVENTS
from model.isa import Kind
from model.params import Params, TileParams, UnitParams
from tests.formal import any_value, drive_stream, prove, stream_contract
from tests.sim import pauses, simulate

SMALL = dict(vector_words=64, chi_words=64, set_cycles=3, set_gap_cycles=2)
SHAPES = {
    "lanes 5, width 1": UnitParams(lanes=5, vector_width=1, n_rows=23, n_cols=10, eps_log2=6, chi_bits=8, **SMALL),
    "lanes 2 = width": UnitParams(lanes=2, vector_width=2, n_rows=16, n_cols=8, eps_log2=6, chi_bits=7, **SMALL),
    "lanes 7": UnitParams(lanes=7, vector_width=4, n_rows=20, n_cols=16, eps_log2=5, chi_bits=9, update_max_steps=3, **SMALL),
    "lanes 16 > width": UnitParams(lanes=16, vector_width=8, n_rows=24, n_cols=16, eps_log2=7, chi_bits=8, outer_bits=3, **SMALL),
    "lanes 2 < width": UnitParams(lanes=2, vector_width=8, n_rows=16, n_cols=8, eps_log2=6, chi_bits=7, **SMALL),
}
ZERO = UpdateCommand(*[0] * len(UpdateCommand._fields))
NO_EXPONENTS = np.zeros(8, np.int64)
EVENT_NAMES = [event.name for event in EVENTS if event.block == "update_unit"]


class Bench(wiring.Component):
    """Unit with a vector memory beside it; with ``gated`` the unit is clocked in active cycles only."""

    def __init__(self, u, vec, gated=False):
        self.u, self.vec, self.gated, self.unit = u, vec, gated, UpdateUnit(u)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        u, unit = self.u, self.unit
        m.submodules.unit = EnableInserter(unit.active)(unit) if self.gated else unit
        words = [sum((int(v) & 0xFFFF) << 16 * k for k, v in enumerate(row)) for row in self.vec.reshape(-1, u.vector_width)]
        m.submodules.memory = memory = Memory(shape=16 * u.vector_width, depth=u.vector_words, init=words)
        port = memory.read_port()
        m.d.comb += [port.en.eq(unit.vector.en), port.addr.eq(unit.vector.addr), unit.vector.data.eq(port.data)]
        return m


class Twin:
    """The twin with its state; records pulse commands instead of programming a tile."""

    def __init__(self, u, vec, exponents):
        self.u, self.c, self.vec, self.exponents = u, u.constants, vec, exponents
        self.chi, self.counters = twin.new_chi(self.c), np.zeros(N_EVENTS, np.int64)
        self.pulses, self.dumps, self.held = [], [], 0

    def run(self, c, data=None):
        """Cycles of command ``c``."""
        assert c.chi_base + c.walk_count * c.words_per_line <= self.u.chi_words
        assert c.words_per_line == -(-c.lane_count // self.u.lanes)
        if c.op == UpdateOp.CLEAR:
            return twin.clear(self.c, c, self.chi, self.counters)
        if c.op == UpdateOp.LOAD:
            return twin.load(self.c, c, self.chi, data, self.counters)
        if c.op == UpdateOp.DUMP:
            beats = -(-self.u.lanes // self.u.vector_width)
            out = np.empty((c.walk_count * c.words_per_line * beats, self.u.vector_width), np.int32)
            cycles = twin.dump(self.c, c, self.chi, out, self.counters)
            self.dumps.append(out)
            return cycles
        run = twin.begin(self.c, c, self.vec, self.exponents, self.counters)
        counts, negative = np.zeros(self.u.lanes, np.int32), np.zeros(self.u.lanes, np.uint8)
        while True:
            line, group = twin.next_due(self.c, c, run, self.chi, self.counters, counts, negative)
            if line < 0:
                self.held += run.at[1]
                return twin.finish(run, self.counters)
            self.pulses.append((c.tile, c.walk, c.walk_first + line, c.lane_first + group * self.u.lanes, int(Kind.SET), 0,
                                c.chi_base + line, np.where(negative, -counts, counts).tolist()))
            twin.handed_over(run, pulse_gen.cycles(self.c, Kind.SET, counts.max()))


def _signed(u, code):
    """Value of a code, magnitude below sign."""
    magnitude = code & u.outer_max
    return -magnitude if code >> u.outer_bits else magnitude


class Rtl:
    """Drives a Bench through commands; records pulses, dumps, events, cycles and traces."""

    def __init__(self, u, vec, exponents, gated=False, pause="none"):
        self.u, self.bench, self.dut, self.exponents = u, Bench(u, vec, gated), None, exponents
        self.dut = self.bench.unit
        self.counters, self.pulses, self.dumps, self.cycles, self.lasts = np.zeros(N_EVENTS, np.int64), [], [], [], []
        self.trace_lines, self.trace_lanes, self.busy_until = [], {}, 0
        self.pause, self.stalls = pause, 0
        self.inputs, self.done = [], False

    async def monitor(self, ctx):
        """Pulse generator, host and counters: everything that happens each cycle."""
        u, dut, now, ends, wait_out, wait_in = self.u, self.dut, 0, 0, pauses(self.pause, 3), pauses(self.pause, 4)
        cycles_of = lambda counts: int(pulse_gen.cycles(u.constants, Kind.SET, max(counts)))  # noqa: E731
        offer, packet = False, []
        while not self.done:
            ctx.set(dut.pulse_busy, now < ends)
            ctx.set(dut.o_pulse.ready, now >= ends)
            if ctx.get(dut.o_pulse.valid) and now >= ends:
                p = dut.o_pulse.payload
                counts, signs = [ctx.get(p.counts[k]) for k in range(u.lanes)], ctx.get(p.negative)
                head = tuple(ctx.get(field) for field in (p.tile, p.walk, p.line, p.first, p.kind, p.refresh, p.dirty))
                self.pulses.append((*head, [-n if signs >> k & 1 else n for k, n in enumerate(counts)]))
                ends = now + cycles_of(counts)
            ready = not next(wait_out)
            ctx.set(dut.o_dump.ready, ready)
            if not offer and self.inputs:
                offer = not next(wait_in)
            ctx.set(dut.i_load.valid, offer)
            if offer:
                elements, count = self.inputs[0]
                ctx.set(dut.i_load.payload, {"elements": elements, "count": count, "last": 0})
            if ready and ctx.get(dut.o_dump.valid):
                word = dut.o_dump.payload
                packet.append([ctx.get(word.elements[k]) for k in range(u.vector_width)])
                self.lasts.append((ctx.get(word.last), ctx.get(word.count)))
                if self.lasts[-1][0]:
                    self.dumps.append(np.array(packet))
                    packet = []
            await ctx.delay(1e-7)                        # the command of this cycle is there now
            self.stalls += ctx.get(dut.host_stall)
            for name in EVENT_NAMES:
                self.counters[INDEX[name]] += ctx.get(dut.events[name])
            if ctx.get(dut.trace_line_stb):
                self.trace_lines.append((ctx.get(dut.trace_line), ctx.get(dut.trace_code)))
            if ctx.get(dut.trace_lane_stb):
                self.trace_lanes[ctx.get(dut.trace_lane_address)] = [
                    _signed(u, ctx.get(dut.trace_lanes[k])) for k in range(u.vector_width)]
            if offer and ctx.get(dut.i_load.ready):
                self.inputs.pop(0)
                offer = False
            await ctx.tick()
            now += 1

    def run(self, commands, idle=0):
        """Run commands one after the other, ``idle`` cycles between them."""
        async def bench(ctx):
            for k, value in enumerate(self.exponents):
                ctx.set(self.dut.exponents[k], int(value))
            for c in commands:
                if idle:
                    await ctx.tick().repeat(idle)
                ctx.set(self.dut.i.payload, c._asdict())
                ctx.set(self.dut.i.valid, 1)
                assert ctx.get(self.dut.i.ready)
                self.stalls = 0
                await ctx.tick()
                ctx.set(self.dut.i.valid, 0)
                cycles = 1
                while not ctx.get(self.dut.i.ready):
                    await ctx.tick()
                    cycles += 1
                self.cycles.append(cycles - self.stalls)
            await ctx.tick().repeat(3)
            self.done = True

        simulate(self.bench, self.monitor, bench)        # what answers the unit comes first in a cycle


def command(u, op=UpdateOp.UPDATE, **fields):
    return ZERO._replace(op=int(op), **fields)


def matrix(u, rng, lines, lanes, **more):
    """Fields of a command on a matrix of ``lines`` x ``lanes``."""
    groups = -(-lanes // u.lanes)
    return dict(walk_count=lines, lane_count=lanes, words_per_line=groups, tile=int(rng.integers(16)), walk=int(rng.integers(2)),
                chi_base=int(rng.integers(u.chi_words - lines * groups + 1)), walk_first=int(rng.integers(100)),
                lane_first=int(rng.integers(100)), **more)


def operands(u, rng):
    """Fields that choose vectors and rate so that updates are around eps."""
    top = u.vector_words - u.n_lines // u.vector_width
    middle = u.eps_log2 - 2 * u.outer_bits
    return dict(walk_src=int(rng.integers(top)), lane_src=int(rng.integers(top)), walk_shift=int(rng.integers(0, 12)),
                lane_shift=int(rng.integers(0, 10)), rate=int(rng.integers(1, 4)), e=int(rng.integers(8)),
                exponent=int(rng.integers(middle - 2, middle + 4)), negate=int(rng.integers(2)))


def vectors(u, rng, density):
    """Vector memory with empty words, sparse words and extremes."""
    shape = (u.vector_words, u.vector_width)
    vec = rng.integers(-(1 << 15), 1 << 15, shape) >> rng.integers(0, 10, shape)
    vec[rng.random(shape) > density] = 0
    vec[rng.random(u.vector_words) > density + 0.2] = 0
    vec.reshape(-1)[:3] = (-32768, 32767, -32767)
    vec[::3] = rng.integers(-32768, 32768, (len(vec[::3]), u.vector_width))
    return vec.astype(np.int32)


def compare(rtl, model, commands, data=None):
    expected = [model.run(c, data) for c in commands]
    for n, (got, wanted) in enumerate(zip(rtl.pulses, model.pulses, strict=False)):
        assert got == wanted, n
    assert len(rtl.pulses) == len(model.pulses)
    assert rtl.cycles == expected
    for name in EVENT_NAMES:
        assert rtl.counters[INDEX[name]] == model.counters[INDEX[name]], name
    for got, wanted in zip(rtl.dumps, model.dumps, strict=True):
        assert (got == wanted).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.3, 0.9])
def test_rtl_is_the_twin(shape, density):
    """CLEAR, UPDATEs of every kind, DUMP: everything equal, cycles and events included; also gated by ``active``."""
    u, rng = SHAPES[shape], np.random.default_rng(int(density * 10))
    vec, exponents = vectors(u, rng, density), rng.integers(-1, 2, 8)
    total = np.zeros(N_EVENTS, np.int64)
    for gated, lines, lanes in ((0, u.n_rows, u.n_cols), (1, 1, u.n_rows), (1, u.vector_width + 1, u.lanes)):
        place = matrix(u, rng, lines, lanes)
        commands = [command(u, UpdateOp.CLEAR, **place)]
        for _ in range(6):
            accumulate, threshold = int(rng.random() < 0.8), int(rng.random() < 0.7)
            commands.append(command(u, **place, **operands(u, rng), accumulate=accumulate, threshold=threshold))
        commands.append(command(u, UpdateOp.DUMP, **place))
        rtl, model = Rtl(u, vec, exponents, bool(gated)), Twin(u, vec.ravel(), exponents)
        rtl.run(commands, idle=5 * gated)
        compare(rtl, model, commands)
        total += model.counters
    assert min(total[INDEX[name]] for name in ("phase_program", "lines_skipped", "chi_rmw")) > 0


@pytest.mark.parametrize("gated", [False, True])
def test_saturation(gated):
    """Without threshold chi stops at +-chi_max and every clip is counted, the last word's after the unit is ready again."""
    u = SHAPES["lanes 7"]
    vec = np.full((u.vector_words, u.vector_width), 127, np.int32)
    vec[:, 1::2] = -127
    place = matrix(u, np.random.default_rng(3), 6, 9)
    full = command(u, **place, rate=1, exponent=20, accumulate=1)
    commands = [command(u, UpdateOp.CLEAR, **place), *[full] * 6, full._replace(negate=1), command(u, UpdateOp.DUMP, **place)]
    rtl, model = Rtl(u, vec, NO_EXPONENTS, gated), Twin(u, vec.ravel(), NO_EXPONENTS)
    rtl.run(commands, idle=4)
    compare(rtl, model, commands)
    assert model.counters[INDEX["chi_saturations"]] > 100
    assert not rtl.pulses


@pytest.mark.parametrize("shape", SHAPES)
def test_more_pulses_than_places(shape):
    """Every word due, or runs of them between quiet ones: the FIFO fills, the walk is held, nothing is lost."""
    u, rng = SHAPES[shape], np.random.default_rng(5)
    vec = np.full((u.vector_words, u.vector_width), 127, np.int32)
    sparse = u.vector_words // 2
    vec[sparse:] = rng.choice([0, 8, 127, 127], (u.vector_words - sparse, 1))
    lines = min(u.n_lines, u.chi_words // -(-u.n_cols // u.lanes))
    place = matrix(u, rng, lines, u.n_cols)
    up = command(u, **place, rate=1, exponent=u.eps_log2 - 2 * u.outer_bits + 1, accumulate=1, threshold=1)
    commands = [command(u, UpdateOp.CLEAR, **place), up, up._replace(walk_src=sparse), up._replace(walk_src=sparse + 3, negate=1),
                command(u, UpdateOp.DUMP, **place)]
    rtl, model = Rtl(u, vec, NO_EXPONENTS), Twin(u, vec.ravel(), NO_EXPONENTS)
    rtl.run(commands)
    compare(rtl, model, commands)
    assert len(rtl.pulses) > twin.PULSE_DEPTH
    assert model.held > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_walk_timing(shape):
    """Sparse, bursty and empty walk vectors with few and many lane words: cycles equal the twin's schedule."""
    u, rng = SHAPES[shape], np.random.default_rng(4)
    vec = np.zeros((u.vector_words, u.vector_width), np.int32)
    words, lane_src = u.n_lines // u.vector_width, u.vector_words - u.n_lines // u.vector_width
    vec[lane_src:] = rng.integers(-127, 128, (words, u.vector_width))
    commands, n_cases = [], u.vector_words // words - 1
    for case in range(n_cases):
        for word in range(case * words, (case + 1) * words):
            filled = (0, 1, u.vector_width, rng.integers(u.vector_width + 1), int(word % words == case % words))[case % 5]
            vec[word, rng.permutation(u.vector_width)[:filled]] = 127
        for lanes in (1, u.n_lines):
            groups = -(-lanes // u.lanes)
            commands.append(command(u, walk_src=case * words, walk_count=min(u.n_lines, u.chi_words // groups), lane_src=lane_src,
                                    lane_count=lanes, words_per_line=groups, rate=1, accumulate=1, threshold=1,
                                    exponent=u.eps_log2 - 2 * u.outer_bits + 1))
    clears = [command(u, UpdateOp.CLEAR, walk_count=min(u.n_lines, u.chi_words - base), lane_count=1, words_per_line=1,
                      chi_base=base) for base in range(0, u.chi_words, u.n_lines)]
    rtl, model = Rtl(u, vec, NO_EXPONENTS), Twin(u, vec.ravel(), NO_EXPONENTS)
    rtl.run([*clears, *commands])
    compare(rtl, model, [*clears, *commands])


def test_lane_use():
    """The figure of the design: >= 95 % of phase_update does a read-modify-write, 785 lines with 151 active ones."""
    u, rng = UnitParams(), np.random.default_rng(2)
    vec = np.zeros((u.vector_words, u.vector_width), np.int32)
    for seed in range(20):
        first = 28 * int(rng.integers(3, 8))
        vec[:32] = 0
        vec.ravel()[first + rng.permutation(560 - first + 90)[:150]] = 100
        vec.ravel()[784] = 127
        vec[32:40] = rng.integers(-127, 128, (8, 32))
        model = Twin(u, vec.ravel(), NO_EXPONENTS)
        place = dict(walk_count=785, lane_src=32, lane_count=250, words_per_line=1)
        cycles = model.run(command(u, **place, rate=1, accumulate=1, threshold=1))
        counters = {name: int(model.counters[INDEX[name]]) for name in EVENT_NAMES}
        assert counters["lines_walked"] == counters["chi_rmw"] == 151, seed
        assert counters["chi_rmw"] >= 0.95 * counters["phase_update"]
        assert cycles == counters["phase_lanes"] + counters["phase_update"]
        first_word = int(np.flatnonzero(vec.ravel()[:785])[0]) // 32
        assert first_word // 2 + first_word % 2 < 5
        assert cycles == first_word - first_word % 2 + 8 + 8 + 151 + 5                       # the formula of the data sheet


def updates_of(u, vec, exponents, c):
    """U of every weight of the matrix, int64 (lines, lane positions), from the definition."""
    def codes(src, shift, count):
        v = vec.ravel()[src * u.vector_width:][:count].astype(np.int64)
        line, cut = np.minimum(abs(v) >> shift, u.line_max), u.line_bits - u.outer_bits
        return np.sign(v) * np.minimum((line + (1 << cut >> 1)) >> cut, u.outer_max)

    x, d = codes(c.walk_src, c.walk_shift, c.walk_count), codes(c.lane_src, c.lane_shift, c.lane_count)
    k = int(exponents[c.e]) + c.exponent + u.outer_bits
    t = np.minimum(np.floor(abs(x) * c.rate * 2.0 ** k + 0.5), u.multiplicand_max).astype(np.int64)
    product = np.outer(t, abs(d))
    return np.outer(np.sign(x), np.sign(d)) * (-1 if c.negate else 1) * ((product + (1 << u.outer_bits >> 1)) >> u.outer_bits)


@pytest.mark.parametrize("shape", SHAPES)
def test_rtl_conserves(shape):
    """For every weight since CLEAR: sum of U == eps * signed pulses + chi, and |chi| < eps; chi is read by DUMP."""
    u, rng = SHAPES[shape], np.random.default_rng(6)
    vec, exponents, lines, lanes = vectors(u, rng, 0.8), rng.integers(-1, 2, 8), u.n_cols, u.n_rows
    place = matrix(u, rng, lines, lanes)
    updates = [command(u, **place, **operands(u, rng), accumulate=1, threshold=1) for _ in range(12)]
    rtl = Rtl(u, vec, exponents)
    rtl.run([command(u, UpdateOp.CLEAR, **place), *updates, command(u, UpdateOp.DUMP, **place)])
    total = sum(updates_of(u, vec, exponents, c) for c in updates)
    beats = -(-u.lanes // u.vector_width)
    stored = rtl.dumps[0].reshape(lines, -1, beats * u.vector_width)[:, :, :u.lanes].reshape(lines, -1)
    pulses = np.zeros_like(stored)
    for on_tile, walk, line, first, _, _, dirty, counts in rtl.pulses:
        row, column = line - place["walk_first"], first - place["lane_first"]
        assert (on_tile, walk, dirty) == (place["tile"], place["walk"], place["chi_base"] + row)
        pulses[row, column:column + u.lanes] += counts
    assert (total == u.eps * pulses[:, :lanes] + stored[:, :lanes]).all()
    assert not pulses[:, lanes:].any()
    assert not stored[:, lanes:].any()
    assert (abs(stored) < u.eps).all()
    assert abs(pulses).sum() > 20


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pause", ["none", "random"])
def test_load_and_dump(shape, pause):
    """LOAD clips, drops what is beyond the lanes, begins anew on a word with count 0; DUMP gives it back; stalls are no time."""
    u, rng = SHAPES[shape], np.random.default_rng(7)
    place = matrix(u, rng, 5, u.lanes + 1)
    beats, words = -(-u.lanes // u.vector_width), 5 * place["words_per_line"]
    sent = rng.integers(-2 * u.chi_max, 2 * u.chi_max, (words * beats, u.vector_width)).astype(np.int32)
    load, dump = command(u, UpdateOp.LOAD, **place), command(u, UpdateOp.DUMP, **place)
    for refused in (0, 1, beats, 2 * beats + 1):
        rtl, model = Rtl(u, vectors(u, rng, 0.5), NO_EXPONENTS, pause=pause), Twin(u, np.zeros(1, np.int32), NO_EXPONENTS)
        rtl.inputs = [(row.tolist(), u.vector_width) for row in sent[:refused] + 1]
        rtl.inputs += [([0] * u.vector_width, 0)] * bool(refused) + [(row.tolist(), u.vector_width) for row in sent]
        rtl.run([load, dump])
        expected = [model.run(load, sent), model.run(dump)]
        assert (rtl.dumps[0] == model.dumps[0]).all()
        assert abs(rtl.dumps[0]).max() == u.chi_max
        counts = [u.vector_width] * (beats - 1) + [u.lanes - (beats - 1) * u.vector_width]
        assert rtl.lasts == [(int(k == words * beats - 1), counts[k % beats]) for k in range(words * beats)]
        assert not rtl.pulses
        assert rtl.cycles[1] == expected[1]
        if not refused:
            assert rtl.cycles[0] == expected[0]
            for name in ("phase_chi", "chi_words", "chi_rmw", "chi_saturations"):
                assert rtl.counters[INDEX[name]] == model.counters[INDEX[name]], name


def test_trace():
    """Recorders see the walked lines with signed codes, and the lane codes, from which U follows."""
    u, rng = SHAPES["lanes 7"], np.random.default_rng(8)
    vec, place = vectors(u, rng, 0.8), matrix(u, rng, 9, 12)
    c = command(u, **{**place, **operands(u, rng), "walk_shift": 1, "lane_shift": 3, "negate": 1}, accumulate=1, threshold=1)
    rtl = Rtl(u, vec, NO_EXPONENTS)
    rtl.run([command(u, UpdateOp.CLEAR, **place), c])
    walk = [twin.operand_code(u.constants, int(v), c.walk_shift) for v in vec.ravel()[c.walk_src * 4:][:9]]
    lanes = [twin.operand_code(u.constants, int(v), c.lane_shift) for v in vec.ravel()[c.lane_src * 4:][:12]]
    assert rtl.trace_lines == [(n, -x) for n, x in enumerate(walk) if x]
    assert [d for word in sorted(rtl.trace_lanes) for d in rtl.trace_lanes[word]] == lanes
    assert rtl.trace_lines


def test_twin_programs_the_tile():
    """``update`` fires every due word at the tile, counts its pulses and marks its line dirty."""
    params = Params(unit=SHAPES["lanes 7"], tile=TileParams(noise=False))
    u, rng = params.unit, np.random.default_rng(9)
    generators = tile.spawn_generators(1, u.n_tiles)
    constants, state = tile.new_tiles(params, generators.init)
    vec, exponents, dirty = vectors(u, rng, 0.9), np.zeros(8, np.int64), np.zeros(u.chi_words, np.uint8)
    place = {**matrix(u, rng, 12, 10), "tile": 1, "walk_first": 2, "lane_first": 3, "walk": 0}
    net = np.zeros((u.n_tiles, u.n_rows, u.n_cols), np.int32)
    reference, chi, counters = Twin(u, vec.ravel(), exponents), twin.new_chi(u.constants), np.zeros(N_EVENTS, np.int64)
    for _ in range(10):
        c = command(u, **{**place, **operands(u, rng), **{key: place[key] for key in ("tile", "walk_first", "lane_first")}},
                    accumulate=1, threshold=1)
        assert reference.run(c) == twin.update(u.constants, c, vec.ravel(), exponents, chi, dirty, net, constants, state,
                                               generators.program, counters, 0)
    assert (chi == reference.chi).all()
    totals = np.array([p[-1] for p in reference.pulses])
    assert counters[INDEX["set_pos"]] == totals[totals > 0].sum() > 0
    assert counters[INDEX["set_neg"]] == -totals[totals < 0].sum() > 0
    assert state.pulses[1, Kind.SET].tolist() == [counters[INDEX["set_pos"]], counters[INDEX["set_neg"]]]
    assert net[1].sum() == totals.sum()
    assert sorted(np.flatnonzero(dirty)) == sorted({p[6] for p in reference.pulses})


class StreamSpec(Elaboratable):
    """Whatever commands, vectors and partners do: ``o_pulse`` and ``o_dump`` keep the stream contract; an idle unit is empty."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = UpdateUnit(self.u)
        drive_stream(m, dut.i)
        drive_stream(m, dut.i_load)
        for port in (dut.o_pulse.ready, dut.o_dump.ready, dut.pulse_busy):
            m.d.comb += port.eq(any_value(m, 1))
        m.d.comb += [dut.vector.data[k].eq(any_value(m, self.u.element_bits)) for k in range(self.u.vector_width)]
        stream_contract(m, dut.o_pulse)
        stream_contract(m, dut.o_dump)
        chi = dut.accumulator
        with m.If(dut.i.ready):
            m.d.comb += Assert(~(chi.valid | chi.read_valid | chi.sum_valid | chi.write_valid | chi.pulse_valid))
            m.d.comb += Assert(~(dut.o_pulse.valid | dut.o_dump.valid | chi.shift | dut.vector.en | dut.host_stall
                                 | dut.i_load.ready))
            m.d.comb += Assert(dut.level == 0)
        # why no pulse command is ever lost: words in the accumulator have their places
        level = dut.level
        m.d.comb += Assert(chi.threshold + chi.clear + chi.keep + chi.load <= 1)
        with m.If(chi.load | chi.keep):                 # not held by the FIFO's level: its words pulse nothing
            m.d.comb += Assert((level == 0) & ~chi.pulse_valid)
        with m.Else():
            m.d.comb += Assert(level + chi.read_valid + chi.sum_valid + chi.write_valid + chi.pulse_valid <= PULSE_DEPTH)
        m.d.comb += [Assert(~(chi.valid & chi.threshold) | (level <= PULSE_DEPTH - IN_FLIGHT + 1)),
                     Assert(~dut.o_pulse.valid | (level != 0))]
        with m.If(chi.shift):
            m.d.comb += Assert(~chi.read_valid)
        m.d.comb += [Cover(dut.o_pulse.valid & ~dut.o_pulse.ready & chi.write_valid & chi.sum_valid),
                     Cover(dut.o_dump.valid & dut.o_dump.payload.last)]
        return m


@pytest.mark.formal
def test_formal_streams():
    u = UnitParams(lanes=2, vector_width=4, n_rows=4, n_cols=4, outer_bits=2, line_bits=3, eps_log2=4, chi_bits=5, rate_bits=1,
                   update_max_steps=1, chi_words=16, vector_words=16)
    # the accumulator's asserts: no word is in the pipeline twice, see test_walker
    prove(StreamSpec(u), "update_unit", depth=7, cover_depth=24, granted=["dut.accumulator.bank0"])
