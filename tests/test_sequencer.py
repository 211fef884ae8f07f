"""Sequencer: order, waits, barriers, loops, errors, stops and time, against a reference of the dispatch rule written here.

That a stopped program goes on as its twin does, on the units: ``test_capacitor_cosim``, and ``test_top`` for host streams.
"""
import dataclasses
import random

import pytest
from amaranth import Cat, Elaboratable, Module, Signal, Value
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib.wiring import In, connect
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from hdl.decoder import operand
from hdl.read_unit import ReadUnit
from hdl.sequencer import Sequencer
from model.commands import LinesOp, matrix_fields
from model.digital.sequencer import jump_cycles, start_cycles
from model.isa import BARRIERS, Error, Opcode, VectorOp, Wait, encode
from model.params import SMALL, UnitParams
from tests.formal import any_value, drive_stream, prove

U = SMALL.unit
GOOD = {"tile": 0, "row0": 4, "col0": 0, "rows": 6, "cols": 5, "walk": 0, "chi_base": 3, "words_per_line": 1}
UNITS = {Opcode.DRIVE: "lines", Opcode.READ: "lines", Opcode.VECTOR: "vector", Opcode.GATHER: "vector", Opcode.EMIT: "vector",
         Opcode.UPDATE: "update", Opcode.CLEAR: "update", Opcode.DUMP: "update", Opcode.SCAN: "scan"}
BITS = {"lines": Wait.LINES, "vector": Wait.VECTOR, "update": Wait.UPDATE}


def run(program, busy=lambda unit: 1, matrices=(GOOD,), loop_count=1, accept_after=0, stop_at=None, limit=4000, stops=(), u=U,
        seen=None):
    """Run a program; units are busy for ``busy(unit)`` cycles.

    stop_at: bench cycle of a stop that ends the run; stops: those of stops that are resumed, each appended to ``seen`` as (unit
    time, pc, loop depth). Returns (dispatches as (time, unit), final state, events). Time counts cycles of unit time since start.
    """
    dut = Sequencer(u)
    dispatched, final, totals = [], {}, dict.fromkeys(("time", "host_wait", "control", "instructions"), 0)

    async def bench(ctx):
        for unit in (*BITS, "scan", "accept", "load"):
            ctx.set(getattr(dut, f"o_{unit}").ready, 1)
        await load(ctx, dut, program)
        for index, matrix in enumerate(matrices):
            ctx.set(dut.matrices[index], matrix)
        ctx.set(dut.loop_count, loop_count)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        left = dict.fromkeys((*BITS, "scan"), 0)
        accepting = 0
        for cycle in range(limit):
            ctx.set(dut.stop, int(cycle == stop_at or cycle in stops))
            for name in totals:
                totals[name] += ctx.get(getattr(dut.events, name))
            time = totals["time"] - ctx.get(dut.events.time)
            ports = {unit: getattr(dut, f"o_{unit}") for unit in (*left, "accept")}
            fired = [unit for unit, port in ports.items() if ctx.get(port.valid & port.ready)]
            dispatched.extend((time, unit) for unit in fired)
            await ctx.tick()
            for unit in left:
                left[unit] = busy(unit) - 1 if unit in fired else max(0, left[unit] - 1)
                ctx.set(getattr(dut, f"o_{unit}").ready, int(left[unit] == 0))
            accepting = accept_after if "accept" in fired else max(0, accepting - 1)
            ctx.set(dut.accepting, int(accepting > 0))
            if not ctx.get(dut.busy):
                if not stops or not ctx.get(dut.stopped):
                    break
                if seen is not None:
                    seen.append((totals["time"], ctx.get(dut.pc), ctx.get(dut.depth)))
                ctx.set(dut.resume, 1)
                await ctx.tick()
                ctx.set(dut.resume, 0)
        final.update({name: ctx.get(getattr(dut, name)) for name in ("done", "error", "error_pc")})

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return dispatched, final, totals


def reference(program_ops, busy):
    """Dispatch times of a straight program by the rule of the data sheet; program_ops: (opcode, wait) list ending with HALT."""
    now, free, out, after = start_cycles(U.constants), dict.fromkeys((*BITS, "scan"), 0), [], False
    for opcode, wait in program_ops:
        barrier = opcode in BARRIERS or opcode == Opcode.HALT
        earliest = now
        if barrier or after:
            earliest = max(earliest, *free.values())
        for unit, bit in BITS.items():
            if wait & bit or UNITS.get(opcode) == unit:
                earliest = max(earliest, free[unit])
        after = barrier
        if opcode in UNITS:
            out.append((earliest, UNITS[opcode]))
            free[UNITS[opcode]] = earliest + busy[UNITS[opcode]]
        now = earliest + 1
    return out, now


