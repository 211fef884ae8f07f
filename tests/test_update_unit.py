"""hdl.update_unit equals model.digital.update_unit: chi, pulse commands in order, cycles, events; streams, gating, proofs."""
import random

import numpy as np
import pytest
from amaranth import EnableInserter, Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from hdl.update_unit import UpdateUnit
from model.commands import UpdateCommand, UpdateOp
from model.digital import pulse_gen
from model.digital import update_unit as twin
from model.events import EVENTS, INDEX, N_EVENTS
from model.isa import Kind
from model.params import UnitParams
from tests.sim import pauses, simulate

SMALL = dict(vector_words=64, chi_words=64, set_cycles=3, set_gap_cycles=2)
SHAPES = {
    "lanes 4 = width": UnitParams(lanes=4, vector_width=4, n_rows=24, n_cols=8, eps_log2=6, chi_bits=7, **SMALL),
    "lanes 7": UnitParams(lanes=7, vector_width=4, n_rows=20, n_cols=16, eps_log2=5, chi_bits=9, update_max_steps=3, **SMALL),
    "lanes 16 > width": UnitParams(lanes=16, vector_width=8, n_rows=24, n_cols=16, eps_log2=7, chi_bits=8, outer_bits=3, **SMALL),
    "lanes 2 < width": UnitParams(lanes=2, vector_width=8, n_rows=16, n_cols=8, eps_log2=6, chi_bits=7, **SMALL),
}
ZERO = UpdateCommand(*[0] * len(UpdateCommand._fields))
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
        self.pulses, self.dumps = [], []

    def run(self, c, data=None):
        """Cycles of command ``c``."""
        assert c.chi_base + c.walk_count * c.words_per_line <= self.u.chi_words
        assert c.words_per_line == -(-c.lane_count // self.u.lanes)
        if c.op == UpdateOp.CLEAR:
            return twin.clear(self.c, c, self.chi, self.counters)
        if c.op == UpdateOp.LOAD:
            return twin.load(self.c, c, self.chi, data, self.counters)
        if c.op == UpdateOp.DUMP:
            out = np.empty((c.walk_count * c.words_per_line * -(-self.u.lanes // self.u.vector_width), self.u.vector_width), np.int32)
            cycles = twin.dump(self.c, c, self.chi, out, self.counters)
            self.dumps.append(out)
            return cycles
        run = twin.begin(self.c, c, self.vec, self.exponents, self.counters)
        counts, negative = np.zeros(self.u.lanes, np.int32), np.zeros(self.u.lanes, np.uint8)
        while True:
            line, group = twin.next_due(self.c, c, run, self.chi, self.counters, counts, negative)
            if line < 0:
                return twin.finish(run, self.counters)
            self.pulses.append((c.tile, c.walk, c.walk_first + line, c.lane_first + group * self.u.lanes, int(Kind.SET), 0,
                                c.chi_base + line, np.where(negative, -counts, counts).tolist()))
            twin.handed_over(run, pulse_gen.cycles(self.c, Kind.SET, counts.max()))


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
            self.stalls += ctx.get(dut.host_stall)
            for name in EVENT_NAMES:
                self.counters[INDEX[name]] += ctx.get(dut.events[name])
            if ctx.get(dut.trace_line_stb):
                self.trace_lines.append((ctx.get(dut.trace_line), ctx.get(dut.trace_code)))
            if ctx.get(dut.trace_lane_stb):
                self.trace_lanes[ctx.get(dut.trace_lane_address)] = [ctx.get(dut.trace_lanes[k]) for k in range(u.vector_width)]
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

        simulate(self.bench, bench, self.monitor)


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
    vec = rng.integers(-(1 << 15), 1 << 15, shape) >> rng.integers(0, 14, shape)
    vec[rng.random(shape) > density] = 0
    vec[rng.random(u.vector_words) > density + 0.2] = 0
    vec[0, :3] = (-32768, 32767, -32767)
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
@pytest.mark.parametrize("density", [0.1, 0.9])
@pytest.mark.parametrize("gated", [False, True])
def test_rtl_is_the_twin(shape, density, gated):
    """CLEAR, UPDATEs of every kind, DUMP: everything equal, cycles and events included."""
    u, rng = SHAPES[shape], np.random.default_rng(hash((density,)) % 1000)
    vec, exponents = vectors(u, rng, density), rng.integers(-1, 2, 8)
    for lines, lanes in ((u.n_rows, u.n_cols), (1, u.n_rows), (u.vector_width + 1, u.lanes)):
        place = matrix(u, rng, lines, lanes)
        commands = [command(u, UpdateOp.CLEAR, **place)]
        for _ in range(8):
            accumulate, threshold = int(rng.random() < 0.8), int(rng.random() < 0.7)
            commands.append(command(u, **place, **operands(u, rng), accumulate=accumulate, threshold=threshold))
        commands.append(command(u, UpdateOp.DUMP, **place))
        rtl, model = Rtl(u, vec, exponents, gated), Twin(u, vec.ravel(), exponents)
        rtl.run(commands, idle=int(gated) * 5)
        compare(rtl, model, commands)
