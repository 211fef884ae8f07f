"""Update unit: outer product, chi accumulator, threshold; CLEAR, DUMP and LOAD of chi.

A command works on the chi words of lines 0 .. walk_count - 1 of a matrix, line by line, groups of a line in order:
word chi_base + line * words_per_line + group holds positions group * lanes .. of the lane axis. One word per cycle.

UPDATE  for every line whose walk code is not 0 (``accumulate`` = 0: every line, U = 0): chi += U, then with ``threshold`` whole
        eps leave as SET pulses (``hdl.outer_product``, ``hdl.accumulator``, ``hdl.operands``). A due word becomes one command
        on ``o_pulse``, in walk order, out of a FIFO of PULSE_DEPTH. Without ``threshold`` chi is clipped at +-chi_max.
        It ends when all words are written, all pulse commands handed over, and ``pulse_busy`` is low.
CLEAR   every word becomes 0.
DUMP    every word leaves on ``o_dump`` as ceil(lanes / vector_width) stream words of sign-extended elements (``count``: lanes in
        it; the rest is 0); one packet, ``last`` at its end.
LOAD    the inverse, from ``i_load``: elements are clipped to +-chi_max; elements beyond the lane axis are dropped, so they never
        pulse a cell outside the matrix. A stream word with ``count`` 0 begins the packet anew. ``last`` is not looked at.

Every line goes through: walker (2 stages) | multiply | shift | clip = the head, where address and T are ready. From there a word
is issued into the accumulator, where nothing holds it. The head waits until the lane codes are loaded, and while more than
PULSE_DEPTH - IN_FLIGHT pulse commands wait, so that what is in the accumulator always finds room; everything before the
accumulator waits with it. In DUMP and LOAD the head waits while its word's stream words pass. A word is visited once in a
command (proved in ``tests/test_walker.py``), and a command starts on an empty pipeline: no hazards.

Ports
-----
i : In(stream.Signature(UpdateCommand(u)))
    Commands; ``ready``, a register, when idle, and in the cycle that ends a command.
vector, exponents : vector memory port "update"; E registers, sampled when the command is accepted.
o_pulse, pulse_busy : to and from the pulse generator.
o_dump, i_load : streams of words, see above.
active, accumulator_active : Out(1)
    The unit, and in it the accumulator, must be clocked in this cycle.
host_stall : Out(1)
    Nothing but the host is waited for (cycles not counted as unit time).
events : Out(StructLayout)
    As in ``model/events.py``; ``lines_skipped`` comes as one number at the end of the command.
trace_* : for recorders; strobes are high for one cycle:
    trace_line_stb, trace_line, trace_code: one per walked line of an accumulating UPDATE; the code is signed, ``negate`` applied.
    trace_lane_stb, trace_lane_address, trace_lanes: lane codes of a vector word, magnitude below sign, before the walk.
    trace_exponent (s = E[e] + exponent), trace_rate, trace_chi_base: of the running command.

Timing, accepted in cycle t, ``ready`` again in t + cycles; twin: ``model/digital/update_unit.py``.
With L = ceil(lane_count / vector_width) lane words, w0 empty walk words before the first non-empty one, n lines walked,
g = words_per_line, and words that never run dry (a non-empty word lasts as long as fetching one):
    UPDATE  w0 - w0 % 2 + L + 8 (phase_lanes, L > w0 // 2 + w0 % 2 + 3 and 4 walk words more)  +  n g + 4
            +  cycles held, and waited at the end, for the pulse generator (phase_program)
    CLEAR   walk_count g + 15       with b = ceil(lanes / vector_width):    DUMP    walk_count g (b + 3) + 12
                                                                            LOAD    walk_count g (b + 1) + 15
Source: Nandakumar et al. 2020 [papers.md B2]; architecture: design choice.
"""
import itertools

from amaranth import Assert, DomainRenamer, Module, Mux, Signal, signed
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl import accumulator
from hdl.accumulator import Accumulator
from hdl.operands import Operands
from hdl.outer_product import OuterProduct
from hdl.ports import PulseCommand, UpdateCommand, VectorReadSignature, WordStream
from hdl.walker import Walker
from model.commands import UpdateOp
from model.isa import N_EXPONENTS, Kind
from model.params import UnitParams

__all__ = ["IN_FLIGHT", "PULSE_DEPTH", "UpdateUnit"]

PULSE_DEPTH = 16
"""Pulse commands that may wait [1]: more than most images have, so that the walk is hardly ever held. Design choice."""
IN_FLIGHT = accumulator.LATENCY + 2
"""Words that can still become pulse commands after the FIFO's level was looked at: one a stage, and two for the look [1]."""


