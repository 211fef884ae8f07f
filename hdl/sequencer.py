"""Sequencer: runs the program of macro-instructions and hands commands to the units.

Contract: instructions of ``model.isa`` are dispatched in order. An instruction leaves when its own unit is idle, every unit
in its wait mask is idle and, for a barrier, for the one after it and for the first one, all units are idle; operands that name a
matrix are resolved through its descriptor. An instruction that cannot be executed stops the unit with ``error`` and ``error_pc``;
nothing of it is executed. HALT is a barrier.

``stop`` acts on the first instruction that could leave while every unit is idle (at the latest a barrier): it is held back, and
``stopped`` is high. ``resume`` goes on with it as if nothing had been: program counter, loops, LINE, polarities and the state of
all units are kept, and an armed packet still comes. So every unit time is that of a program that was not stopped, and so are all
counters but ``host_wait``. A start gives the stopped program up; a write to the program memory too.

A matrix is *torn* from FLIP to SEAL. FIRE on it, and READ of it by the polarity of the matrix, is an error.

Stages: f: program memory output | d: decoded, with its descriptor | e: its spans of the vector memory are checked | c: checked;
dispatch is combinational from c. Errors are found in d and e, those of loops and of the capacitor scheme in c. A LOOP gets its
count in d. A build without ``operand_checks`` has neither d nor e: what d does is done behind the memory.

Descriptors are checked at start and at resume, one a cycle; they must not be written while the unit runs or is stopped, nor the
program or LOOP_COUNT while it runs.

Timing: 4 + 2 operand_checks + n_matrices cycles of unit time from start to the first dispatch slot; then one instruction a cycle;
after a NEXT that jumps the next dispatch is 3 + 2 operand_checks later. From resume to dispatch as from start, but no unit time.
Source: design choice.

Waiting for the host (WAIT with an incomplete packet, a unit's ``host_stall``, stop to resume) is no unit time: ``time`` stands
still.
"""
from amaranth import Array, Assert, Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.decoder import (
    Decoder,
    DescriptorCheck,
    MatrixAxes,
    OperandCheck,
    RightMatrix,
    about_columns,
    beyond,
    is_opcode,
    operand,
)
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
        Writes 32 bits of an instruction.
    start, stop, resume : In(1)
        Pulses; start and resume are ignored while a program runs, start goes before resume. ``entry``: first instruction;
        ``loop_count``: iterations of a LOOP with count 0; ``matrices``: descriptors.
    busy, done, stopped, error, error_pc, pc : Out
        ``done`` from HALT or stop to the next start or resume; ``stopped`` likewise, from stop only, and ``pc`` is then the
        instruction held back; ``error`` an ``isa.Error``, kept until the next start or resume.
    resting : Out(1)
        Not ``busy``, out of a register: a cycle late where units end after an error.
    disarm : Out(1)
        ``resting``, and no program is stopped: a packet that is still armed is not for the next one.
    o_lines, o_vector, o_update, o_scan, o_accept, o_load : Out(stream)
        Commands; ``ready`` means that the unit is idle (``o_accept``, ``o_load``: no packet is armed). ``valid`` depends on it:
        a unit that is busy is offered nothing. LOAD goes to both ``o_update`` and ``o_load``.
    accepting : In(1)
        A packet is armed and not complete.
    host_stall : In(1)
        A unit waits for the host and does nothing else.
    events : Out
        Increments of ``time, host_wait, control, instructions``.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        # a program runs; loops: how many, first instructions of the bodies, NEXTs that jump less one; of each matrix: the sign of
        # the capacitor's part, whether a transfer was begun and not ended
        self.running, self.depth = Signal(), Signal(range(u.loop_depth + 1))
        self.body = Array(Signal(range(u.program_words), name=f"body_{k}") for k in range(u.loop_depth))
        self.left = Array(Signal(signed(33), name=f"left_{k}") for k in range(u.loop_depth))
        self.polarity, self.torn = Signal(u.n_matrices), Signal(u.n_matrices)
        # the next instruction: whether it is there, where it stands; it leaves
        self.valid, self.word, self.next, self.fire = (
            Signal(), Signal(isa.INSTRUCTION_BITS), Signal(range(u.program_words + 1)), Signal())
        super().__init__({
            "program_write": In(ProgramWriteSignature(u)), "start": In(1), "stop": In(1), "resume": In(1),
            "entry": In(range(u.program_words)), "loop_count": In(32),
            "matrices": In(data.ArrayLayout(MatrixDescriptor(u), u.n_matrices)),
            "busy": Out(1), "done": Out(1), "stopped": Out(1), "error": Out(4), "error_pc": Out(16), "pc": Out(16),
            "resting": Out(1, init=1), "disarm": Out(1),
            "o_lines": Out(stream.Signature(LinesCommand(u))), "o_vector": Out(stream.Signature(VectorCommand(u))),
            "o_update": Out(stream.Signature(UpdateCommand(u))), "o_scan": Out(stream.Signature(ScanCommand(u))),
            "o_accept": Out(stream.Signature(AcceptCommand(u))), "o_load": Out(stream.Signature(LoadCommand(u))),
            "accepting": In(1), "host_stall": In(1),
            "events": Out(data.StructLayout({"time": 1, "host_wait": 1, "control": 1, "instructions": 1})),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        running, valid, fire, word, pc = self.running, self.valid, self.fire, self.word, self.next
        step, go, held, sound, flush, begin, jump = Signal(), Signal(), Signal(), Signal(), Signal(), Signal(), Signal()

        # f: program memory output
        m.submodules.program = program = Memory(shape=unsigned(isa.INSTRUCTION_BITS), depth=u.program_words, init=[],
                                                attrs={"no_rw_check": 1})     # no writes while a program runs
        write, read = program.write_port(granularity=32), program.read_port()
        fetch_pc, f_valid, d_valid = Signal.like(pc), Signal(), Signal()
        checked, matrices, matrix_ok, matrix_words = self._matrices(m)
        m.d.comb += [
            step.eq(running & checked & (~valid | fire)), read.en.eq(step), read.addr.eq(fetch_pc),
            write.en.eq(Mux(self.program_write.stb, 1 << self.program_write.part, 0)),
            write.addr.eq(self.program_write.address),
            write.data.eq(self.program_write.data.replicate(isa.INSTRUCTION_BITS // 32)),
        ]

        # d: with what the check needs of its descriptor; the rest of that is chosen here, to keep the memory's fan-out small
        m.submodules.check = check = OperandCheck(u)
        d_word, d_index = Signal(isa.INSTRUCTION_BITS), Signal(4)
        f_matrix = matrices[read.data[16:20]]
        d_matrix = {name: Signal(check.matrix[name].shape(), name=f"d_{name}") for name in ("rows", "cols")}
        from_memory = [d_valid.eq(f_valid), d_word.eq(read.data), check.columns.eq(about_columns(read.data, f_matrix.walk)),
                       *(kept.eq(f_matrix[name]) for name, kept in d_matrix.items())]
        d_opcode = d_word[0:6]
        d_is_loop, d_count = is_opcode(d_opcode, Opcode.LOOP), operand(d_word, Opcode.LOOP, "count")
        iterations = Mux(d_is_loop, Mux(d_count == 0, self.loop_count, d_count), d_word[16:48])
        d, e, e_valid = Signal(self._decoded(check)), Signal(self._decoded(check)), Signal()
        m.d.comb += [
            d_index.eq(d_word[16:20]), check.word.eq(d_word),
            check.matrix_ok.eq((d_index < u.n_matrices) & matrix_ok.bit_select(d_index, 1)),
            *(check.matrix[name].eq(d_matrix.get(name, matrices[d_index][name])) for name in check.matrix.shape().members),
            d.word.eq(Cat(d_word[:16], iterations, d_word[48:])), d.axes.eq(check.axes), d.spans.eq(check.spans),
            d.undefined.eq(check.undefined), d.bad_matrix.eq(check.bad_matrix), d.bad_number.eq(check.bad_number),
            *(d.task[name].eq(value) for name, value in self._task(d_word).items()), d.is_loop.eq(d_is_loop),
            d.is_next.eq(is_opcode(d_opcode, Opcode.NEXT)), d.barrier.eq(is_opcode(d_opcode, *isa.BARRIERS, Opcode.HALT)),
            d.uses.eq(is_opcode(d_opcode, Opcode.UPDATE, Opcode.SCAN, Opcode.DUMP)),
        ]
        if u.capacitor:
            m.d.comb += d.at_line.eq(is_opcode(d_opcode, Opcode.POINT, Opcode.TRIM))

        # e: its errors; that of an operand is three bits, not joined, to be early
        with m.If(step):
            m.d.sync += f_valid.eq(1)
            if u.operand_checks:
                m.d.sync += [*from_memory, e.eq(d), e_valid.eq(d_valid)]
        if not u.operand_checks:
            m.d.comb += [*from_memory, e.eq(d), e_valid.eq(d_valid)]
        opcode, index, e_index = word[0:6], word[16:20], e.word[16:20]
        cleared, after = Signal(u.n_matrices), Signal.like(pc)
        # of the instruction in c
        task, is_loop, is_next = Signal.like(e.task), Signal(), Signal()
        # what the instruction in c changes has happened when this one gets there
        cleared_after = cleared.bit_select(e_index, 1) | (valid & task.clears & (index == e_index))
        e_wrong = {
            Error.PROGRAM_END: Mux(valid, after[-1], pc[-1]), Error.ILLEGAL_OPCODE: e.undefined,
            Error.BAD_MATRIX: e.bad_matrix, Error.NOT_CLEARED: e.uses & ~cleared_after, Error.BAD_ADDRESS: e.bad_number,
        }

        # c: checked; what dispatch needs is decoded
        line, next_line, off_axis = Signal(13), Signal(13), Signal()    # next_line: with the instruction in c done
        wrong, bad = {error: Signal(name=error.name.lower()) for error in e_wrong}, Signal()    # bad: one of them
        bad_spans, loop_error = Signal(len(e.spans)), Signal()
        matrix, barrier, after_barrier = Signal(MatrixAxes(u)), Signal(), Signal()
        needs = Signal(4)                               # units that must be idle: own, waited for, all after a barrier
        with m.If(step):
            m.d.sync += [
                valid.eq(e_valid), word.eq(e.word), matrix.eq(e.axes), bad_spans.eq(Cat(beyond(u, span) for span in e.spans)),
                *(wrong[error].eq(one) for error, one in e_wrong.items()), bad.eq(Cat(e_wrong.values()).any()),
                barrier.eq(e.barrier),
                # ``step`` with an instruction in c: that one leaves
                needs.eq(e.word[6:9] | e.task.calls[:4] | (e.barrier | Mux(valid, barrier, after_barrier)).replicate(4)),
                is_loop.eq(e.is_loop), is_next.eq(e.is_next), task.eq(e.task),
            ]
        with m.If(flush):
            m.d.sync += [f_valid.eq(0), valid.eq(0)]
            if u.operand_checks:
                m.d.sync += [d_valid.eq(0), e_valid.eq(0)]

        # dispatch
        idle = Cat(self.o_lines.ready, self.o_vector.ready, self.o_update.ready, self.o_scan.ready)
        all_idle, stopping, host_wait = Signal(), Signal(), Signal()
        polarity, torn, is_torn = self.polarity, self.torn, Signal()
        if u.capacitor:
            m.d.comb += [is_torn.eq(task.fires & torn.bit_select(index, 1)), next_line.eq(line)]
            with m.If(valid & is_opcode(opcode, Opcode.LINE)):
                m.d.comb += next_line.eq(Mux(operand(word, Opcode.LINE, "zero"), 0, line + 1))
            with m.If(step):
                m.d.sync += off_axis.eq(e.at_line & (next_line >= e.axes.count))
        unsound, blocked = Cat(bad, bad_spans, loop_error, off_axis, is_torn), Cat(needs & ~idle, stopping & all_idle)
        m.d.comb += [
            all_idle.eq(idle.all()), sound.eq(~unsound.any()), held.eq(valid & sound & stopping & all_idle),
            host_wait.eq((task.is_wait & self.accepting) | (task.calls[-1] & ~self.o_accept.ready)),
            # one tree each, for a short path: ``fire`` moves all stages
            go.eq(valid & ~Cat(unsound, blocked).any()), fire.eq(valid & ~Cat(unsound, blocked, host_wait).any()),
        ]
        load_words = (matrix.count * matrix.words_per_line if matrix_words is None else
                      matrix_words.word_select(index, len(self.o_load.payload.words)))
        self._dispatch(m, matrix, load_words, line, polarity.bit_select(index, 1), task)
        next_depth, following = self._loops(m, is_loop, is_next, after, jump)
        with m.If(step):
            m.d.sync += loop_error.eq((e.is_loop & (next_depth == u.loop_depth)) | (e.is_next & (next_depth == 0)))

        # run, stop, end; where the program goes on does not depend on ``fire``, which comes late
        resuming = Signal()
        m.d.comb += [begin.eq((self.start | (self.resume & self.stopped)) & ~running),
                     flush.eq(begin | (fire & (jump | task.halts)) | held | (valid & ~sound))]
        first = Mux(self.start, self.entry, pc)
        with m.If(fire | begin):
            m.d.sync += pc.eq(Mux(running, following, first))
        with m.If(step | begin):
            m.d.sync += fetch_pc.eq(Mux(running, Mux(jump, following, fetch_pc + 1), first))
        with m.If(begin):
            m.d.sync += [running.eq(1), self.done.eq(0), self.error.eq(0), stopping.eq(0), after_barrier.eq(1),
                         resuming.eq(~self.start)]
        with m.Elif(self.resume & ~running):
            m.d.sync += [self.done.eq(0), self.error.eq(Error.NOT_STOPPED), self.error_pc.eq(0)]
        with m.If(valid):
            m.d.sync += resuming.eq(0)
        with m.If(self.start | self.resume | self.program_write.stb):
            m.d.sync += self.stopped.eq(0)
        with m.If(self.stop):
            m.d.sync += stopping.eq(1)
        with m.If(fire):
            m.d.sync += after_barrier.eq(barrier)
            with m.If(task.clears):
                m.d.sync += cleared.bit_select(index, 1).eq(1)
            if u.capacitor:
                m.d.sync += line.eq(next_line)
                with m.If(is_opcode(opcode, Opcode.FLIP)):
                    m.d.sync += [polarity.bit_select(index, 1).eq(operand(word, Opcode.FLIP, "inverted")),
                                 torn.bit_select(index, 1).eq(1)]
                with m.If(is_opcode(opcode, Opcode.SEAL)):
                    m.d.sync += torn.bit_select(index, 1).eq(0)
            with m.If(task.halts):
                m.d.sync += [running.eq(0), self.done.eq(1)]
        error = Signal(4)
        for one, code in ((is_torn, Error.TORN), (off_axis, Error.BAD_ADDRESS), (loop_error, Error.LOOP_DEPTH),
                          (wrong[Error.NOT_CLEARED], Error.NOT_CLEARED),
                          (wrong[Error.BAD_ADDRESS] | bad_spans.any(), Error.BAD_ADDRESS),
                          (wrong[Error.BAD_MATRIX], Error.BAD_MATRIX), (wrong[Error.ILLEGAL_OPCODE], Error.ILLEGAL_OPCODE),
                          (wrong[Error.PROGRAM_END], Error.PROGRAM_END)):                         # the last one counts
            with m.If(one):
                m.d.comb += error.eq(code)
        with m.If(valid & ~sound):
            m.d.sync += [running.eq(0), self.error.eq(error), self.error_pc.eq(pc)]
        with m.Elif(held):
            m.d.sync += [running.eq(0), self.done.eq(1), self.stopped.eq(1)]
        # a unit that is idle gets nothing to do without a program
        m.d.sync += self.resting.eq(all_idle & Mux(running, (fire & task.halts) | held | (valid & ~sound), ~begin))
        m.d.comb += [self.busy.eq(running | ~all_idle), self.pc.eq(pc),
                     self.disarm.eq(self.resting & (~self.stopped | self.start))]

        for there, one, of in ((e_valid, e.task, e.word), (valid, task, word)):
            m.d.sync += Assert(~there | (one.as_value() == Cat(self._task(of).values())), "not the decoded instruction")

        # time stands still while only the host is waited for
        waiting = Signal()
        m.d.comb += [
            waiting.eq(self.host_stall | held | (resuming & ~valid) | (go & host_wait)),
            self.events.time.eq(running & ~waiting), self.events.host_wait.eq(running & waiting),
            self.events.control.eq(running & ~waiting & all_idle), self.events.instructions.eq(fire),
        ]
        return m

    def _task(self, word):
        """What dispatch needs to know of an instruction, by name; ``calls``: which of o_lines to o_accept it is for."""
        opcode = word[0:6]
        task = {"calls": Cat(is_opcode(opcode, *opcodes) for opcodes in (_LINES, _VECTOR, _UPDATE, _SCAN, _ACCEPT)),
                "is_load": is_opcode(opcode, Opcode.LOAD), "is_wait": is_opcode(opcode, Opcode.WAIT),
                "clears": is_opcode(opcode, Opcode.CLEAR, Opcode.LOAD), "halts": is_opcode(opcode, Opcode.HALT)}
        if self.u.capacitor:                            # by the polarity of its matrix
            own = is_opcode(opcode, Opcode.READ) & ~operand(word, Opcode.READ, "polarity")[1]
            task["fires"] = is_opcode(opcode, Opcode.FIRE) | own
        return task

    def _decoded(self, check):
        """Layout of a decoded instruction; ``uses``: its matrix must have been cleared."""
        flags = ("undefined", "bad_matrix", "bad_number", "is_loop", "is_next", "barrier", "uses", "at_line")
        task = {name: len(value) for name, value in self._task(self.word).items()}
        return data.StructLayout({"word": isa.INSTRUCTION_BITS, "axes": check.axes.shape(), "spans": check.spans.shape(),
                                  "task": data.StructLayout(task), **dict.fromkeys(flags, 1)})

    def _matrices(self, m):
        """Check every descriptor after start; returns (all checked, descriptors, of each: whether it is right, its chi words).

        Without ``operand_checks`` it takes the same time, and there are no chi words.
        """
        u = self.u
        right, fits = Signal(data.ArrayLayout(RightMatrix(u), u.n_matrices)), Signal(u.n_matrices)
        for k, (kept, matrix) in enumerate(zip(right, self.matrices, strict=True)):
            names = list(kept.shape().members)
            m.d.comb += [*(kept[name].eq(matrix[name]) for name in names),
                         fits[k].eq(Cat(matrix[name][len(kept[name]):] for name in names) == 0)]
        index, checked, ok = Signal(range(u.n_matrices + 2)), Signal(), Signal(u.n_matrices)
        with m.If(~self.running):
            m.d.sync += [index.eq(0), checked.eq(0)]
        with m.Elif(~checked):
            m.d.sync += [index.eq(index + 1), checked.eq(index == u.n_matrices + 1)]
        if not u.operand_checks:
            return checked, right, ok, None
        m.submodules.descriptor = descriptor = DescriptorCheck(u)
        words = Signal(data.ArrayLayout(descriptor.words.shape(), u.n_matrices))
        m.d.comb += [descriptor.matrix.eq(right[index]), descriptor.fits.eq(fits.bit_select(index, 1))]
        with m.If(self.running & ~checked):
            m.d.sync += [ok.eq(Cat(ok[1:], descriptor.ok)),
                         words.eq(Cat(words.as_value()[len(descriptor.words):], descriptor.words))]
        return checked, right, ok, words.as_value()

    def _dispatch(self, m, matrix, words, line, inverted, task):
        """Offer the decoded command to its unit."""
        m.submodules.decoder = decoder = Decoder(self.u)
        m.d.comb += [decoder.word.eq(self.word), decoder.matrix.eq(matrix), decoder.line.eq(line),
                     decoder.inverted.eq(inverted)]
        for name, call in zip(("lines", "vector", "update", "scan", "accept"), task.calls, strict=True):
            port = getattr(self, f"o_{name}")
            m.d.comb += [port.payload.eq(getattr(decoder, name)), port.valid.eq(self.fire & call)]
        m.d.comb += [self.o_load.valid.eq(self.fire & task.is_load), self.o_load.payload.words.eq(words)]

    def _loops(self, m, is_loop, is_next, after, jump):
        """Stack of (first instruction of the body, NEXTs that jump, less one).

        Returns its depth with the instruction in c done, and where the program goes from there.
        """
        u, depth, body, left, fire = self.u, self.depth, self.body, self.left, self.fire
        top, iterations = Signal(range(u.loop_depth)), self.word[16:48]
        following, next_depth = Signal.like(self.next), Signal.like(depth)
        m.d.comb += [
            top.eq(depth - 1), next_depth.eq(depth),
            jump.eq(self.valid & is_next & ~Array(one[-1] for one in left)[top]),      # not negative
            after.eq(self.next + 1), following.eq(Mux(jump, body[top], after)),
        ]
        for k in range(u.loop_depth):
            with m.If(fire & ((is_loop & (depth == k)) | (jump & (depth == k + 1)))):   # the iterations less 2, or one less
                m.d.sync += left[k].eq(Mux(is_loop, iterations, left[k]) + Cat(~is_loop, Const(-1, 32)).as_signed())
            with m.If(fire & is_loop & (depth == k)):
                m.d.sync += body[k].eq(after)
        with m.If(self.valid & (is_loop | (is_next & ~jump))):
            m.d.comb += next_depth.eq(Mux(is_loop, depth + 1, depth - 1))
        with m.If(self.start & ~self.running):
            m.d.sync += depth.eq(0)
        with m.Elif(fire):
            m.d.sync += depth.eq(next_depth)
        return next_depth, following
