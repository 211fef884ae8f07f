"""UART: bytes over two wires, 8 data bits, no parity, 1 stop bit, LSB first.

Contract: a bit is ``divisor`` cycles. Sending: ``tx`` is high when idle; a byte taken from ``i`` is a low start bit, 8 bits, a
high stop bit. Receiving: ``rx`` passes two registers; a falling edge is taken for a start bit if it is still low half a bit
later; every bit is sampled once, at its middle. ``o_stb`` is high for a cycle with a byte whose stop bit is high; one whose is
not (a break, a wrong rate) is dropped.

The rates of both ends may differ: over the 9.5 bits to the middle of the stop bit by less than half a bit less the 2 cycles
with which the edge is found (tested: 2 % with 4 cycles a bit, 4 % with 16).

Ports: rx In(1), tx Out(1), i In(stream 8), o_stb Out(1), o Out(8).
Timing: a byte leaves in 10 divisor cycles; ``o_stb`` comes 9.5 divisor + 2 cycles after the start bit's edge.
Source: design choice.
"""
from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from model.link_format import LinkParams
from model.params import UnitParams

__all__ = ["Uart"]


class Uart(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams, link: LinkParams = LinkParams()):      # noqa: B008 - frozen
        self.divisor = link.divisor
        super().__init__({"rx": In(1), "tx": Out(1, init=1), "i": In(stream.Signature(8)), "o_stb": Out(1), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        self._send(m)
        self._receive(m)
        return m

    def _send(self, m):
        bits, left, timer = Signal(9), Signal(range(11)), Signal(range(self.divisor))
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.tx.eq(0), bits.eq(Cat(self.i.payload, 1)), left.eq(10), timer.eq(self.divisor - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(left != 0):
            m.d.sync += [self.tx.eq(bits[0]), bits.eq(Cat(bits[1:], 1)), left.eq(left - 1), timer.eq(self.divisor - 1)]

    def _receive(self, m):
        passed, before = Signal(2, init=3), Signal(init=1)
        left, timer = Signal(range(11)), Signal(range(self.divisor))
        line = passed[1]
        m.d.sync += [passed.eq(Cat(self.rx, passed[0])), before.eq(line), self.o_stb.eq(0)]
        with m.If(left == 0):
            m.d.sync += timer.eq(self.divisor // 2 - 1)
            with m.If(before & ~line):
                m.d.sync += left.eq(10)
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1)]
            with m.If(left == 10):                      # middle of the start bit
                with m.If(line):
                    m.d.sync += left.eq(0)
            with m.Elif(left == 1):                     # of the stop bit
                m.d.sync += self.o_stb.eq(line)
            with m.Else():
                m.d.sync += self.o.eq(Cat(self.o[1:], line))
