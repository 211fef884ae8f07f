"""Line store: stands for ``hdl.line_driver`` where there are no lines, on a board: it keeps the codes that the lines would carry.

Contract: the same handshake, cycle for cycle: windows and trains take their steps, and the shift register of random trains goes
on. Nothing is driven: the codes are read through ``stored`` while the unit's clock stands still.

A side's codes are ``count`` words from word ``base`` on; every other line is 0. The words since the last clear must follow each
other, as the read unit writes them (asserted).

Ports
-----
i, integrate, last, active, dither
    As in ``hdl.line_driver``.
stored : Out(StoredSignature(u))
    See there. The clock of its read port is the domain ``link``.

Timing: as ``hdl.line_driver``. Source: design choice.
"""
from amaranth import Assert, Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.line_driver import LineWriteSignature
from hdl.shift_register import BITS, DITHER_BITS, ShiftRegister
from model.isa import Sequence
from model.params import UnitParams

__all__ = ["LineStore", "StoredSignature"]

CODE_BITS = 8
"""Place of a code: 7 bits of magnitude, then its polarity [bit]."""


def StoredSignature(u: UnitParams):
    """Codes of the lines, seen from the store: ``base``, ``count`` [words] of the present lines, ``steps`` of the window.

    ``data`` is word ``address`` in the cycle after it. With ``capacitor``: bit 0 of ``address`` chooses the train drivers, whose
    place is ``base_1``, ``count_1``; ``sequence, negative, state`` (of the shift register) are of the train at its start.
    ``steps`` and these change in the second cycle of a window.
    """
    words = u.n_lines // u.vector_width
    train = {"base_1": Out(8), "count_1": Out(8), "sequence": Out(1), "negative": Out(1),
             "state": Out(BITS)} if u.capacitor else {}
    return wiring.Signature({
        "base": Out(8), "count": Out(8), "steps": Out(u.line_bits), "address": In(range(words << u.capacitor)),
        "data": Out(data.ArrayLayout(CODE_BITS, u.vector_width)), **train})


class LineStore(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        trains = {"dither": Out(DITHER_BITS)} if u.capacitor else {}
        super().__init__({"i": In(LineWriteSignature(u)), "integrate": Out(1), "last": Out(1), "active": Out(1),
                          "stored": Out(StoredSignature(u)), **trains})

    def elaborate(self, platform):
        m = Module()
        u, i, stored = self.u, self.i, self.stored
        m.submodules.codes = codes = memory.Memory(
            shape=CODE_BITS * u.vector_width, depth=u.n_lines // u.vector_width << u.capacitor, init=[],
            attrs={"no_rw_check": 1})                   # codes are read while the unit's clock stands still
        write, read = codes.write_port(), codes.read_port(domain="link")
        side = i.columns if u.capacitor else 0
        m.d.comb += [read.addr.eq(stored.address), stored.data.eq(read.data), write.en.eq(i.en),
                     write.addr.eq((i.addr << 1 | side) if u.capacitor else i.addr)]
        for k in range(u.vector_width):
            place = write.data.word_select(k, CODE_BITS)
            m.d.comb += [place[:u.line_bits].eq(i.magnitude[k]), place[CODE_BITS - 1].eq(i.polarity[k])]
        for bank in range(1 + u.capacitor):
            base, count = (getattr(stored, f"{name}_1" if bank else name) for name in ("base", "count"))
            mine = side == bank if u.capacitor else 1
            with m.If(i.clear & mine):
                m.d.sync += count.eq(0)
            with m.Elif(i.en & mine):
                m.d.sync += count.eq(count + 1)
                with m.If(count == 0):
                    m.d.sync += base.eq(i.addr)
                m.d.sync += Assert((count == 0) | (i.addr == base + count), "words of lines do not follow each other")

        # ``start`` comes late: it only tells that a window begins, and what may begin is taken without it
        left, final, first = Signal(u.line_bits), Signal(), Signal()    # steps of the window to come; the last one; the first one
        m.d.comb += [self.last.eq(self.integrate & final), self.active.eq(i.clear | i.en | i.start | self.integrate)]
        with m.If(self.integrate):
            m.d.sync += [self.integrate.eq(~final), left.eq(left - 1), final.eq(left == 2), first.eq(0)]
        with m.Else():
            m.d.sync += [self.integrate.eq(i.start), left.eq(i.steps), final.eq(i.steps == 1), first.eq(1)]
        with m.If(self.integrate & first):
            m.d.sync += stored.steps.eq(left)
        m.d.sync += Assert(~(self.integrate & i.start), "started within a window")
        if u.capacitor:
            m.submodules.random = random = ShiftRegister(u)
            train, sequence, negative = Signal(), Signal(), Signal()
            with m.If(~self.integrate):
                m.d.sync += [train.eq(i.train), sequence.eq(i.sequence), negative.eq(i.negative)]
            with m.Elif(first):
                m.d.sync += [stored.sequence.eq(sequence), stored.negative.eq(negative), stored.state.eq(random.state)]
            m.d.comb += [random.step.eq(self.integrate & train & (sequence == Sequence.RANDOM)),
                         random.load.eq(i.load), random.seed.eq(i.seed), self.dither.eq(random.dither),
                         self.active.eq(i.clear | i.en | i.start | self.integrate | i.load)]
        return m
