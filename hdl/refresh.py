"""Refresh: SCAN finds cells whose two devices are both near the top of their range and rewrites them with the same difference.

Only lines whose dirty bit is set are scanned, ascending; scanning clears the bit. For each such line::

    POINT the line with code ``steps``; READ G+, then G-, of its ``lane_count`` cells: codes c+, c-  (range select 3, not stored)
    a cell is due when max(c+, c-) > high and |c+ - c-| < low
    each due cell, ascending: RESET G+, RESET G-;  target = |c+ - c-|;  code = 0; n = 0;  on the side of the sign of c+ - c-
        until target <= floor or code >= target or n = bound:  one SET pulse; n += 1; code = READ of that one device

A rewrite that ends by ``bound`` is a miss. It pulses first and reads after, since both devices are known to be at RESET.

Dirty map: one bit per chi word index (``PulseCommand.dirty`` = chi_base + line within the matrix). ``mark_stb`` sets a bit: the
pulse generator's accepts without ``refresh``. ``fill_stb`` writes ``fill_value`` into ``fill_count`` bits from ``fill_base`` on,
one a cycle (CLEAR of a matrix: 0; LOAD: 1, since its lines are of unknown age). Reset does not clear the map: CLEAR or LOAD does.
SCAN is a barrier and CLEAR and LOAD pulse nothing, so that ``mark``, fill and SCAN never meet (asserted), though mark and fill
come a cycle after what they tell of. So fill and SCAN share their counters.

Ports
-----
i : In(stream.Signature(ScanCommand(u)))
    SCAN of a matrix within its tile and the chi memory; ``walk_count``, ``lane_count`` and ``steps`` at least 1. Pulse generator
    and read unit must be idle at its accept. ``ready`` is a register.
o_lines, o_pulse : Out(stream.Signature(LinesCommand(u))), Out(stream.Signature(PulseCommand(u)))
    To read unit and pulse generator; a cell is addressed by ``first`` with lane 0 (counts[0] = 1), ``dirty`` is 0.
code_stb, code_index, code_word : In(1), In(13), In(CodeWord(u))
    Tap of the read unit: codes come two cycles after their READ was accepted, or later.
pulse_busy : In(1)
    The pulse generator's ``busy``.
mark_stb, mark_index : In(1), In(16)
fill_stb, fill_base, fill_count, fill_value : In(1), In(16), In(13), In(1)
    See above; only while ``i.ready``, and not with a SCAN's accept; ``fill_count`` at least 1. ``i.ready`` is low while filling.
busy, reading, pulsing : Out(1)
    A SCAN runs: ``o_lines`` and ``o_pulse`` are this unit's; in it, commands come on ``o_lines`` only while ``reading``, and on
    ``o_pulse`` only while ``pulsing``. Registers, so that what chooses a wide command is not what every unit waits for.
active : Out(1)
    Must be clocked in this cycle.
events : Out(StructLayout)
    phase_scan (from accept to ready, a cycle late), lines_scanned, refreshes, refresh_misses.

Timing
------
With R(count) = 2 + steps + convert_cycles + max(1, ceil(count / vector_width)), P(kind) = cycles of a train of one pulse
(``hdl.pulse_gen``) and W = ceil(lane_count / vector_width), from accept to ready::

    SCAN       2 + walk_count + sum of scanned lines
    line       3 + 2 R(lane_count) + 2, and if a cell is due + 2 W + sum of due cells
    due cell   4 + 2 P(RESET) + n (2 + P(SET) + R(1)),  n SET pulses
    fill       fill_count, from the cycle after ``fill_stb``

Source: rebalancing of Nandakumar 2020; the closed loop, the order and the dirty map are design choices.
"""
from functools import reduce
from operator import or_

from amaranth import Assert, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import CodeWord, LinesCommand, PulseCommand, ScanCommand
from model.commands import LinesOp
from model.isa import Half, Kind
from model.params import UnitParams

__all__ = ["Refresh"]

SCAN_RANGE = 3
"""Range select of half reads."""


