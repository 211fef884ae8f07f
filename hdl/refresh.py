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
SCAN is a barrier and CLEAR and LOAD pulse nothing, so that ``mark``, fill and SCAN never meet (asserted).

Ports
-----
i : In(stream.Signature(ScanCommand(u)))
    SCAN; ``walk_count``, ``lane_count`` and ``steps`` at least 1. Pulse generator and read unit must be idle at its accept.
o_lines, o_pulse : Out(stream.Signature(LinesCommand(u))), Out(stream.Signature(PulseCommand(u)))
    To read unit and pulse generator; a cell is addressed by ``first`` with lane 0 (counts[0] = 1).
code_stb, code_index, code_word : In(1), In(13), In(CodeWord(u))
    Tap of the read unit.
pulse_busy : In(1)
    The pulse generator's ``busy``.
mark_stb, mark_index : In(1), In(16)
fill_stb, fill_base, fill_count, fill_value : In(1), In(16), In(13), In(1)
    See above; ``fill_count`` at least 1. ``i.ready`` is low while filling.
busy : Out(1)
    A SCAN runs: ``o_lines`` and ``o_pulse`` are this unit's.
active : Out(1)
    Must be clocked in this cycle.
events : Out(StructLayout)
    phase_scan (from accept to ready), lines_scanned, refreshes, refresh_misses.

Timing
------
With R(count) = 1 + steps + convert_cycles + max(1, ceil(count / vector_width)), P(kind) = cycles of a train of one pulse
(``hdl.pulse_gen``) and W = ceil(lane_count / vector_width), from accept to ready::

    SCAN       1 + walk_count + sum of scanned lines
    line       2 + 2 R(lane_count) + 2, and if a cell is due + 2 W + sum of due cells
    due cell   3 + 2 P(RESET) + n (1 + P(SET) + R(1)),  n SET pulses
    fill       fill_count