@pytest.mark.parametrize("seed", range(4))
def test_dispatch_times(seed):
    rng = random.Random(seed)
    pool = {Opcode.DRIVE: {"matrix": 0}, Opcode.READ: {"matrix": 0}, Opcode.VECTOR: {"op": VectorOp.SET_EXPONENT},
            Opcode.EMIT: {"count": 1}, Opcode.UPDATE: {"matrix": 0}, Opcode.SCAN: {"matrix": 0}}
    drawn = [(rng.choice(list(pool)), Wait(rng.randrange(8))) for _ in range(25)]
    ops = [(Opcode.CLEAR, Wait.NONE), *drawn, (Opcode.HALT, Wait.NONE)]
    program = [encode(op, wait, **pool.get(op, {"matrix": 0} if op == Opcode.CLEAR else {})) for op, wait in ops]
    longest = {"lines": 30, "vector": 9, "update": 40, "scan": 20}
    busy = {unit: rng.randrange(1, cycles) for unit, cycles in longest.items()}
    expected, end = reference(ops, busy)
    dispatched, final, totals = run(program, busy.__getitem__)
    assert dispatched == expected
    assert final == {"done": 1, "error": 0, "error_pc": 0}
    assert totals["time"] == end
    assert totals["instructions"] == len(ops)
    assert totals["host_wait"] == 0


@pytest.mark.parametrize("checks", [0, 1])
def test_loops_and_jump_time(checks):
    body = encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT)
    program = [encode(Opcode.LOOP, count=3), encode(Opcode.LOOP, count=0), body, encode(Opcode.NEXT), body, encode(Opcode.NEXT),
               encode(Opcode.HALT)]
    u = dataclasses.replace(U, operand_checks=checks)
    dispatched, _, totals = run(program, loop_count=4, u=u)
    assert len(dispatched) == 3 * (4 + 1)
    jumps = 3 * 3 + 2
    instructions = 1 + 3 * (1 + 4 * 2 + 1 + 1) + 1
    assert totals["instructions"] == instructions
    assert totals["time"] == start_cycles(u.constants) + instructions + jumps * (jump_cycles(u.constants) - 1)


def test_waiting_for_the_host_is_no_time():
    program = [encode(Opcode.ACCEPT, count=1), encode(Opcode.WAIT), encode(Opcode.HALT)]
    _, _, prompt = run(program, accept_after=1)
    _, _, late = run(program, accept_after=200)
    assert late["time"] == prompt["time"]
    assert late["host_wait"] > 150


@pytest.mark.parametrize(("program", "error", "pc"), [
    ([encode(Opcode.HALT) | 40], Error.ILLEGAL_OPCODE, 0),
    ([encode(Opcode.VECTOR, op=VectorOp.GATHER, count=1)], Error.ILLEGAL_OPCODE, 0),
    ([encode(Opcode.NEXT)], Error.LOOP_DEPTH, 0),
    ([encode(Opcode.LOOP, count=2)] * 5, Error.LOOP_DEPTH, 4),
    ([encode(Opcode.CLEAR, matrix=1)], Error.BAD_MATRIX, 0),
    ([encode(Opcode.CLEAR, matrix=7)], Error.BAD_MATRIX, 0),
    ([encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT), encode(Opcode.UPDATE, matrix=0)], Error.NOT_CLEARED, 1),
    ([encode(Opcode.DRIVE, matrix=0, src=63)], Error.BAD_ADDRESS, 0),
    ([encode(Opcode.READ, matrix=0, count=6)], Error.BAD_ADDRESS, 0),
    ([encode(Opcode.VECTOR, op=VectorOp.ADD, dst=63, count=5)], Error.BAD_ADDRESS, 0),
    ([encode(Opcode.VECTOR, op=VectorOp.ADD, count=0)], Error.BAD_ADDRESS, 0),
    ([encode(Opcode.EMIT, src=60, count=17)], Error.BAD_ADDRESS, 0),
    ([encode(Opcode.ACCEPT, dst=1, count=253)], Error.BAD_ADDRESS, 0),
])
def test_errors_stop_with_code_and_pc(program, error, pc):
    _, final, _ = run([*program, encode(Opcode.HALT)])
    assert final == {"done": 0, "error": error, "error_pc": pc}


