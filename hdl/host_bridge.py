"""Host bridge: executes the requests of a host on a unit: registers, packets, converter codes. It owns the unit's clock.

Contract: the unit's clock runs (``enable``) only while a request is executed, and not in a cycle in which the unit would have to
wait for something of the host's: an event not yet recorded, converter codes or a beat not yet at hand. So it behaves as with
converters that answer after ``convert_cycles`` and a host that is always there; how fast the link is, it cannot see. ``enable``
is a register, decided a cycle ahead: where the unit may take a beat or a word of codes, its clock stands in the next cycle.

Requests (``model.link_format.Command``), bodies and replies; multi-byte fields least significant byte first:

CONNECT   ; version 1, convert_cycles 2, trace 1, receive_log2 1, reply_log2 1. Resets the unit.
WRITE     (address 2, word 4) ...; response 1: the responses of the AXI4-Lite writes, ORed.
READ      (address 2) ...; a word (4) each, response 1. The reply must fit.
RUN       tail 1, start 2, codes, packet; records (``hdl.event_encoder``), reason 1, beats 1, words 1.
          ``codes``: words of vector_width converter codes, code_bytes each: of the last reply's READ, or what it lacked.
          ``packet``: beats of 8 bytes, at address ``start`` of the receive memory (``hdl.link``) up to the body's end;
          ``tail`` is the number of valid bytes of its last beat, with which the packet ends, or 0: it goes on.
          The unit runs until ``reason``: MORE: the reply is full, its records go on in the next; CONVERT: a READ needs codes;
          STARVED: it has waited for a packet for QUIET cycles or so; DONE: the program ended, nothing left in as many; bit 7: a
          packet would be taken now. ``beats`` were not taken, and of a READ before the last record ``words`` words of codes
          are still needed: the host sends both again.

A request with an unknown command is answered with an empty body.

Ports
-----
start, command, end, address, data, body, full, done : the link's.
unit_reset, enable : Out(1)
    Of the unit's clock: ``enable`` is high also a cycle after ``unit_reset``.
events, events_hold, read_stb
    From the event encoder; ``events_hold``: the unit's clock must not run in the next cycle.
out_count, convert, codes, unit_done, unit_starved; axil_*, axis_*: of ``hdl.top``, seen from here.

Timing: a byte of the receive memory a cycle; a beat needs 10 cycles, a word of codes vector_width code_bytes + 2, and 3 more
until the unit goes on and has taken it.
Source: design choice.
"""
from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.link import BODY
from hdl.ports import CodeWord
from model.link_format import VERSION, Command, LinkParams, Reason
from model.params import UnitParams

__all__ = ["HostBridge"]

BEAT_BYTES, WRITE_BYTES, READ_BYTES, RUN_BYTES = 8, 6, 2, 3
QUIET = 64
"""Cycles of the unit after which nothing more is expected, and its clock stands after one more [cycles]."""


