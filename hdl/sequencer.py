"""Sequencer: runs the program of macro-instructions and hands commands to the units.

Contract: instructions of ``model.isa`` are dispatched in order. An instruction leaves when its own unit is idle, every unit
in its wait mask is idle and, for a barrier (and for the one after it), all units are idle; operands that name a matrix are
resolved through its descriptor. An instruction that cannot be executed stops the unit with ``error`` and ``error_pc``;
nothing of it is executed. HALT is a barrier.

``stop`` acts on the first instruction that could leave while every unit is idle (at the latest a barrier): it is held back, and
``stopped`` is high. ``resume`` goes on with it as if nothing had been: program counter, loops, LINE, polarities and the state of
all units are kept, and an armed packet still comes. So every unit time is that of a program that was not stopped, and so are all
counters but ``host_wait``. A start gives the stopped program up; a write to the program memory too.

A matrix is *torn* from FLIP to SEAL. FIRE on it, and READ of it by the polarity of the matrix, is an error.

Stages: fetch (program memory output) | d: with its descriptor | c: checked; dispatch is combinational from c.

Descriptors are checked at start and at resume, one a cycle; they must not be written while the unit runs or is stopped.

Timing: ``START_CYCLES(n_matrices)`` cycles of unit time from start to the first dispatch slot; then one instruction a cycle;
after a NEXT that jumps the next dispatch is ``JUMP_CYCLES`` later. From resume to dispatch START_CYCLES(n_matrices) cycles, none
of them unit time. Source: design choice.

Waiting for the host (WAIT with an incomplete packet, a unit's ``host_stall``, stop to resume) is no unit time: ``time`` stands
still.
"""
from amaranth import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.decoder import Decoder, DescriptorCheck, OperandCheck, is_opcode, operand
from hdl.host_stream import LoadCommand
from hdl.ports import (
    AcceptCommand,
    LinesCommand,
    MatrixDescriptor,
    ProgramWriteSignature,
    ScanCommand,
    UpdateCommand,
    VectorCommand,
)
from model import isa
from model.isa import Error, Opcode
from model.params import UnitParams

__all__ = ["Sequencer"]

_LINES, _VECTOR, _UPDATE, _SCAN, _ACCEPT = (
    (Opcode.DRIVE, Opcode.READ, Opcode.FIRE, Opcode.POINT, Opcode.TRIM, Opcode.SEED), (Opcode.VECTOR, Opcode.GATHER, Opcode.EMIT),
    (Opcode.UPDATE, Opcode.CLEAR, Opcode.DUMP, Opcode.LOAD), (Opcode.SCAN,), (Opcode.ACCEPT,))


