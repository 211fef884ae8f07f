"""Link: requests of a host and replies of a board over a line that loses, doubles and falsifies bytes.

Frame (HDLC-like, RFC 1662)::

    0x7E  session 0, session 1, sequence, command or status, body ..., CRC 0 .. 3  0x7E

Between two flags every 0x7E and 0x7D is sent as 0x7D and the byte XORed with 0x20. CRC-32 over everything before it, least
significant byte first. A frame with a wrong CRC, of less than 8 bytes, or longer than ``2^receive_log2`` bytes is ignored. One
flag may end a frame and begin the next.

The host speaks, the board answers; one request is under way at a time. The host repeats a request, byte for byte, until its reply
comes: the reply with the same session and sequence. The board

- executes a request of its session whose sequence is the last one's + 1 (modulo 256),
- sends the last reply again for a request with the last one's sequence: a request is executed exactly once,
- answers LOST, without a body, to a request of another session,
- ignores every other request, and whatever arrives while it executes or replies.

CONNECT names a session, not 0, and a first sequence; it is always taken. After a reset the session is 0: a board that was reset
in mid-run, or taken by another host, has lost what it knew and answers LOST instead of going on with another state.

Ports
-----
rx_stb, rx, tx
    Of the UART: a received byte, there for two cycles; bytes to send. Between two received bytes pass at least 11 cycles.
start, command, end : Out
    A request: ``start`` for a cycle; its body is in the receive memory from address BODY to ``end`` - 1 and stays until ``done``.
address, data : In, Out
    Receive memory: data is valid in the cycle after its address.
body, done : In(stream 8), In(1)
    The reply's body, then ``done`` for a cycle.
full : Out(1)
    One cycle after ``2^reply_log2`` - 4 bytes of it have come; more than ``2^reply_log2`` must not come.

Timing: a reply begins at most 4 cycles after ``done``; a byte of it needs 14 cycles or the UART's time, whichever is longer.
Its peer is the host's ``cosim/link.py``. Source: framing and CRC of RFC 1662; stop-and-wait with sequence numbers: design choice.
"""
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from model.link_format import CRC_POLYNOMIAL, CRC_RESIDUE, ESCAPE, FLAG, FLIP, Command, LinkParams, Status
from model.params import UnitParams

__all__ = ["BODY", "Link"]

BODY = 4
"""Bytes of a frame before its body [byte]."""
CRC_BYTES = 4


