"""Pulse generator: programming pulse trains for the cells of one line.

A command names a line, ``counts[lane]``, not all 0, and ``negative[lane]``. In repeat k = 0 .. max(counts) - 1 all lanes with
counts > k fire together: on ``pulse_pos``, or on ``pulse_neg`` where ``negative``. One repeat is a slot::

    slot = width + gap     SET: set_cycles + set_gap_cycles     RESET: reset_cycles + reset_gap_cycles

with the pulse high in the first ``width`` cycles and silence in the others. ``pulse_*`` and ``program_*`` are registers;
``program_*`` change in the cycle a train begins and hold to the next one.

A train, once accepted, waits while ``hold`` and then runs to its end. ``busy`` falls in the last gap cycle, so a train or window
decided in that cycle begins after the whole gap. Exclusion with read windows needs no more than registered signals: no window is
decided in a cycle with ``busy``, and ``hold`` is high from the cycle after that decision to the end of the window.

Per lane the state is the count to fire (bit planes), the side, the two outputs, and two bits that move ``chunk`` lanes a
cycle past a small adder for the event counters: ``chunk = ceil(lanes / shortest slot)``, so that the devices of a slot are
counted in as many cycles as it has, one cycle behind it, and are in ``events`` a cycle later.

Ports
-----
i : In(stream.Signature(PulseCommand(u)))
    A train. ``first, line, walk, tile, kind`` appear on the ``program_*`` outputs; ``dirty`` is for the refresh unit.
hold : In(1)
    A read window is running: no train begins. Checked before the first pulse only.
busy : Out(1)
    A train is waiting or running, except in the last gap cycle of its last slot: ``~busy`` is ``i.ready``, a register.
program_tile, program_walk, program_line, program_first, program_kind, pulse_pos, pulse_neg : Out
    The programming half of the tile port (``hdl.ports.TileSignature``).
active : Out(1)
    Must be clocked in this cycle.
events : Out(StructLayout)
    set_pos, set_neg (SET commanded by thresholds), set_refresh (SET with ``refresh``), reset_refresh (RESET): devices pulsed.

Timing
------
Accepted in cycle t: first pulse cycle t + 2, ready again in cycle t + 1 + max(counts) * slot. ``hold`` adds the cycles it delays
the train.

Source: design choice; pulse shapes are parameters (``UnitParams.set_cycles`` ff.).
"""
from functools import reduce
from operator import or_

from amaranth import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import PulseCommand
from model.params import UnitParams

__all__ = ["PulseGen"]