@pytest.mark.parametrize(("without", "program"), [
    ("refresh", [encode(Opcode.CLEAR, matrix=0), encode(Opcode.SCAN, matrix=0)]),
    ("gather", [encode(Opcode.GATHER, count0=1, count1=1)]),
])
def test_instructions_that_a_build_lacks(without, program):
    unit = dataclasses.replace(U, **{without: 0})
    assert run([*program, encode(Opcode.HALT)], u=unit)[1] == {
        "done": 0, "error": Error.ILLEGAL_OPCODE, "error_pc": len(program) - 1}


def test_operands_are_trusted():
    """Without operand checks only what the sequencer itself needs to know is an error."""
    unit = dataclasses.replace(U, operand_checks=0)
    beyond = encode(Opcode.EMIT, src=U.vector_words - 1, count=3 * U.vector_width)
    assert run([beyond, encode(Opcode.HALT)])[1]["error"] == Error.BAD_ADDRESS
    assert run([beyond, encode(Opcode.HALT)], u=unit)[1] == {"done": 1, "error": 0, "error_pc": 0}
    assert run([encode(Opcode.DUMP, matrix=0), encode(Opcode.HALT)], u=unit)[1]["error"] == Error.NOT_CLEARED


def test_running_past_the_end():
    _, final, _ = run([encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT)] * U.program_words)
    assert final == {"done": 0, "error": Error.PROGRAM_END, "error_pc": U.program_words}


@pytest.mark.parametrize("change", [
    {"tile": U.n_tiles}, {"row0": 2}, {"rows": U.n_rows - 3}, {"cols": U.n_cols + 1}, {"cols": 0}, {"words_per_line": 0},
    {"chi_base": U.chi_words - 5}, {"words_per_line": 11},
    {"words_per_line": U.groups_max + 1},
])
def test_descriptors_are_checked(change):
    assert set(GOOD) == set(matrix_fields(U))
    program = [encode(Opcode.CLEAR, matrix=0), encode(Opcode.HALT)]
    assert run(program)[1]["error"] == 0
    assert run(program, matrices=({**GOOD, **change},))[1]["error"] == Error.BAD_MATRIX


def test_stop_between_instructions():
    program = [encode(Opcode.LOOP, count=1 << 20), encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT), encode(Opcode.NEXT)]
    _, final, _ = run(program, stop_at=300)
    assert final["done"] == 1


def random_program(rng, loops=True):
    """Straight pieces in nested loops, with any waits."""
    pool = {Opcode.DRIVE: {"matrix": 0}, Opcode.READ: {"matrix": 0}, Opcode.VECTOR: {"op": VectorOp.SET_EXPONENT},
            Opcode.EMIT: {"count": 1}, Opcode.UPDATE: {"matrix": 0}, Opcode.SCAN: {"matrix": 0}}

    def piece(depth):
        words = []
        for _ in range(rng.randrange(1, 6)):
            if depth < 3 and rng.random() < 0.3:
                words += [encode(Opcode.LOOP, count=rng.randrange(1, 4)), *piece(depth + 1), encode(Opcode.NEXT)]
            else:
                op = rng.choice(list(pool))
                words.append(encode(op, Wait(rng.randrange(8)), **pool[op]))
        return words

    return [encode(Opcode.CLEAR, matrix=0), *piece(0), *piece(0), encode(Opcode.HALT)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 400), min_size=1, max_size=8, unique=True))
def test_resumed_as_if_never_stopped(seed, stops):
    """Stops at any cycles, each resumed: every dispatch at the same unit time, and the same events."""
    rng = random.Random(seed)
    program = random_program(rng)
    busy = {unit: rng.randrange(1, cycles) for unit, cycles in {"lines": 30, "vector": 9, "update": 40, "scan": 20}.items()}
    expected = run(program, busy.__getitem__, limit=20_000)
    assert expected[1]["done"]
    dispatched, final, totals = run(program, busy.__getitem__, stops=stops, limit=20_000)
    assert (dispatched, final) == expected[:2]
    assert totals | {"host_wait": 0} == expected[2]


