"""Packets between the host's AXI4-Streams and the unit: ACCEPT and LOAD in, EMIT and DUMP out.

A packet is a string of bytes, little-endian, element 0 first, in 64-bit beats: byte b of the packet is byte b % 8 of beat b // 8.
``tkeep`` is all ones on every beat but the last of a packet.

Input. Without a command ``s_axis_tready`` is low, so nothing is lost. A command takes exactly one packet:
``i_accept``  count elements, unsigned bytes or (``wide``) signed 16 bit, into the vector memory from element 0 of word ``dst`` on
              (elements beyond count keep their value) or (``to_lut``) into table ``lut`` from entry 0 on; entry k is that of the
              index k in two's complement; entries beyond the table are ignored. A count of 0 takes no packet.
``i_load``    ``words`` chi words of ``lanes`` signed 16-bit elements, each padded to whole beats (the layout of DUMP), to
              ``o_load``.
A packet has the right length when it has ceil(bytes / 8) beats, ``tlast`` on the last and only there, ``tkeep`` all ones before
the last, and on the last at least the bytes that are needed (more are ignored). A packet that breaks this is refused: it is
counted in ``packets_refused``, the rest of it up to ``tlast`` is thrown away, and the command goes on waiting for a right
one. What a refused packet brought before the fault has been written to its destination, never beyond it: the
destination's content is undefined until the right packet is complete. ``o_load`` then carries one word with ``count`` 0:
start again.
``accepting`` is high from the cycle after a command was taken until the last write of its packet was taken.
``disarm`` (a pulse) withdraws the command; a packet that was cut by it counts as refused, and its rest is thrown away when the
next command is armed.

Output. Words of ``i_emit`` and ``i_dump`` (never both in a packet's time: asserted) leave as ceil(count / 4) beats each, at
least one; a beat that is not full is filled with zeros. ``tlast`` comes from ``last``; with it ``tkeep`` marks the bytes of
the elements.

Ports: ``w_host`` and ``lut_write`` as in ``hdl.vector_memory`` and ``hdl.ports``; ``active``: must be clocked in this cycle.
``s_axis_tready`` depends on ``w_host.ready`` and ``o_load.ready`` in the same cycle, on no AXI input.
Timing: without stalls, in: one beat per cycle (a beat of bytes into vector_width = 4: 2 cycles; into a table: 4 cycles, of
bytes 8); a word is written in the cycle after its last beat. Out: one beat per cycle, first beat 1 cycle after the word is valid.
Twin: ``model/digital/host_stream.py``. Source: design choice; AMBA AXI4-Stream (ARM IHI 0051).
"""
from amaranth import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import AcceptCommand, LutWriteSignature, WordStream
from hdl.vector_memory import VectorWrite
from model.params import UnitParams

__all__ = ["HostStream", "LoadCommand"]

BEAT_BYTES = 8
BEAT_ELEMENTS = 4


def LoadCommand(u: UnitParams):
    """Layout of the command that takes one packet of ``words`` chi words."""
    return data.StructLayout({"words": range(u.chi_words + 1)})


