"""The vector memory: ``vector_words`` words of ``vector_width`` signed 16-bit elements, four readers, one write per cycle.

Readers: ``a`` and ``b`` (vector unit), ``lines`` (read unit), ``update`` (update unit). In the cycle after ``en`` the word of
``addr`` is on ``data``; it is held while ``en`` is 0. A word is not read in the cycle in which it is written (asserted: a program
waits for what it reads, and a unit reads its own results later), so synthesis need not order the two.
Writers: ``w_vector`` and ``w_lines`` are always accepted and never write in one cycle (asserted: the sequencer orders commands
so); ``w_host`` is accepted in every cycle in which neither writes. A write changes the elements whose bit in ``mask`` is 1.
``mask`` and ``data`` of ``w_vector`` are 0 while its ``en`` is 0 (asserted).
Reset does not clear the memory. There is nothing to gate: without ``en`` and ``valid`` no register moves.

Ports, seen from the memory: ``a, b, lines, update`` In(VectorReadSignature); ``w_vector, w_lines`` In(VectorWriteSignature);
``w_host`` In(stream of addr, mask, data). Simulations read and set the content through the attribute ``rows``.
Timing: read latency 1 cycle; a write in cycle t is seen by reads issued in cycle t + 1 or later.
Twin: ``model/digital/vector_memory.py``. Source: design choice.
"""
from amaranth import Assert, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In

from hdl.ports import VectorReadSignature, VectorWriteSignature
from model.params import UnitParams

__all__ = ["VectorMemory", "VectorWrite"]


def VectorWrite(u: UnitParams):
    """Layout of a write of the host: ``mask`` says which elements of word ``addr`` change."""
    return data.StructLayout({
        "addr": range(u.vector_words), "mask": u.vector_width, "data": data.ArrayLayout(signed(u.element_bits), u.vector_width)})


class VectorMemory(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            **{name: In(VectorReadSignature(u)) for name in ("a", "b", "lines", "update")},
            **{name: In(VectorWriteSignature(u)) for name in ("w_vector", "w_lines")},
            "w_host": In(stream.Signature(VectorWrite(u))),
        })
        word = data.ArrayLayout(signed(u.element_bits), u.vector_width)
        self.rows = memory.MemoryData(shape=word, depth=u.vector_words, init=[])

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = store = memory.Memory(self.rows, attrs={"no_rw_check": 1})

        write = store.write_port(granularity=1)
        for port in (self.a, self.b, self.lines, self.update):
            read = store.read_port()
            m.d.comb += [read.en.eq(port.en), read.addr.eq(port.addr), port.data.eq(read.data)]
            m.d.sync += Assert(~(port.en & write.en.any() & (port.addr == write.addr)), "a word is read while it is written")

        # the vector unit's word comes late, and is 0 when there is none: it is not chosen, but added
        vector, lines, host = self.w_vector, self.w_lines, self.w_host.payload
        other, other_mask = Signal.like(write.data), Signal.like(write.en)
        m.d.comb += [
            self.w_host.ready.eq(~(vector.en | lines.en)), write.addr.eq(host.addr),
            write.data.eq(vector.data.as_value() | other.as_value()), write.en.eq(vector.mask | other_mask),
        ]
        with m.If(vector.en):
            m.d.comb += write.addr.eq(vector.addr)
        with m.Elif(lines.en):
            m.d.comb += [write.addr.eq(lines.addr), other.eq(lines.data), other_mask.eq(lines.mask)]
        with m.Else():
            m.d.comb += [other.eq(host.data), other_mask.eq(Mux(self.w_host.valid, host.mask, 0))]

        m.d.sync += Assert(vector.en | ~Cat(vector.mask, vector.data).any(), "a word of the vector unit, but no write")
        m.d.sync += Assert(~(vector.en & lines.en), "vector unit and read unit write in one cycle")
        return m