def test_stops_in_a_loop():
    """The stop waits for an instruction that finds every unit idle; what it shows then is what it goes on with."""
    body = [encode(Opcode.DRIVE, matrix=0), encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT),
            encode(Opcode.VECTOR, Wait.LINES, op=VectorOp.SET_EXPONENT)]
    program = [encode(Opcode.LOOP, count=2), encode(Opcode.LOOP, count=2), *body, encode(Opcode.NEXT), encode(Opcode.NEXT),
               encode(Opcode.HALT)]
    busy = {"lines": 6, "vector": 2}.get
    expected, _, totals = run(program, busy)
    places = set()
    for cycle in range(totals["time"] - 2, 4, -1):
        seen = []
        dispatched, final, events = run(program, busy, stops=(cycle,), seen=seen)
        assert (dispatched, final["done"], events | {"host_wait": 0}) == (expected, 1, totals)
        (time, pc, depth), = seen
        assert time > cycle
        assert (pc, depth) in {(0, 0), (1, 1), (2, 2), (4, 2), (5, 2), (6, 1), (7, 0)}      # not 3: the DRIVE before it runs
        places.add((time, pc))
    assert {pc for _, pc in places} >= {0, 2, 4, 7}
    assert len({time for time, pc in places if pc == 2}) == 4


def interact(script, u=U):
    """Drive the sequencer by hand: ``script(ctx, dut)``, all units idle."""
    dut = Sequencer(u)

    async def bench(ctx):
        for unit in (*BITS, "scan", "accept", "load"):
            ctx.set(getattr(dut, f"o_{unit}").ready, 1)
        ctx.set(dut.matrices[0], GOOD)
        await script(ctx, dut)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


async def load(ctx, dut, program):
    for index, word in enumerate(program):
        for part in range(4):
            ctx.set(dut.program_write.stb, 1)
            ctx.set(dut.program_write.address, index)
            ctx.set(dut.program_write.part, part)
            ctx.set(dut.program_write.data, word >> 32 * part & 0xFFFF_FFFF)
            await ctx.tick()
    ctx.set(dut.program_write.stb, 0)


async def pulse(ctx, dut, name, cycles=40):
    ctx.set(getattr(dut, name), 1)
    await ctx.tick()
    ctx.set(getattr(dut, name), 0)
    for _ in range(cycles):
        await ctx.tick()


ENDLESS = [encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT), encode(Opcode.LOOP, count=1 << 20),
           encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT), encode(Opcode.NEXT), encode(Opcode.HALT)]


@pytest.mark.parametrize("why", ["never started", "halted", "an error", "resumed and ended", "another program", "given up"])
def test_nothing_to_resume(why):
    async def script(ctx, dut):
        await load(ctx, dut, ENDLESS)
        if why == "halted":
            ctx.set(dut.entry, 4)
            await pulse(ctx, dut, "start")
        elif why == "an error":
            ctx.set(dut.entry, 3)
            await pulse(ctx, dut, "start")
            assert ctx.get(dut.error) == Error.LOOP_DEPTH
        elif why != "never started":
            if why == "resumed and ended":
                await load(ctx, dut, [encode(Opcode.HALT)])
            await pulse(ctx, dut, "start", 3)
            await pulse(ctx, dut, "stop")
            assert (ctx.get(dut.stopped), ctx.get(dut.done), ctx.get(dut.busy)) == (1, 1, 0)
            if why == "resumed and ended":
                await pulse(ctx, dut, "resume")
                assert (ctx.get(dut.stopped), ctx.get(dut.done), ctx.get(dut.busy)) == (0, 1, 0)
            elif why == "another program":
                await load(ctx, dut, ENDLESS[:1])
            else:
                ctx.set(dut.entry, 4)
                await pulse(ctx, dut, "start")
                assert ctx.get(dut.done)
        await pulse(ctx, dut, "resume")
        assert (ctx.get(dut.error), ctx.get(dut.error_pc), ctx.get(dut.done), ctx.get(dut.busy)) == (Error.NOT_STOPPED, 0, 0, 0)
        ctx.set(dut.entry, 4)
        await pulse(ctx, dut, "start")
        assert (ctx.get(dut.error), ctx.get(dut.done)) == (0, 1)

    interact(script)


def test_a_program_waits_for_what_an_error_left_running():
    """A unit, as a SCAN, goes on after an error: the first instruction of the next program waits for all of them."""
    async def script(ctx, dut):
        await load(ctx, dut, [encode(Opcode.CLEAR, matrix=0), encode(Opcode.SCAN, matrix=0), encode(Opcode.NEXT)])
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while not ctx.get(dut.o_scan.valid):
            await ctx.tick()
        await ctx.tick()
        ctx.set(dut.o_scan.ready, 0)
        for _ in range(5):
            await ctx.tick()
        assert (ctx.get(dut.error), ctx.get(dut.busy)) == (Error.LOOP_DEPTH, 1)
        ctx.set(dut.start, 1)
        for _ in range(40):
            assert not ctx.get(dut.o_update.valid)
            await ctx.tick()
            ctx.set(dut.start, 0)
        ctx.set(dut.o_scan.ready, 1)
        assert ctx.get(dut.o_update.valid)

    interact(script)