class Refresh(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "i": In(stream.Signature(ScanCommand(u))),
            "o_lines": Out(stream.Signature(LinesCommand(u))), "o_pulse": Out(stream.Signature(PulseCommand(u))),
            "code_stb": In(1), "code_index": In(13), "code_word": In(CodeWord(u)), "pulse_busy": In(1),
            "mark_stb": In(1), "mark_index": In(16),
            "fill_stb": In(1), "fill_base": In(16), "fill_count": In(13), "fill_value": In(1),
            "busy": Out(1), "reading": Out(1), "pulsing": Out(1), "active": Out(1),
            "events": Out(data.StructLayout({"phase_scan": 1, "lines_scanned": 1, "refreshes": 1, "refresh_misses": 1})),
        })

    def elaborate(self, platform):
        m = Module()
        u, width, command = self.u, self.u.vector_width, self.i.payload
        at_bits, count_bits = (u.n_lines - 1).bit_length(), u.n_lines.bit_length()
        # of the command being executed; position, dirty_at, lines_left: of the line that CHECK looks at next; line: under test
        scan = Signal(data.StructLayout({"tile": 4, "walk": 1, "lane_first": at_bits, "lane_count": count_bits, "steps": 8,
                                         "bound": 6, "floor": 8}))
        position, dirty_at, lines_left = Signal(at_bits), Signal(range(u.chi_words)), Signal(min(13, u.chi_words.bit_length()))
        line, check = Signal(at_bits), Signal()         # check: CHECK looks at a line
        high, high_never = Signal(u.adc_bits - 1), Signal()         # no code is above ``high``
        reach = Signal(signed(u.adc_bits + 1))                      # low - 1, or the largest difference
        filling, accept, fill_bit = Signal(), Signal(), Signal()
        idle, ready = Signal(init=1), Signal(init=1)    # the state is IDLE; and nothing is filled
        counted = Signal()                              # the last cycle was one of a SCAN
        m.d.comb += [
            self.i.ready.eq(ready), accept.eq(self.i.valid & ready), self.busy.eq(~idle),
            self.active.eq(self.i.valid | ~idle | filling | self.mark_stb | self.fill_stb | counted),
            self.events.phase_scan.eq(counted),
        ]
        m.d.sync += counted.eq(accept | ~idle)
        with m.If(accept):
            m.d.sync += ready.eq(0)
        with m.If(idle):                                # without ``valid``, which comes late; a fill goes on below
            m.d.sync += [
                *(scan[name].eq(command[name]) for name in scan.shape().members),
                position.eq(command.walk_first), dirty_at.eq(command.dirty_base), lines_left.eq(command.walk_count),
                high.eq(command.high), high_never.eq(command.high[len(high):].any()),
                reach.eq(Mux(command.low[u.adc_bits:].any(), (1 << u.adc_bits) - 1, command.low[:u.adc_bits] - 1)),
            ]
        with m.If(check):
            m.d.sync += [line.eq(position), position.eq(position + 1)]

        # dirty map; its output is the bit of the line in CHECK; nothing reads a bit that counts in the cycle that changes it
        m.submodules.dirty = dirty = memory.Memory(shape=1, depth=u.chi_words, init=[], attrs={"no_rw_check": 1})
        bit, change = dirty.read_port(), dirty.write_port()
        m.d.comb += [bit.en.eq(idle | check), bit.addr.eq(Mux(idle, command.dirty_base, dirty_at + 1))]
        with m.If(self.mark_stb):
            m.d.comb += [change.en.eq(1), change.addr.eq(self.mark_index), change.data.eq(1)]
        with m.Else():
            m.d.comb += [change.en.eq(filling | check), change.addr.eq(dirty_at), change.data.eq(filling & fill_bit)]
        with m.If(check | filling):
            m.d.sync += [dirty_at.eq(dirty_at + 1), lines_left.eq(lines_left - 1)]
        with m.If(filling & (lines_left == 1)):
            m.d.sync += [filling.eq(0), ready.eq(1)]
        with m.If(self.fill_stb):
            m.d.sync += [dirty_at.eq(self.fill_base), lines_left.eq(self.fill_count), fill_bit.eq(self.fill_value),
                         filling.eq(1), ready.eq(0)]
        m.d.sync += [Assert(~((self.mark_stb | self.fill_stb) & (accept | ~ready)), "a mark or fill during a fill or SCAN"),
                     Assert((ready == (idle & ~filling)) & (idle | ~filling), "ready is not what it says")]

        # cells of the line: the codes of G+ and whether they are above ``high``, then in their place the difference G- - G+ and
        # whether the cell is due. A word that comes is that less the word kept (0 in the first pass), a cycle later
        cell = data.StructLayout({"value": signed(u.adc_bits + 1), "due": 1})
        cells_shape = data.ArrayLayout(cell, width)
        m.submodules.cells = cells = memory.Memory(shape=cells_shape, depth=u.n_lines // width, init=[],
                                                   attrs={"no_rw_check": 1})    # read and written words are never the same
        fetch, keep = cells.read_port(), cells.write_port()
        taking, second = Signal(), Signal()             # codes are those of the whole line; the read under way is that of G-
        came, judged = Signal(), Signal()               # a word came one cycle ago; it was one of G-
        kept, code_word, at = Signal(cells_shape), Signal(CodeWord(u)), Signal(range(u.n_lines // width))
        words = range(u.n_lines // width + 1)
        word, following, move = Signal(words), Signal(words, init=1), Signal()      # fetched; word + 1; that is fetched now
        last_word = Signal()                            # the word fetched before this cycle is the line's last one
        any_due, left, due, newly_due = Signal(), Signal(count_bits), Signal(width), Signal(width)
        place_bits = width.bit_length() - 1
        m.d.comb += [fetch.addr.eq(Mux(move, following, word)), keep.addr.eq(at), keep.en.eq(came), fetch.en.eq(0)]
        m.d.sync += [came.eq(taking & self.code_stb), judged.eq(taking & self.code_stb & second), last_word.eq(word == at),
                     newly_due.eq(due & judged.replicate(width)), any_due.eq(any_due | newly_due.any())]
        with m.If(move):
            m.d.sync += [word.eq(following), following.eq(following + 1)]
        with m.If(taking & self.code_stb):
            m.d.sync += [code_word.eq(self.code_word), at.eq(self.code_index[place_bits:]), kept.eq(Mux(second, fetch.data, 0))]
        with m.If(judged):
            m.d.sync += left.eq(left - width)
        for k in range(width):
            code, difference = code_word[k], Signal(signed(u.adc_bits + 1), name=f"difference{k}")
            big = (code >= 0) & ~high_never & (code[:-1] > high)
            close = (reach + difference >= 0) & (reach - difference >= 0)
            m.d.comb += [difference.eq(code - kept[k].value), due[k].eq((kept[k].due | big) & (~judged | ((left > k) & close))),
                         keep.data[k].value.eq(difference), keep.data[k].due.eq(due[k])]

        # the cell being rewritten
        pending, lowest, picked = Signal(width), Signal(width), Signal(width)   # due cells of the word; one-hot
        m.d.comb += lowest.eq(pending & -pending)
        place = [Cat(picked[k] for k in range(width) if k >> shift & 1).any() for shift in range(place_bits)]   # in binary
        at_cell, value, picked_value = Signal(at_bits), Signal(signed(u.adc_bits + 1)), Signal(signed(u.adc_bits + 1))
        target, negative, code, n = Signal(u.adc_bits), Signal(), Signal(signed(u.adc_bits)), Signal(6)
        near, spent, missed = Signal(), Signal(), Signal()      # the rewrite ends: close enough; by ``bound``; so it ended
        m.d.comb += [
            picked_value.eq(reduce(or_, (fetch.data[k].value & picked[k].replicate(len(value)) for k in range(width)))),
            negative.eq(value >= 0),                    # of 0 the sign does not matter
        ]
        m.d.sync += [target.eq(Mux(value < 0, -value, value)), near.eq((target <= scan.floor) | (code >= target)),
                     spent.eq(n == scan.bound), missed.eq(0)]
        m.d.comb += self.events.refresh_misses.eq(missed)

        # what the states below decide, registers; the payloads are assigned as a whole, so that no constant part of one is in a
        # process
        op, half, one = Signal(3), Signal(2), Signal()  # one: a READ of one cell
        kind, side = Signal(), Signal()
        lines, pulse = self.o_lines.payload, self.o_pulse.payload
        m.d.comb += [
            lines.op.eq(op), lines.tile.eq(scan.tile), lines.transpose.eq(scan.walk), lines.half.eq(half),
            lines.range.eq(SCAN_RANGE), lines.first.eq(Mux(op == LinesOp.POINT, line, Mux(one, at_cell, scan.lane_first))),
            lines.count.eq(Mux(one, 1, scan.lane_count)), lines.steps.eq(scan.steps),
            pulse.tile.eq(scan.tile), pulse.walk.eq(scan.walk), pulse.line.eq(line), pulse.kind.eq(kind), pulse.first.eq(at_cell),
            pulse.refresh.eq(1), pulse.counts[0].eq(1), pulse.negative.eq(side),
        ]

        told = []                                       # the states that offer a command, and what makes it

        def offer(port, own, following_state, **values):
            """State ``own``: offer a command from the next cycle on until it is taken; returns whether it is taken."""
            taken = port.valid & port.ready
            fields = {"op": op, "half": half, "one": one, "kind": kind, "side": side}
            m.d.sync += [port.valid.eq(~taken), *(fields[name].eq(value) for name, value in values.items())]
            told.append((port, own, [fields[name] == value for name, value in values.items()]))
            with m.If(taken):
                m.next = following_state
            return taken

        with m.FSM(name="ctl") as ctl:
            with m.State("IDLE"):
                with m.If(accept):
                    m.d.sync += idle.eq(0)
                    m.next = "CHECK"
            with m.State("CHECK"):                      # is this line dirty? fetch the bit of the next
                m.d.comb += check.eq(lines_left.any())
                m.d.sync += self.reading.eq(1)
                with m.If(~check):                      # there is none
                    m.d.sync += [idle.eq(1), ready.eq(1), self.reading.eq(0)]
                    m.next = "IDLE"
                with m.Elif(bit.data):
                    m.next = "POINT"
            with m.State("POINT"):
                m.d.sync += [second.eq(0), any_due.eq(0), left.eq(scan.lane_count), word.eq(0), following.eq(1)]
                with m.If(offer(self.o_lines, "POINT", "READ_POSITIVE", op=LinesOp.POINT, one=0)):
                    m.d.comb += self.events.lines_scanned.eq(1)
            with m.State("READ_POSITIVE"):
                m.d.comb += taking.eq(1)
                offer(self.o_lines, "READ_POSITIVE", "READ_NEGATIVE", op=LinesOp.READ, half=Half.POSITIVE, one=0)
            with m.State("READ_NEGATIVE"):              # the codes of G+ come while this waits
                m.d.comb += taking.eq(1)
                with m.If(offer(self.o_lines, "READ_NEGATIVE", "TAKE", op=LinesOp.READ, half=Half.NEGATIVE, one=0)):
                    m.d.sync += second.eq(1)
            with m.State("TAKE"):                       # ``fetch`` has the word that the next codes are of
                m.d.comb += [taking.eq(1), fetch.en.eq(1), move.eq(self.code_stb)]
                with m.If(judged & (left <= width)):
                    m.d.sync += [word.eq(0), following.eq(1)]
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                m.next = "CHECK"
                with m.If(any_due | newly_due.any()):
                    m.d.comb += fetch.en.eq(1)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.sync += pending.eq(Cat(fetch.data[k].due for k in range(width)))
                m.next = "PICK"
            with m.State("PICK"):                       # lowest due cell of the word, not yet rewritten
                m.d.sync += [picked.eq(lowest), pending.eq(pending ^ lowest), self.pulsing.eq(0)]
                with m.If(pending.any()):
                    m.next = "AIM"
                with m.Elif(last_word):
                    m.next = "CHECK"
                with m.Else():
                    m.d.comb += [move.eq(1), fetch.en.eq(1)]
                    m.next = "FETCH"
            with m.State("AIM"):
                m.d.comb += self.events.refreshes.eq(1)
                m.d.sync += [value.eq(picked_value), code.eq(0), n.eq(0), at_cell.eq(scan.lane_first + Cat(*place, word)),
                             self.pulsing.eq(1)]
                m.next = "RESET_POSITIVE"
            with m.State("RESET_POSITIVE"):
                offer(self.o_pulse, "RESET_POSITIVE", "RESET_NEGATIVE", kind=Kind.RESET, side=0)
            with m.State("RESET_NEGATIVE"):
                offer(self.o_pulse, "RESET_NEGATIVE", "JUDGE", kind=Kind.RESET, side=1)
            with m.State("JUDGE"):                      # ``near`` and ``spent`` are of the code
                with m.If(~self.pulse_busy):
                    m.next = "SET"
                    with m.If(near | spent):
                        m.d.sync += missed.eq(~near)
                        m.next = "PICK"
            with m.State("SET"):
                with m.If(offer(self.o_pulse, "SET", "READ_BACK", kind=Kind.SET, side=negative)):
                    m.d.sync += n.eq(n + 1)
            with m.State("READ_BACK"):
                read_side = Mux(negative, Half.NEGATIVE, Half.POSITIVE)
                offer(self.o_lines, "READ_BACK", "AWAIT", op=LinesOp.READ, half=read_side, one=1)
            with m.State("AWAIT"):
                with m.If(self.code_stb):
                    m.d.sync += code.eq(self.code_word[0])
                    m.next = "WEIGH"
            with m.State("WEIGH"):                      # is the code near the target?
                m.next = "JUDGE"
        rewriting = Cat(ctl.ongoing(state) for state in (
            "RESET_POSITIVE", "RESET_NEGATIVE", "JUDGE", "SET", "READ_BACK", "AWAIT", "WEIGH")).any()
        m.d.sync += [
            Assert(idle == ctl.ongoing("IDLE"), "idle and the state differ"),
            Assert(self.reading | idle | ctl.ongoing("CHECK"), "reading and the state differ"),
            Assert((self.pulsing == rewriting) | ctl.ongoing("PICK"), "pulsing and the state differ"),
            *(Assert(~port.valid | Cat(ctl.ongoing(own) & Cat(fields).all() for to, own, fields in told if to is port).any(),
                     "a command of no state") for port in (self.o_lines, self.o_pulse)),
        ]
        return m
