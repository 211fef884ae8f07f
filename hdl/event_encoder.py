"""Event encoder: what a unit does at its ports, as records of bytes for the host, in the order in which it happens.

Contract: what happens in a cycle of the unit (``enable``) is recorded in the next one, which is held: the unit's clock stands
still until the records were taken from ``o``. So records have no size that the unit could overrun, and the unit sees nothing of
it. A beat of the output stream is recorded before the cycle in which it passes, which is held. ``hold`` is decided a cycle ahead,
so that a gate of the clock can listen to a register. What a record tells and the unit does not keep beyond the cycle is kept
here; the rest is read while the unit stands.

Records (``model.link_format.Record``), multi-byte fields least significant byte first:

========  ===========================================================================================================
UPDATE    chi_base 2, rate 2: an accumulating UPDATE began a cycle ago (with ``link.trace``)
LANES     place 2, then a word of lane codes, packed: elements place * vector_width ... (with ``link.trace``)
LINE      line 2, code 1 (signed), exponent 2 (signed): a walked line of this UPDATE (with ``link.trace``)
FIRE      tile, flags 1 (bit 0 sequence, 1 negative, 2 down, 3 to 5 step_shift), state 4, place 1, words 1, then the row codes,
          packed; place 1, words 1, and the column codes, packed
TRIM      tile | transpose << 4, kind 1, line 2, down 1, steps 1, place 1, words 1, then the line codes, packed
PULSE     tile | walk << 4 | kind << 5 | refresh << 6, line 2, first 2, then pairs of an index and 8 lanes of it that are not all
          low, G+ from index 0, G- from ceil(lanes / 8) on, and 0xFF
BEAT      last 1, data 8: a beat of the output stream
READ      tile | transpose << 4 | half << 5, range 1, steps 1, first 2, count 2, place 1, words 1, then the line codes, packed
========  ===========================================================================================================

Packed codes: element after element a byte, magnitude and polarity << 7; 0x00 is one zero, 0x80 n are n zeros, up to 128.

A pulse happens in its second cycle: pulses last 3 cycles or more, and their lanes stay high while they are recorded. FIRE and
TRIM happen in the cycle after their window.

Ports
-----
enable, hold : In(1), Out(1)
    The unit's clock runs in this cycle; it must not in the next one.
read_stb : Out(1)
    For a cycle: a READ was recorded, and the unit waits for its codes.
o : Out(stream 8)
others : In
    Of ``hdl.top``: the tile port, ``stored``, the output stream, the trace.

Timing: a byte a cycle, of the fixed part two cycles; a word of codes takes two more, zeros of them a cycle each, every 8 lanes of
a pulse three; between two records pass three cycles.
Source: design choice.
"""
from functools import reduce
from operator import or_

from amaranth import Array, Assert, Cat, Const, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.line_store import StoredSignature
from hdl.ports import UpdateCommand
from model.commands import UpdateOp
from model.link_format import LinkParams, Record
from model.params import UnitParams

__all__ = ["EventEncoder"]


def _bytes(*fields):
    """Fields, each filled up to whole bytes."""
    return Cat(Cat(field, Const(0, -len(field) % 8)) for field in fields)


