"""Event counters: sums, wrap, clear, when an increment becomes visible, exactness of every read, the widths' check."""
import dataclasses
import random
from types import SimpleNamespace

import pytest
from amaranth import Array, Elaboratable, Module, Mux, Signal
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import data

from hdl.counters import READ_SPACING, Counters, event_widths, max_age, unit_widths
from hdl.host_stream import HostStream
from hdl.pulse_gen import PulseGen
from hdl.read_unit import ReadUnit
from hdl.refresh import Refresh
from hdl.sequencer import Sequencer
from hdl.update_unit import UpdateUnit
from hdl.vector_unit import VectorUnit
from model.events import EVENTS, N_EVENTS
from model.params import SMALL, UnitParams
from tests.formal import any_value, prove
from tests.sim import simulate

U = dataclasses.replace(SMALL.unit, counter_bits=16)
WIDTHS = {event.name: 1 + index % 8 for index, event in enumerate(EVENTS)}
UNITS = (Sequencer, ReadUnit, VectorUnit, UpdateUnit, PulseGen, Refresh, HostStream)


async def _read(ctx, dut, index):
    ctx.set(dut.read_en, 1)
    ctx.set(dut.read_index, index)
    await ctx.tick()
    ctx.set(dut.read_en, 0)
    await ctx.tick().repeat(2)
    value = ctx.get(dut.read_value)
    ctx.set(dut.read_index, 0)
    await ctx.tick().repeat(READ_SPACING - 3)
    return value


@pytest.mark.parametrize("density", [0.05, 0.9])
def test_sums(density):
    source = random.Random(1)
    dut = Counters(U, WIDTHS)

    async def bench(ctx):
        expected = dict.fromkeys(WIDTHS, 0)
        for _ in range(1500):
            step = {name: source.randrange(1 << bits) if source.random() < density else 0 for name, bits in WIDTHS.items()}
            step["line_cycles"] = 255
            step["line_cycles"] &= (1 << WIDTHS["line_cycles"]) - 1
            for name, value in step.items():
                expected[name] += value
            ctx.set(dut.events, step)
            await ctx.tick()
        ctx.set(dut.events, {})
        await ctx.tick()
        for index, event in enumerate(EVENTS):
            assert await _read(ctx, dut, index) == expected[event.name] % (1 << U.counter_bits), event.name
        if density > 0.5:
            assert max(expected.values()) > 1 << U.counter_bits, "no counter wrapped"

    simulate(dut, bench)


def test_timing():
    dut = Counters(U, WIDTHS)

    async def bench(ctx):
        last = N_EVENTS - 1
        ctx.set(dut.events, {EVENTS[last].name: 1})
        await ctx.tick()
        ctx.set(dut.events, {})
        await ctx.tick().repeat(READ_SPACING)
        ctx.set(dut.events, {EVENTS[last].name: 1})
        assert await _read(ctx, dut, last) == 1    # read_en in the cycle of the increment
        ctx.set(dut.events, {})
        await ctx.tick()
        assert await _read(ctx, dut, last) == 5
        ctx.set(dut.events, {"time": 1})
        await ctx.tick()
        ctx.set(dut.clear, 1)                      # the increment of the cycle before is lost, this one counts
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.events, {})
        await ctx.tick().repeat(2)
        assert await _read(ctx, dut, 0) == 1
        assert await _read(ctx, dut, last) == 0

    simulate(dut, bench)


FEW = {"time": 3, "host_wait": 1, "instructions": 1}                # index 2 without an event


def test_only_time():
    """A build without event counters: ``time`` counts, all others read as 0."""
    dut = Counters(dataclasses.replace(U, event_counters=0), WIDTHS)

    async def bench(ctx):
        async def count(pattern):
            for step in pattern:
                ctx.set(dut.events, {"time": step})
                await ctx.tick()
            ctx.set(dut.events, {})
            await ctx.tick()

        await count([1, 0, 1, 1, 0, 1] * 9)
        assert [await _read(ctx, dut, index) for index in range(N_EVENTS)] == [36] + [0] * (N_EVENTS - 1)
        await count([1])
        ctx.set(dut.clear, 1)
        ctx.set(dut.events, {"time": 1})
        await ctx.tick()
        ctx.set(dut.clear, 0)
        await count([1, 1])
        assert await _read(ctx, dut, 0) == 3

    simulate(dut, bench)


