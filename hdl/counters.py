"""Event counters: one of ``counter_bits`` bits for each entry of ``model.events.EVENTS``.

Contract: counter[k] <- counter[k] + increment[k] in every cycle, modulo 2^counter_bits; ``clear`` sets all to 0. The increments
pass one register first, so that a unit's event logic and a counter's carry chain are not one path.

The low bits of a counter, its sum, are a register that counts on its own. The whole counter stands in a memory as it was at its
last turn; N counters take turns, one a cycle. If it has counted less than 2^bits(sum) since, the counter is at any time

    the sum, and above it the memory's high bits, plus 1 if the memory's low bits are above the sum.

A turn writes this back, a read gives it away; a read is in the place of a turn. A turn's write, two cycles after the memory was
addressed, must not meet a read of the same counter: then that read is written instead, two cycles later. So the last read before
a turn is written comes at most

    max_age(N) = N + ceil(N / (READ_SPACING - 1)) + 2 cycles

after the turn before it, and a sum of increments of w bits has as many bits as (2^w - 1) max_age(N). ``clear`` leaves the memory:
until its first turn since is written, a counter is its sum.

In a build with ``event_counters`` 0 there is but a register for ``time``; the other counters read as 0.

Of one block the increments of one bit share an enable, their OR, and so do the others (a simulator evaluates one comparison).

Timing: an increment is visible to a read whose ``read_en`` comes at least 1 cycle later; ``read_value`` is valid in the third
cycle after ``read_en``. The increments of the cycle of ``clear`` count, those of the cycle before it do not.
Source: design choice.
"""
from functools import reduce
from operator import or_

from amaranth import Assert, Cat, Const, Module, Mux, Shape, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from model.events import EVENTS, INDEX, N_EVENTS
from model.params import UnitParams

__all__ = ["READ_SPACING", "Counters", "event_widths", "max_age", "unit_widths"]

READ_SPACING = 4
"""Cycles from a read to the next one, at least."""


