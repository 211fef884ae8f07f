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
o_pulse, pulse_busy : to and from the pulse generator. A command is offered two cycles after the one before was taken, at the
    earliest: no train is shorter.
o_dump, i_load : streams of words, see above.
active, accumulator_active : Out(1)
    The unit, and in it the accumulator, must be clocked in this cycle.
host_stall : Out(1)
    Nothing but the host is waited for (cycles not counted as unit time).
events : Out(StructLayout)
    As in ``model/events.py``; ``lines_skipped`` comes as one number at the end of the command, ``phase_*`` and ``update_clips``
    a cycle late.
trace_* : for recorders; strobes are high for one cycle:
    trace_line_stb, trace_line, trace_code: one per walked line of an accumulating UPDATE; the code is signed, ``negate`` applied.
    trace_lane_stb, trace_lane_address, trace_lanes: lane codes of a vector word, magnitude below sign, before the walk.
    trace_exponent (s = E[e] + exponent), trace_rate, trace_chi_base: of the running command.

Timing, accepted in cycle t, ``ready`` again in t + cycles; twin: ``model/digital/update_unit.py``.
With L = ceil(lane_count / vector_width) lane words, w0 empty walk words before the first non-empty one, n lines walked,
g = words_per_line, and words that never run dry (a non-empty word lasts as long as fetching one):
    UPDATE  w0 - w0 % 2 + L + 8 (phase_lanes, L > w0 // 2 + w0 % 2 + 3 and 4 walk words more)  +  n g + 5
            +  cycles held, and waited at the end, for the pulse generator (phase_program)
    CLEAR   walk_count g + 16       with b = ceil(lanes / vector_width):    DUMP    walk_count g (b + 3) + 13
                                                                            LOAD    walk_count g (b + 1) + 16
Source: Nandakumar et al. 2020 [papers.md B2]; architecture: design choice.
"""
import itertools

from amaranth import Assert, Cat, DomainRenamer, Module, Mux, Signal, signed
from amaranth.lib import data, memory, stream, wiring
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
        # pulse commands: line and group go with the counts. level: commands that wait; attributes for proofs
        self.where = data.StructLayout({"line": range(u.n_lines), "group": self.walker.group.shape()})
        self.due = data.StructLayout({"where": self.where, "counts": self.accumulator.counts.shape(), "negative": u.lanes})
        self.level = Signal(range(PULSE_DEPTH + 1))
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
        resting, ended, parked = Signal(init=1), Signal(), Signal()      # resting: idle, or ended
        is_update, is_clear, is_dump, is_load = Signal(), Signal(), Signal(), Signal()
        new = self.i.payload
        m.d.comb += [self.i.ready.eq(resting), self.accumulator_active.eq(chi.active)]
        with m.If(resting):                              # without ``valid``, which comes late
            m.d.sync += [
                command.eq(new), exponent.eq(self.exponents[new.e] + new.exponent),
                is_update.eq(new.op == UpdateOp.UPDATE), is_clear.eq(new.op == UpdateOp.CLEAR),
                is_dump.eq(new.op == UpdateOp.DUMP), is_load.eq(new.op == UpdateOp.LOAD),
            ]

        # the head's word: issued (UPDATE, CLEAR), or its stream words pass (DUMP, LOAD)
        stage = data.StructLayout({"valid": 1, "line": 13, "group": walker.group.shape(), "negative": 1, "address": 16})
        front = [Signal(stage, name=f"front{n}") for n in range(3)]
        head, head_next = front[-1], Signal()
        # the fetch moves, the lines move: decided a cycle ahead, as it reaches everything before the accumulator. FIFO crowded
        go, front_go, crowded = Signal(init=1), Signal(init=1), Signal()
        # DUMP and LOAD: stream words of the head's word may pass, one does; its last one did in the cycle before, or earlier
        streams, passes, leaves, passed = Signal(), Signal(), Signal(), Signal()
        asked, place, place_last = Signal(2), Signal(range(max(2, chi_parts))), Signal()
        dumping, dump_stall = Signal(), Signal()
        # LOAD, of the cycle before: a stream word was taken; a void one: the packet begins anew; a part of a word; the last part
        taken, void, restart, loaded, complete = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            head_next.eq(~restart & Mux(front_go, front[1].valid, head.valid)), place_last.eq(place == chi_parts - 1),
            streams.eq(head.valid & ~passed & ~restart), self.i_load.ready.eq(is_load & streams),
            dump_stall.eq(self.o_dump.valid & ~self.o_dump.ready), dumping.eq(is_dump & streams & asked[1] & ~dump_stall),
            self.host_stall.eq(dump_stall | (self.i_load.ready & ~self.i_load.valid)),
            passes.eq(dumping | (self.i_load.ready & self.i_load.valid)),
            restart.eq(taken & void), loaded.eq(taken & ~void), complete.eq(is_load & leaves & ~void),
            chi.valid.eq(Mux(is_load, complete, Mux(is_dump, streams & (asked == 0), front_go & head.valid))),
        ]
        m.d.sync += [
            go.eq(~(head_next & crowded)),
            front_go.eq(~head_next | (passes & place_last) | (operands.lanes_next & ~(is_dump | is_load | crowded))),
            leaves.eq(passes & place_last), passed.eq((passes & place_last) | (passed & dump_stall)),
            taken.eq(self.i_load.ready & self.i_load.valid), void.eq(self.i_load.payload.count == 0),
        ]

        # operands and walker
        m.d.comb += [
            operands.start.eq(resting), operands.again.eq(restart), operands.i.eq(new), operands.command.eq(command),
            operands.sweep.eq((new.op != UpdateOp.UPDATE) | ~new.accumulate), operands.go.eq(go),
            walker.clear.eq(restart), walker.move.eq(go), walker.go.eq(front_go), walker.groups.eq(command.words_per_line),
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

        # line and group go beside the accumulator
        passing = [Signal(self.where, name=f"passing{n}", reset_less=True) for n in range(accumulator.LATENCY)]
        m.d.sync += [passing[0].line.eq(head.line), passing[0].group.eq(head.group),
                     *(after.eq(before) for before, after in itertools.pairwise(passing))]

        # due words into the FIFO. Its free place is written in every cycle, what leaves it passes a register that is loaded while
        # it is empty: so whether a word is due, or taken, which comes late from all over a chip, reaches counters only
        m.submodules.pulses = pulses = memory.Memory(shape=self.due, depth=PULSE_DEPTH, init=[])
        write, read, level, offered = pulses.write_port(), pulses.read_port(), self.level, self.o_pulse.valid
        newest, oldest, handed, pulse = Signal(range(PULSE_DEPTH)), Signal(range(PULSE_DEPTH)), Signal(), self.o_pulse.payload
        m.d.comb += [
            write.en.eq(1), write.addr.eq(newest), write.data.where.eq(passing[-1]), write.data.counts.eq(chi.counts),
            write.data.negative.eq(chi.negative), read.en.eq(~offered), read.addr.eq(oldest),
            handed.eq(offered & self.o_pulse.ready), crowded.eq(level > PULSE_DEPTH - IN_FLIGHT),
            pulse.tile.eq(command.tile), pulse.walk.eq(command.walk), pulse.kind.eq(Kind.SET),
            pulse.line.eq(command.walk_first + read.data.where.line),
            pulse.first.eq(command.lane_first + read.data.where.group * u.lanes),
            pulse.dirty.eq(command.chi_base + read.data.where.line), pulse.counts.eq(read.data.counts),
            pulse.negative.eq(read.data.negative),
        ]
        m.d.sync += [newest.eq(newest + chi.pulse_valid), offered.eq(Mux(offered, ~self.o_pulse.ready, level != 0)),
                     oldest.eq(oldest + (~offered & (level != 0))),
                     Assert(~chi.pulse_valid | (level != PULSE_DEPTH), "a pulse command is lost")]
        with m.If(chi.pulse_valid ^ handed):
            m.d.sync += level.eq(Mux(handed, level - 1, level + 1))

        # what is left to do. drained: the pipeline was empty a cycle before, so whether its last word was due, which is known
        # all over a chip and late, is in the FIFO's level
        fed, empty, drained, quiet, was_quiet = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            fed.eq(operands.idle & walker.idle & ~front[0].valid & ~front[1].valid),
            empty.eq(fed & ~head.valid & ~chi.read_valid & ~chi.sum_valid & ~chi.write_valid & ~self.o_dump.valid),
            quiet.eq((level == 0) & ~self.pulse_busy),
            # nothing moves before the generator does: the queue is empty and it is busy, or it does not take the queue's first
            parked.eq(drained & self.events.phase_program & Mux(level == 0, self.pulse_busy, offered & ~self.o_pulse.ready)),
            self.active.eq(ended | Mux(resting, self.i.valid, ~parked) | chi.active),
        ]
        # a cycle ahead, so that ``ready`` is a register
        m.d.sync += [drained.eq(~resting & empty), was_quiet.eq(quiet), ended.eq(~resting & drained & quiet),
                     resting.eq(Mux(resting, ~self.i.valid, drained & quiet)),
                     Assert(~resting | (walker.idle & ~Cat(one.valid for one in front).any()), "lines of no command")]

        # DUMP: the word is asked for, two cycles later its parts pass, one a cycle; only these can be stalled
        with m.If(dumping & place_last):
            m.d.sync += asked.eq(0)
        with m.Elif(is_dump & streams & ~asked[1]):
            m.d.sync += asked.eq(asked + 1)
        with m.If(~dump_stall):
            m.d.sync += [self.o_dump.valid.eq(dumping), self.o_dump.payload.last.eq(place_last & fed),
                         self.o_dump.payload.count.eq(Mux(place_last, u.lanes - (chi_parts - 1) * width, width))]
            for k in range(width):
                m.d.sync += self.o_dump.payload.elements[k].eq(chi.word.word_select(k, u.chi_bits).as_signed())

        # LOAD; ``left``: positions from the stream word's first to the end of the lane axis
        left, group_left = Signal(signed(15)), Signal(signed(15))
        elements = Signal.like(self.i_load.payload.elements, reset_less=True)
        last_group = head.group + 1 == command.words_per_line
        m.d.comb += chi.shift.eq(dumping | loaded)
        m.d.sync += elements.eq(self.i_load.payload.elements)
        for k in range(width):
            clipped = Mux(elements[k] > u.chi_max, u.chi_max, Mux(elements[k] < -u.chi_max, -u.chi_max, elements[k]))
            inside = is_load & (left > k) & ~(complete & (k >= u.lanes - (chi_parts - 1) * width))
            m.d.comb += chi.shift_in.word_select(k, u.chi_bits).eq(Mux(inside, clipped, 0))
        started = Signal()
        m.d.sync += started.eq(resting | restart)
        with m.If(started | (complete & last_group)):
            m.d.sync += [left.eq(command.lane_count), group_left.eq(command.lane_count)]
        with m.Elif(complete):
            m.d.sync += [left.eq(group_left - u.lanes), group_left.eq(group_left - u.lanes)]
        with m.Elif(loaded):
            m.d.sync += left.eq(left - width)
        with m.If(restart):
            m.d.sync += place.eq(0)
        with m.Elif(passes):
            m.d.sync += place.eq(Mux(place_last, 0, place + 1))

        # events
        n_walked = Signal(13)
        walks = front_go & walker.valid & (walker.group == 0) & is_update
        with m.If(resting):
            m.d.sync += n_walked.eq(0)
        with m.Elif(walks):
            m.d.sync += n_walked.eq(n_walked + 1)
        fetching = is_update & command.accumulate & ~operands.lanes_loaded
        waiting = ~go | (drained & ~(quiet & was_quiet))
        new_update = new.op == UpdateOp.UPDATE
        m.d.sync += [                                    # a cycle late, for a short path
            self.events.phase_lanes.eq(Mux(resting, self.i.valid & new_update & new.accumulate, fetching)),
            self.events.phase_update.eq(Mux(resting, self.i.valid & new_update & ~new.accumulate,
                                            is_update & ~fetching & ~waiting)),
            self.events.phase_program.eq(~resting & is_update & ~fetching & waiting),
            self.events.phase_chi.eq(Mux(resting, self.i.valid & ~new_update, ~is_update & ~self.host_stall)),
            self.events.update_clips.eq(front_go & front[1].valid & (front[1].group == 0) & outer.clipped),
        ]
        m.d.comb += [
            self.events.chi_rmw.eq(is_update & chi.write_valid),
            self.events.chi_words.eq((is_clear & chi.write_valid) | (leaves & ~restart)),
            self.events.lines_walked.eq(walks),
            self.events.lines_skipped.eq(Mux(ended & is_update, command.walk_count - n_walked, 0)),
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
