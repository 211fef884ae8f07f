"""tests.formal proves what holds, and fails, with the trace's name, what does not."""
import pytest
from amaranth import Elaboratable, Module, Signal
from amaranth.hdl import Assert, Cover
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tests.formal import FormalError, any_value, drive_stream, prove, stream_contract

pytestmark = pytest.mark.formal
BITS = 4


class Register(wiring.Component):
    """One-word stream register; ``broken`` takes a word although it holds one."""

    i: In(stream.Signature(BITS))
    o: Out(stream.Signature(BITS))

    def __init__(self, broken=False):
        self.broken = broken
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1 if self.broken else ~self.o.valid | self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(self.i.payload)]
        return m


class RegisterSpec(Elaboratable):
    def __init__(self, broken=False):
        self.broken = broken

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Register(self.broken)
        drive_stream(m, dut.i)
        m.d.comb += dut.o.ready.eq(any_value(m, 1, "ready"))
        stream_contract(m, dut.o)
        m.d.comb += Cover(dut.o.valid & (dut.o.payload == 9))
        return m


class CountSpec(Elaboratable):
    """A counter that wraps at 9: ``limit`` is what is claimed, ``target`` what is to be seen (None: no Cover)."""

    def __init__(self, limit, target):
        self.limit, self.target = limit, target

    def elaborate(self, platform):
        m = Module()
        count = Signal(BITS)
        with m.If(count == 9):
            m.d.sync += count.eq(0)
        with m.Else():
            m.d.sync += count.eq(count + 1)
        m.d.comb += Assert(count <= self.limit)
        if self.target is not None:
            m.d.comb += Cover(count == self.target)
        return m


def test_what_holds_is_proved():
    prove(RegisterSpec(), "formal_register", depth=3)


def test_broken_contract_is_found():
    with pytest.raises(FormalError, match=r"formal_broken: prove to depth 3 failed; trace: .*\.vcd"):
        prove(RegisterSpec(broken=True), "formal_broken", depth=3)


def test_false_claim_is_found():
    with pytest.raises(FormalError, match=r"trace: .*\.vcd"):
        prove(CountSpec(limit=8, target=5), "formal_count", depth=12)


def test_cover_out_of_reach_fails():
    with pytest.raises(FormalError, match="formal_unreached: cover to depth 5 failed"):
        prove(CountSpec(limit=9, target=9), "formal_unreached", depth=5)
    with pytest.raises(FormalError, match="has no Cover"):
        prove(CountSpec(limit=9, target=None), "formal_no_cover", depth=5)