@pytest.mark.parametrize("widths", [WIDTHS, unit_widths(U), dict.fromkeys(WIDTHS, 1), FEW], ids=["all", "unit", "ones", "few"])
@pytest.mark.parametrize("pattern", ["most", "random"])
def test_every_read(widths, pattern):
    """Increments at their maximum, or random; reads as often as allowed, or random, also where a turn is written; clears."""
    source, most = random.Random(7), pattern == "most"
    dut = Counters(U, widths)
    period = max_age(dut.n)

    async def bench(ctx):
        held, counts, due = dict.fromkeys(widths, 0), dict.fromkeys(widths, 0), {}      # due: cycle -> value
        wait, index, n_met = 0, 0, 0
        for cycle in range(12 * period + 400 * READ_SPACING):
            step = {name: (1 << bits) - 1 if most else source.randrange(1 << bits) for name, bits in widths.items()}
            read, clear = wait == 0 and (most or source.random() < 0.7), cycle > 12 * period and source.random() < 1 / period
            met = ctx.get(dut.address)                              # what a turn writes in the cycle in which it is read
            if source.random() < 0.7:
                index = met
            elif source.random() < 0.1:
                index = source.randrange(N_EVENTS)
            n_met += read and index == met
            ctx.set(dut.events, step)
            ctx.set(dut.clear, clear)
            ctx.set(dut.read_en, read)
            ctx.set(dut.read_index, index)
            await ctx.tick()
            if cycle in due:
                assert ctx.get(dut.read_value) == due[cycle]
            counts = {name: 0 if clear else value + held[name] for name, value in counts.items()}
            if read:
                due[cycle + 2] = counts.get(EVENTS[index].name, 0) % (1 << U.counter_bits)
            held, wait = step, READ_SPACING - 1 if read else max(0, wait - 1)
        assert n_met > 100

    simulate(dut, bench)


def test_max_age():
    """As long as a counter may go from turn to turn: reads as often as allowed, the last where its turn would be written."""
    for n in range(READ_SPACING, N_EVENTS + 1):
        longest = 0
        for first in range(1, READ_SPACING + 1):                    # the counter's turn is in cycle 0
            other, cycle = n - 1, 1
            while other or (cycle - first) % READ_SPACING == 0:
                other, cycle = other - ((cycle - first) % READ_SPACING != 0), cycle + 1
            longest = max(longest, cycle)
        assert max_age(n) == longest + 2


@pytest.mark.parametrize("u", [UnitParams(), UnitParams(capacitor=1), SMALL.unit, dataclasses.replace(SMALL.unit, lanes=5),
                               dataclasses.replace(SMALL.unit, refresh=0)])
def test_unit_widths(u):
    assert unit_widths(u) == event_widths(*(unit(u) for unit in UNITS if u.refresh or unit is not Refresh))


def test_event_widths():
    unit = SimpleNamespace(events=SimpleNamespace(shape=lambda: data.StructLayout(WIDTHS)))
    assert event_widths(unit) == WIDTHS
    with pytest.raises(ValueError, match="from two units"):
        event_widths(unit, unit)
    with pytest.raises(ValueError, match="without a unit: \\['time'"):
        event_widths()


