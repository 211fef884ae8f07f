"""Line driver: pulse-width modulated drivers of all rows or columns of a tile.

Line l holds a code (magnitude, polarity). A window of ``steps`` steps drives line l in those steps k = 0 .. steps - 1 that have
k < magnitude: its pulse is min(magnitude, steps) cycles long and begins with the window.

A train (builds with ``capacitor``) is a window of ``slots`` slots with other thresholds than k: line l is driven in those slots
in which its magnitude is larger than the slot's threshold and, of rows, its polarity is ``negative``::

    sequence SPREAD   rows k 2^(line_bits - slot_bits) + half, columns reversed(k) 2^(line_bits - slot_bits) + half
    sequence RANDOM   the same, XOR ``random``, that of the first slot

with half = 2^(line_bits - slot_bits) / 2 and the slot_bits bits of k reversed: a row fires in its first slots, a column in slots
spread over the train, so that their overlap is the product of both codes, to less than a slot and a half. The pairs of thresholds
of a train are a Hammersley point set, and RANDOM gives it a random digital shift: the thresholds of a slot are uniform and
independent, so that the overlap is the product in the mean; those of a train stay spread evenly, so that it is never far from it.

Magnitudes are kept as ``line_bits`` planes of ``n_lines`` bits; all lines are compared with the shared step counter by wide
logic, from the lowest plane up: ``gt = plane & gt if k[b] else plane | gt``.

A ``Bank`` drives the lines of one side. ``LineDriver`` is the bank of rows (and of columns, in a transpose read); with
``capacitor`` there is a second one, the train drivers of the columns, and the shift register of random trains. Both banks are
started together for a train.

Ports
-----
i : In(LineWriteSignature(u))
    ``clear``: all lines 0. ``en``: word ``addr`` (lines addr * vector_width ..) takes ``magnitude`` and ``polarity``.
    ``start``: a window of ``steps`` (1 to line_max) begins in the next cycle.
    At most one of the three, and none while ``integrate`` (asserted).
    With ``capacitor``: ``columns``: clear or write the train drivers; ``train, sequence, negative``: with ``start``, see above;
    ``load, seed``: of the shift register.
drive, polarity : Out(n_lines)
    Registers. ``polarity`` is 1 for negative and holds with the code.
trains, trains_polarity : Out(n_lines)
    The same of the train drivers, with ``capacitor``. ``dither``: of the shift register.
integrate : Out(1)
    A window runs: register, high for ``steps`` cycles.
last : Out(1)
    Last step of the window.
active : Out(1)
    Must be clocked in this cycle.

Timing
------
``start`` in cycle t: ``integrate`` in cycles t + 1 .. t + steps; the codes may be written again from cycle t + steps + 1 on.

Source: pulse-duration coding with polarity, papers of Nandakumar 2020 and Ambrogio 2018; trains: rows fire by x, columns by
delta, the overlap counts, Ambrogio 2018 [papers.md A4]; point set and shift: quasi-Monte Carlo integration (Hammersley 1960,
Cranley and Patterson 1976), for trains a design choice, as is the rest.
"""
from amaranth import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.shift_register import BITS, DITHER_BITS, ShiftRegister
from model.isa import Sequence
from model.params import UnitParams

__all__ = ["Bank", "LineDriver", "LineWriteSignature"]