class PulseGen(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        self.armed = Signal()                           # a train waits to begin
        self.negative = Signal(u.lanes)
        # bit planes of the counts to fire, the pulse that runs included
        self.rest = [Signal(u.lanes, name=f"rest{bit}") for bit in range(u.count_bits)]
        self.chunk = -(-u.lanes // min(u.set_cycles + u.set_gap_cycles, u.reset_cycles + u.reset_gap_cycles))
        one, both = range(self.chunk + 1), range(2 * self.chunk + 1)
        super().__init__({
            "i": In(stream.Signature(PulseCommand(u))), "hold": In(1), "busy": Out(1),
            "program_tile": Out(4), "program_walk": Out(1), "program_line": Out(13), "program_first": Out(13),
            "program_kind": Out(1), "pulse_pos": Out(u.lanes), "pulse_neg": Out(u.lanes), "active": Out(1),
            "events": Out(data.StructLayout({"set_pos": one, "set_neg": one, "set_refresh": both, "reset_refresh": both})),
        })

    def elaborate(self, platform):
        m = Module()
        u, command, chunk = self.u, self.i.payload, self.chunk
        slot = (u.set_cycles + u.set_gap_cycles, u.reset_cycles + u.reset_gap_cycles)
        width, gap = (u.set_cycles, u.reset_cycles), (u.set_gap_cycles, u.reset_gap_cycles)

        armed, rest, negative = self.armed, self.rest, self.negative
        running = Signal()                              # a slot is running
        timer = Signal(range(max(slot)))                # cycles of this slot still to come
        begin, begun = Signal(), Signal()               # this is the cycle before a slot, its first cycle
        again, last = Signal(), Signal()                # last cycle of a slot: one follows, none does
        # last cycle of a pulse; reset, too, reaches the lanes through it
        pulse_end, pulse_pos, pulse_neg = Signal(init=1), Signal(u.lanes, reset_less=True), Signal(u.lanes, reset_less=True)
        ready = Signal(init=1)
        ending = Signal()                               # the next cycle is the slot's last
        refresh = Signal()
        # devices of this slot not yet counted, a cycle behind it, and what they are counted as
        counted_pos, counted_neg, counting, counts = Signal(u.lanes), Signal(u.lanes), Signal(), Signal()
        counted_reset, counted_refresh = Signal(), Signal()

        more, fire = Signal(u.lanes), Signal(u.lanes)   # lanes with pulses after the running one; lanes of the next slot
        m.d.comb += [
            more.eq(reduce(or_, rest[1:], Const(0))), fire.eq(more | (rest[0] & ~again.replicate(u.lanes))),
            ending.eq(running & (timer == 1)),
            begin.eq((armed & ~self.hold) | again), self.pulse_pos.eq(pulse_pos), self.pulse_neg.eq(pulse_neg),
            self.busy.eq(~ready), self.i.ready.eq(ready), self.active.eq(self.i.valid | armed | running | counting | counts),
        ]

        # a cycle ahead, in registers: what the slot's ends enable is as wide as the lanes, and ``ready`` goes far
        kind = self.program_kind
        m.d.sync += [
            begun.eq(begin), counting.eq(running), again.eq(ending & more.any()), last.eq(ending & ~more.any()),
            ready.eq(Mux(ready, ~self.i.valid, ending & ~more.any())),
            pulse_end.eq(Mux(begin, Mux(kind, width[1] == 1, width[0] == 1),
                             running & (timer == Mux(kind, gap[1] + 1, gap[0] + 1)))),
            Assert(ready == (~armed & (~running | last)), "ready is not what it says"),
        ]
        with m.If(running):
            m.d.sync += timer.eq(timer - 1)
        with m.If(last):
            m.d.sync += running.eq(0)
        with m.If(begin):
            m.d.sync += [pulse_pos.eq(fire & ~negative), pulse_neg.eq(fire & negative)]
            m.d.sync += [armed.eq(0), running.eq(1), timer.eq(Mux(kind, slot[1] - 1, slot[0] - 1))]
        with m.If(pulse_end):
            m.d.sync += [pulse_pos.eq(0), pulse_neg.eq(0)]

        with m.If(ready):                               # without ``valid``, which comes late and would have to reach every lane
            m.d.sync += [
                negative.eq(command.negative),
                *(plane.eq(Cat(command.counts[lane][bit] for lane in range(u.lanes))) for bit, plane in enumerate(rest)),
            ]
        with m.If(again):
            borrow = more | rest[0]                     # rest less one, lane by lane, but not below 0
            for plane in rest:
                m.d.sync += plane.eq(plane ^ borrow)
                borrow = borrow & ~plane
        with m.If(self.i.valid & ready):
            m.d.sync += [
                Assert(Cat(command.counts).any(), "a train without pulses"),
                armed.eq(1), refresh.eq(command.refresh), self.program_tile.eq(command.tile),
                self.program_walk.eq(command.walk), self.program_line.eq(command.line),
                self.program_first.eq(command.first), self.program_kind.eq(command.kind),
            ]

        with m.If(begun):
            m.d.sync += [counted_pos.eq(pulse_pos), counted_neg.eq(pulse_neg), counted_reset.eq(kind),
                         counted_refresh.eq(refresh)]
        with m.Else():
            m.d.sync += [counted_pos.eq(counted_pos >> chunk), counted_neg.eq(counted_neg >> chunk)]
        n_pos, n_neg = (Mux(counting, sum(counted[:chunk]), 0) for counted in (counted_pos, counted_neg))
        m.d.sync += [
            counts.eq(counting), self.events.reset_refresh.eq(Mux(counted_reset, n_pos + n_neg, 0)),
            self.events.set_refresh.eq(Mux(~counted_reset & counted_refresh, n_pos + n_neg, 0)),
            self.events.set_pos.eq(Mux(counted_reset | counted_refresh, 0, n_pos)),
            self.events.set_neg.eq(Mux(counted_reset | counted_refresh, 0, n_neg)),
        ]

        m.d.sync += Assert((pulse_pos & pulse_neg) == 0, "both devices of a pair are pulsed")
        return m
