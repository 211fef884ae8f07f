"""Feeders (bench only): a whole sample packet or a register access in one wide write from Python.

``PacketFeeder``: ``go`` changes: the ``n_beats`` lowest beats of ``data`` leave on the AXI4-Stream, one a cycle, ``last`` marking
the end of the packet with the last of them. ``RegisterMaster``: ``go`` changes: one AXI4-Lite write or read; ``done`` follows
``go``.
"""
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from model.params import UnitParams

__all__ = ["PacketFeeder", "RegisterMaster", "feed_bytes"]


def feed_bytes(u: UnitParams) -> int:
    """Longest packet, or piece of one, in a single write [byte]: pixels, bias and targets, or a look-up table; whole beats."""
    longest = max(u.n_rows + u.n_cols + 2 * u.vector_width, 2 << u.lut_bits)
    return -(-longest // 8) * 8


class PacketFeeder(wiring.Component):
    """Members: ``go, data, n_beats, tail_bytes, last`` from Python; ``busy``; ``tdata, tkeep, tlast, tvalid, tready``."""

    def __init__(self, u: UnitParams):
        size = feed_bytes(u)
        super().__init__({
            "go": In(1), "data": In(8 * size), "n_beats": In(range(size // 8 + 1)), "tail_bytes": In(4), "last": In(1),
            "busy": Out(1),
            "tdata": Out(64), "tkeep": Out(8), "tlast": Out(1), "tvalid": Out(1), "tready": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        seen, shift, left, tail, last = Signal(), Signal.like(self.data), Signal.like(self.n_beats), Signal(4), Signal()
        pending = Signal()
        final = left == 1
        m.d.comb += [self.busy.eq((left != 0) | (seen != self.go)), self.tvalid.eq(left != 0), self.tdata.eq(shift[:64]),
                     self.tlast.eq(last & final), self.tkeep.eq(0xFF)]
        with m.If(final):
            m.d.comb += self.tkeep.eq((1 << tail) - 1)
        with m.If(left != 0):
            with m.If(self.tready):
                m.d.sync += [shift.eq(shift[64:]), left.eq(left - 1)]
        with m.Elif((seen != self.go) & ~pending):   # data comes one clock after go
            m.d.sync += pending.eq(1)
        with m.Elif(pending):
            m.d.sync += pending.eq(0)
            m.d.sync += [seen.eq(self.go), shift.eq(self.data), left.eq(self.n_beats), tail.eq(self.tail_bytes),
                         last.eq(self.last)]
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
