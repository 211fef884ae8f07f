"""hdl.vector_memory against its twin: four readers, three writers, held reads, the asserted exclusion."""
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
            for name in READERS:                     # reads see the memory before this cycle's write
                port = getattr(dut, name)
                en, addr = int(rng.random() < 0.6), int(rng.integers(u.vector_words))
                ctx.set(port.en, en)
                ctx.set(port.addr, addr)
                if en:
                    expected[name] = twin.read(u.constants, vec, addr).tolist()
            writer = rng.choice(["w_vector", "w_lines", "none"])
            for name in ("w_vector", "w_lines"):
                port, chosen = getattr(dut, name), name == writer
                ctx.set(port.en, chosen)
                word = _word(rng, u)
                for field, value in word.items():
                    ctx.set(getattr(port, field), value)
                if chosen:
                    twin.write(u.constants, vec, word["addr"], word["mask"], np.array(word["data"]))
            host = host or (_word(rng, u) if rng.random() < 0.5 else None)
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