Source: rebalancing of Nandakumar 2020; the closed loop, the order and the dirty map are design choices.
"""
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
            "busy": Out(1), "active": Out(1),
            "events": Out(data.StructLayout({"phase_scan": 1, "lines_scanned": 1, "refreshes": 1, "refresh_misses": 1})),
        })

    def elaborate(self, platform):
        m = Module()
        u, width = self.u, self.u.vector_width
        scan = Signal(ScanCommand(u))                   # the command being executed
        line = Signal(13)                               # line under test
        idle, filling, last_line = Signal(), Signal(), Signal()
        accept = Signal()
        m.d.comb += [
            self.i.ready.eq(idle & ~filling & ~self.fill_stb), accept.eq(self.i.valid & self.i.ready), self.busy.eq(~idle),
            self.active.eq(self.i.valid | ~idle | filling | self.mark_stb | self.fill_stb),
            self.events.phase_scan.eq(accept | ~idle), last_line.eq(line + 1 == scan.walk_count),
        ]

        # dirty map; its output is the bit of ``line`` in CHECK
        m.submodules.dirty = dirty = memory.Memory(shape=1, depth=u.chi_words, init=[], attrs={"no_rw_check": 1})
        bit, change = dirty.read_port(), dirty.write_port()
        fill_at, fill_left, fill_bit = Signal(16), Signal(13), Signal()
        clean = Signal()                                # clear the bit of ``line``
        m.d.comb += [filling.eq(fill_left != 0), bit.en.eq(accept), bit.addr.eq(self.i.payload.dirty_base)]
        with m.If(self.mark_stb):
            m.d.comb += [change.en.eq(1), change.addr.eq(self.mark_index), change.data.eq(1)]
        with m.Elif(filling):
            m.d.comb += [change.en.eq(1), change.addr.eq(fill_at), change.data.eq(fill_bit)]
            m.d.sync += [fill_at.eq(fill_at + 1), fill_left.eq(fill_left - 1)]
        with m.Else():
            m.d.comb += [change.en.eq(clean), change.addr.eq(scan.dirty_base + line)]
        with m.If(self.fill_stb):
            m.d.sync += [fill_at.eq(self.fill_base), fill_left.eq(self.fill_count), fill_bit.eq(self.fill_value)]
        m.d.sync += Assert(~(self.mark_stb & (filling | ~idle)), "a line marked during CLEAR, LOAD or SCAN")

        # cells of the line: the codes of G+, then in their place the difference and whether the cell is due
        cell = data.StructLayout({"value": signed(u.adc_bits + 1), "due": 1})
        m.submodules.cells = cells = memory.Memory(shape=data.ArrayLayout(cell, width), depth=u.n_lines // width, init=[], attrs={"no_rw_check": 1})
        fetch, keep = cells.read_port(), cells.write_port()
        second = Signal()                               # the read under way is that of G-
        word = Signal(range(u.n_lines // width + 1))    # of the pass over due cells
        negative_stb, judged_stb = Signal(), Signal()   # a word of G- came one, two cycles ago
        negative_word, judged = Signal(CodeWord(u)), Signal(data.ArrayLayout(cell, width))
        at, judged_at = Signal(range(u.n_lines // width)), Signal(range(u.n_lines // width))
        place_bits = width.bit_length() - 1
        code_at = self.code_index[place_bits:]
        taking = Signal()                               # codes are those of the whole line
        any_due, left, valid = Signal(), Signal(13), Signal(width)
        found = Signal(width)
        minus_low = Signal(signed(len(scan.low) + 2))   # of the running command
        m.d.sync += minus_low.eq(-scan.low)
        m.d.comb += valid.eq(Cat(left > k for k in range(width)))
        m.d.sync += [negative_stb.eq(taking & second & self.code_stb), judged_stb.eq(negative_stb)]
        with m.If(taking & self.code_stb):
            m.d.sync += [negative_word.eq(self.code_word), at.eq(code_at)]
        with m.If(negative_stb):
            m.d.sync += [left.eq(left - width), judged_at.eq(at)]
        for k in range(width):
            pos, neg, out = fetch.data[k].value, negative_word[k], judged[k]
            difference = Signal(signed(u.adc_bits + 1), name=f"difference{k}")
            big, close = (pos > scan.high) | (neg > scan.high), (difference < scan.low) & (difference > minus_low)
            m.d.comb += [difference.eq(pos - neg), found[k].eq(out.due)]
            with m.If(negative_stb):
                m.d.sync += [out.value.eq(difference), out.due.eq(valid[k] & big & close)]
            m.d.comb += [keep.data[k].value.eq(Mux(judged_stb, out.value, self.code_word[k])), keep.data[k].due.eq(found[k])]
        m.d.comb += [
            keep.en.eq(judged_stb | (taking & ~second & self.code_stb)), keep.addr.eq(Mux(judged_stb, judged_at, code_at)),
            fetch.addr.eq(Mux(taking, code_at, word)), fetch.en.eq(taking & second & self.code_stb),
        ]
        with m.If(judged_stb):
            m.d.sync += any_due.eq(any_due | found.any())

        # the cell being rewritten
        done, picked = Signal(width), Signal(width)     # cells of the word already rewritten; one-hot
        pending, lowest = Signal(width), Signal(width)
        m.d.comb += [pending.eq(Cat(fetch.data[k].due for k in range(width)) & ~done), lowest.eq(pending & -pending)]
        offset = Signal(13)                             # of the cell within the line
        target, negative, code, n = Signal(u.adc_bits + 1), Signal(), Signal(signed(u.adc_bits)), Signal(6)
        value = Signal(signed(u.adc_bits + 1))
        place = [Cat(picked[k] for k in range(width) if k >> shift & 1).any() for shift in range(place_bits)]   # in binary
        for k in range(width):
            with m.If(picked[k]):
                m.d.comb += value.eq(fetch.data[k].value)

        # what the states below decide; the payloads are assigned as a whole, so that no constant part of one is in a process
        op, half, first, count = Signal(3, init=LinesOp.READ), Signal(2, init=Half.POSITIVE), Signal(13), Signal(13)
        kind, side = Signal(init=Kind.SET), Signal()
        lines, pulse = self.o_lines.payload, self.o_pulse.payload
        m.d.comb += [
            first.eq(scan.lane_first), count.eq(scan.lane_count),
            lines.op.eq(op), lines.tile.eq(scan.tile), lines.transpose.eq(scan.walk), lines.half.eq(half),
            lines.range.eq(SCAN_RANGE), lines.first.eq(first), lines.count.eq(count), lines.steps.eq(scan.steps),
            pulse.tile.eq(scan.tile), pulse.walk.eq(scan.walk), pulse.line.eq(scan.walk_first + line), pulse.kind.eq(kind),
            pulse.first.eq(scan.lane_first + offset), pulse.refresh.eq(1), pulse.counts[0].eq(1), pulse.negative.eq(side),
            pulse.dirty.eq(scan.dirty_base + line),
        ]
        with m.FSM(name="ctl"):
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                with m.If(accept):
                    m.d.sync += [scan.eq(self.i.payload), line.eq(0)]
                    m.next = "CHECK"
            with m.State("CHECK"):                      # is this line dirty? fetch the bit of the next
                m.d.comb += [bit.en.eq(1), bit.addr.eq(scan.dirty_base + line + 1), clean.eq(bit.data)]
                with m.If(bit.data):
                    m.next = "POINT"
                with m.Else():
                    m.d.sync += line.eq(line + 1)
                    with m.If(last_line):
                        m.next = "IDLE"
            with m.State("POINT"):
                m.d.comb += [self.o_lines.valid.eq(1), op.eq(LinesOp.POINT), first.eq(scan.walk_first + line)]
                m.d.sync += [second.eq(0), any_due.eq(0), left.eq(scan.lane_count), word.eq(0), done.eq(0)]
                with m.If(self.o_lines.ready):
                    m.d.comb += self.events.lines_scanned.eq(1)
                    m.next = "READ_POSITIVE"
            with m.State("READ_POSITIVE"):
                m.d.comb += [self.o_lines.valid.eq(1), taking.eq(1)]
                with m.If(self.o_lines.ready):
                    m.next = "READ_NEGATIVE"
            with m.State("READ_NEGATIVE"):              # the codes of G+ come while this waits
                m.d.comb += [self.o_lines.valid.eq(1), half.eq(Half.NEGATIVE), taking.eq(1)]
                with m.If(self.o_lines.ready):
                    m.d.sync += second.eq(1)
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += taking.eq(1)
                with m.If(negative_stb & (left <= width)):
                    m.next = "DECIDE"
            with m.State("DECIDE"):                     # the last word is judged
                with m.If(any_due | found.any()):
                    m.next = "FETCH"
                with m.Else():
                    m.d.sync += line.eq(line + 1)
                    m.next = "CHECK"
                    with m.If(last_line):
                        m.next = "IDLE"
            with m.State("FETCH"):
                m.d.comb += fetch.en.eq(1)
                m.d.sync += done.eq(0)
                m.next = "PICK"
            with m.State("PICK"):                       # lowest due cell of the word, not yet rewritten
                m.d.sync += [picked.eq(lowest), done.eq(done | lowest)]
                with m.If(pending.any()):
                    m.next = "AIM"
                with m.Else():
                    m.d.sync += word.eq(word + 1)
                    m.next = "FETCH"
                    with m.If((word + 1) * width >= scan.lane_count):
                        m.d.sync += line.eq(line + 1)
                        m.next = "CHECK"
                        with m.If(last_line):
                            m.next = "IDLE"
            with m.State("AIM"):
                m.d.comb += self.events.refreshes.eq(1)
                m.d.sync += [
                    target.eq(Mux(value < 0, -value, value)), negative.eq(value < 0), code.eq(0), n.eq(0),
                    offset.eq(Cat(*place, word)),
                ]
                m.next = "RESET_POSITIVE"
            with m.State("RESET_POSITIVE"):
                m.d.comb += [self.o_pulse.valid.eq(1), kind.eq(Kind.RESET)]
                with m.If(self.o_pulse.ready):
                    m.next = "RESET_NEGATIVE"
            with m.State("RESET_NEGATIVE"):
                m.d.comb += [self.o_pulse.valid.eq(1), kind.eq(Kind.RESET), side.eq(1)]
                with m.If(self.o_pulse.ready):
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                with m.If(~self.pulse_busy):
                    m.next = "SET"
                    with m.If((target <= scan.floor) | (code >= target)):
                        m.next = "PICK"
                    with m.Elif(n == scan.bound):
                        m.d.comb += self.events.refresh_misses.eq(1)
                        m.next = "PICK"
            with m.State("SET"):
                m.d.comb += [self.o_pulse.valid.eq(1), kind.eq(Kind.SET), side.eq(negative)]
                with m.If(self.o_pulse.ready):
                    m.d.sync += n.eq(n + 1)
                    m.next = "READ_BACK"
            with m.State("READ_BACK"):
                m.d.comb += [
                    self.o_lines.valid.eq(1), half.eq(Mux(negative, Half.NEGATIVE, Half.POSITIVE)),
                    first.eq(scan.lane_first + offset), count.eq(1),
                ]
                with m.If(self.o_lines.ready):
                    m.next = "AWAIT"
            with m.State("AWAIT"):
                with m.If(self.code_stb):
                    m.d.sync += code.eq(self.code_word[0])
                    m.next = "JUDGE"
        return m
