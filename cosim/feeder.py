"""Feeders (bench only): a whole sample packet, a read's codes or a register access in one write from Python.

``PacketFeeder``: ``go`` changes: the first ``n_beats`` words of the memory ``packet`` leave on the AXI4-Stream, one a cycle,
``last`` marking the end of the packet with the last of them. ``ConverterPort``: the memory ``codes`` holds the codes of a read.
``RegisterMaster``: ``go`` changes: one AXI4-Lite write or read; ``done`` follows ``go``. The memories are written by their names;
a clocked read port stands behind them, so that the simulator need not track them between clock edges.
"""
from amaranth import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import CodeWord
from model.params import UnitParams

__all__ = ["CODE_BITS", "ConverterPort", "PacketFeeder", "RegisterMaster", "feed_bytes"]

CODE_BITS = 16
"""Place of a code in the memory ``codes`` [bit]."""


def feed_bytes(u: UnitParams) -> int:
    """Longest packet, or piece of one, in a single write [byte]: pixels, bias and targets, or a look-up table; whole beats."""
    longest = max(u.n_rows + u.n_cols + 2 * u.vector_width, 2 << u.lut_bits)
    return -(-longest // 8) * 8


class PacketFeeder(wiring.Component):
    """Members: ``go, n_beats, tail_bytes, last`` from Python; ``seen``: the last ``go`` obeyed; ``busy``; and of the stream
    ``tdata, tkeep, tlast, tvalid, tready``.
    """

    def __init__(self, u: UnitParams):
        self.depth = feed_bytes(u) // 8
        super().__init__({
            "go": In(1), "n_beats": In(range(self.depth + 1)), "tail_bytes": In(4), "last": In(1), "seen": Out(1),
            "busy": Out(1),
            "tdata": Out(64), "tkeep": Out(8), "tlast": Out(1), "tvalid": Out(1), "tready": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        seen, place, left = self.seen, Signal(range(self.depth)), Signal.like(self.n_beats)
        moves = self.tvalid & self.tready
        m.submodules.packet = beats = memory.Memory(shape=64, depth=self.depth, init=[])
        read = beats.read_port()
        m.d.comb += [
            self.busy.eq(left != 0), self.tvalid.eq(left != 0), self.tdata.eq(read.data),
            self.tlast.eq(self.last & (left == 1)), self.tkeep.eq(0xFF), read.addr.eq(place + moves),
        ]
        with m.If(left == 1):
            m.d.comb += self.tkeep.eq((1 << self.tail_bytes) - 1)
        with m.If(moves):
            m.d.sync += [place.eq(place + 1), left.eq(left - 1)]
            with m.If(left == 1):
                m.d.sync += place.eq(0)
        with m.Elif((seen != self.go) & (left == 0)):
            m.d.sync += [seen.eq(self.go), left.eq(self.n_beats)]
        return m


class ConverterPort(wiring.Component):
    """Returns the codes Python wrote, ``convert_cycles`` after the strobe, a word a cycle.

    Members: ``convert, out_count``: from the tile port; ``o``: to it. Word k of ``codes``: codes from k * vector_width on,
    CODE_BITS each.
    """

    def __init__(self, u: UnitParams, convert_cycles: int):
        self.u, self.convert_cycles = u, convert_cycles
        super().__init__({"convert": In(1), "out_count": In(13), "o": Out(stream.Signature(CodeWord(u)))})

    def elaborate(self, platform):
        m = Module()
        u = self.u
        n_words = u.n_lines // u.vector_width
        wait, left, word = Signal(range(self.convert_cycles + 1)), Signal(13), Signal(range(n_words + 1))
        moves = self.o.valid & self.o.ready
        m.submodules.codes = codes = memory.Memory(shape=CODE_BITS * u.vector_width, depth=n_words, init=[])
        read = codes.read_port()
        m.d.comb += [self.o.valid.eq((wait == 0) & (left != 0)), read.addr.eq(word + moves)]
        m.d.comb += [self.o.payload[k].eq(read.data.word_select(k, CODE_BITS).as_signed()) for k in range(u.vector_width)]
        with m.If(self.convert):
            m.d.sync += [wait.eq(self.convert_cycles - 1), left.eq(self.out_count), word.eq(0)]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(moves):
            m.d.sync += word.eq(word + 1)
            with m.If(left > u.vector_width):
                m.d.sync += left.eq(left - u.vector_width)
            with m.Else():
                m.d.sync += left.eq(0)
        return m


class RegisterMaster(wiring.Component):
    """Members: ``go, write, address, wdata`` from Python; ``done, rdata, resp``; the five channels without prefix."""

    def __init__(self, u: UnitParams):
        super().__init__({
            "go": In(1), "write": In(1), "address": In(16), "wdata": In(32), "done": Out(1), "rdata": Out(32), "resp": Out(2),
            "awaddr": Out(16), "awvalid": Out(1), "awready": In(1), "wvalid": Out(1), "wready": In(1), "bresp": In(2),
            "bvalid": In(1), "bready": Out(1), "araddr": Out(16), "arvalid": Out(1), "arready": In(1), "read_data": In(32),
            "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.awaddr.eq(self.address), self.araddr.eq(self.address), self.bready.eq(1), self.rready.eq(1)]
        with m.FSM(name="master"):
            with m.State("IDLE"):
                with m.If(self.go != self.done):
                    with m.If(self.write):
                        m.d.sync += [self.awvalid.eq(1), self.wvalid.eq(1)]
                        m.next = "WRITE"
                    with m.Else():
                        m.d.sync += self.arvalid.eq(1)
                        m.next = "READ"
            with m.State("WRITE"):
                with m.If(self.awready):
                    m.d.sync += self.awvalid.eq(0)
                with m.If(self.wready):
                    m.d.sync += self.wvalid.eq(0)
                with m.If(self.bvalid):
                    m.d.sync += [self.done.eq(self.go), self.resp.eq(self.bresp)]
                    m.next = "IDLE"
            with m.State("READ"):
                with m.If(self.arready):
                    m.d.sync += self.arvalid.eq(0)
                with m.If(self.rvalid):
                    m.d.sync += [self.done.eq(self.go), self.rdata.eq(self.read_data), self.resp.eq(self.rresp)]
                    m.next = "IDLE"
        return m
