"""Event counters: one of ``counter_bits`` bits for each entry of ``model.events.EVENTS``.

Contract: counter[k] <- counter[k] + increment[k] in every cycle, modulo 2^counter_bits; ``clear`` sets all to 0. The increments
pass one register first, so that a unit's event logic and a counter's carry chain are not one path.

The counters stand in a memory with one adder. An increment first goes into a short sum of its event; in turn, ``PHASES`` cycles
an event, the sum is taken and added to its counter. A counter's value is memory + sum + what was taken and is not yet written, so
that a read is exact in every cycle. ``clear`` leaves the memory: a bit beside each counter says whether it was written since. The
turn waits in cycles with ``read_en``, which must not come in two cycles one after the other: so a sum is emptied every
(2 PHASES - 1) N_EVENTS cycles at least, and is as wide as that needs.

The sums of one block share an enable, the OR of its increments (a simulator evaluates one comparison).

Timing: an increment is visible to a read whose ``read_en`` comes at least 2 cycles later; ``read_value`` is valid in the cycle
after ``read_en`` and held. The increments of the cycle of ``clear`` count, those of the cycle before it do not.
Source: design choice.
"""
from amaranth import Assert, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from model.events import EVENTS, INDEX, N_EVENTS
from model.params import UnitParams

__all__ = ["PHASES", "Counters", "event_widths"]

PHASES = 3
"""Cycles of an event's turn: the memory is addressed | its output goes into a register | sum [cycles]."""


def event_widths(*units) -> dict[str, int]:
    """Name and width of every field of the ``events`` ports of ``units``; raises ValueError unless they are exactly EVENTS, those
    of the capacitor scheme all or none.
    """
    widths = {}
    for unit in units:
        for name, field in unit.events.shape():
            if name in widths:
                raise ValueError(f"event {name} comes from two units")
            widths[name] = field.width
    without = not any(event.name in widths for event in EVENTS if event.capacitor)
    missing = [event.name for event in EVENTS if event.name not in widths and not (event.capacitor and without)]
    unknown = sorted(set(widths) - {event.name for event in EVENTS})
    if missing or unknown:
        raise ValueError(f"events without a unit: {missing}; unknown events: {unknown}")
    return widths


class Counters(wiring.Component):
    """Counters behind a read port by index.

    Parameters
    ----------
    widths : dict of event name to bits of its increment, from ``event_widths``; default 16 for all.

    Members
    -------
    events : In(StructLayout)
        Increments of this cycle, one unsigned field per event, in the order of EVENTS; a counter without one stays 0.
    clear : In(1)
        Set every counter to 0.
    read_en, read_index, read_value : In(1), In(range(N_EVENTS)), Out(counter_bits)
        Read port; not in two cycles one after the other.
    """

    def __init__(self, u: UnitParams, widths: dict[str, int] | None = None):
        self.u, self.counted = u, [event for event in EVENTS if widths is None or event.name in widths]
        widths = widths or {event.name: 16 for event in EVENTS}
        super().__init__({
            "events": In(data.StructLayout({event.name: widths[event.name] for event in self.counted})), "clear": In(1),
            "read_en": In(1), "read_index": In(range(N_EVENTS)), "read_value": Out(u.counter_bits),
        })

    def elaborate(self, platform):
        m = Module()
        extra = ((2 * PHASES - 1) * N_EVENTS).bit_length()
        sums = {event.name: Signal(len(self.events[event.name]) + extra, name=f"sum_{event.name}") for event in self.counted}
        held, blocks = {}, {}
        for event in self.counted:
            blocks.setdefault(event.block, []).append(event.name)
        for block, names in blocks.items():
            layout = data.StructLayout({name: self.events[name].shape() for name in names})
            increments = Signal(layout, name=f"held_{block}")
            m.d.sync += [increments[name].eq(self.events[name]) for name in names]
            with m.If(increments.as_value().any()):
                m.d.sync += [sums[name].eq(sums[name] + increments[name]) for name in names]
            held |= {name: increments[name] for name in names}

        m.submodules.memory = memory = Memory(shape=unsigned(self.u.counter_bits), depth=N_EVENTS, init=[],
                                              attrs={"no_rw_check": 1})
        read, write = memory.read_port(), memory.write_port()
        turn, phase, asked = Signal(range(N_EVENTS)), Signal(range(PHASES)), Signal()
        taken, total = Signal(max(map(len, sums.values()))), Signal(self.u.counter_bits)
        written = Signal(N_EVENTS)                       # since the last clear

        # the event that is read or whose turn it is
        at, total_at = Signal(range(N_EVENTS)), Signal.like(taken)
        m.d.comb += [at.eq(Mux(self.read_en, self.read_index, turn)), read.addr.eq(at), read.en.eq(self.read_en | (phase == 0))]
        with m.Switch(at):
            for event in self.counted:
                with m.Case(INDEX[event.name]):
                    m.d.comb += total_at.eq(sums[event.name])

        # turn
        stored = Signal.like(total)                      # memory output, 0 where it is older than the last clear
        known = Signal()
        m.d.sync += [known.eq(written.bit_select(at, 1)), asked.eq((phase == 0) & ~self.read_en)]
        m.d.comb += [stored.eq(Mux(known, read.data, 0)), write.addr.eq(turn), write.data.eq(total + taken),
                     write.en.eq((phase == 2) & ~self.read_en)]
        with m.If(asked):
            m.d.sync += total.eq(stored)
        with m.If(phase == 1):
            m.d.sync += phase.eq(2)
        with m.Elif(~self.read_en):
            with m.If(phase == 0):
                m.d.sync += [phase.eq(1), taken.eq(total_at)]
                with m.Switch(turn):
                    for event in self.counted:
                        with m.Case(INDEX[event.name]):
                            m.d.sync += sums[event.name].eq(held[event.name])
            with m.Else():
                m.d.sync += [phase.eq(0), turn.eq(Mux(turn == N_EVENTS - 1, 0, turn + 1)), written.bit_select(turn, 1).eq(1)]

        # read
        was_read, due, pending, kept = Signal(), Signal(), Signal.like(taken), Signal.like(total)
        m.d.sync += was_read.eq(self.read_en)
        with m.If(self.read_en):                         # due: its sum is taken, and in the next cycle offered to the memory
            m.d.sync += [pending.eq(total_at), due.eq((phase != 0) & (turn == self.read_index))]
        with m.If(was_read):
            m.d.sync += kept.eq(self.read_value)
        m.d.comb += self.read_value.eq(Mux(was_read, Mux(due, write.data, stored) + pending, kept))

        with m.If(self.clear):
            m.d.sync += [*(one.eq(0) for one in sums.values()), phase.eq(0), asked.eq(0), written.eq(0)]
        m.d.sync += Assert(~(self.read_en & was_read), "counters read in two cycles one after the other")
        return m
