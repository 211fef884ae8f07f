"""UART: against a bit-by-bit peer in Python, at equal and at slightly wrong rates."""
import random

import pytest
from amaranth.sim import Simulator

from hdl.uart import Uart
from model.link_format import LinkParams
from model.params import SMALL
from tests.sim import simulate

U = SMALL.unit


def bits_of(byte):
    return [0, *(byte >> k & 1 for k in range(8)), 1]


def listen(levels, divisor):
    """Bytes that a Uart finds in a waveform, a level a cycle."""
    dut, found = Uart(U, LinkParams(divisor=divisor)), []

    async def bench(ctx):
        for level in levels:
            ctx.set(dut.rx, level)
            await ctx.tick()
            if ctx.get(dut.o_stb):
                found.append(ctx.get(dut.o))

    simulate(dut, bench)
    return bytes(found)


def receive(content, divisor, cycles_per_bit, gap=0):
    """Bytes that a Uart finds in a waveform of ``content`` with bits of ``cycles_per_bit`` (a float) cycles."""
    levels = [1] * 3 * divisor
    edge = 0.0
    for bit in (bit for byte in content for bit in bits_of(byte) + [1] * gap):
        start, edge = round(edge), edge + cycles_per_bit
        levels += [bit] * (round(edge) - start)
    levels += [1] * 3 * divisor
    return listen(levels, divisor)


CONTENT = bytes(random.Random(1).randrange(256) for _ in range(40)) + bytes([0, 255, 0x7E, 0x55])


@pytest.mark.parametrize(("divisor", "error"), [(4, 0), (4, 0.02), (4, -0.02), (5, 0), (10, 0.03), (10, -0.03), (16, 0.04)])
def test_receives_at_rates_within_the_limit(divisor, error):
    assert receive(CONTENT, divisor, divisor * (1 + error)) == CONTENT


def test_a_rate_far_off_is_not_received():
    assert receive(CONTENT, 10, 11.5) != CONTENT


def test_a_byte_without_a_stop_bit_is_dropped():
    levels = [1] * 8 + [0] * 60 + [1] * 20 + [level for bit in bits_of(0xA5) for level in [bit] * 4] + [1] * 8
    assert listen(levels, 4) == bytes([0xA5])


@pytest.mark.parametrize("divisor", [4, 7])
def test_sends_start_bits_and_stop(divisor):
    dut, levels = Uart(U, LinkParams(divisor=divisor)), []

    async def sender(ctx):
        ctx.set(dut.i.valid, 1)
        for byte in CONTENT:
            ctx.set(dut.i.payload, byte)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(12 * divisor)

    async def watcher(ctx):
        async for _, _, level in ctx.tick().sample(dut.tx):
            levels.append(level)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(sender)
    sim.add_testbench(watcher, background=True)
    sim.run()
    place, waits = levels.index(0), []
    for byte in CONTENT:
        for bit in bits_of(byte):
            assert levels[place:place + divisor] == [bit] * divisor
            place += divisor
        wait = next((k for k, level in enumerate(levels[place:]) if not level), 0)
        waits.append(wait)
        place += wait
    assert max(waits) <= 1                              # a waiting byte is taken at once
