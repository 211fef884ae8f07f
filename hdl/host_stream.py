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
one. What a refused packet brought up to the wrong beat, and with it, has been written to its destination, never beyond it: the
destination's content is undefined until the right packet is complete. ``o_load`` carries, in place of a wrong beat's last
word, one with ``count`` 0: start again.
``accepting`` is high from the cycle after a command was taken until its packet has arrived: the last write to the memory was
taken, or the last beat for a table or of ``i_load``. A word may then stand on ``o_load``: no command is taken before it left.
``disarm`` (a pulse) withdraws the command, and words for ``o_load``, not those for the memory; a packet that was cut by it counts
as refused, and its rest is thrown away when the next command is armed.

Output. Words of ``i_emit`` and ``i_dump`` (never both in a packet's time: asserted) leave as ceil(count / 4) beats each, at
least one; words of 1 or 2 elements gather in a beat, up to the end of the packet and, of ``i_dump``, of a chi word. A beat that
is not full is filled with zeros. ``tlast`` comes from ``last``; with it ``tkeep`` marks the bytes of the elements.

Ports: ``w_host`` and ``lut_write`` as in ``hdl.vector_memory`` and ``hdl.ports``; ``active``: must be clocked in this cycle;
``beat_next``: ``m_axis_tvalid`` of the next cycle.
A word leaves for the memory or ``o_load`` from a register; a second one has a place behind it, so that ``s_axis_tready`` comes
from registers, and ``disarm``, alone. Where vector_width is 1 there is but one place: ``s_axis_tready`` depends on
``w_host.ready`` and ``o_load.ready`` in the same cycle. A beat stays on ``s_axis`` while it passes; only words longer than a beat
gather here. ``packets_in`` and ``packets_refused`` come a cycle after the last beat or later.
Timing: without stalls, in, from the third cycle after the command on: a beat per cycle, or in as many cycles as it fills words
(of bytes 8 / vector_width, else 4 / vector_width), in 4 entries, of bytes 8; ``s_axis_tready`` is high in the last cycle. A
word is written, or on ``o_load``, 1 cycle after the beat that fills it. ``accepting`` is low 2 cycles after the last write to the
memory, or the last beat. Out: one beat or word per cycle, the beat 1 cycle after the word that fills it.
Twin: ``model/digital/host_stream.py``. Source: design choice; AMBA AXI4-Stream (ARM IHI 0051).
"""
from amaranth import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hdl.ports import AcceptCommand, LutWriteSignature, WordStream
from hdl.vector_memory import VectorWrite
from model.params import UnitParams

__all__ = ["HostStream", "LoadCommand"]

BEAT_BYTES = 8
BEAT_ELEMENTS = 4


def LoadCommand(u: UnitParams):
    """Layout of the command that takes one packet of ``words`` chi words."""
    return data.StructLayout({"words": range(u.chi_words + 1)})


def _Word(u):
    """Layout of a word on its way to the memory, or to o_load: ``tail``: it ends a chi word, ``void``: its ``count`` is 0."""
    return data.StructLayout({**VectorWrite(u).members, "last": 1, "tail": 1, "void": 1})


class HostStream(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams):
        self.u = u
        self.slot = Signal(range(max(BEAT_ELEMENTS // u.vector_width, 1)))      # words in the beat on m_axis; where they gather
        axis = {"tdata": 8 * BEAT_BYTES, "tkeep": BEAT_BYTES, "tlast": 1, "tvalid": 1}
        super().__init__({
            **{f"s_axis_{name}": In(bits) for name, bits in axis.items()}, "s_axis_tready": Out(1),
            **{f"m_axis_{name}": Out(bits) for name, bits in axis.items()}, "m_axis_tready": In(1),
            "i_accept": In(stream.Signature(AcceptCommand(u))), "i_load": In(stream.Signature(LoadCommand(u))),
            "w_host": Out(stream.Signature(VectorWrite(u))), "lut_write": Out(LutWriteSignature(u)), "o_load": Out(WordStream(u)),
            "i_emit": In(WordStream(u)), "i_dump": In(WordStream(u)), "disarm": In(1),
            "accepting": Out(1), "active": Out(1), "beat_next": Out(1),
            "events": Out(data.StructLayout({"packets_in": 1, "packets_refused": 1, "packets_out": 1})),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.active.eq(self._receive(m) | self._send(m))
        return m

    def _receive(self, m):
        """The input side; returns when it must be clocked."""
        u, width = self.u, self.u.vector_width
        # a chi word on o_load: its words, elements of the last one
        load_words, load_tail = -(-u.lanes // width), (u.lanes - 1) % width + 1

        # the armed command ``begins``, its packet is to begin (``fresh``), it takes beats of that (``listens``) or throws beats
        # away up to tlast (``skips``), it has all, but the last word may not yet be in the memory (``ended``)
        armed, begins, fresh, listens, skips, ended = (
            Signal(name=name) for name in ("armed", "begins", "fresh", "listens", "skips", "ended"))
        loading, to_lut, to_memory = Signal(), Signal(), Signal()       # one of them
        dst, lut, wide = Signal(range(u.vector_words)), Signal(3), Signal()
        size = Signal(16)                               # elements of the packet, LOAD: chi words; from ``fresh`` on less one
        n_last, needed = Signal(3), Signal(BEAT_BYTES)  # of the last step: elements less one; of the last beat: bytes
        inside, refused = Signal(), Signal()            # a packet has begun on s_axis and not ended; one was refused a cycle ago
        # moving with the packet: steps, or chi words, that follow the present one, and whether there are none; the word, or
        # entry, written next; LOAD: place in the chi word
        rest, none, place, place_last = Signal(16), Signal(), Signal(range(load_words)), Signal()
        at = Signal(max(u.lut_bits, len(dst)) + 1)      # the highest bit stays: beyond the table
        next_none, next_place_last, next_slot_last = Signal(), Signal(), Signal()

        # a beat passes in steps: entries of a table, words, or, where words are longer than a beat, as a whole
        step, next_step = Signal(range(BEAT_BYTES)), Signal(range(BEAT_BYTES))
        steps = Signal(range(BEAT_BYTES))               # of a beat, less one
        # of the step: the beat's last, the packet's last; it ends a word, a chi word. Decided with the step before
        step_last, final, word_end, chi_end = Signal(), Signal(), Signal(), Signal()
        next_final, next_chi_end = Signal(), Signal()
        bytes_step, wide_step = min(width, BEAT_BYTES), min(width, BEAT_ELEMENTS)
        m.d.comb += [next_chi_end.eq(loading & next_place_last & next_slot_last),
                     next_final.eq(next_none & (next_chi_end | ~loading))]

        # take beats; ``good`` decides what comes next, not what is written
        good, wrong, offered, go, move, take = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        word = Signal(_Word(u))
        full, room = self._pass_on(m, word, move & ((word_end & ~to_lut) | (loading & wrong)), loading)
        tail = Mux(loading, 2 * ((load_tail - 1) % BEAT_ELEMENTS) + 1, Mux(wide, Cat(1, size[:2]), size[:3]))   # last byte
        m.d.comb += [
            good.eq(Mux(final, self.s_axis_tlast & (self.s_axis_tkeep | ~needed).all(),
                        ~self.s_axis_tlast & self.s_axis_tkeep.all())),
            wrong.eq(step_last & ~good), offered.eq(self.s_axis_tvalid & listens & ~self.disarm),
            go.eq(room | ~(loading | (to_memory & word_end))), move.eq(offered & go),
            take.eq(self.s_axis_tvalid & self.s_axis_tready),
            self.s_axis_tready.eq(~self.disarm & ((listens & step_last & go) | skips)),
        ]
        refuse = take & listens & ~good
        m.d.sync += refused.eq(refuse)
        with m.If(take):
            m.d.sync += [inside.eq(~self.s_axis_tlast), listens.eq(Mux(skips, self.s_axis_tlast, good & ~final)),
                         skips.eq(skips & ~self.s_axis_tlast), ended.eq(listens & good & final)]
        # what is taken is in the memory; a word on o_load need not be gone
        arrives = ended & (self.disarm | loading | ~full)
        m.d.comb += [self.events.packets_in.eq(arrives),
                     self.events.packets_refused.eq(refused | (self.disarm & inside & listens))]
        with m.If(arrives):
            m.d.sync += [armed.eq(0), ended.eq(0)]
        # refuse: forget what came, wait for tlast, expect the packet from its start
        with m.If(refuse):
            m.d.sync += fresh.eq(1)
        with m.If(begins):
            m.d.sync += [begins.eq(0), fresh.eq(1), size.eq(size - 1)]
        with m.If(fresh):
            # a step is a power of two of elements, so ``size`` falls into steps and the last one's elements
            moves = Mux(loading | to_lut, size, Mux(wide, size >> exact_log2(wide_step), size >> exact_log2(bytes_step)))
            m.d.comb += [next_none.eq(moves == 0), next_place_last.eq(load_words == 1)]
            m.d.sync += [
                fresh.eq(0), listens.eq(~inside), skips.eq(inside), rest.eq(moves),
                n_last.eq(size[:3] & Mux(wide, wide_step - 1, bytes_step - 1)),
                needed.eq(Cat(tail >= k for k in range(BEAT_BYTES))), at.eq(Mux(to_lut, 0, dst)), place.eq(0),
            ]
        with m.Else():
            m.d.comb += [
                next_none.eq(Mux(chi_end | ~loading, rest == 1, none)), next_step.eq(Mux(step_last, 0, step + 1)),
                next_place_last.eq(Mux(word_end, Mux(place_last, load_words == 1, place == load_words - 2), place_last)),
            ]
            with m.If(move):
                m.d.sync += [at.eq((at + (to_lut | word_end))[:len(at)] | Cat(Const(0, len(at) - 1), at[-1])),
                             rest.eq(rest - (chi_end | ~loading))]
                with m.If(word_end):
                    m.d.sync += place.eq(Mux(place_last, 0, place + 1))
        with m.If(fresh | move):
            m.d.sync += [none.eq(next_none), place_last.eq(next_place_last), step.eq(next_step), final.eq(next_final),
                         chi_end.eq(next_chi_end), step_last.eq(next_final | next_chi_end | (next_step == steps))]

        # words and entries leave, those of a wrong beat, too
        m.d.comb += [
            word.addr.eq(at), word.last.eq(final), word.tail.eq(place_last), word.void.eq(wrong),
            self.lut_write.en.eq(offered & to_lut & (at[u.lut_bits:] == 0)), self.lut_write.lut.eq(lut),
            self.lut_write.index.eq(at), self.lut_write.data.eq(self._element(step, wide)),
        ]
        elements = word.data.as_value()
        inside_count = Cat(~final | (n_last >= k) for k in range(min(width, BEAT_BYTES)))
        if width <= BEAT_ELEMENTS:
            places = (Cat(Const(k, exact_log2(width)), step)[:3] for k in range(width))
            m.d.comb += [elements.eq(Cat(self._element(element, wide) for element in places)), word.mask.eq(inside_count),
                         word_end.eq(1), next_slot_last.eq(1)]
        else:
            slot, next_slot, slot_last = Signal(range(width // BEAT_ELEMENTS)), Signal(range(width // BEAT_ELEMENTS)), Signal()
            kept, kept_mask = Signal(len(elements)), Signal(width)      # of the word, up to this beat
            load_slots = Mux(next_place_last, (load_tail - 1) // BEAT_ELEMENTS, width // BEAT_ELEMENTS - 1)
            slots = Mux(loading, load_slots, Mux(wide, width // BEAT_ELEMENTS, width // BEAT_BYTES) - 1)
            m.d.comb += [next_slot.eq(Mux(fresh | word_end, 0, slot + 1)), next_slot_last.eq(next_slot == slots),
                         word_end.eq(slot_last | final), elements.eq(kept), word.mask.eq(kept_mask)]
            with m.If(wide):
                m.d.comb += [elements.word_select(slot, 8 * BEAT_BYTES).eq(self.s_axis_tdata),
                             word.mask.word_select(slot, BEAT_ELEMENTS).eq(inside_count[:BEAT_ELEMENTS])]
            with m.Else():
                half = slot[:max(len(slot) - 1, 1)]
                beat = Cat(self._element(Const(k, 3), 0) for k in range(BEAT_BYTES))
                m.d.comb += [elements.word_select(half, u.element_bits * BEAT_BYTES).eq(beat),
                             word.mask.word_select(half, BEAT_BYTES).eq(inside_count)]
            with m.If(fresh | move):
                m.d.sync += [slot.eq(next_slot), slot_last.eq(next_slot_last), kept_mask.eq(Mux(fresh | word_end, 0, word.mask))]
            with m.If(move):
                m.d.sync += kept.eq(elements)

        # arm
        new, free = self.i_accept.payload, ~armed & ~full
        m.d.comb += [
            self.i_accept.ready.eq(free & ~self.disarm),
            self.i_load.ready.eq(free & ~self.disarm & ~self.i_accept.valid), self.accepting.eq(armed),
        ]
        accepts, words, comes = self.i_accept.valid, self.i_load.payload.words, Signal()
        m.d.comb += comes.eq(Mux(accepts, new.count != 0, self.i_load.valid & (words != 0)))
        with m.If(free):
            m.d.sync += [
                armed.eq(comes), begins.eq(comes),
                loading.eq(~accepts), to_lut.eq(accepts & new.to_lut), to_memory.eq(accepts & ~new.to_lut),
                dst.eq(new.dst), lut.eq(new.lut), wide.eq(~accepts | new.wide), size.eq(Mux(accepts, new.count, words)),
                steps.eq(Mux(accepts & new.to_lut, Mux(new.wide, BEAT_ELEMENTS - 1, BEAT_BYTES - 1), Mux(
                    accepts & ~new.wide, BEAT_BYTES // bytes_step - 1, BEAT_ELEMENTS // wide_step - 1))),
            ]
        m.d.sync += [Assert(begins + fresh + listens + skips + ended == armed, "not in one state"),
                     Assert(loading + to_lut + to_memory <= 1, "two destinations at once")]
        with m.If(self.disarm):
            m.d.sync += [one.eq(0) for one in (armed, begins, fresh, listens, skips, ended)]
        return (self.disarm | self.i_accept.valid | self.i_load.valid | begins | fresh | ended | (armed & self.s_axis_tvalid)
                | full)

    def _pass_on(self, m, new, push, loading):
        """Words leave for the memory, or o_load, out of a register; returns whether one is there, and whether one can come.

        That does not depend on one being taken in this cycle: a second one has a place, but for words of one element.
        """
        held, full, leaves, width = Signal.like(new), Signal(), Signal(), self.u.vector_width
        to_memory, to_load, withdrawn = self.w_host.payload, self.o_load.payload, self.disarm & loading
        m.d.comb += [
            self.w_host.valid.eq(full & ~loading), self.o_load.valid.eq(full & loading),
            leaves.eq(~full | Mux(loading, self.o_load.ready, self.w_host.ready)),
            to_memory.addr.eq(held.addr), to_memory.mask.eq(held.mask), to_memory.data.eq(held.data),
            to_load.elements.eq(held.data), to_load.last.eq(held.last),
            to_load.count.eq(Mux(held.void, 0, Mux(held.tail, (self.u.lanes - 1) % width + 1, width))),
        ]
        spare, spare_full, room = new, Const(0), leaves
        if width > 1:
            spare, spare_full = Signal.like(new), Signal()
            room = ~spare_full
            with m.If(room):
                m.d.sync += spare.eq(new)
            m.d.sync += [spare_full.eq(~leaves & (spare_full | push) & ~withdrawn),
                         Assert(full | ~spare_full, "a word stands behind none")]
        with m.If(leaves):
            m.d.sync += [held.eq(Mux(spare_full, spare, new)), full.eq(spare_full | push)]
        with m.If(withdrawn):
            m.d.sync += full.eq(0)
        return full, room

    def _element(self, place, wide):
        """Element ``place`` (3 bit) of a beat."""
        low = self.s_axis_tdata.word_select(Mux(wide, Cat(0, place[:2]), place), 8)
        return Cat(low, Mux(wide, self.s_axis_tdata.word_select(Cat(1, place[:2]), 8), 0))

    def _send(self, m):
        """The output side; returns when it must be clocked."""
        u, width = self.u, self.u.vector_width
        word, valid, free, word_end = Signal(WordStream(u).members["payload"].shape), Signal(), Signal(), Signal()
        m.d.comb += [
            word.eq(Mux(self.i_dump.valid, self.i_dump.payload.as_value(), self.i_emit.payload.as_value())),
            valid.eq(self.i_emit.valid | self.i_dump.valid), free.eq(~self.m_axis_tvalid | self.m_axis_tready),
            self.i_emit.ready.eq(free & word_end), self.i_dump.ready.eq(free & word_end),
            self.events.packets_out.eq(self.m_axis_tvalid & self.m_axis_tready & self.m_axis_tlast),
        ]
        m.d.sync += Assert(~(self.i_emit.valid & self.i_dump.valid), "EMIT and DUMP at once")
        if width > BEAT_ELEMENTS:
            self._send_beats(m, word, valid, free, word_end)
        else:
            m.d.comb += word_end.eq(1)
            self._send_words(m, word, valid & free, free)
        m.d.sync += self.m_axis_tvalid.eq(self.beat_next)
        return valid | self.m_axis_tvalid

    def _send_beats(self, m, word, valid, free, word_end):
        """A word leaves as one or more beats."""
        u = self.u
        beat = Signal(range(u.vector_width // BEAT_ELEMENTS))
        filled = Cat(beat * BEAT_ELEMENTS + k < word.count for k in range(BEAT_ELEMENTS))
        packet_end = word.last & word_end
        m.d.comb += word_end.eq(((beat + 1) * BEAT_ELEMENTS) >= word.count)
        m.d.comb += self.beat_next.eq(valid | ~free)
        with m.If(valid & free):
            m.d.sync += [
                beat.eq(Mux(word_end, 0, beat + 1)), self.m_axis_tlast.eq(packet_end),
                self.m_axis_tdata.eq(word.elements.as_value().word_select(beat, 8 * BEAT_BYTES)
                                     & Cat(bit.replicate(u.element_bits) for bit in filled)),
                self.m_axis_tkeep.eq(Cat((bit | ~packet_end).replicate(2) for bit in filled)),
            ]

    def _send_words(self, m, word, take, free):
        """Words gather in a beat, up to the end of the packet or of a chi word."""
        u, width = self.u, self.u.vector_width
        slot, slots, words = self.slot, BEAT_ELEMENTS // width, -(-u.lanes // width)
        lane, beat_end = Signal(range(words)), Signal()            # lane: word of the chi word
        lane_last = self.i_dump.valid & (lane == words - 1)
        m.d.comb += beat_end.eq(word.last | lane_last | (slot == slots - 1))
        m.d.comb += self.beat_next.eq((take & beat_end) | ~free)
        with m.If(take):
            m.d.sync += [slot.eq(Mux(beat_end, 0, slot + 1)), self.m_axis_tlast.eq(word.last)]
            with m.If(self.i_dump.valid):
                m.d.sync += lane.eq(Mux(lane_last, 0, lane + 1))
            for place in range(BEAT_ELEMENTS):
                part, k = divmod(place, width)
                element, keep = self.m_axis_tdata.word_select(place, u.element_bits), self.m_axis_tkeep.word_select(place, 2)
                filled = word.count > k
                with m.If(slot == part):
                    m.d.sync += [element.eq(Mux(filled, word.elements[k], 0)), keep.eq((filled | ~word.last).replicate(2))]
                with m.Elif(slot < part):
                    m.d.sync += [element.eq(0), keep.eq((~word.last).replicate(2))]