def test_start_and_resume_are_ignored_while_a_program_runs():
    async def script(ctx, dut):
        await load(ctx, dut, ENDLESS)
        await pulse(ctx, dut, "start")
        for name in ("start", "resume"):
            await pulse(ctx, dut, name)
            assert (ctx.get(dut.busy), ctx.get(dut.error), ctx.get(dut.depth)) == (1, 0, 1)
        await pulse(ctx, dut, "stop")
        left = ctx.get(dut.left[0])
        assert ctx.get(dut.pc) in (2, 3)
        for _ in range(3):
            await pulse(ctx, dut, "resume", start_cycles(U.constants) + 5)
            await pulse(ctx, dut, "stop")
            assert left - 60 < ctx.get(dut.left[0]) < left
            left = ctx.get(dut.left[0])

    interact(script)


def test_an_armed_packet_outlives_a_stop_and_not_a_start():
    """``disarm`` withdraws ACCEPT and LOAD: between programs, not between stop and resume."""
    async def script(ctx, dut):
        await load(ctx, dut, [encode(Opcode.ACCEPT, count=1), encode(Opcode.WAIT), encode(Opcode.HALT)])
        assert ctx.get(dut.disarm)
        ctx.set(dut.accepting, 1)                     # from before the WAIT on
        await pulse(ctx, dut, "start", 20)
        await pulse(ctx, dut, "stop")
        assert (ctx.get(dut.stopped), ctx.get(dut.pc), ctx.get(dut.disarm)) == (1, 1, 0)
        await pulse(ctx, dut, "resume", 20)
        assert (ctx.get(dut.busy), ctx.get(dut.disarm), ctx.get(dut.events.host_wait)) == (1, 0, 1)
        await pulse(ctx, dut, "stop", 3)
        assert ctx.get(dut.stopped)
        ctx.set(dut.entry, 2)
        ctx.set(dut.start, 1)
        await ctx.delay(1e-8)
        assert ctx.get(dut.disarm)
        await pulse(ctx, dut, "start")
        assert (ctx.get(dut.done), ctx.get(dut.disarm)) == (1, 1)

    interact(script)


FORMAL = UnitParams(
    lanes=2, vector_width=4, n_rows=4, n_cols=4, n_matrices=5, line_bits=3, outer_bits=2, n_tiles=2, vector_words=16,
    chi_words=16, eps_log2=11, chi_bits=12, update_max_steps=1, set_cycles=2, set_gap_cycles=2, reset_cycles=3,
    reset_gap_cycles=3, program_words=16, loop_depth=2, capacitor=1, slot_bits=2)
ONE_MATRIX = dataclasses.replace(FORMAL, n_matrices=1)
"""Sooner at the first dispatch: the descriptors are checked one a cycle."""


