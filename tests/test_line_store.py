"""Line store: the line driver's timing, cycle for cycle, and the codes that its lines would carry."""
import dataclasses
import random

import pytest
from amaranth import Elaboratable, Module
from amaranth.sim import Simulator

from hdl.line_driver import LineDriver
from hdl.line_store import LineStore
from model.digital.shift_register import leap
from model.params import SMALL, Params

U = SMALL.unit
CAPACITOR = Params.from_dict({"unit": {"capacitor": 1}}, SMALL).unit


class Both(Elaboratable):
    def __init__(self, u):
        self.u, self.driver, self.store = u, LineDriver(u), LineStore(u)

    def elaborate(self, platform):
        m = Module()
        m.submodules.driver, m.submodules.store = self.driver, self.store
        m.d.comb += [getattr(self.store.i, name).eq(getattr(self.driver.i, name)) for name in self.driver.i.signature.members]
        return m


def run(u, bench):
    both = Both(u)
    sim = Simulator(both)
    sim.add_clock(1e-6)
    sim.add_clock(1e-6, domain="link")

    async def testbench(ctx):
        await bench(ctx, both)

    sim.add_testbench(testbench)
    sim.run()


async def tick(ctx, both, **values):
    """A cycle with these inputs; the outputs agree in it."""
    i = both.driver.i
    names = ("integrate", "last", "active", "dither") if both.u.capacitor else ("integrate", "last", "active")
    for name in i.signature.members:
        if name != "magnitude":
            ctx.set(getattr(i, name), values.get(name, 0))
    for k, magnitude in enumerate(values.get("magnitude", [0] * both.u.vector_width)):
        ctx.set(i.magnitude[k], magnitude)
    for name in names:
        assert ctx.get(getattr(both.driver, name)) == ctx.get(getattr(both.store, name)), name
    await ctx.tick()


async def codes(ctx, both, side=0):
    """Signed codes of all lines, from the store."""
    u, stored = both.u, both.store.stored
    base, count = (ctx.get(getattr(stored, f"{name}_1" if side else name)) for name in ("base", "count"))
    found = [0] * u.n_lines
    for word in range(base, base + count):
        ctx.set(stored.address, word << 1 | side if u.capacitor else word)
        await ctx.tick("link")
        for k in range(u.vector_width):
            code = ctx.get(stored.data[k])
            found[word * u.vector_width + k] = (code & 0x7F) * (-1 if code & 0x80 else 1)
    return found


async def write(ctx, both, values, first, **side):
    await tick(ctx, both, clear=1, **side)
    width = both.u.vector_width
    for word in range(len(values) // width):
        part = values[word * width:(word + 1) * width]
        await tick(ctx, both, en=1, addr=first + word, magnitude=[abs(v) for v in part],
                   polarity=sum((v < 0) << k for k, v in enumerate(part)), **side)


@pytest.mark.parametrize("u", [U, dataclasses.replace(U, vector_width=1), CAPACITOR], ids=["mixed", "width 1", "capacitor"])
def test_windows_and_codes(u):
    source = random.Random(3)

    async def bench(ctx, both):
        words = u.n_lines // u.vector_width
        for _ in range(6):
            first = source.randrange(words)
            count = source.randrange(1, words - first + 1)
            values = [source.randint(-u.line_max, u.line_max) for _ in range(count * u.vector_width)]
            await write(ctx, both, values, first)
            steps = source.randint(1, u.line_max)
            await tick(ctx, both, start=1, steps=steps)
            for _ in range(steps):
                assert ctx.get(both.store.integrate)
                await tick(ctx, both)
            assert not ctx.get(both.store.integrate)
            assert ctx.get(both.store.stored.steps) == steps
            expected = [0] * u.n_lines
            expected[first * u.vector_width:first * u.vector_width + len(values)] = values
            assert await codes(ctx, both) == expected
        await tick(ctx, both, clear=1)
        assert await codes(ctx, both) == [0] * u.n_lines

    run(u, bench)


def test_trains():
    u, source = CAPACITOR, random.Random(4)

    async def bench(ctx, both):
        state = 0x1234567
        await tick(ctx, both, load=1, seed=state)
        for sequence in (0, 1, 1):
            rows, columns = ([source.randint(-u.line_max, u.line_max) for _ in range(size)] for size in (u.n_rows, u.n_cols))
            await write(ctx, both, rows, 0)
            await write(ctx, both, columns, 0, columns=1)
            await tick(ctx, both, start=1, steps=u.slots, train=1, sequence=sequence, negative=1)
            for _ in range(u.slots):
                await tick(ctx, both)
            stored = both.store.stored
            assert (ctx.get(stored.sequence), ctx.get(stored.negative)) == (sequence, 1)
            assert await codes(ctx, both) == rows
            assert (await codes(ctx, both, side=1))[:u.n_cols] == columns
            assert ctx.get(stored.state) == state
            for _ in range(u.slots if sequence else 0):
                state = int(leap(state))

    run(u, bench)