class UpdateUnit(wiring.Component):
    """See the module's data sheet."""

    def __init__(self, u: UnitParams, accumulator_domain: str = "sync"):
        self.u, self.accumulator_domain = u, accumulator_domain
        self.operands, self.walker, self.outer_product = Operands(u), Walker(u), OuterProduct(u)
        self.accumulator = Accumulator(u)
        # pulse commands: line and group go with the counts; attributes for proofs
        self.where = data.StructLayout({"line": range(u.n_lines), "group": self.walker.group.shape()})
        self.due = data.StructLayout({"where": self.where, "counts": self.accumulator.counts.shape(), "negative": u.lanes})
        self.pulses, self.hold = fifo.SyncFIFOBuffered(width=self.due.size, depth=PULSE_DEPTH), Signal()
        super().__init__({
            "i": In(stream.Signature(UpdateCommand(u))), "vector": Out(VectorReadSignature(u)),
            "exponents": In(data.ArrayLayout(signed(8), N_EXPONENTS)),
            "o_pulse": Out(stream.Signature(PulseCommand(u))), "pulse_busy": In(1),
            "o_dump": Out(WordStream(u)), "i_load": In(WordStream(u)),
            "active": Out(1), "accumulator_active": Out(1), "host_stall": Out(1),
            "events": Out(data.StructLayout({
                "phase_lanes": 1, "phase_update": 1, "phase_program": 1, "phase_chi": 1, "chi_rmw": 1, "chi_words": 1,
                "lines_walked": 1, "lines_skipped": 13, "update_clips": 1, "chi_saturations": range(u.lanes + 1)})),
            "trace_line_stb": Out(1), "trace_line": Out(13), "trace_code": Out(signed(u.outer_bits + 1)),
            "trace_lane_stb": Out(1), "trace_lane_address": Out(13),
            "trace_lanes": Out(data.ArrayLayout(u.outer_bits + 1, u.vector_width)),
            "trace_exponent": Out(signed(10)), "trace_rate": Out(12), "trace_chi_base": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        u, width = self.u, self.u.vector_width
        m.submodules.operands = operands = self.operands
        m.submodules.walker = walker = self.walker
        m.submodules.outer_product = outer = self.outer_product
        chi, chi_parts = self.accumulator, accumulator.n_parts(u)
        m.submodules.accumulator = DomainRenamer({"sync": self.accumulator_domain})(chi)

        # command
        command, exponent = Signal(UpdateCommand(u), reset_less=True), Signal(signed(10), reset_less=True)
        busy, ended, accept, parked = Signal(), Signal(), Signal(), Signal()
        resting = Signal(init=1)                        # idle, or ending
        is_update, is_clear, is_dump, is_load = Signal(), Signal(), Signal(), Signal()
        new = self.i.payload
        m.d.comb += [
            self.i.ready.eq(resting), accept.eq(self.i.valid & self.i.ready),
            self.active.eq((self.i.valid & ~busy) | (busy & ~parked) | chi.active), self.accumulator_active.eq(chi.active),
        ]
        with m.If(ended):
            m.d.sync += busy.eq(0)
        with m.If(accept):
            m.d.sync += [
                command.eq(new), busy.eq(1), exponent.eq(self.exponents[new.e] + new.exponent),
                is_update.eq(new.op == UpdateOp.UPDATE), is_clear.eq(new.op == UpdateOp.CLEAR),
                is_dump.eq(new.op == UpdateOp.DUMP), is_load.eq(new.op == UpdateOp.LOAD),
            ]

        # the head's word: issued (UPDATE, CLEAR), or its stream words pass (DUMP, LOAD)
        stage = data.StructLayout({"valid": 1, "line": 13, "group": walker.group.shape(), "negative": 1, "address": 16})
        front = [Signal(stage, name=f"front{n}") for n in range(3)]
        head = front[-1]
        held, go, front_go = Signal(), Signal(), Signal()
        # of DUMP and LOAD: the head's word has passed; a LOAD begins anew. Registers: the host's stream is no path to the walker
        passed, restart, streams, dump_stall = Signal(), Signal(), Signal(), Signal()
        dumping, loading, asked, place_last = Signal(), Signal(), Signal(2), Signal()
        loaded, complete = Signal(), Signal()            # a LOAD's part enters; it is its word's last. Registers: likewise
        place = Signal(range(max(2, chi_parts)))
        m.d.comb += [
            held.eq(head.valid & self.hold), go.eq(busy & ~held), place_last.eq(place == chi_parts - 1),
            streams.eq(head.valid & ~passed & ~restart), self.i_load.ready.eq(is_load & streams),
            dump_stall.eq(self.o_dump.valid & ~self.o_dump.ready),
            self.host_stall.eq(dump_stall | (self.i_load.ready & ~self.i_load.valid)),
            dumping.eq(is_dump & streams & ~dump_stall & (asked == 2)),
            loading.eq(self.i_load.ready & self.i_load.valid & (self.i_load.payload.count != 0)),
            front_go.eq(go & (~head.valid | Mux(is_dump | is_load, passed & ~dump_stall, operands.lanes_loaded))),
            chi.valid.eq(Mux(is_load, complete, go & head.valid
                             & Mux(is_dump, ~passed & ~dump_stall & (asked == 0), operands.lanes_loaded))),
        ]
        m.d.sync += [passed.eq(Mux(passed, dump_stall, (dumping | loading) & place_last)),
                     loaded.eq(loading), complete.eq(loading & place_last),
                     Assert(~complete | passed, "a word is complete and its parts still pass"),
                     restart.eq(self.i_load.ready & self.i_load.valid & (self.i_load.payload.count == 0))]

        # operands and walker
        m.d.comb += [
            operands.start.eq(accept | restart), walker.start.eq(accept | restart),
            operands.i.eq(Mux(restart, command.as_value(), new.as_value())),
            operands.sweep.eq(restart | (new.op != UpdateOp.UPDATE) | ~new.accumulate),
            operands.command.eq(command), operands.go.eq(go),
            walker.move.eq(go), walker.go.eq(front_go), walker.groups.eq(command.words_per_line),
        ]
        wiring.connect(m, operands.o_walk, walker.i)
        wiring.connect(m, wiring.flipped(self.vector), operands.vector)

        # the line's stages beside the outer product: multiply | shift | clip
        m.d.comb += [outer.go.eq(front_go), outer.exponent.eq(exponent), outer.rate.eq(command.rate), outer.code.eq(walker.code)]
        with m.If(front_go):
            m.d.sync += [
                front[0].valid.eq(walker.valid), front[0].line.eq(walker.line), front[0].group.eq(walker.group),
                front[0].negative.eq(walker.negative ^ command.negate),
                front[0].address.eq(walker.line * command.words_per_line[:u.groups_max.bit_length()]),
                front[1].eq(front[0]), front[1].address.eq(front[0].address + command.chi_base),
                front[2].eq(front[1]),
            ]
        with m.If(restart):
            m.d.sync += [one.valid.eq(0) for one in front]

        m.d.comb += [
            operands.group.eq(head.group), chi.codes.eq(operands.lane_codes),
            chi.fetch.eq(front_go & front[1].valid), chi.address.eq(front[1].address + front[1].group),
            chi.multiplicand.eq(outer.multiplicand), chi.line_negative.eq(head.negative & is_update),   # others: U = 0, unsigned
            chi.threshold.eq(is_update & command.threshold), chi.clear.eq(is_clear), chi.keep.eq(is_dump), chi.load.eq(is_load),
        ]

        # pulses: line and group go beside the accumulator, due words into the FIFO
        passing = [Signal(self.where, name=f"passing{n}", reset_less=True) for n in range(accumulator.LATENCY)]
        m.d.sync += [passing[0].line.eq(head.line), passing[0].group.eq(head.group),
                     *(after.eq(before) for before, after in itertools.pairwise(passing))]
        m.submodules.pulses = pulses = self.pulses
        due, taken, pulse = Signal(self.due), data.View(self.due, pulses.r_data), self.o_pulse.payload
        m.d.comb += [
            due.where.eq(passing[-1]), due.counts.eq(chi.counts), due.negative.eq(chi.negative),
            pulses.w_en.eq(chi.pulse_valid), pulses.w_data.eq(due), pulses.r_en.eq(self.o_pulse.ready),
            self.o_pulse.valid.eq(pulses.r_rdy),
            pulse.tile.eq(command.tile), pulse.walk.eq(command.walk), pulse.kind.eq(Kind.SET),
            pulse.line.eq(command.walk_first + taken.where.line),
            pulse.first.eq(command.lane_first + taken.where.group * u.lanes),
            pulse.dirty.eq(command.chi_base + taken.where.line), pulse.counts.eq(taken.counts), pulse.negative.eq(taken.negative),
        ]
        crowded = Signal()
        m.d.comb += crowded.eq(pulses.level > PULSE_DEPTH - IN_FLIGHT)
        m.d.sync += [self.hold.eq(crowded),
                     Assert(~chi.pulse_valid | pulses.w_rdy, "a pulse command is lost")]

        # what is left to do
        fed, empty, pulsed, was_pulsed, ending = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            fed.eq(operands.idle & walker.idle & ~front[0].valid & ~front[1].valid),
            empty.eq(fed & ~head.valid & ~chi.read_valid & ~chi.sum_valid & ~chi.write_valid),
            pulsed.eq(~chi.pulse_valid & (pulses.level == 0) & ~self.pulse_busy),
            # nothing moves before the generator does: the queue is empty and it is busy, or it does not take the queue's first
            parked.eq(empty & ~chi.pulse_valid & ~self.o_dump.valid & ~ended & (self.hold == crowded)
                      & Mux(pulses.level == 0, self.pulse_busy, self.o_pulse.valid & ~self.o_pulse.ready)),
        ]
        # a cycle ahead, so that ``ready`` is a register: whether a word is due is known all over a chip, and late
        m.d.comb += ending.eq(busy & ~ended & empty & pulsed & ~self.o_dump.valid)
        m.d.sync += [was_pulsed.eq(pulsed), ended.eq(ending), resting.eq(~accept & (~busy | ended | ending)),
                     Assert(resting == (~busy | ended), "resting is not what it says")]

        # DUMP: the word is asked for, two cycles later its parts pass, one a cycle
        with m.If(is_dump & streams & ~dump_stall):
            m.d.sync += asked.eq(Mux(asked != 2, asked + 1, Mux(place_last, 0, 2)))
        with m.If(~dump_stall):
            m.d.sync += [self.o_dump.valid.eq(dumping), self.o_dump.payload.last.eq(place_last & fed),
                         self.o_dump.payload.count.eq(Mux(place_last, u.lanes - (chi_parts - 1) * width, width))]
            for k in range(width):
                m.d.sync += self.o_dump.payload.elements[k].eq(chi.word.word_select(k, u.chi_bits).as_signed())

        # LOAD; ``left``: positions from the stream word's first to the end of the lane axis
        left, group_left, entering = Signal(signed(15)), Signal(signed(15)), Signal.like(chi.shift_in)
        last_group = head.group + 1 == command.words_per_line
        m.d.comb += [chi.shift.eq(dumping | loaded), chi.shift_in.eq(entering)]
        for k in range(width):
            element = self.i_load.payload.elements[k]
            clipped = Mux(element > u.chi_max, u.chi_max, Mux(element < -u.chi_max, -u.chi_max, element))
            inside = is_load & (left > k) & ~(place_last & (k >= u.lanes - (chi_parts - 1) * width))
            m.d.sync += entering.word_select(k, u.chi_bits).eq(Mux(inside, clipped, 0))
        started = Signal()
        m.d.sync += started.eq(accept | restart)
        with m.If(started):
            m.d.sync += [left.eq(command.lane_count), group_left.eq(command.lane_count), place.eq(0), asked.eq(0)]
        with m.Else():
            with m.If(loading & place_last & last_group):
                m.d.sync += [left.eq(command.lane_count), group_left.eq(command.lane_count)]
            with m.Elif(loading & place_last):
                m.d.sync += [left.eq(group_left - u.lanes), group_left.eq(group_left - u.lanes)]
            with m.Elif(loading):
                m.d.sync += left.eq(left - width)
            with m.If(loading | dumping):
                m.d.sync += place.eq(Mux(place_last, 0, place + 1))

        # events
        n_walked = Signal(13)
        walks = front_go & walker.valid & (walker.group == 0) & is_update
        with m.If(accept):
            m.d.sync += n_walked.eq(0)
        with m.Elif(walks):
            m.d.sync += n_walked.eq(n_walked + 1)
        fetching = is_update & command.accumulate & ~operands.lanes_loaded
        waiting = held | (empty & ~(pulsed & was_pulsed))
        accept_update = accept & (new.op == UpdateOp.UPDATE)
        running = busy & ~ended
        m.d.comb += [
            self.events.phase_lanes.eq(Mux(running, fetching, accept_update & new.accumulate)),
            self.events.phase_update.eq(Mux(running, is_update & ~fetching & ~waiting, accept_update & ~new.accumulate)),
            self.events.phase_program.eq(running & is_update & ~fetching & waiting),
            self.events.phase_chi.eq(Mux(running, ~is_update & ~self.host_stall, accept & (new.op != UpdateOp.UPDATE))),
            self.events.chi_rmw.eq(is_update & chi.write_valid),
            self.events.chi_words.eq((is_clear & chi.write_valid) | (place_last & (loading | dumping))),
            self.events.lines_walked.eq(walks),
            self.events.lines_skipped.eq(Mux(ended & is_update, command.walk_count - n_walked, 0)),
            self.events.update_clips.eq(front_go & front[1].valid & (front[1].group == 0) & outer.clipped),
            self.events.chi_saturations.eq(chi.saturations),
        ]

        # recorders
        m.d.comb += [
            self.trace_line_stb.eq(walks & command.accumulate), self.trace_line.eq(walker.line),
            self.trace_code.eq(Mux(walker.negative ^ command.negate, -walker.code, walker.code)),
            self.trace_lane_stb.eq(operands.trace_lane_stb), self.trace_lane_address.eq(operands.trace_lane_address),
            self.trace_lanes.eq(operands.trace_lanes), self.trace_exponent.eq(exponent), self.trace_rate.eq(command.rate),
            self.trace_chi_base.eq(command.chi_base),
        ]
        return m
