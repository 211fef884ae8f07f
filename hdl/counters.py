"""Event counters: one of ``counter_bits`` bits for each entry of ``model.events.EVENTS``.

Contract: counter[k] <- counter[k] + increment[k] in every cycle, modulo 2^counter_bits; ``clear`` sets all to 0. The increments
pass one register first, so that a unit's event logic and a counter's carry chain are not one path.

The counters of one block share an enable, the OR of its increments: in a cycle without an event of the block none of its
registers is clocked (and a simulator evaluates one comparison).

Timing: an increment is visible to a read whose ``read_en`` comes at least 2 cycles later; ``read_value`` is valid in the cycle
after ``read_en`` and held. The increments of the cycle of ``clear`` count, those of the cycle before it do not.
Source: design choice.
"""
from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from model.events import EVENTS, INDEX, N_EVENTS
from model.params import UnitParams

__all__ = ["Counters", "event_widths"]


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
        Read port.
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
        counters = [Signal(self.u.counter_bits, name=f"counter_{event.name}") for event in self.counted]
        blocks = {}
        for counter, event in zip(counters, self.counted, strict=True):
            blocks.setdefault(event.block, []).append((counter, event.name))
        for block, members in blocks.items():
            held = Signal(data.StructLayout({name: self.events[name].shape() for _, name in members}), name=f"held_{block}")
            m.d.sync += [held[name].eq(self.events[name]) for _, name in members]
            with m.If(held.as_value().any()):
                m.d.sync += [counter.eq(counter + held[name]) for counter, name in members]

        with m.If(self.clear):
            m.d.sync += [counter.eq(0) for counter in counters]

        with m.If(self.read_en):
            with m.Switch(self.read_index):
                for counter, event in zip(counters, self.counted, strict=True):
                    with m.Case(INDEX[event.name]):
                        m.d.sync += self.read_value.eq(counter)
                with m.Default():
                    m.d.sync += self.read_value.eq(0)
        return m
