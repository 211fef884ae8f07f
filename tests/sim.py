"""pysim helpers: run benches against a component, move stream payloads under idle and stall."""
import itertools
import random
import warnings

from amaranth.sim import Simulator

__all__ = ["PAUSES", "pauses", "simulate", "stream_get", "stream_put"]

PAUSES = ("none", "random")
"""Names of pause patterns; tests cross them over every input (idle) and output (stall)."""


def pauses(name, seed=0):
    """Endless iterator of booleans: True means no transfer is offered in this cycle."""
    if name == "none":
        return itertools.repeat(False)
    source = random.Random(seed)
    return (source.random() < 0.5 for _ in itertools.count())


def simulate(dut, *benches, limit=100_000):
    """Run every bench (async function of ctx) to its end on the clock ``sync``; fail after ``limit`` cycles."""
    sim = Simulator(dut)
    sim.add_clock(1e-6)

    async def watchdog(ctx):
        for _ in range(limit):                       # not repeat(): its generator cannot be closed at the end
            await ctx.tick()
        raise AssertionError(f"bench did not end within {limit} cycles")

    sim.add_testbench(watchdog, background=True)
    for bench in benches:
        sim.add_testbench(bench)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        sim.run()


async def stream_put(ctx, port, payload, pause=None):
    """Transfer one payload into an input stream; idles first while ``pause`` yields True."""
    while pause is not None and next(pause):
        await ctx.tick()
    ctx.set(port.payload, payload)
    ctx.set(port.valid, 1)
    await ctx.tick().until(port.ready)
    ctx.set(port.valid, 0)


async def stream_get(ctx, port, pause=None):
    """Take one payload from an output stream; stalls first while ``pause`` yields True."""
    while pause is not None and next(pause):
        await ctx.tick()
    ctx.set(port.ready, 1)
    payload, = await ctx.tick().sample(port.payload).until(port.valid)
    ctx.set(port.ready, 0)
    return payload
