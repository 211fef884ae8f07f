"""Line driver: pulse-width modulated drivers of all rows or columns of a tile.

Line l holds a code (magnitude, polarity). A window of ``steps`` steps drives line l in those steps k = 0 .. steps - 1 that have
k < magnitude: its pulse is min(magnitude, steps) cycles long and begins with the window.

Magnitudes are kept as ``line_bits`` planes of ``n_lines`` bits; all lines are compared with the shared step counter by wide
logic, from the lowest plane up: ``gt = plane & gt if k[b] else plane | gt``.

Ports
-----
i : In(LineWriteSignature(u))
    ``clear``: all lines 0. ``en``: word ``addr`` (lines addr * vector_width ..) takes ``magnitude`` and ``polarity``.
    ``start``: a window of ``steps`` (1 to line_max) begins in the next cycle.
    At most one of the three, and none while ``integrate`` (asserted).
drive, polarity : Out(n_lines)
    Registers. ``polarity`` is 1 for negative and holds with the code.
integrate : Out(1)
    A window runs: register, high for ``steps`` cycles.
last : Out(1)
    Last step of the window.
active : Out(1)
    Must be clocked in this cycle.

Timing
------
``start`` in cycle t: ``integrate`` in cycles t + 1 .. t + steps; the codes may be written again from cycle t + steps + 1 on.

Source: pulse-duration coding with polarity, papers of Nandakumar 2020 and Ambrogio 2018; the rest is design choice.
"""
from amaranth import Assert, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from model.params import UnitParams

__all__ = ["LineDriver", "LineWriteSignature"]


def LineWriteSignature(u: UnitParams):
    """Write and start port of the line drivers, seen from the writer."""
    return wiring.Signature({
        "clear": Out(1), "en": Out(1), "addr": Out(range(u.n_lines // u.vector_width)),
        "magnitude": Out(data.ArrayLayout(u.line_bits, u.vector_width)), "polarity": Out(u.vector_width),
        "start": Out(1), "steps": Out(u.line_bits),
    })


class LineDriver(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        self.planes = [Signal(u.n_lines, name=f"plane{bit}") for bit in range(u.line_bits)]
        self.steps = Signal(u.line_bits)                # of this window
        self.step = Signal(u.line_bits)                 # driven so far in this window; 0 when idle
        super().__init__({
            "i": In(LineWriteSignature(u)), "drive": Out(u.n_lines), "polarity": Out(u.n_lines), "integrate": Out(1),
            "last": Out(1), "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u, i, width = self.u, self.i, self.u.vector_width

        with m.If(i.clear):
            m.d.sync += [plane.eq(0) for plane in (*self.planes, self.polarity)]
        written = [Signal(width, name=f"written{bit}") for bit in range(len(self.planes))]     # the word's bit planes
        m.d.comb += [row.eq(Cat(i.magnitude[k][bit] for k in range(width))) for bit, row in enumerate(written)]
        for word in range(u.n_lines // width):
            with m.If(i.en & (i.addr == word)):
                place = slice(word * width, (word + 1) * width)
                m.d.sync += self.polarity[place].eq(i.polarity)
                m.d.sync += [plane[place].eq(row) for plane, row in zip(self.planes, written, strict=True)]

        steps, step = self.steps, self.step
        m.d.comb += [
            self.last.eq(self.integrate & (step == steps)),
            self.active.eq(i.clear | i.en | i.start | self.integrate),
        ]
        above = 0                                       # magnitude > step, line by line
        for bit, plane in enumerate(self.planes):
            higher = Signal(u.n_lines, name=f"above{bit}")
            m.d.comb += higher.eq(Mux(step[bit], plane & above, plane | above))
            above = higher
        with m.If(i.start):
            m.d.sync += steps.eq(i.steps)
        with m.If(i.start | (self.integrate & ~self.last)):
            m.d.sync += [self.integrate.eq(1), self.drive.eq(above), step.eq(step + 1)]
        with m.Elif(self.integrate):
            m.d.sync += [self.integrate.eq(0), self.drive.eq(0), step.eq(0)]

        m.d.sync += Assert(~(self.integrate & (i.clear | i.en | i.start)), "written or started within a window")
        m.d.sync += Assert(i.clear + i.en + i.start <= 1, "clear, write and start together")
        return m