class EventEncoder(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams, link: LinkParams = LinkParams()):      # noqa: B008 - frozen
        self.u, self.link = u, link
        trace = {"trace_command_stb": In(1), "trace_command": In(UpdateCommand(u)), "trace_line_stb": In(1),
                 "trace_line": In(13), "trace_code": In(signed(u.outer_bits + 1)), "trace_lane_stb": In(1),
                 "trace_lane_address": In(13), "trace_lanes": In(data.ArrayLayout(u.outer_bits + 1, u.vector_width)),
                 "trace_exponent": In(signed(10)), "trace_rate": In(12), "trace_chi_base": In(16)} if link.trace else {}
        capacitor = {"fire": In(1), "step_shift": In(3), "trim": In(1), "trim_kind": In(2), "trim_line": In(13),
                     "trim_down": In(1)} if u.capacitor else {}
        super().__init__({
            "enable": In(1), "hold": Out(1), "read_stb": Out(1), "o": Out(stream.Signature(8)),
            "stored": In(StoredSignature(u)), "tile": In(4), "transpose": In(1), "half": In(2), "range": In(2),
            "out_first": In(13), "out_count": In(13), "convert": In(1), "program_tile": In(4), "program_walk": In(1),
            "program_line": In(13), "program_first": In(13), "program_kind": In(1), "pulse_pos": In(u.lanes),
            "pulse_neg": In(u.lanes), "trace_refresh": In(1),
            "m_axis_tdata": In(64), "m_axis_tlast": In(1), "m_axis_tvalid": In(1), "beat_next": In(1), **trace, **capacitor,
        })

    def elaborate(self, platform):
        m = Module()
        happens = self._events(m)
        noted, recorded = {record: Signal(name=f"noted_{record.name.lower()}") for record in happens}, Signal()
        kinds = [*(record for record in happens if record != Record.READ), Record.BEAT, Record.READ]
        waiting = Signal(len(kinds))                    # to be recorded: a beat before its cycle, all else after it
        m.d.comb += [
            waiting.eq(Cat(self.m_axis_tvalid & ~recorded if record == Record.BEAT else noted[record] for record in kinds)),
            self.hold.eq(Mux(self.enable, Cat(happens.values()).any() | self.beat_next, waiting.any() | self.o.valid))]
        m.d.sync += Assert(ResetSignal() | ~self.enable | ~(waiting.any() | self.o.valid), "ran on, an event not recorded")
        finish, kind = Signal(), Signal(range(max(Record) + 1))     # the record of this kind ends; the unit stands still
        with m.If(self.enable):
            m.d.sync += [recorded.eq(0), *(noted[record].eq(due) for record, due in happens.items())]
        with m.Elif(finish):
            for record in kinds:
                with m.If(kind == record):
                    m.d.sync += recorded.eq(1) if record == Record.BEAT else noted[record].eq(0)

        # bytes leave through a register
        send, byte, moves = Signal(), Signal(8), Signal()
        m.d.comb += moves.eq(~self.o.valid | self.o.ready)          # a byte to ``send`` is taken
        with m.If(moves):
            m.d.sync += [self.o.valid.eq(send), self.o.payload.eq(byte)]

        place, last, at_last, header = Signal(4), Signal(4), Signal(), []  # byte of the header; where it ends; bytes by kind
        for record, fields in self._headers(m, noted).items():
            near = Signal(8, name=f"near_{record.name.lower()}")    # its fields come from afar; 0 unless it is of the kind
            header.append(near)
            with m.If(kind == record):
                m.d.sync += near.eq(fields.word_select(place, 8))
                m.d.comb += last.eq(len(fields) // 8 - 1)
            with m.Else():
                m.d.sync += near.eq(0)

        side = Signal()                                 # FIRE: the columns' codes
        index = Signal(range(max(256, 2 * -(-self.u.lanes // 8)) + 1))  # of 8 lanes
        begin_codes, codes_end = Signal(), Signal()
        again = (kind == Record.FIRE) & ~side
        with m.FSM(name="record"):
            with m.State("WAIT"):
                m.d.sync += [place.eq(0), index.eq(0), side.eq(0)]
                for bit, record in reversed(list(enumerate(kinds))):
                    with m.If(waiting[bit]):
                        m.d.sync += kind.eq(record)
                with m.If(waiting.any()):
                    m.next = "HEADER"
            with m.State("HEADER"):                     # ``near`` follows ``place``
                m.d.sync += at_last.eq(place == last)
                m.next = "HEADER_BYTE"
            with m.State("HEADER_BYTE"):
                m.d.comb += [send.eq(1), byte.eq(reduce(or_, header))]
                with m.If(moves):
                    m.d.sync += place.eq(place + 1)
                    m.next = "HEADER"
                with m.If(moves & at_last):
                    with m.Switch(kind):
                        with m.Case(Record.PULSE):
                            m.next = "LANES"
                        with m.Case(Record.READ, Record.LANES, Record.FIRE, Record.TRIM):
                            m.d.comb += begin_codes.eq(1)
                            m.next = "CODES"
                        with m.Default():
                            m.next = "END"
            with m.State("END"):
                m.d.comb += [finish.eq(1), self.read_stb.eq(kind == Record.READ)]
                m.next = "WAIT"
            self._lanes(m, index, at_last, send, byte, moves)
            with m.State("CODES"):
                with m.If(codes_end):
                    m.next = "END"
                    if self.u.capacitor:
                        with m.If(again):
                            m.d.sync += [side.eq(1), place.eq(0)]
                            m.next = "SIDE"
            if self.u.capacitor:
                with m.State("SIDE"):
                    m.d.comb += [send.eq(1), byte.eq(Mux(place[0], self.stored.count_1, self.stored.base_1))]
                    with m.If(moves):
                        m.d.sync += place.eq(place + 1)
                        with m.If(place[0]):
                            m.d.comb += begin_codes.eq(1)
                            m.next = "CODES"
        self._codes(m, noted, kind, side, begin_codes, codes_end, send, byte, moves)
        return m

    def _events(self, m):
        """Record -> whether it happens in this cycle, beats left out; in the order in which they are sent."""
        pulses = [(self.pulse_pos | self.pulse_neg)[first:first + 64].any() for first in range(0, self.u.lanes, 64)]
        now, high, self.refresh = Signal(len(pulses)), Signal(), Signal()
        with m.If(self.enable):
            m.d.sync += [now.eq(Cat(pulses)), high.eq(now.any()), self.refresh.eq(self.trace_refresh)]
        events = {}
        if self.link.trace:
            command, begun = self.trace_command, Signal()
            with m.If(self.enable):                     # the strobe comes late
                m.d.sync += begun.eq(self.trace_command_stb & (command.op == UpdateOp.UPDATE) & command.accumulate)
            events |= {Record.UPDATE: begun, Record.LANES: self.trace_lane_stb, Record.LINE: self.trace_line_stb}
        if self.u.capacitor:
            for record, window in ((Record.FIRE, self.fire), (Record.TRIM, self.trim)):
                running = Signal(name=f"running_{record.name.lower()}")
                with m.If(self.enable):
                    m.d.sync += running.eq(window)
                events[record] = running & ~window
        return {**events, Record.PULSE: now.any() & ~high, Record.READ: self.convert}

    def _headers(self, m, noted):
        """Record -> its fixed part; what of it the unit does not keep follows the unit until it is noted."""
        stored = self.stored
        lines = (stored.base, stored.count)
        headers = {
            Record.PULSE: _bytes(Cat(self.program_tile, self.program_walk, self.program_kind, self.refresh), self.program_line,
                                 self.program_first),
            Record.BEAT: _bytes(self.m_axis_tlast, self.m_axis_tdata),
            Record.READ: _bytes(Cat(self.tile, self.transpose, self.half), self.range, stored.steps, self.out_first,
                                self.out_count, *lines),
        }
        if self.link.trace:
            line, code, place, exponent = Signal(13), Signal(signed(8)), Signal(13), Signal(signed(16))
            m.d.comb += exponent.eq(self.trace_exponent)
            with m.If(~noted[Record.LINE]):
                m.d.sync += [line.eq(self.trace_line), code.eq(self.trace_code)]
            with m.If(~noted[Record.LANES]):
                m.d.sync += place.eq(self.trace_lane_address)
            headers |= {Record.UPDATE: _bytes(self.trace_chi_base, self.trace_rate), Record.LANES: _bytes(place),
                        Record.LINE: _bytes(line, code, exponent)}
        if self.u.capacitor:
            headers |= {
                Record.FIRE: _bytes(self.tile, Cat(stored.sequence, stored.negative, self.trim_down, self.step_shift),
                                    stored.state, *lines),
                Record.TRIM: _bytes(Cat(self.tile, self.transpose), self.trim_kind, self.trim_line, self.trim_down, stored.steps,
                                    *lines)}
        return {record: Cat(Const(record, 8), fields) for record, fields in headers.items()}

    def _lanes(self, m, index, at_end, send, byte, moves):
        """States that send the lanes of a pulse, 8 by 8."""
        count = -(-self.u.lanes // 8)
        lanes = _bytes(self.pulse_pos, self.pulse_neg)
        near = [Signal(8, name=f"near{k}") for k in range(-(-2 * count // 8))]      # one of 64 lanes each: wires come from afar
        lanes_8 = Signal(8)
        m.d.sync += [one.eq(lanes[64 * k:64 * k + 64].word_select(index[:3], 8)) for k, one in enumerate(near)]
        m.d.sync += lanes_8.eq(Array(near)[index[3:]])
        with m.State("LANES"):                          # ``near`` follows ``index``
            m.d.sync += at_end.eq(index == 2 * count)
            m.next = "LANES_NEAR"
        with m.State("LANES_NEAR"):                     # ``lanes_8`` follows ``near``
            m.next = "LANES_8"
            with m.If(at_end):
                m.next = "LANES_END"
        with m.State("LANES_8"):
            m.d.comb += [send.eq(lanes_8 != 0), byte.eq(index)]
            with m.If(lanes_8 == 0):
                m.d.sync += index.eq(index + 1)
                m.next = "LANES"
            with m.Elif(moves):
                m.next = "LANES_HIGH"
        with m.State("LANES_END"):
            m.d.comb += [send.eq(1), byte.eq(0xFF)]
            with m.If(moves):
                m.next = "END"
        with m.State("LANES_HIGH"):
            m.d.comb += [send.eq(1), byte.eq(lanes_8)]
            with m.If(moves):
                m.d.sync += index.eq(index + 1)
                m.next = "LANES"

    def _codes(self, m, noted, kind, side, begin, end, send, byte, moves):
        """Send words of codes, packed, from ``begin`` on; ``end``: the last byte was taken."""
        u, stored = self.u, self.stored
        word, left, element = Signal(8), Signal(8), Signal(range(u.vector_width))      # next word; words after this one
        codes, zeros = Signal(8 * u.vector_width), Signal(8)    # of the word, the next one lowest; up to 128 zeros before it
        flush, one = Signal(), Signal()                 # zeros != 0, zeros == 1
        ended = Signal()                                # no words are left
        code = codes[:8]
        address = stored.address
        m.d.comb += address.eq(Cat(side, word) if u.capacitor else word)
        if self.link.trace:
            bits, lanes = u.outer_bits, Signal(8 * u.vector_width)
            with m.If(~noted[Record.LANES]):
                m.d.sync += lanes.eq(Cat(Cat(lane[:bits], Const(0, 7 - bits), lane[bits]) for lane in self.trace_lanes))
        zero, clear, mark = code[:7] == 0, [zeros.eq(0), flush.eq(0), one.eq(0)], Mux(one, 0x00, 0x80)
        with m.FSM(name="codes"):
            with m.State("IDLE"):
                m.d.sync += [element.eq(0), *clear, ended.eq(0)]
                with m.If(begin):
                    if u.capacitor:
                        m.d.sync += [word.eq(Mux(side, stored.base_1, stored.base)),
                                     left.eq(Mux(side, stored.count_1, stored.count))]
                    else:
                        m.d.sync += [word.eq(stored.base), left.eq(stored.count)]
                    if self.link.trace:
                        with m.If(kind == Record.LANES):
                            m.d.sync += left.eq(1)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "WORD"
                with m.If(left == 0):
                    m.d.sync += ended.eq(1)
                    m.next = "REST"
            with m.State("WORD"):
                m.d.sync += [codes.eq(stored.data), word.eq(word + 1), left.eq(left - 1)]
                if self.link.trace:
                    with m.If(kind == Record.LANES):
                        m.d.sync += codes.eq(lanes)
                m.next = "CODE"
            with m.State("CODE"):
                step = Signal()                         # on to the next element
                with m.If(zero & ~zeros[7]):
                    m.d.comb += step.eq(1)
                    m.d.sync += [zeros.eq(zeros + 1), flush.eq(1), one.eq(~flush)]
                with m.Elif(flush):
                    m.d.comb += [send.eq(1), byte.eq(mark)]
                    with m.If(moves & one):
                        m.d.sync += clear
                    with m.Elif(moves):
                        m.next = "COUNT"
                with m.Else():
                    m.d.comb += [send.eq(1), byte.eq(code), step.eq(moves)]
                with m.If(step):
                    m.d.sync += [element.eq(element + 1), codes.eq(codes >> 8)]
                    with m.If(element == u.vector_width - 1):
                        m.next = "FETCH"
            with m.State("COUNT"):
                m.d.comb += [send.eq(1), byte.eq(zeros)]
                with m.If(moves):
                    m.d.sync += clear
                    m.next = "CODE"
                    with m.If(ended):
                        m.next = "REST"
            with m.State("REST"):                       # zeros at the end
                m.d.comb += [send.eq(flush), byte.eq(mark), end.eq(~flush & moves)]
                with m.If(end):                         # the last byte is on its way
                    m.next = "IDLE"
                with m.Elif(flush & moves & one):
                    m.d.sync += clear
                with m.Elif(flush & moves):
                    m.next = "COUNT"