class HostBridge(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams, link: LinkParams = LinkParams()):      # noqa: B008 - frozen
        self.u, self.link = u, link
        # attributes for proofs: the states RUN and ACCESS, these and RESET as the FSM says it; the unit must not go on before it
        # is given codes or a beat
        self.running, self.accessing, self.states, self.wants = (
            Signal(bits, name=name) for name, bits in (("running", 1), ("accessing", 1), ("states", 3), ("wants", 1)))
        super().__init__({
            "start": In(1), "command": In(8), "end": In(link.receive_log2 + 1), "address": Out(link.receive_log2), "data": In(8),
            "body": Out(stream.Signature(8)), "full": In(1), "done": Out(1), "unit_reset": Out(1), "enable": Out(1),
            "events": In(stream.Signature(8)), "events_hold": In(1), "read_stb": In(1),
            "out_count": In(13), "convert": In(1), "codes": Out(stream.Signature(CodeWord(u))), "unit_done": In(1),
            "unit_starved": In(1), "output_valid": In(1),
            "axil_address": Out(16), "axil_wdata": Out(32), "axil_awvalid": Out(1), "axil_awready": In(1), "axil_wvalid": Out(1),
            "axil_wready": In(1), "axil_bvalid": In(1), "axil_bresp": In(2), "axil_arvalid": Out(1), "axil_arready": In(1),
            "axil_rvalid": In(1), "axil_rdata": In(32), "axil_rresp": In(2), "axil_ready": Out(1),
            "axis_tdata": Out(64), "axis_tkeep": Out(8), "axis_tlast": Out(1), "axis_tvalid": Out(1), "axis_tready": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        u, link = self.u, self.link
        word = Signal(8 * BEAT_BYTES)                   # bytes fetched last, the newest highest; or bytes to send
        packet, code = (Signal(link.receive_log2 + 1, name=name) for name in ("packet", "code"))       # next byte of each
        tail, resp, beat_ready, codes_ready = Signal(4), Signal(2), Signal(), Signal()
        more = Signal()                                 # packet != end, of the cycle before
        is_read, is_write, is_run, connects = Signal(), Signal(), Signal(), Signal()    # the request, long before it starts
        m.d.sync += [more.eq(packet != self.end),
                     *(one.eq(self.command == command) for one, command in (
                         (is_read, Command.READ), (is_write, Command.WRITE), (is_run, Command.RUN), (connects, Command.CONNECT)))]

        # converter codes: as converters that answer ``convert_cycles`` after the strobe
        code_bytes, place_bits = link.code_bytes(u), u.vector_width.bit_length() - 1
        codes = Signal(8 * code_bytes * u.vector_width)
        wait, words = Signal(range(link.convert_cycles + 1)), Signal(8)     # until the first word; words still needed
        waiting, needs_codes = Signal(), Signal()       # wait, words != 0
        m.d.comb += [
            self.codes.valid.eq(codes_ready & ~waiting),
            *(self.codes.payload[k].eq(codes.word_select(k, 8 * code_bytes)[:u.adc_bits].as_signed())
              for k in range(u.vector_width)),
        ]
        with m.If(self.enable):
            m.d.sync += [wait.eq(Mux(self.convert, link.convert_cycles - 1, wait - 1)),
                         waiting.eq(Mux(self.convert, link.convert_cycles != 1, waiting & (wait != 1)))]
            with m.If(self.convert):
                m.d.sync += [words.eq((self.out_count + u.vector_width - 1) >> place_bits), needs_codes.eq(self.out_count != 0)]
            with m.Elif(self.codes.valid & self.codes.ready):
                m.d.sync += [codes_ready.eq(0), words.eq(words - 1), needs_codes.eq(words != 1)]

        # packets
        taken = self.enable & self.axis_tvalid & self.axis_tready
        m.d.comb += [self.axis_tdata.eq(word), self.axis_tvalid.eq(beat_ready)]
        last = ~more & (tail != 0)
        m.d.sync += [self.axis_tlast.eq(last), self.axis_tkeep.eq(Mux(last, Cat(tail > k for k in range(BEAT_BYTES)), 0xFF))]
        with m.If(taken):
            m.d.sync += beat_ready.eq(0)

        quiet, rests, over, converts, unit_reset = Signal(range(QUIET + 1)), Signal(), Signal(), Signal(), Signal()
        ended = quiet[-1]                               # QUIET
        with m.If(self.enable):
            m.d.sync += [rests.eq(self.unit_done | self.unit_starved), over.eq(rests & ~self.output_valid & ~taken),
                         quiet.eq(Mux(over, quiet + ~ended, 1))]
        with m.If(self.read_stb):
            m.d.sync += converts.eq(1)

        left, fetched = Signal(range(max(code_bytes * u.vector_width, BEAT_BYTES) + 1)), Signal()
        for_codes, for_run = Signal(), Signal()         # what is fetched; neither: a beat or a register access
        aw, w = Signal(), Signal()                      # phases of a register access still open
        rest, closing = Signal(3), Signal()             # bytes of ``word`` to send; they are the reply's last
        running, accessing, wants = self.running, self.accessing, self.wants
        reason = Signal(2)                              # why RUN ended
        full = self.events.valid & self.full
        given = (codes_ready & ~waiting) | (beat_ready & self.axis_tready)      # or may be, in a cycle of the unit
        m.d.sync += self.enable.eq(unit_reset | (~self.events_hold & (
            accessing | (running & ~converts & ~ended & ~wants & ~(self.enable & given)))))
        m.d.comb += [
            wants.eq((needs_codes & ~codes_ready) | (more & ~beat_ready)),
            self.address.eq(Mux(for_codes, code, packet)), self.unit_reset.eq(unit_reset),
            self.axil_address.eq(Mux(is_read, word[48:], word[16:])), self.axil_wdata.eq(word[32:]), self.axil_ready.eq(1),
            self.axil_awvalid.eq(accessing & aw & ~is_read), self.axil_wvalid.eq(accessing & w & ~is_read),
            self.axil_arvalid.eq(accessing & aw & is_read),
            self.events.ready.eq(running & ~self.full),
            self.body.payload.eq(Mux(running, self.events.payload, word)),
        ]

        identity = VERSION | link.convert_cycles << 8 | link.trace << 24 | link.receive_log2 << 32 | link.reply_log2 << 40

        def fetch(count, codes=0, run=0):
            return [left.eq(count), fetched.eq(0), for_codes.eq(codes), for_run.eq(run)]

        def send(value, count, final=1):
            return [word.eq(value), rest.eq(count), closing.eq(final)]

        with m.FSM(name="bridge") as states:
            with m.State("IDLE"):
                m.d.sync += [packet.eq(BODY), code.eq(BODY + RUN_BYTES), resp.eq(0), beat_ready.eq(0), codes_ready.eq(0),
                             quiet.eq(1), rest.eq(0), closing.eq(1)]
                with m.If(self.start):
                    m.next = "SEND"                     # an empty body
                    with m.If(connects):
                        m.d.sync += [unit_reset.eq(1), left.eq(3)]
                        m.next = "RESET"
                    with m.If(is_write | is_read):
                        m.next = "NEXT"
                    with m.If(is_run):
                        m.d.sync += fetch(RUN_BYTES, run=1)
                        m.next = "FETCH"
            with m.State("RESET"):
                m.d.sync += [left.eq(left - 1), converts.eq(0), words.eq(0), needs_codes.eq(0), waiting.eq(0), *send(identity, 6)]
                with m.If(left == 0):
                    m.d.sync += unit_reset.eq(0)
                    m.next = "SEND"
            with m.State("FETCH"):                      # a byte a cycle into ``word`` or ``codes``
                m.d.sync += fetched.eq(left != 0)
                with m.If(left != 0):
                    m.d.sync += left.eq(left - 1)
                    with m.If(for_codes):
                        m.d.sync += code.eq(code + 1)
                    with m.Else():
                        m.d.sync += packet.eq(packet + 1)
                with m.If(fetched & for_codes):
                    m.d.sync += codes.eq(Cat(codes[8:], self.data))
                with m.If(fetched & ~for_codes):
                    m.d.sync += word.eq(Cat(word[8:], self.data))
                with m.If((left == 0) & ~fetched):
                    m.d.sync += running.eq(is_run & ~for_run)
                    m.next = "RUN"
                    with m.If(for_run):
                        m.d.sync += [tail.eq(word[40:]), packet.eq(word[48:])]
                        m.next = "BEGIN"
                    with m.Elif(for_codes):
                        m.d.sync += codes_ready.eq(1)
                    with m.Elif(is_run):
                        m.d.sync += beat_ready.eq(1)
                    with m.Else():
                        m.d.sync += [aw.eq(1), w.eq(1), accessing.eq(1)]
                        m.next = "ACCESS"
            with m.State("BEGIN"):                      # ``more`` follows ``packet``
                m.d.sync += running.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                # no record is left behind when the clock goes on, and no reply ends before its last record
                m.d.comb += self.body.valid.eq(self.events.valid & ~self.full)
                with m.If(full | (~self.enable & ~self.events_hold & (converts | ended | wants))):
                    m.d.sync += running.eq(0)
                    m.next = "FETCH"
                    with m.If(full | converts | ended):
                        m.d.sync += converts.eq(0)
                        m.next = "REPORT"
                m.d.sync += [
                    reason.eq(Mux(full, Reason.MORE, Mux(converts, Reason.CONVERT, Mux(
                        self.unit_done, Reason.DONE, Reason.STARVED)))),
                    *fetch(Mux(needs_codes & ~codes_ready, code_bytes * u.vector_width, BEAT_BYTES),
                           codes=needs_codes & ~codes_ready),
                ]
            with m.State("REPORT"):
                beats = ((self.end - packet)[3:11] + beat_ready)[:8]
                m.d.sync += send(Cat(reason, Const(0, 5), self.axis_tready, beats, words), 3)
                m.next = "SEND"
            with m.State("NEXT"):
                m.d.sync += [*fetch(Mux(is_read, READ_BYTES, WRITE_BYTES)), *send(resp, 1)]
                m.next = "FETCH"
                with m.If(~more):
                    m.next = "SEND"
            with m.State("ACCESS"):
                with m.If(self.enable):
                    with m.If(Mux(is_read, self.axil_arready, self.axil_awready)):
                        m.d.sync += aw.eq(0)
                    with m.If(self.axil_wready):
                        m.d.sync += w.eq(0)
                    with m.If(~is_read & self.axil_bvalid):
                        m.d.sync += [resp.eq(resp | self.axil_bresp), accessing.eq(0)]
                        m.next = "NEXT"
                    with m.If(is_read & self.axil_rvalid):
                        m.d.sync += accessing.eq(0)
                        m.next = "ANSWER"
            with m.State("ANSWER"):                     # the unit keeps what it has read
                m.d.sync += [resp.eq(resp | self.axil_rresp), *send(self.axil_rdata, 4, 0)]
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.body.valid.eq(rest != 0)
                with m.If(self.body.ready):
                    m.d.sync += word.eq(word >> 8)
                with m.If(rest == 0):
                    m.d.comb += self.done.eq(closing)
                    m.next = "NEXT"
                    with m.If(closing):
                        m.next = "IDLE"
                with m.Elif(self.body.ready):
                    m.d.sync += rest.eq(rest - 1)
        m.d.comb += self.states.eq(Cat(states.ongoing(name) for name in ("RUN", "ACCESS", "RESET")))
        return m
