"""hdl.vector_memory against its twin: four readers, three writers, held reads, the asserted exclusions."""
import dataclasses

import numpy as np
import pytest

from hdl.vector_memory import VectorMemory
from model.digital import vector_memory as twin
from model.params import SMALL
from tests.sim import simulate

U = dataclasses.replace(SMALL.unit, vector_words=16)
READERS = ("a", "b", "lines", "update")


@pytest.mark.parametrize("width", [1, 4])
def test_rtl_is_the_twin(width):
    rng, u = np.random.default_rng(1), dataclasses.replace(U, vector_width=width)
    dut, vec = VectorMemory(u), twin.new(u.constants)

    async def bench(ctx):
        expected = dict.fromkeys(READERS)
        host = None
        for _ in range(800):
            writer = rng.choice(["w_vector", "w_lines", "none"])
            words = {name: _word(rng, u) for name in ("w_vector", "w_lines")}
            host = host or (_word(rng, u) if rng.random() < 0.5 else None)
            written = words.get(writer, host)
            for name in READERS:
                port = getattr(dut, name)
                en, addr = int(rng.random() < 0.6), int(rng.integers(u.vector_words))
                if written and addr == written["addr"]:      # asserted
                    en = 0
                ctx.set(port.en, en)
                ctx.set(port.addr, addr)
                if en:
                    expected[name] = twin.read(u.constants, vec, addr).tolist()
            for name, word in words.items():
                port, chosen = getattr(dut, name), name == writer
                ctx.set(port.en, chosen)
                word = word if chosen or name == "w_lines" else {"addr": word["addr"], "mask": 0, "data": [0] * u.vector_width}
                for field, value in word.items():
                    ctx.set(getattr(port, field), value)
                if chosen:
                    twin.write(u.constants, vec, word["addr"], word["mask"], np.array(word["data"]))
            ctx.set(dut.w_host.valid, host is not None)
            if host is not None:
                ctx.set(dut.w_host.payload, host)
            assert ctx.get(dut.w_host.ready) == (writer == "none")
            if host is not None and writer == "none":
                twin.write(u.constants, vec, host["addr"], host["mask"], np.array(host["data"]))
                host = None
            await ctx.tick()
            for name in READERS:
                if expected[name] is not None:
                    assert list(ctx.get(getattr(dut, name).data)) == expected[name], name

    simulate(dut, bench)


def _word(rng, u):
    return {
        "addr": int(rng.integers(u.vector_words)), "mask": int(rng.integers(1 << u.vector_width)),
        "data": rng.integers(-32768, 32768, u.vector_width).tolist()}


def test_two_writers_are_an_error():
    dut = VectorMemory(U)

    async def bench(ctx):
        ctx.set(dut.w_vector.en, 1)
        ctx.set(dut.w_lines.en, 1)
        await ctx.tick()
        await ctx.tick()

    with pytest.raises(AssertionError, match="write in one cycle"):
        simulate(dut, bench)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", ["w_vector", "w_lines", "w_host"])
def test_reading_what_is_written_is_an_error(reader, writer):
    dut = VectorMemory(U)

    async def bench(ctx):
        read, write = getattr(dut, reader), getattr(dut, writer)
        word = write.payload if writer == "w_host" else write
        ctx.set(read.en, 1)
        ctx.set(read.addr, 5)
        ctx.set(word.addr, 5)
        await ctx.tick()
        ctx.set(word.mask, 1)
        ctx.set(write.valid if writer == "w_host" else write.en, 1)
        await ctx.tick()
        await ctx.tick()

    with pytest.raises(AssertionError, match="read while it is written"):
        simulate(dut, bench)


def test_a_word_without_its_write_is_an_error():
    dut = VectorMemory(U)

    async def bench(ctx):
        ctx.set(dut.w_vector.data[1], 1)
        await ctx.tick()
        await ctx.tick()

    with pytest.raises(AssertionError, match="no write"):
        simulate(dut, bench)
