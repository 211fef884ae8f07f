"""Refresh: SCAN in a closed loop with the tile model behind read unit and pulse generator, against the twin."""
import random

import numpy as np
import pytest
from amaranth import Elaboratable, EnableInserter, Module, Signal, Value
from amaranth.hdl import Assert, Cover
from amaranth.lib.wiring import connect

from hdl.line_driver import LineDriver
from hdl.pulse_gen import PulseGen
from hdl.read_unit import ReadUnit
from hdl.refresh import Refresh
from model.analog import tile as analog
from model.commands import LinesOp, ScanCommand
from model.digital import refresh as twin
from model.events import EVENTS, INDEX, N_EVENTS
from model.isa import Kind
from model.params import Params, TileParams, UnitParams
from tests.formal import any_value, drive_stream, prove, stream_contract
from tests.sim import simulate, stream_put

COMMON = {"lanes": 3, "n_tiles": 2, "n_matrices": 2, "vector_words": 16, "chi_words": 64}
UNITS = {
    "small": UnitParams(**COMMON, vector_width=4, n_rows=16, n_cols=4, line_bits=4, set_cycles=2, set_gap_cycles=1,
                        reset_cycles=1, reset_gap_cycles=2),
    "odd": UnitParams(**COMMON, vector_width=4, n_rows=12, n_cols=8, line_bits=3, outer_bits=3, set_cycles=1, set_gap_cycles=1,
                      reset_cycles=1, reset_gap_cycles=1),
    "one": UnitParams(**COMMON, vector_width=1, n_rows=11, n_cols=7, line_bits=4, set_cycles=2, set_gap_cycles=1,
                      reset_cycles=1, reset_gap_cycles=1),
    "wide": UnitParams(**COMMON, vector_width=8, n_rows=8, n_cols=24, line_bits=4, adc_bits=6, set_cycles=3, set_gap_cycles=2,
                       reset_cycles=2, reset_gap_cycles=4),
}
BLOCKS = ("read_unit", "pulse_gen", "refresh")
NAMES = [event.name for event in EVENTS if event.block in BLOCKS]


class Tile:
    """The tile model with conductances spread over the whole window, so that many cells are due."""

    def __init__(self, u, noise=True, convert_cycles=3):
        self.convert_cycles = convert_cycles
        generators = analog.spawn_generators(1, u.n_tiles)
        self.params = Params(unit=u, tile=TileParams(init_us=(6.0, 3.0), noise=noise, convert_cycles=convert_cycles))
        self.constants, self.state = analog.new_tiles(self.params, generators.init)
        self.read_rngs, self.program_rngs = generators.read, generators.program

    def digest(self):
        return [array.tolist() for array in (self.state.g, self.state.n_set, self.state.pulses)] + [
            rng.bit_generator.state["state"] for rng in (*self.read_rngs, *self.program_rngs)]