class HostStream(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        axis = {"tdata": 8 * BEAT_BYTES, "tkeep": BEAT_BYTES, "tlast": 1, "tvalid": 1}
        super().__init__({
            **{f"s_axis_{name}": In(bits) for name, bits in axis.items()}, "s_axis_tready": Out(1),
            **{f"m_axis_{name}": Out(bits) for name, bits in axis.items()}, "m_axis_tready": In(1),
            "i_accept": In(stream.Signature(AcceptCommand(u))), "i_load": In(stream.Signature(LoadCommand(u))),
            "w_host": Out(stream.Signature(VectorWrite(u))), "lut_write": Out(LutWriteSignature(u)), "o_load": Out(WordStream(u)),
            "i_emit": In(WordStream(u)), "i_dump": In(WordStream(u)), "disarm": In(1),
            "accepting": Out(1), "active": Out(1),
            "events": Out(data.StructLayout({"packets_in": 1, "packets_refused": 1, "packets_out": 1})),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.active.eq(self._receive(m) | self._send(m))
        return m

    def _receive(self, m):
        """The input side; returns when it must be clocked."""
        u, width = self.u, self.u.vector_width
        # a chi word on o_load: its words, beats of a full and of the last one, elements of the last one
        load_words, load_tail = -(-u.lanes // width), (u.lanes - 1) % width + 1
        load_beats = (load_words - 1) * (width // BEAT_ELEMENTS) + -(-load_tail // BEAT_ELEMENTS)

        # the armed command and the packet's length; beats_left, elements_left, word, place move with the packet
        command, loading, armed = Signal(AcceptCommand(u)), Signal(), Signal()
        total_beats = Signal(range(max(1 << 14, u.chi_words * load_beats) + 1))
        beats_left, last_keep = Signal.like(total_beats), Signal(BEAT_BYTES)
        elements_left, word, entry = Signal(16), Signal(12), Signal(16)
        place, place_last, load_count = Signal(range(load_words)), Signal(), Signal(range(width + 1))
        # beats are collected in ``buffer`` until it is ``full``, then leave in parts
        buffer = Signal(u.element_bits * max(width, BEAT_BYTES))
        slot, part = Signal(range(width // BEAT_ELEMENTS + 1)), Signal(range(BEAT_BYTES))
        group_last, part_last, full, complete, skipping, again = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        inside = Signal()  # the packet on s_axis has begun and not ended
        m.d.comb += place_last.eq(place == load_words - 1)

        # take beats
        final, good, take, leave = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            final.eq(beats_left == 1),
            good.eq(Mux(final, self.s_axis_tlast & ((self.s_axis_tkeep & last_keep) == last_keep),
                        ~self.s_axis_tlast & self.s_axis_tkeep.all())),
            self.s_axis_tready.eq(armed & ~complete & ~again & ~self.disarm & (~full | leave)),
            take.eq(self.s_axis_tvalid & self.s_axis_tready),
            group_last.eq(slot == Mux(loading, Mux(place_last, (load_tail - 1) // BEAT_ELEMENTS, width // BEAT_ELEMENTS - 1), Mux(
                command.to_lut, 0, Mux(command.wide, width // BEAT_ELEMENTS - 1, max(width // BEAT_BYTES, 1) - 1)))),
        ]
        with m.If(leave):
            m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += inside.eq(~self.s_axis_tlast)
            with m.If(skipping):
                m.d.sync += skipping.eq(~self.s_axis_tlast)
            with m.Elif(good):
                self._insert(m, buffer, slot, command.wide | loading)
                m.d.sync += [beats_left.eq(beats_left - 1), complete.eq(final), slot.eq(slot + 1)]
                m.d.comb += self.events.packets_in.eq(final)
                with m.If(group_last | final):
                    m.d.sync += [slot.eq(0), full.eq(1), place.eq(Mux(place_last, 0, place + 1)),
                                 load_count.eq(Mux(place_last, load_tail, width))]

        # let parts leave
        m.d.comb += part_last.eq(part == Mux(
            loading, 0, Mux(command.to_lut, Mux(command.wide, 3, 7), (~command.wide if width < BEAT_BYTES else 0))))
        m.d.comb += [
            leave.eq(full & part_last & Mux(loading, self.o_load.ready, command.to_lut | self.w_host.ready)),
            self.w_host.valid.eq(full & ~loading & ~command.to_lut), self.w_host.payload.addr.eq(word),
            self.w_host.payload.mask.eq(Mux(elements_left >= width, (1 << width) - 1,
                                            ~(Const((1 << width) - 1, width) << elements_left[:width.bit_length() - 1]))),
            self.w_host.payload.data.eq(buffer.word_select(part[0], u.element_bits * width) if width < BEAT_BYTES else buffer),
            self.lut_write.en.eq(full & ~loading & command.to_lut & (elements_left != 0) & (entry >> u.lut_bits == 0)),
            self.lut_write.lut.eq(command.lut), self.lut_write.index.eq(entry),
            self.lut_write.data.eq(buffer.word_select(part, u.element_bits)),
            self.o_load.valid.eq((full & loading) | again), self.o_load.payload.elements.eq(buffer),
            self.o_load.payload.count.eq(Mux(again, 0, load_count)), self.o_load.payload.last.eq(complete),
        ]
        with m.If(self.w_host.valid & self.w_host.ready):
            m.d.sync += [word.eq(word + 1), part.eq(Mux(part_last, 0, part + 1)),
                         elements_left.eq(Mux(elements_left >= width, elements_left - width, 0))]
        with m.If(full & ~loading & command.to_lut):
            m.d.sync += [entry.eq(entry + 1), part.eq(Mux(part_last, 0, part + 1)),
                         elements_left.eq(Mux(elements_left != 0, elements_left - 1, 0))]
        with m.If(leave & complete):
            m.d.sync += armed.eq(0)

        # refuse: forget what came, wait for tlast, expect the packet from its start
        refuse = take & ~skipping & ~good
        m.d.comb += self.events.packets_refused.eq(refuse | (self.disarm & inside & ~skipping))
        with m.If(refuse):
            m.d.sync += [
                skipping.eq(~self.s_axis_tlast), again.eq(loading), slot.eq(0), place.eq(0), word.eq(command.dst), entry.eq(0),
                elements_left.eq(command.count), beats_left.eq(total_beats),
            ]
        with m.If(again & self.o_load.ready):
            m.d.sync += again.eq(0)

        # arm
        size = Signal(17)
        m.d.comb += [
            size.eq(Mux(self.i_accept.payload.wide, self.i_accept.payload.count << 1, self.i_accept.payload.count)),
            self.i_accept.ready.eq(~armed & ~self.disarm),
            self.i_load.ready.eq(~armed & ~self.disarm & ~self.i_accept.valid), self.accepting.eq(armed),
        ]
        fresh = [complete.eq(0), slot.eq(0), place.eq(0), entry.eq(0)]
        with m.If(self.i_accept.valid & ~armed):
            beats = (size + BEAT_BYTES - 1) >> 3
            m.d.sync += [
                *fresh, command.eq(self.i_accept.payload), loading.eq(0), armed.eq(beats != 0), total_beats.eq(beats),
                beats_left.eq(beats), word.eq(self.i_accept.payload.dst), elements_left.eq(self.i_accept.payload.count),
                last_keep.eq(Mux(size[:3] == 0, 0xFF, ~(Const(0xFF, 8) << size[:3]))),
            ]
        with m.Elif(self.i_load.valid & ~armed):
            beats = self.i_load.payload.words * load_beats
            m.d.sync += [
                *fresh, loading.eq(1), armed.eq(beats != 0), total_beats.eq(beats), beats_left.eq(beats),
                last_keep.eq((1 << 2 * ((load_tail - 1) % BEAT_ELEMENTS + 1)) - 1),
            ]
        m.d.sync += Assert(Mux(armed, ~(full & again), ~(full | again)), "beats without a command")
        with m.If(self.disarm):
            m.d.sync += [armed.eq(0), full.eq(0), again.eq(0), part.eq(0), skipping.eq(inside)]
        return self.disarm | self.i_accept.valid | self.i_load.valid | full | again | (armed & self.s_axis_tvalid)

    def _insert(self, m, buffer, slot, wide):
        """Put the elements of a beat at place ``slot`` of the buffer."""
        u = self.u
        narrow = Cat(Cat(self.s_axis_tdata.word_select(k, 8), Const(0, u.element_bits - 8)) for k in range(BEAT_BYTES))
        with m.If(wide):
            m.d.sync += buffer.word_select(slot, u.element_bits * BEAT_ELEMENTS).eq(self.s_axis_tdata)
        with m.Else():
            m.d.sync += buffer.word_select(slot[:max(len(slot) - 1, 1)], u.element_bits * BEAT_BYTES).eq(narrow)

    def _send(self, m):
        """The output side; returns when it must be clocked."""
        u = self.u
        word, valid, ready = Signal(WordStream(u).members["payload"].shape), Signal(), Signal()
        beat, free, word_end = Signal(range(u.vector_width // BEAT_ELEMENTS)), Signal(), Signal()
        beat_data = word.elements.as_value().word_select(beat, 8 * BEAT_BYTES)
        filled = Cat(beat * BEAT_ELEMENTS + k < word.count for k in range(BEAT_ELEMENTS))
        packet_end = word.last & word_end
        m.d.comb += [
            word.eq(Mux(self.i_emit.valid, self.i_emit.payload.as_value(), self.i_dump.payload.as_value())),
            valid.eq(self.i_emit.valid | self.i_dump.valid),
            free.eq(~self.m_axis_tvalid | self.m_axis_tready),
            word_end.eq(((beat + 1) * BEAT_ELEMENTS) >= word.count),
            ready.eq(free & word_end), self.i_emit.ready.eq(ready), self.i_dump.ready.eq(ready & ~self.i_emit.valid),
            self.events.packets_out.eq(self.m_axis_tvalid & self.m_axis_tready & self.m_axis_tlast),
        ]
        with m.If(free):
            m.d.sync += self.m_axis_tvalid.eq(valid)
            with m.If(valid):
                m.d.sync += [
                    beat.eq(Mux(word_end, 0, beat + 1)), self.m_axis_tlast.eq(packet_end),
                    self.m_axis_tdata.eq(beat_data & Cat(bit.replicate(u.element_bits) for bit in filled)),
                    self.m_axis_tkeep.eq(Cat((bit | ~packet_end).replicate(2) for bit in filled)),
                ]
        m.d.sync += Assert(~(self.i_emit.valid & self.i_dump.valid), "EMIT and DUMP at once")
        return valid | self.m_axis_tvalid