class ExactSpec(Elaboratable):
    """Every read of one counter, whichever, gives the sum of its increments since the last clear."""

    def __init__(self):
        self.widths = {event.name: bits for event, bits in zip(EVENTS, (1, 2, 1, 3, 1), strict=False)}

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Counters(U, self.widths)
        n, interval = dut.n, max_age(dut.n) - 2
        look = dut.memory.read_port(domain="comb")                  # a second look at the memory
        event = Signal(range(n))                                    # the counter that is watched
        m.d.comb += [event.eq(AnyConst(len(event))), Assume(event < n), look.addr.eq(event), dut.clear.eq(any_value(m, 1)),
                     dut.read_en.eq(any_value(m, 1)), dut.read_index.eq(any_value(m, len(dut.read_index)))]
        fields = [dut.events[name] for name in self.widths]
        m.d.comb += [field.eq(any_value(m, len(field))) for field in fields]
        recent = Signal(READ_SPACING - 1)                           # reads of the cycles before
        m.d.sync += recent.eq((recent << 1) | dut.reads)
        m.d.comb += [Assume(~(dut.reads & recent.any())),
                     Assert(dut.clash == (dut.reads & (dut.asked == dut.write.addr)))]

        # what the counter is to be, and what has come since its last turn, the one before, and what the memory holds
        bits = 8
        step, most, count = Signal(3), Signal(3), Signal(U.counter_bits)
        turn, second, stored, written = Signal(bits), Signal(bits), Signal(bits), Signal(init=1)
        age, second_age, looked = Signal(bits), Signal(bits), Signal()       # looked: there was a turn since the last clear
        steps = [Signal(3, name=f"step{index}") for index in range(2)]
        taken, commit = Signal(), Signal()                          # the counter's turn; it is written
        m.d.comb += [most.eq(Array((1 << bits) - 1 for bits in self.widths.values())[event]),
                     taken.eq(~dut.reads & (dut.turn == event)), commit.eq(dut.write.en & (dut.write.addr == event))]
        m.d.sync += [
            step.eq(Array(fields)[event]), steps[0].eq(step), steps[1].eq(steps[0]), count.eq(count + step),
            turn.eq(Mux(taken, 0, turn) + step), second.eq(Mux(taken, turn, second) + step),
            stored.eq(Mux(commit, steps[0] + steps[1], stored) + step), written.eq((written & ~taken) | commit),
            age.eq(Mux(taken, 0, age) + 1), second_age.eq(Mux(taken, age, second_age) + 1), looked.eq(looked | taken),
        ]
        with m.If(dut.clear):
            m.d.sync += [count.eq(0), turn.eq(0), second.eq(0), stored.eq(0), written.eq(1), age.eq(0), second_age.eq(0),
                         looked.eq(0)]

        # every read
        read, asked, expected, last = Signal(), Signal(), Signal.like(count), Signal.like(count)
        m.d.sync += [read.eq(dut.reads & (dut.asked == event)), asked.eq(read), last.eq(count), expected.eq(last)]
        with m.If(asked):
            m.d.comb += Assert(dut.read_value == expected)

        # why: the turns, how far apart they are, and how far a counter goes in that time
        flying, met, known = Signal(2), Signal(), Signal()          # flying: turns not yet written
        m.d.comb += [flying.eq((dut.turned | dut.met) + dut.due), known.eq(event < dut.passed)]
        m.d.sync += met.eq(dut.met)
        m.d.comb += [Assert(dut.turn < n), Assert(dut.pair == 1 << (dut.turn >> 1)), Assert(dut.odd == dut.turn[0]),
                     Assert(dut.passed <= n), Assert(~(dut.turned & dut.met))]
        with m.If(dut.passed < n):
            position = dut.passed + flying
            m.d.comb += [Assert((position == dut.turn) | (position == dut.turn + n)), Assert(looked == (event < position))]
        left, reads, apart = Signal(range(n)), Signal(range(-n, 2 * n + bits)), Signal(2)
        m.d.comb += [left.eq(Mux(event >= dut.turn, event - dut.turn, event + n - dut.turn)),
                     apart.eq(Mux(recent[0], 0, Mux(recent[1], 1, Mux(recent[2], 2, 3)))), reads.eq(age + left - n)]
        m.d.comb += [Assert(age <= interval), Assert((reads <= 0) | (3 * (reads - 1) + apart <= n - left - 1)),
                     Assert(turn <= most * age)]
        with m.If(~written | (~known & looked)):
            m.d.comb += [Assert(age <= 4), Assert(second_age <= age + interval), Assert(second <= most * second_age)]
        m.d.comb += [Assert(written | (age <= 2) | (recent[0] & (age == 3)) | (recent[1] & (age == 4)))]
        with m.If(known & ~((dut.met & (dut.address == event)) | (met & (dut.write.addr == event)))):
            m.d.comb += [Assert(stored <= Mux(written, turn, second)), Assert(look.data == (count - stored)[:U.counter_bits])]
        with m.If(~known):
            m.d.comb += Assert(count == Mux(looked, second, turn))
        with m.Switch(event):
            for index, one in enumerate(dut.sums.values()):
                with m.Case(index):
                    m.d.comb += Assert(one == count[:len(one)])
        m.d.comb += [Cover(asked & (expected > 12) & known), Cover(read & dut.met & known),
                     Cover(asked & (expected > 7) & ~known)]
        return m


@pytest.mark.formal
def test_formal_exact():
    prove(ExactSpec(), "counters_exact", depth=6, cover_depth=20)