class Sequencer(wiring.Component):
    """Program memory, loops, checks and dispatch.

    Members
    -------
    program_write : In(ProgramWriteSignature)
        Writes one instruction.
    start, stop, resume : In(1)
        Pulses; start and resume are ignored while a program runs, start goes before resume. ``entry``: first instruction;
        ``loop_count``: iterations of a LOOP with count 0; ``matrices``: descriptors.
    busy, done, stopped, error, error_pc, pc : Out
        ``done`` from HALT or stop to the next start or resume; ``stopped`` likewise, from stop only, and ``pc`` is then the
        instruction held back; ``error`` an ``isa.Error``, kept until the next start or resume.
    disarm : Out(1)
        No program runs or is stopped: a packet that is still armed is not for the next one.
    o_lines, o_vector, o_update, o_scan, o_accept, o_load : Out(stream)
        Commands; ``ready`` means that the unit is idle (``o_accept``, ``o_load``: no packet is armed). LOAD goes to both
        ``o_update`` and ``o_load``.
    accepting : In(1)
        A packet is armed and not complete.
    host_stall : In(1)
        A unit waits for the host and does nothing else.
    events : Out
        Increments of ``time, host_wait, control, instructions``.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        # a program runs; loops: how many, first instructions of the bodies, iterations left; of each matrix: the sign of the
        # capacitor's part, whether a transfer was begun and not ended
        self.running, self.depth = Signal(), Signal(range(u.loop_depth + 1))
        self.body = Array(Signal(range(u.program_words), name=f"body_{k}") for k in range(u.loop_depth))
        self.left = Array(Signal(32, name=f"left_{k}") for k in range(u.loop_depth))
        self.polarity, self.torn = Signal(u.n_matrices), Signal(u.n_matrices)
        self.valid, self.word, self.fire = Signal(), Signal(isa.INSTRUCTION_BITS), Signal()     # the next instruction; it leaves
        super().__init__({
            "program_write": In(ProgramWriteSignature(u)), "start": In(1), "stop": In(1), "resume": In(1),
            "entry": In(range(u.program_words)), "loop_count": In(32),
            "matrices": In(data.ArrayLayout(MatrixDescriptor(u), u.n_matrices)),
            "busy": Out(1), "done": Out(1), "stopped": Out(1), "error": Out(4), "error_pc": Out(16), "pc": Out(16),
            "disarm": Out(1),
            "o_lines": Out(stream.Signature(LinesCommand(u))), "o_vector": Out(stream.Signature(VectorCommand(u))),
            "o_update": Out(stream.Signature(UpdateCommand(u))), "o_scan": Out(stream.Signature(ScanCommand(u))),
            "o_accept": Out(stream.Signature(AcceptCommand(u))), "o_load": Out(stream.Signature(LoadCommand(u))),
            "accepting": In(1), "host_stall": In(1),
            "events": Out(data.StructLayout({"time": 1, "host_wait": 1, "control": 1, "instructions": 1})),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        running, fire = self.running, self.fire
        stopping, held, resuming, flush = Signal(), Signal(), Signal(), Signal()
        fetch_pc = Signal(range(u.program_words + 1))

        checked, matrix_ok, matrix_words = self._check_descriptors(m, running)

        # pipeline: f (program memory output) -> d (with its descriptor) -> c (checked)
        m.submodules.program = program = Memory(shape=unsigned(isa.INSTRUCTION_BITS), depth=u.program_words, init=[])
        write, read = program.write_port(), program.read_port()
        f_valid, d_valid, c_valid = Signal(), Signal(), self.valid
        f_pc, d_pc, c_pc = Signal.like(fetch_pc), Signal.like(fetch_pc), Signal.like(fetch_pc)
        d_word, c_word = Signal(isa.INSTRUCTION_BITS), self.word
        d_matrix, c_matrix = Signal(MatrixDescriptor(u)), Signal(MatrixDescriptor(u))
        c_error = Signal(4)
        step = running & checked & (~c_valid | fire)
        m.submodules.check = check = OperandCheck(u)
        m.d.comb += [
            write.en.eq(self.program_write.stb), write.addr.eq(self.program_write.address),
            write.data.eq(self.program_write.data), read.en.eq(step), read.addr.eq(fetch_pc),
            check.word.eq(d_word), check.matrix.eq(d_matrix), check.matrix_ok.eq(matrix_ok),
        ]
        with m.If(step):
            m.d.sync += [
                f_valid.eq(1), f_pc.eq(fetch_pc), d_valid.eq(f_valid), d_pc.eq(f_pc), d_word.eq(read.data),
                d_matrix.eq(Array(self.matrices[k] for k in range(u.n_matrices))[read.data[16:20]]),
                c_valid.eq(d_valid), c_pc.eq(d_pc), c_word.eq(d_word), c_matrix.eq(d_matrix),
                c_error.eq(Mux(d_pc == u.program_words, Error.PROGRAM_END, check.error)),
            ]
            with m.If(fetch_pc != u.program_words):
                m.d.sync += fetch_pc.eq(fetch_pc + 1)
        with m.If(flush):
            m.d.sync += [f_valid.eq(0), d_valid.eq(0), c_valid.eq(0)]

        # dispatch
        opcode = c_word[0:6]
        units_idle = Cat(self.o_lines.ready, self.o_vector.ready, self.o_update.ready)
        all_idle, barrier, after_barrier, waited, go, loop_error = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        error = Signal(4)
        cleared = Signal(u.n_matrices)
        not_cleared = is_opcode(opcode, Opcode.UPDATE, Opcode.SCAN, Opcode.DUMP) & ~cleared.bit_select(c_word[16:20], 1)
        line, polarity, torn = Signal(13), self.polarity, self.torn
        is_torn, beyond = Signal(), Signal()
        if u.capacitor:
            side = Mux(operand(c_word, Opcode.POINT, "transpose"), c_matrix.cols, c_matrix.rows)
            own = operand(c_word, Opcode.READ, "polarity")[1]
            needs = is_opcode(opcode, Opcode.FIRE) | (is_opcode(opcode, Opcode.READ) & ~own)
            m.d.comb += [is_torn.eq(needs & torn.bit_select(c_word[16:20], 1)),
                         beyond.eq(is_opcode(opcode, Opcode.POINT, Opcode.TRIM) & (line >= side))]
        m.d.comb += [
            all_idle.eq(units_idle.all() & self.o_scan.ready),
            barrier.eq(is_opcode(opcode, *isa.BARRIERS, Opcode.HALT)),
            waited.eq(Mux(barrier | after_barrier, all_idle, ~(c_word[6:9] & ~units_idle).any())),
            error.eq(Mux(c_error != 0, c_error,
                         Mux(not_cleared, Error.NOT_CLEARED, Mux(loop_error, Error.LOOP_DEPTH,
                             Mux(beyond, Error.BAD_ADDRESS, Mux(is_torn, Error.TORN, Error.NONE)))))),
            held.eq(running & c_valid & stopping & all_idle & (error == 0)),
            go.eq(running & c_valid & ~held & waited & (error == 0)),
        ]
        inverted = polarity.bit_select(c_word[16:20], 1)
        self._dispatch(m, opcode, c_word, c_matrix, matrix_words, line, inverted, go, fire)
        jump, target = self._loops(m, opcode, c_word, c_pc, fire, loop_error)

        # run, stop, end
        with m.If((self.start | (self.resume & self.stopped)) & ~running):
            m.d.sync += [running.eq(1), self.done.eq(0), self.error.eq(0), stopping.eq(0), after_barrier.eq(0),
                         resuming.eq(~self.start), fetch_pc.eq(Mux(self.start, self.entry, c_pc))]
            m.d.comb += flush.eq(1)
        with m.Elif(self.resume & ~running):
            m.d.sync += [self.done.eq(0), self.error.eq(Error.NOT_STOPPED), self.error_pc.eq(0)]
        with m.If(running & c_valid):
            m.d.sync += resuming.eq(0)
        with m.If(self.start | self.resume | self.program_write.stb):
            m.d.sync += self.stopped.eq(0)
        with m.If(self.stop):
            m.d.sync += stopping.eq(1)
        with m.If(fire):
            m.d.sync += after_barrier.eq(barrier)
            with m.If(jump):
                m.d.sync += fetch_pc.eq(target)
                m.d.comb += flush.eq(1)
            with m.If(is_opcode(opcode, Opcode.CLEAR, Opcode.LOAD)):
                m.d.sync += cleared.bit_select(c_word[16:20], 1).eq(1)
            if u.capacitor:
                with m.If(is_opcode(opcode, Opcode.LINE)):
                    m.d.sync += line.eq(Mux(operand(c_word, Opcode.LINE, "zero"), 0, line + 1))
                with m.If(is_opcode(opcode, Opcode.FLIP)):
                    m.d.sync += [polarity.bit_select(c_word[16:20], 1).eq(operand(c_word, Opcode.FLIP, "inverted")),
                                 torn.bit_select(c_word[16:20], 1).eq(1)]
                with m.If(is_opcode(opcode, Opcode.SEAL)):
                    m.d.sync += torn.bit_select(c_word[16:20], 1).eq(0)
            with m.If(is_opcode(opcode, Opcode.HALT)):
                m.d.sync += [running.eq(0), self.done.eq(1)]
        with m.If(running & c_valid & (error != 0)):
            m.d.sync += [running.eq(0), self.error.eq(error), self.error_pc.eq(c_pc)]
        with m.Elif(held):
            m.d.sync += [running.eq(0), self.done.eq(1), self.stopped.eq(1)]
        m.d.comb += [self.busy.eq(running | ~all_idle), self.pc.eq(c_pc),
                     self.disarm.eq(~self.busy & (~self.stopped | self.start))]

        # time stands still while only the host is waited for
        waiting = Signal()
        m.d.comb += [
            waiting.eq(self.host_stall | held | (resuming & ~c_valid) | (go & is_opcode(opcode, Opcode.WAIT) & self.accepting)
                       | (go & is_opcode(opcode, Opcode.ACCEPT) & ~self.o_accept.ready)),
            self.events.time.eq(running & ~waiting), self.events.host_wait.eq(running & waiting),
            self.events.control.eq(running & ~waiting & all_idle), self.events.instructions.eq(fire),
        ]
        return m

    def _check_descriptors(self, m, running):
        """Run every descriptor through ``DescriptorCheck`` after start; returns (all checked, ok bits, chi words of each)."""
        u = self.u
        m.submodules.descriptor = descriptor = DescriptorCheck(u)
        index = Signal(range(u.n_matrices + 3))
        checked, matrix_ok = Signal(), Signal(u.n_matrices)
        matrix_words = Array(Signal(range(u.chi_words + 1), name=f"words_{k}") for k in range(u.n_matrices))
        next_index, matrix = Signal.like(index), Signal(MatrixDescriptor(u))     # matrix: of ``index``, chosen a cycle ahead
        m.d.comb += [checked.eq(index == u.n_matrices + 2), descriptor.matrix.eq(matrix),
                     next_index.eq(Mux(running, Mux(checked, index, index + 1), 0))]
        m.d.sync += [index.eq(next_index), matrix.eq(Array(self.matrices[k] for k in range(u.n_matrices))[next_index])]
        with m.If(running & ~checked):
            m.d.sync += [matrix_ok.eq(Cat(matrix_ok[1:], descriptor.ok)),
                         *(a.eq(b) for a, b in zip(matrix_words, [*matrix_words[1:], descriptor.words], strict=True))]
        return checked, matrix_ok, matrix_words

    def _dispatch(self, m, opcode, word, matrix, matrix_words, line, inverted, go, fire):
        """Offer the decoded command to its unit; ``fire`` when it leaves."""
        m.submodules.decoder = decoder = Decoder(self.u)
        m.d.comb += [decoder.word.eq(word), decoder.matrix.eq(matrix), decoder.line.eq(line), decoder.inverted.eq(inverted)]
        units = (("lines", _LINES), ("vector", _VECTOR), ("update", _UPDATE), ("scan", _SCAN), ("accept", _ACCEPT))
        for name, opcodes in units:
            port, mine = getattr(self, f"o_{name}"), is_opcode(opcode, *opcodes)
            m.d.comb += [port.payload.eq(getattr(decoder, name)), port.valid.eq(go & mine)]
            with m.If(go & mine & port.ready):
                m.d.comb += fire.eq(1)
        loading = is_opcode(opcode, Opcode.LOAD)
        m.d.comb += [self.o_load.valid.eq(fire & loading), self.o_load.payload.words.eq(matrix_words[word[16:20]])]
        own = is_opcode(opcode, Opcode.HALT, Opcode.LOOP, Opcode.NEXT, Opcode.LINE, Opcode.FLIP, Opcode.SEAL)
        with m.If(go & (own | (is_opcode(opcode, Opcode.WAIT) & ~self.accepting))):
            m.d.comb += fire.eq(1)

    def _loops(self, m, opcode, word, pc, fire, loop_error):
        """Stack of (first instruction of the body, iterations left); returns (jump, target)."""
        u, depth, body, left = self.u, self.depth, self.body, self.left
        is_loop, is_next = is_opcode(opcode, Opcode.LOOP), is_opcode(opcode, Opcode.NEXT)
        top = Signal(range(u.loop_depth))
        count = operand(word, Opcode.LOOP, "count")
        jump = Signal()
        m.d.comb += [top.eq(depth - 1), jump.eq(is_next & (left[top] > 1)),
                     loop_error.eq((is_loop & (depth == u.loop_depth)) | (is_next & (depth == 0)))]
        with m.If(self.start & ~self.running):
            m.d.sync += depth.eq(0)
        with m.Elif(fire & is_loop):
            m.d.sync += [body[depth].eq(pc + 1), left[depth].eq(Mux(count == 0, self.loop_count, count)), depth.eq(depth + 1)]
        with m.Elif(fire & jump):
            m.d.sync += left[top].eq(left[top] - 1)
        with m.Elif(fire & is_next):
            m.d.sync += depth.eq(depth - 1)
        return jump, body[top]