def scans(u, n, seed):
    """Random SCANs over two matrices; returns (command, lines marked before it, fill before it or None)."""
    source = random.Random(seed)
    out = []
    for index in range(n):
        walk = source.randrange(2)
        n_walk, n_lane = (u.n_rows, u.n_cols) if walk == 0 else (u.n_cols, u.n_rows)
        walk_first, lane_first = source.randrange(n_walk), source.randrange(n_lane)
        walk_count, lane_count = source.randint(1, min(4, n_walk - walk_first)), source.randint(1, n_lane - lane_first)
        base = source.randrange(40)
        high, low = source.choice(((0, 1 << 11), (u.adc_max // 3, u.adc_max // 2), (u.adc_max // 2, 3), (u.adc_max, 1)))
        command = ScanCommand(
            tile=source.randrange(2), walk=walk, walk_first=walk_first, walk_count=walk_count, lane_first=lane_first,
            lane_count=lane_count, dirty_base=base, steps=source.randint(1, u.line_max), high=high, low=low,
            bound=source.choice((0, 1, 2, 8)), floor=source.choice((0, 2, u.adc_max // 4)))
        marks = [base + line for line in range(walk_count) if source.random() < 0.7]
        fill = (0, u.chi_words, 0) if index == 0 else (base, walk_count, source.randrange(2)) if source.random() < 0.3 else None
        out.append((command, marks, fill))
    return out


def run_twin(u, work, tile):
    counters, lines, dirty = np.zeros(N_EVENTS, np.int64), np.zeros(u.n_lines, np.int32), np.ones(u.chi_words, np.uint8)
    times = []
    for command, marks, fill in work:
        if fill:
            twin.fill(dirty, *fill)
        for index in marks:
            twin.mark(dirty, index)
        times.append(twin.scan(u.constants, command, tile.constants, tile.convert_cycles, tile.state, tile.read_rngs,
                               tile.program_rngs, lines, dirty, counters, 3))
    return times, {name: int(counters[INDEX[name]]) for name in NAMES}, tile.digest()


class Loop(Elaboratable):
    """Refresh with read unit, line drivers and pulse generator."""

    def __init__(self, u, gated):
        self.refresh, self.read_unit, self.line_driver, self.pulse_gen = Refresh(u), ReadUnit(u), LineDriver(u), PulseGen(u)
        self.gated = gated

    def elaborate(self, platform):
        m = Module()
        for name in ("refresh", "read_unit", "line_driver", "pulse_gen"):
            block = getattr(self, name)
            m.submodules[name] = EnableInserter(block.active)(block) if self.gated else block
        refresh, unit, driver, pulses = self.refresh, self.read_unit, self.line_driver, self.pulse_gen
        connect(m, refresh.o_lines, unit.i)
        connect(m, refresh.o_pulse, pulses.i)
        connect(m, unit.lines, driver.i)
        m.d.comb += [
            unit.last.eq(driver.last), unit.program_busy.eq(pulses.busy), pulses.hold.eq(unit.hold),
            refresh.pulse_busy.eq(pulses.busy), refresh.code_stb.eq(unit.code_stb), refresh.code_index.eq(unit.code_index),
            refresh.code_word.eq(unit.code_word),
        ]
        return m


def run_rtl(u, work, tile, gated=False):
    loop = Loop(u, gated)
    dut, unit, driver, pulses = loop.refresh, loop.read_unit, loop.line_driver, loop.pulse_gen
    width, ready, accepts, done = u.vector_width, [], [], False
    totals = dict.fromkeys(NAMES, 0)

    async def feed(ctx):
        nonlocal done
        for command, marks, fill in work:
            if fill:
                for port, value in zip(("base", "count", "value"), fill, strict=True):
                    ctx.set(getattr(dut, f"fill_{port}"), value)
                ctx.set(dut.fill_stb, 1)
                await ctx.tick()
                ctx.set(dut.fill_stb, 0)
                assert not ctx.get(dut.i.ready)
                assert await cycles_to(ctx, dut.i.ready) == fill[1]
            for index in marks:
                ctx.set(dut.mark_index, index)
                ctx.set(dut.mark_stb, 1)
                await ctx.tick()
            ctx.set(dut.mark_stb, 0)
            await stream_put(ctx, dut.i, command._asdict())
            await cycles_to(ctx, dut.i.ready)
            assert ctx.get(unit.i.ready)
            assert not ctx.get(pulses.busy)
            await ctx.tick()
        await ctx.tick().repeat(2)
        done = True

    async def watch(ctx):
        charge, steps, words, delay, before, cycle = None, 0, [], 0, (0, 0), 0
        while not done:
            ctx.set(unit.codes.valid, bool(words) and delay <= 0)
            if words:
                ctx.set(unit.codes.payload, words[0])
            await ctx.delay(0.4e-6)
            drive = ctx.get(driver.drive)
            if ctx.get(driver.integrate):
                charge, steps = (charge, steps) if steps else (np.zeros(u.n_lines, np.int32), 0)
                steps += 1
                charge += [drive >> line & 1 for line in range(u.n_lines)]
            if ctx.get(unit.convert):
                first, count = ctx.get(unit.out_first), ctx.get(unit.out_count)
                codes = np.zeros(count, np.int32)
                analog.read(tile.constants, tile.state, tile.read_rngs, ctx.get(unit.tile), charge, ctx.get(unit.transpose),
                            ctx.get(unit.half), ctx.get(unit.range), steps, first, count, codes)
                flat = codes.tolist() + [u.adc_max] * (-count % width)           # past the end: would be due
                words, delay, steps = [flat[k:k + width] for k in range(0, len(flat), width)], tile.convert_cycles, 0
            delay -= 1
            if ctx.get(unit.codes.ready) and ctx.get(unit.codes.valid):
                words.pop(0)
            assert not ctx.get(unit.w.en)
            fired = (ctx.get(pulses.pulse_pos), ctx.get(pulses.pulse_neg))
            if any(fired) and not any(before):
                assert steps == 0, "a pulse within a window"
                pos, neg = (np.array([value >> lane & 1 for lane in range(u.lanes)], np.uint8) for value in fired)
                place = (ctx.get(getattr(pulses, f"program_{name}")) for name in ("tile", "walk", "line", "first"))
                analog.program(tile.constants, tile.state, tile.program_rngs, *place, pos, neg, ctx.get(pulses.program_kind), 3)
            before = fired
            if ctx.get(dut.i.ready):
                ready.append(cycle)
                if ctx.get(dut.i.valid):
                    accepts.append(cycle)
            for block in (dut, unit, pulses):
                for name, _ in block.events.shape():
                    step = ctx.get(block.events[name])
                    assert ctx.get(block.active) or not step
                    totals[name] += step
            cycle += 1
            await ctx.tick()

    simulate(loop, watch, feed, limit=400_000)
    times = [min(t for t in ready if t > accept) - accept for accept in accepts]
    return times, totals, tile.digest()


async def cycles_to(ctx, signal):
    """Cycles until ``signal`` is high."""
    n = 0
    while not ctx.get(signal):
        await ctx.tick()
        n += 1
    return n


@pytest.mark.parametrize(("name", "noise", "gated"), [("small", True, True), ("odd", True, False), ("odd", False, True),
                                                      ("one", True, True), ("wide", True, True)])
def test_rtl_is_the_twin(name, noise, gated):
    u = UNITS[name]
    work = scans(u, 10, seed=4)
    times, events, digest = run_twin(u, work, Tile(u, noise))
    assert events["refreshes"] > 10
    assert events["refresh_misses"] > 0
    assert events["set_refresh"] > 10
    assert run_rtl(u, work, Tile(u, noise), gated) == (times, events, digest)


def test_rtl_due_at_the_limits():
    """Codes on both sides of ``high`` and ``low``, fed to the tap: exactly the due cells are reset, in order."""
    u = UNITS["wide"]
    dut = Refresh(u)
    cases, reset = [], []
    for high, low in ((10, 5), (0, 1), (20, 40), (31, 63)):
        near = sorted({-31, 0, 31, *(min(31, high + k) for k in (-1, 0, 1)), *(high + 1 - min(low + k, 31) for k in (-1, 0, 1))})
        pairs = [(a, b) for a in near for b in near if max(abs(a), abs(b)) <= 31]
        cases += [(high, low, pairs[k:k + 24]) for k in range(0, len(pairs), 24)]

    async def bench(ctx):
        ctx.set(dut.o_lines.ready, 1)
        ctx.set(dut.o_pulse.ready, 1)
        for high, low, pairs in cases:
            ctx.set(dut.mark_stb, 1)
            await ctx.tick()
            ctx.set(dut.mark_stb, 0)
            zero = ScanCommand(**dict.fromkeys(ScanCommand._fields, 0))
            command = zero._replace(walk_count=1, lane_count=len(pairs), steps=1, high=high, low=low, floor=63)
            await stream_put(ctx, dut.i, command._asdict())
            pulses = []
            for half in range(2):
                while not (ctx.get(dut.o_lines.valid) and ctx.get(dut.o_lines.payload.half) == 1 + half
                           and ctx.get(dut.o_lines.payload.op) == LinesOp.READ):
                    await ctx.tick()
                ctx.set(dut.o_lines.ready, 1)
                await ctx.tick()
                ctx.set(dut.o_lines.ready, 0)
                await ctx.tick()                         # a window has at least one step
                codes = [pair[half] for pair in pairs] + [31] * (-len(pairs) % u.vector_width)
                for first in range(0, len(pairs), u.vector_width):
                    ctx.set(dut.code_stb, 1)
                    ctx.set(dut.code_index, first)
                    ctx.set(dut.code_word, codes[first:first + u.vector_width])
                    await ctx.tick()
                ctx.set(dut.code_stb, 0)
                ctx.set(dut.o_lines.ready, 1)
            while not ctx.get(dut.i.ready):
                if ctx.get(dut.o_pulse.valid):
                    payload = dut.o_pulse.payload
                    assert ctx.get(payload.kind) == Kind.RESET
                    pulses.append((ctx.get(payload.first), ctx.get(payload.negative[0])))
                await ctx.tick()
            reset.append(pulses)

    simulate(dut, bench)
    want = [[(k, side) for k, pair in enumerate(pairs) if twin.is_due(*pair, high, low) for side in range(2)]
            for high, low, pairs in cases]
    assert reset == want
    assert 0 < sum(map(len, want)) < 2 * sum(len(pairs) for _, _, pairs in cases)


def test_only_dirty_lines_cost():
    u = UNITS["odd"]
    tile = Tile(u, convert_cycles=2)
    dirty = np.zeros(u.chi_words, np.uint8)
    command = ScanCommand(tile=0, walk=0, walk_first=0, walk_count=12, lane_first=0, lane_count=8, dirty_base=5, steps=7,
                          high=u.adc_max, low=1, bound=1, floor=1)
    lines, counters = np.zeros(u.n_lines, np.int32), np.zeros(N_EVENTS, np.int64)
    args = (tile.constants, tile.convert_cycles, tile.state, tile.read_rngs, tile.program_rngs, lines, dirty, counters, 0)
    assert twin.scan(u.constants, command, *args) == 14
    twin.mark(dirty, 5 + 11)
    twin.mark(dirty, 4)
    assert twin.scan(u.constants, command, *args) == 14 + 3 + 2 * (2 + 7 + 2 + 2) + 2
    assert dirty.sum() == dirty[4] == 1


def test_model_due_is_the_definition():
    for pos in range(-8, 8):
        for neg in range(-8, 8):
            for high in (0, 3, 7):
                for low in (0, 1, 5):
                    assert twin.is_due(pos, neg, high, low) == ((pos > high or neg > high) and -low < pos - neg < low)


def test_model_keeps_the_difference():
    """Without noise a rewrite ends within one step above the target, or counts a miss; the other device is at RESET."""
    u = UNITS["odd"]
    tile = Tile(u, noise=False)
    g = tile.state.g[0].copy()
    dirty, counters = np.ones(u.chi_words, np.uint8), np.zeros(N_EVENTS, np.int64)
    command = ScanCommand(tile=0, walk=0, walk_first=0, walk_count=u.n_rows, lane_first=0, lane_count=u.n_cols, dirty_base=0,
                          steps=u.line_max, high=u.adc_max // 2, low=u.adc_max // 2, bound=40, floor=2)
    twin.scan(u.constants, command, tile.constants, 3, tile.state, tile.read_rngs, tile.program_rngs,
              np.zeros(u.n_lines, np.int32), dirty, counters, 0)
    lsb = tile.params.tile.g_max_us / u.adc_max * 4096
    step = 2.4 * 4096                                                    # largest mean step of the device [LSB]
    rewritten = (tile.state.g[0, 1] != g[1]) | (tile.state.g[0, 2] != g[2])
    assert 0 < rewritten.sum() == counters[INDEX["refreshes"]]
    assert counters[INDEX["refresh_misses"]] == 0
    before, after = g[0][rewritten], tile.state.g[0, 0][rewritten]
    reset = tile.params.tile.reset_us[0] * 4096
    kept = np.abs(before) > (command.floor + 1) * lsb
    assert np.all(np.sign(after[kept]) == np.sign(before[kept]))
    change = np.abs(after[kept]) - np.abs(before[kept])
    assert np.all((change >= -reset - 2 * lsb) & (change <= step + 2 * lsb))
    assert np.all(np.minimum(tile.state.g[0, 1], tile.state.g[0, 2])[rewritten] <= 1.1 * reset)


class CommandSpec(Elaboratable):
    """Any SCAN, codes and stalls: commands are held until taken; one master at a time; a rewrite is RESET, RESET, SET ..."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Refresh(self.u)
        drive_stream(m, dut.i)
        for name in ("code_stb", "code_index", "code_word", "pulse_busy", "fill_base", "fill_count", "fill_value"):
            port = getattr(dut, name)
            m.d.comb += port.eq(any_value(m, len(Value.cast(port)), name))
        m.d.comb += dut.fill_stb.eq(any_value(m, 1, "fill_stb") & dut.i.ready & ~dut.i.valid)
        m.d.comb += [dut.o_lines.ready.eq(any_value(m, 1)), dut.o_pulse.ready.eq(any_value(m, 1))]
        stream_contract(m, dut.o_lines)
        stream_contract(m, dut.o_pulse)
        pulse, counted = dut.o_pulse.payload, Signal()
        m.d.comb += [
            Assert(~(dut.o_lines.valid & dut.o_pulse.valid)), Assert(dut.reading | ~dut.o_lines.valid),
            Assert(dut.pulsing | ~dut.o_pulse.valid), Assert(dut.busy | ~(dut.reading | dut.pulsing)),
            Assert(dut.active | ~dut.busy), Assert(dut.events.phase_scan == counted),
        ]
        m.d.sync += counted.eq(dut.busy | (dut.i.valid & dut.i.ready))
        with m.If(dut.o_pulse.valid):
            m.d.comb += [Assert(pulse.refresh == 1), Assert(pulse.counts.as_value() == 1)]
        m.d.comb += [Cover(dut.o_pulse.valid & (pulse.kind == Kind.SET) & pulse.negative[0]), Cover(dut.events.refresh_misses)]
        return m


@pytest.mark.formal
def test_formal_commands():
    u = UnitParams(lanes=2, vector_width=4, n_rows=4, n_cols=4, line_bits=3, outer_bits=2, adc_bits=4, lut_bits=4, chi_words=16)
    prove(CommandSpec(u), "refresh_commands", depth=4, cover_depth=28)
