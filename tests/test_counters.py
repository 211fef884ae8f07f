"""Event counters: sums, wrap, clear, the cycle in which an increment becomes visible, and the widths' check."""
import dataclasses
import random
from types import SimpleNamespace

import pytest
from amaranth.lib import data

from hdl.counters import Counters, event_widths
from model.events import EVENTS, N_EVENTS
from model.params import SMALL
from tests.sim import simulate

U = dataclasses.replace(SMALL.unit, counter_bits=16)
WIDTHS = {event.name: 1 + index % 8 for index, event in enumerate(EVENTS)}


async def _read(ctx, dut, index):
    ctx.set(dut.read_en, 1)
    ctx.set(dut.read_index, index)
    await ctx.tick()
    ctx.set(dut.read_en, 0)
    ctx.set(dut.read_index, 0)
    value = ctx.get(dut.read_value)
    await ctx.tick()
    assert ctx.get(dut.read_value) == value
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
        assert await _read(ctx, dut, last) == 0    # read_en one cycle after the increment
        assert await _read(ctx, dut, last) == 1
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


def test_event_widths():
    unit = SimpleNamespace(events=SimpleNamespace(shape=lambda: data.StructLayout(WIDTHS)))
    assert event_widths(unit) == WIDTHS
    with pytest.raises(ValueError, match="from two units"):
        event_widths(unit, unit)
    with pytest.raises(ValueError, match="without a unit: \\['time'"):
        event_widths()