def LineWriteSignature(u: UnitParams):
    """Write and start port of the line drivers, seen from the writer."""
    train = {"columns": Out(1), "train": Out(1), "sequence": Out(1), "negative": Out(1),
             "load": Out(1), "seed": Out(BITS)} if u.capacitor else {}
    return wiring.Signature({
        "clear": Out(1), "en": Out(1), "addr": Out(range(u.n_lines // u.vector_width)),
        "magnitude": Out(data.ArrayLayout(u.line_bits, u.vector_width)), "polarity": Out(u.vector_width),
        "start": Out(1), "steps": Out(u.line_bits), **train,
    })


class Bank(wiring.Component):
    """Line drivers of one side: 0 rows, 1 columns of a train; ``i.columns`` is for ``LineDriver``.

    ``random``: what a random train that starts now XORs to its thresholds; ``random_step``: a slot of it runs. For the rest see
    the module.
    """

    def __init__(self, u: UnitParams, side: int = 0):
        self.u, self.side = u, side
        self.planes = [Signal(u.n_lines, name=f"plane{bit}") for bit in range(u.line_bits)]
        self.steps = Signal(u.line_bits)                # of this window
        self.step = Signal(u.line_bits)                 # driven so far in this window; 0 when idle
        self.held = Signal(data.StructLayout({"train": 1, "sequence": 1, "negative": 1, "random": u.line_bits}))  # of this window
        random = {"random": In(u.line_bits), "random_step": Out(1)} if u.capacitor else {}
        super().__init__({
            "i": In(LineWriteSignature(u)), "drive": Out(u.n_lines), "polarity": Out(u.n_lines), "integrate": Out(1),
            "last": Out(1), "active": Out(1), **random,
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
        threshold, mask = (self._train(m) if u.capacitor else (step, None))
        above = 0                                       # magnitude > threshold, line by line
        for bit, plane in enumerate(self.planes):
            higher = Signal(u.n_lines, name=f"above{bit}")
            m.d.comb += higher.eq(Mux(threshold[bit], plane & above, plane | above))
            above = higher
        if mask is not None:
            above = above & mask
        with m.If(i.start):
            m.d.sync += steps.eq(i.steps)
        with m.If(i.start | (self.integrate & ~self.last)):
            m.d.sync += [self.integrate.eq(1), self.drive.eq(above), step.eq(step + 1)]
        with m.Elif(self.integrate):
            m.d.sync += [self.integrate.eq(0), self.drive.eq(0), step.eq(0)]

        m.d.sync += Assert(~(self.integrate & (i.clear | i.en | i.start)), "written or started within a window")
        m.d.sync += Assert(i.clear + i.en + i.start <= 1, "clear, write and start together")
        return m

    def _train(self, m):
        """Threshold of the next step, and a mask of the lines that take part."""
        u, i, step = self.u, self.i, self.step
        held, now = self.held, Signal.like(self.held)
        for name in ("train", "sequence", "negative"):
            m.d.comb += now[name].eq(Mux(i.start, getattr(i, name), held[name]))
        m.d.comb += now.random.eq(Mux(i.start, self.random, held.random))
        m.d.sync += held.eq(now)
        slot = step[:u.slot_bits]
        spread = Cat(Const(1 << u.line_bits - u.slot_bits >> 1, u.line_bits - u.slot_bits), slot[::-1] if self.side else slot)
        threshold, mask = Signal(u.line_bits), Signal(u.n_lines)
        m.d.comb += [
            threshold.eq(Mux(now.train, spread ^ Mux(now.sequence == Sequence.RANDOM, now.random, 0), step)),
            mask.eq(Mux(now.train & (self.side == 0), Mux(now.negative, self.polarity, ~self.polarity), -1)),
            self.random_step.eq(self.integrate & held.train & (held.sequence == Sequence.RANDOM)),
        ]
        return threshold, mask


class LineDriver(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        self.rows, self.columns = Bank(u), Bank(u, side=1) if u.capacitor else None
        trains = {"trains": Out(u.n_lines), "trains_polarity": Out(u.n_lines), "dither": Out(DITHER_BITS)} if u.capacitor else {}
        super().__init__({
            "i": In(LineWriteSignature(u)), "drive": Out(u.n_lines), "polarity": Out(u.n_lines), "integrate": Out(1),
            "last": Out(1), "active": Out(1), **trains,
        })

    def elaborate(self, platform):
        m = Module()
        u, i = self.u, self.i
        m.submodules.rows = rows = self.rows
        m.d.comb += [getattr(self, name).eq(getattr(rows, name)) for name in ("drive", "polarity", "integrate", "last", "active")]
        m.d.comb += [getattr(rows.i, name).eq(getattr(i, name)) for name in i.signature.members]
        if u.capacitor:
            m.submodules.columns, m.submodules.random = columns, random = self.columns, ShiftRegister(u)
            m.d.comb += [getattr(columns.i, name).eq(getattr(i, name)) for name in i.signature.members]
            for bank, mine in ((rows, ~i.columns), (columns, i.columns)):
                m.d.comb += [bank.i.clear.eq(i.clear & mine), bank.i.en.eq(i.en & mine)]
            m.d.comb += [
                self.dither.eq(random.dither), random.load.eq(i.load), random.seed.eq(i.seed),
                columns.i.start.eq(i.start & i.train), random.step.eq(rows.random_step), rows.random.eq(random.rows),
                columns.random.eq(random.columns), self.trains.eq(columns.drive), self.trains_polarity.eq(columns.polarity),
                self.active.eq(rows.active | columns.active | i.load),
            ]
        return m