def max_age(n: int) -> int:
    """Cycles from a counter's turn to the last read before its next turn is written, at most, with ``n`` counters."""
    return n + -(-n // (READ_SPACING - 1)) + 2


def event_widths(*units) -> dict[str, int]:
    """Name and width of every field of the ``events`` ports of ``units``; raises ValueError unless they are exactly EVENTS, those
    of the capacitor scheme all or none, and those of the refresh unit likewise.
    """
    widths = {}
    for unit in units:
        for name, field in unit.events.shape():
            if name in widths:
                raise ValueError(f"event {name} comes from two units")
            widths[name] = field.width
    there = {_part(event) for event in EVENTS if event.name in widths} | {""}
    missing = [event.name for event in EVENTS if event.name not in widths and _part(event) in there]
    unknown = sorted(set(widths) - {event.name for event in EVENTS})
    if missing or unknown:
        raise ValueError(f"events without a unit: {missing}; unknown events: {unknown}")
    return widths


def _part(event):
    """What a build may lack, and with it the event; empty: none."""
    return "capacitor" if event.capacitor else "refresh" if event.block == "refresh" else ""


def unit_widths(u: UnitParams) -> dict[str, int]:
    """What ``event_widths`` gives for the units of a build, without them (tested)."""
    lines, elements = range(u.n_lines * u.line_max + 1), range(u.vector_width + 1)
    pulses = -(-u.lanes // min(u.set_cycles + u.set_gap_cycles, u.reset_cycles + u.reset_gap_cycles))
    wide = {
        "line_cycles": lines, "fired_codes": lines, "line_saturations": elements, "vector_saturations": elements,
        "conversions_forward": range(u.n_lines + 1), "conversions_transpose": range(u.n_lines + 1),
        "conversions_scan": range(u.n_lines + 1), "lines_skipped": 13,
        "chi_saturations": range(u.lanes + 1), "set_pos": range(pulses + 1), "set_neg": range(pulses + 1),
        "set_refresh": range(2 * pulses + 1), "reset_refresh": range(2 * pulses + 1),
    }
    return {event.name: Shape.cast(wide.get(event.name, 1)).width for event in EVENTS
            if not _part(event) or getattr(u, _part(event))}


class Counters(wiring.Component):
    """Counters behind a read port by index.

    Parameters
    ----------
    widths : dict of event name to bits of its increment, from ``event_widths``; default: ``unit_widths(u)``.

    Members
    -------
    events : In(StructLayout)
        Increments of this cycle, one unsigned field per event, in the order of EVENTS; a counter without one stays 0.
    clear : In(1)
        Set every counter to 0.
    read_en, read_index, read_value : In(1), In(range(N_EVENTS)), Out(counter_bits)
        Read port; at most once in READ_SPACING cycles, with the index held until the value is valid.
    """

    def __init__(self, u: UnitParams, widths: dict[str, int] | None = None):
        widths = widths or unit_widths(u)
        if not u.event_counters:
            self.u, self.counted = u, [EVENTS[INDEX["time"]]]
            super().__init__(self._signature(widths))
            return
        self.u, self.counted = u, [event for event in EVENTS if event.name in widths]
        self.n = max(INDEX[event.name] for event in self.counted) + 1
        assert self.n >= READ_SPACING                   # a counter's turn comes when the one before is written
        self.sums = {event.name: Signal(range(((1 << widths[event.name]) - 1) * max_age(self.n) + 1), name=f"sum_{event.name}")
                     for event in self.counted}
        self.memory = Memory(shape=unsigned(u.counter_bits), depth=N_EVENTS, init=[], attrs={"no_rw_check": 1})
        self.read, self.write = self.memory.read_port(), self.memory.write_port()
        self.turn, self.passed = Signal(range(self.n)), Signal(range(self.n + 1))   # whose turn; turns written since clear
        self.pair, self.odd = Signal(-(-self.n // 2), init=1), Signal()             # turn // 2, one-hot, and turn % 2
        # what is read, and whether a turn is to be written there: from registers
        self.reads, self.asked, self.clash = Signal(), Signal(range(N_EVENTS)), Signal()
        # one cycle after the address: of a turn, or of a read in a turn's place; whose. Two cycles after: to be written
        self.turned, self.met, self.address, self.due = Signal(), Signal(), Signal(range(N_EVENTS)), Signal()
        super().__init__(self._signature(widths))

    def _signature(self, widths):
        return {
            "events": In(data.StructLayout({event.name: widths[event.name] for event in self.counted})), "clear": In(1),
            "read_en": In(1), "read_index": In(range(N_EVENTS)), "read_value": Out(self.u.counter_bits),
        }

    def elaborate(self, platform):
        m = Module()
        if not self.u.event_counters:
            self._time(m)
            return m
        self._count(m)
        m.submodules.memory = self.memory
        read, write, turn, passed, pair, odd, bits = (
            self.read, self.write, self.turn, self.passed, self.pair, self.odd, self.u.counter_bits)
        reads, asked = self.reads, self.asked
        m.d.sync += [reads.eq(self.read_en), asked.eq(self.read_index)]

        # address: of the counter that is read or whose turn it is
        at, last, known = Signal(range(N_EVENTS)), Signal(), Signal()       # known: the memory is no older than the last clear
        m.d.comb += [at.eq(Mux(reads, asked, turn)), read.addr.eq(at), last.eq(turn == self.n - 1)]
        m.d.sync += known.eq(at < passed)
        with m.If(~reads):
            m.d.sync += [turn.eq(Mux(last, 0, turn + 1)), odd.eq(~odd & ~last)]
            with m.If(odd | last):
                m.d.sync += pair.eq(pair.rotate_left(1))

        # its sum, inverted, and which bits a sum has: of the turn's and of the read one apart, since ``reads`` drives much
        inverse, extent, extents = Signal(max(map(len, self.sums.values()))), Signal(bits), (Signal(bits), Signal(bits))
        words = [Const(0, len(inverse))] * (2 * len(pair))
        for name, one in self.sums.items():
            words[INDEX[name]] = (~one)[:len(one)]
        second = Mux(reads, asked[0], odd)
        chosen = [Mux(second, words[2 * index + 1], words[2 * index])
                  & Mux(reads, asked[1:] == index, pair[index]).replicate(len(inverse))
                  for index in range(len(pair))]
        for which, index in zip(extents, (turn, asked), strict=True):
            with m.Switch(index):
                for name, one in self.sums.items():
                    with m.Case(INDEX[name]):
                        m.d.comb += which.eq((1 << len(one)) - 1)
        m.d.sync += [inverse.eq(reduce(or_, chosen)), extent.eq(Mux(reads, extents[1], extents[0]))]

        # value: memory + ~sum carries out of the sum's bits if the memory's are above the sum
        carried = Signal(bits)
        m.d.comb += [carried.eq(read.data + inverse), self.read_value.eq(write.data)]

        # write: of a turn, or of the read that it would have met
        turned, met, due, address, clash = self.turned, self.met, self.due, self.address, self.clash
        m.d.comb += write.en.eq(due & ~clash)
        m.d.sync += [clash.eq(self.read_en & (self.read_index == address)),
                     turned.eq(~reads), met.eq(due & clash), address.eq(at), due.eq(turned | met), write.addr.eq(address),
                     write.data.eq((~inverse & extent) | (carried & known.replicate(bits) & ~extent))]
        with m.If(write.en & (passed != self.n)):
            m.d.sync += passed.eq(passed + 1)

        with m.If(self.clear):
            m.d.sync += [*(one.eq(0) for one in self.sums.values()), turned.eq(0), met.eq(0), due.eq(0),
                         turn.eq(0), pair.eq(1), odd.eq(0), passed.eq(0)]

        before = Signal(READ_SPACING - 1)
        m.d.sync += [before.eq(Cat(reads, before)), Assert(~(reads & before.any()), "counters read too often")]
        return m

    def _time(self, m):
        """The only counter."""
        time, held, asked = Signal(self.u.counter_bits), Signal(), Signal()
        m.d.sync += [held.eq(self.events.time), time.eq(time + held), asked.eq(self.read_index == INDEX["time"])]
        with m.If(self.clear):
            m.d.sync += time.eq(0)
        m.d.comb += self.read_value.eq(Mux(asked, time, 0))

    def _count(self, m):
        """Every sum takes its event's increment, one cycle late."""
        groups = {}
        for event in self.counted:
            groups.setdefault((event.block, len(self.events[event.name]) > 1), []).append(event.name)
        for (block, wide), names in groups.items():
            layout = data.StructLayout({name: self.events[name].shape() for name in names})
            increments = Signal(layout, name=f"held_{block}{'_wide' if wide else ''}")
            m.d.sync += [increments[name].eq(self.events[name]) for name in names]
            with m.If(increments.as_value().any()):
                m.d.sync += [self.sums[name].eq(self.sums[name] + increments[name]) for name in names]
