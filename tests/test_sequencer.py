"""Sequencer: order, waits, barriers, loops, errors and time, against a reference of the dispatch rule written here."""
import random

import pytest
from amaranth.sim import Simulator

from hdl.sequencer import Sequencer
from model.commands import matrix_fields
from model.digital.sequencer import JUMP_CYCLES, START_CYCLES
from model.isa import BARRIERS, Error, Opcode, VectorOp, Wait, encode
from model.params import SMALL

U = SMALL.unit
GOOD = {"tile": 0, "row0": 4, "col0": 0, "rows": 6, "cols": 5, "walk": 0, "chi_base": 3, "words_per_line": 1}
UNITS = {Opcode.DRIVE: "lines", Opcode.READ: "lines", Opcode.VECTOR: "vector", Opcode.GATHER: "vector", Opcode.EMIT: "vector",
         Opcode.UPDATE: "update", Opcode.CLEAR: "update", Opcode.DUMP: "update", Opcode.SCAN: "scan"}
BITS = {"lines": Wait.LINES, "vector": Wait.VECTOR, "update": Wait.UPDATE}


def run(program, busy=lambda unit: 1, matrices=(GOOD,), loop_count=1, accept_after=0, stop_at=None, limit=4000):
    """Run a program; units are busy for ``busy(unit)`` cycles.

    Returns (dispatches as (time, unit), final state, events). Time counts cycles of unit time since start.
    """
    dut = Sequencer(U)
    dispatched, final, totals = [], {}, dict.fromkeys(("time", "host_wait", "control", "instructions"), 0)

    async def bench(ctx):
        for unit in (*BITS, "scan", "accept", "load"):
            ctx.set(getattr(dut, f"o_{unit}").ready, 1)
        for index, word in enumerate(program):
            ctx.set(dut.program_write.stb, 1)
            ctx.set(dut.program_write.address, index)
            ctx.set(dut.program_write.data, word)
            await ctx.tick()
        ctx.set(dut.program_write.stb, 0)
        for index, matrix in enumerate(matrices):
            ctx.set(dut.matrices[index], matrix)
        ctx.set(dut.loop_count, loop_count)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        left = dict.fromkeys((*BITS, "scan"), 0)
        accepting = 0
        for cycle in range(limit):
            ctx.set(dut.stop, int(cycle == stop_at))
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
                break
        final.update({name: ctx.get(getattr(dut, name)) for name in ("done", "error", "error_pc")})

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return dispatched, final, totals


def reference(program_ops, busy):
    """Dispatch times of a straight program by the rule of the data sheet; program_ops: (opcode, wait) list ending with HALT."""
    now, free, out, after = START_CYCLES + U.n_matrices, dict.fromkeys((*BITS, "scan"), 0), [], False
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


def test_loops_and_jump_time():
    body = encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT)
    program = [encode(Opcode.LOOP, count=3), encode(Opcode.LOOP, count=0), body, encode(Opcode.NEXT), body, encode(Opcode.NEXT),
               encode(Opcode.HALT)]
    dispatched, _, totals = run(program, loop_count=4)
    assert len(dispatched) == 3 * (4 + 1)
    jumps = 3 * 3 + 2
    instructions = 1 + 3 * (1 + 4 * 2 + 1 + 1) + 1
    assert totals["instructions"] == instructions
    assert totals["time"] == START_CYCLES + U.n_matrices + instructions + jumps * (JUMP_CYCLES - 1)


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


def test_running_past_the_end():
    _, final, _ = run([encode(Opcode.VECTOR, op=VectorOp.SET_EXPONENT)] * U.program_words)
    assert final == {"done": 0, "error": Error.PROGRAM_END, "error_pc": U.program_words}


@pytest.mark.parametrize("change", [
    {"tile": U.n_tiles}, {"row0": 2}, {"rows": U.n_rows - 3}, {"cols": U.n_cols + 1}, {"cols": 0}, {"words_per_line": 0},
    {"chi_base": U.chi_words - 5}, {"words_per_line": 11},
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