class Driven(Elaboratable):
    """A sequencer with any program, any units and any host; ``property(m, dut)`` adds what is claimed."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Sequencer(self.u)
        taken = self.units(m, dut)
        for name, member in dut.signature.members.items():
            if member.is_port and member.flow == In:
                m.d.comb += Value.cast(getattr(dut, name)).eq(any_value(m, len(Value.cast(getattr(dut, name))), name))
        for name in ("program_write", *(name for name in dut.signature.members if name.startswith("o_"))):
            port = getattr(dut, name)
            if name == "program_write":
                m.d.comb += [getattr(port, part).eq(any_value(m, len(getattr(port, part)), f"write_{part}"))
                             for part in ("stb", "address", "part", "data")]
            elif name not in taken:
                m.d.comb += port.ready.eq(any_value(m, 1, f"{name}_ready"))
        m.d.comb += Assert(~dut.valid | dut.running)
        self.claims(m, dut)
        return m

    def units(self, m, dut):
        """Connect units; returns the names of the ports that are connected."""
        return ()


def offered(dut):
    """A command leaves, or would."""
    return Cat(getattr(dut, f"o_{name}").valid for name in ("lines", "vector", "update", "scan", "accept", "load")).any()


class StoppedIsSilent(Driven):
    """From a stop until the next start or resume no command leaves, and none is under way: no line of the tile port moves."""

    def units(self, m, dut):
        m.submodules.unit = self.unit = unit = ReadUnit(self.u)
        connect(m, dut.o_lines, unit.i)
        drive_stream(m, unit.codes)
        for name in ("last", "program_busy", "dither", "exponents"):
            port = Value.cast(getattr(unit, name))
            m.d.comb += port.eq(any_value(m, len(port), name))
        m.d.comb += Value.cast(unit.vector.data).eq(any_value(m, len(Value.cast(unit.vector.data)), "data"))
        return ("o_lines",)

    def claims(self, m, dut):
        silent, go = Signal(), dut.start | dut.resume
        m.d.sync += silent.eq((silent | dut.stopped) & ~go)
        quiet, unit = silent | dut.stopped, self.unit
        m.d.comb += [
            Assert(~quiet | ~dut.running), Assert(~quiet | unit.i.ready), Assert(~quiet | ~(dut.fire | offered(dut))),
            Assert(~quiet | ~(unit.fire | unit.trim | unit.hold | unit.convert | unit.lines.start | unit.lines.en)),
            Assert(~unit.lines.en | unit.events.phase_drive),
        ]
        trimmed = Signal()
        m.d.sync += trimmed.eq(trimmed | unit.trim)
        m.d.comb += Cover(silent & trimmed)


class ResumedAsStopped(Driven):
    """From a stop until the instruction held back leaves, the state is that of the stop: pc, loops, polarities, torn matrices."""

    def claims(self, m, dut):
        state = Cat(dut.depth, *dut.body, *dut.left, dut.polarity, dut.torn)
        resumed, saved, saved_pc = Signal(), Signal(len(state)), Signal(len(dut.pc))
        kept = dut.stopped | resumed
        m.d.sync += resumed.eq(kept & ~dut.fire & ~(dut.start & ~dut.running))
        with m.If(dut.running & ~kept):
            m.d.sync += [saved.eq(state), saved_pc.eq(dut.pc)]
        m.d.comb += [
            Assert(~dut.stopped | ~dut.running), Assert(~kept | (state == saved)), Assert(~dut.stopped | (dut.pc == saved_pc)),
            Assert(~(kept & dut.running & dut.valid) | (dut.pc == saved_pc)),
            Cover(resumed & dut.fire & (dut.depth == 1)),
        ]


class PolarityChangesByFlip(Driven):
    """The polarity of a matrix is that of its last FLIP; from FLIP to SEAL no FIRE on it leaves, nor a READ by its polarity."""

    def claims(self, m, dut):
        u = self.u
        matrix = Signal(range(u.n_matrices))
        m.d.comb += [matrix.eq(AnyConst(len(matrix))), Assume(matrix < u.n_matrices)]
        opcode, mine = dut.word[:6], dut.fire & (dut.word[16:20] == matrix)
        polarity, torn = Signal(), Signal()
        with m.If(mine & (opcode == Opcode.FLIP)):
            m.d.sync += [polarity.eq(operand(dut.word, Opcode.FLIP, "inverted")), torn.eq(1)]
        with m.If(mine & (opcode == Opcode.SEAL)):
            m.d.sync += torn.eq(0)
        op = dut.o_lines.payload.op
        reading = opcode == Opcode.READ
        m.d.comb += [
            Assert(dut.polarity.bit_select(matrix, 1) == polarity), Assert(dut.torn.bit_select(matrix, 1) == torn),
            Assert(~dut.o_lines.valid | ((op == LinesOp.FIRE) == (opcode == Opcode.FIRE))),
            Assert(~(dut.o_lines.valid & (op == LinesOp.FIRE) & (dut.word[16:20] == matrix) & torn)),
            Assert(~(dut.o_lines.valid & reading & ~operand(dut.word, Opcode.READ, "polarity")[1] & (dut.word[16:20] == matrix)
                     & torn)),
            Cover(dut.stopped & torn & polarity), Cover(torn & (dut.error == Error.TORN) & (opcode == Opcode.FIRE)),
        ]


@pytest.mark.formal
def test_formal_stopped_is_silent():
    prove(StoppedIsSilent(ONE_MATRIX), "sequencer_silent", depth=2, cover_depth=20)


@pytest.mark.formal
def test_formal_resumed_as_stopped():
    prove(ResumedAsStopped(ONE_MATRIX), "sequencer_resumed", depth=10, cover_depth=20)


@pytest.mark.formal
def test_formal_polarity_changes_by_flip():
    prove(PolarityChangesByFlip(FORMAL), "sequencer_polarity", depth=2, cover_depth=24)