class Link(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams, link: LinkParams = LinkParams()):      # noqa: B008 - frozen
        self.link = link
        self.head = Signal(data.StructLayout({"session": 16, "sequence": 8, "command": 8}))     # of the frame received last
        self.session, self.sequence = Signal(16), Signal(8)     # of the request executed last
        super().__init__({
            "rx_stb": In(1), "rx": In(8), "tx": Out(stream.Signature(8)),
            "start": Out(1), "command": Out(8), "end": Out(link.receive_log2 + 1),
            "address": In(link.receive_log2), "data": Out(8),
            "body": In(stream.Signature(8)), "full": Out(1), "done": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        link, head = self.link, self.head
        attrs = {"no_rw_check": 1}                      # a byte is read long after it was written
        m.submodules.received = received = memory.Memory(shape=8, depth=1 << link.receive_log2, init=[], attrs=attrs)
        m.submodules.reply = reply = memory.Memory(shape=8, depth=1 << link.reply_log2, init=[], attrs=attrs)
        write, read, keep, fetch = received.write_port(), received.read_port(), reply.write_port(), reply.read_port()
        count, length = Signal(link.receive_log2 + 1), Signal(link.reply_log2 + 1)      # bytes of the frame, of the reply's body
        inside, escaped = Signal(), Signal()
        m.d.comb += [
            read.addr.eq(self.address), self.data.eq(read.data), self.command.eq(head.command),
            write.addr.eq(count), write.data.eq(Mux(escaped, self.rx ^ FLIP, self.rx)),
            keep.addr.eq(length), keep.data.eq(self.body.payload), keep.en.eq(self.body.valid & self.body.ready),
        ]

        m.d.sync += self.end.eq(count - CRC_BYTES)      # long still when the request starts
        came, is_flag, is_escape = Signal(), Signal(), Signal()     # a byte, a cycle ago
        m.d.sync += [came.eq(self.rx_stb), is_flag.eq(self.rx == FLAG), is_escape.eq(self.rx == ESCAPE)]

        # CRC: a byte goes into a register, from there it is XORed into the CRC, which is then shifted by 8 bits, one a cycle
        crc, shifts, take, taken, byte = Signal(32), Signal(range(9), init=8), Signal(), Signal(8), Signal(8)
        due = Signal()                                  # ``byte`` is not yet in the CRC
        m.d.sync += due.eq(take)
        with m.If(due):
            m.d.sync += [crc.eq(crc ^ byte), shifts.eq(0)]
        with m.Elif(~shifts[3]):
            m.d.sync += [crc.eq(Mux(crc[0], (crc >> 1) ^ CRC_POLYNOMIAL, crc >> 1)), shifts.eq(shifts + 1)]

        # of the frame received last, each from a register: long settled when its flag comes
        whole, known, same, following, connects = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            whole.eq((crc == CRC_RESIDUE) & (count >= BODY + CRC_BYTES)),
            known.eq((head.session == self.session) & (head.session != 0)), same.eq(head.sequence == self.sequence),
            following.eq(head.sequence == (self.sequence + 1)[:8]), connects.eq(head.command == Command.CONNECT),
        ]

        place, flip, lost = Signal(range(BODY)), Signal(), Signal()
        part = Signal(2)                                # of the reply: header, body, CRC, flag
        sent, sends_last = Signal(link.reply_log2 + 1), Signal()        # bytes of the body; the next one is the last
        m.d.comb += fetch.addr.eq(sent)
        m.d.sync += sends_last.eq(sent + 1 == length)   # ``sent`` stands still for the cycles of a byte
        m.d.sync += self.start.eq(0)
        with m.FSM(name="link"):
            with m.State("LISTEN"):
                m.d.comb += taken.eq(write.data)
                m.d.sync += byte.eq(taken)
                with m.If(came):
                    with m.If(is_flag):
                        m.d.sync += [inside.eq(1), escaped.eq(0), crc.eq(~0)]
                        with m.If(inside & whole & ~escaped):
                            m.next = "CHECK"
                        with m.Else():
                            m.d.sync += count.eq(0)
                    with m.Elif(is_escape):
                        m.d.sync += escaped.eq(1)
                    with m.Elif(inside):
                        m.d.comb += [write.en.eq(~count[-1]), take.eq(1)]
                        m.d.sync += [count.eq(count + 1), escaped.eq(0)]
                        with m.If(count < BODY):
                            m.d.sync += head.eq(Cat(head.as_value()[8:], write.data))
                        with m.If(count[-1]):           # too long
                            m.d.sync += inside.eq(0)
            with m.State("CHECK"):
                m.d.sync += [inside.eq(0), lost.eq(0), part.eq(0), place.eq(0), sent.eq(0)]
                with m.If(known & same):
                    m.next = "OPEN"
                with m.Elif(connects | (known & following)):
                    m.d.sync += [self.start.eq(1), self.session.eq(head.session), self.sequence.eq(head.sequence), length.eq(0)]
                    m.next = "EXECUTE"
                with m.Elif(~known):
                    m.d.sync += lost.eq(1)
                    m.next = "OPEN"
                with m.Else():
                    m.d.sync += count.eq(0)
                    m.next = "LISTEN"
            with m.State("EXECUTE"):
                m.d.comb += self.body.ready.eq(1)
                m.d.sync += self.full.eq(length[2:] == (1 << link.reply_log2 - 2) - 1)
                with m.If(keep.en):
                    m.d.sync += length.eq(length + 1)
                with m.If(self.done):
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [self.tx.valid.eq(1), self.tx.payload.eq(FLAG)]
                m.d.sync += crc.eq(~0)
                with m.If(self.tx.ready):
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "BYTE"
            with m.State("BYTE"):                       # the next byte is at hand; the one before is in the CRC
                m.d.sync += [flip.eq(0), place.eq(place + 1)]
                with m.If(part == 0):
                    m.d.comb += taken.eq(Mux(place == BODY - 1, Mux(lost, Status.LOST, Status.OK),
                                             head.as_value().word_select(place, 8)))
                    with m.If(place == BODY - 1):
                        m.d.sync += part.eq(Mux(lost | (length == 0), 2, 1))
                with m.Elif(part == 1):
                    m.d.comb += taken.eq(fetch.data)
                    m.d.sync += [sent.eq(sent + 1), place.eq(0)]
                    with m.If(sends_last):
                        m.d.sync += part.eq(2)
                with m.Else():
                    m.d.comb += taken.eq(~crc[:8])
                    m.d.sync += crc.eq(crc >> 8)
                    with m.If(place == CRC_BYTES - 1):
                        m.d.sync += part.eq(3)
                m.d.comb += take.eq(part[1] == 0)
                m.d.sync += byte.eq(taken)
                m.next = "PUT"
            with m.State("PUT"):
                m.d.comb += [self.tx.valid.eq(shifts[3] & ~due), self.tx.payload.eq(byte)]
                with m.If(flip):
                    m.d.comb += self.tx.payload.eq(byte ^ FLIP)
                with m.Elif((byte == FLAG) | (byte == ESCAPE)):
                    m.d.comb += self.tx.payload.eq(ESCAPE)
                with m.If(self.tx.valid & self.tx.ready):
                    m.d.sync += flip.eq(1)
                    with m.If(flip | ((byte != FLAG) & (byte != ESCAPE))):
                        with m.If(part == 3):
                            m.next = "CLOSE"
                        with m.Else():
                            m.next = "FETCH"
            with m.State("CLOSE"):
                m.d.comb += [self.tx.valid.eq(1), self.tx.payload.eq(FLAG)]
                with m.If(self.tx.ready):
                    m.d.sync += count.eq(0)
                    m.next = "LISTEN"
        return m
