"""Twin of ``hdl.sequencer``: interprets the program on the twins of the units, and keeps time as the unit does.

Time: an instruction is dispatched one cycle after the one before it, after a NEXT that jumps ``jump_cycles``, later if a unit it
waits for is busy: a unit that took a command at time t with c cycles is free at t + c. The host never lets the unit wait.

A stop acts on the first instruction that could leave while every unit is idle; what a program needs to go on is in ``UnitState``.
"""
from typing import NamedTuple

import numpy as np

from model.commands import LinesOp, ScanCommand, UpdateCommand, UpdateOp, VectorCommand, matrix_fields
from model.compiled import borrowing, compiled
from model.digital import host_stream, read_unit, refresh, shift_register, update_unit, vector_unit
from model.digital.read_unit import lines_command
from model.events import INDEX, N_EVENTS
from model.isa import CAPACITOR_ONLY, FORMATS, N_EXPONENTS, BKind, Error, Half, Opcode, VectorOp, decode
from model.ledger import record_update
from model.params import UnitParams

__all__ = ["MATRIX_FIELDS", "RESUME", "STARVED", "UnitState", "jump_cycles", "new_unit", "predecode", "run", "start_cycles"]

RESUME = -1
"""In place of an entry: go on with the program that was stopped."""
STARVED = -1
"""No error of the unit: it would wait for ever for a packet that the host does not have."""

_COLUMNS = 2 + max(len(fields) for _, fields in FORMATS.values())
_HALT, _LOOP, _NEXT, _WAIT, _ACCEPT, _DRIVE, _READ, _VECTOR, _GATHER, _EMIT, _UPDATE, _SCAN, _CLEAR, _DUMP, _LOAD = (
    int(Opcode[name]) for name in ("HALT", "LOOP", "NEXT", "WAIT", "ACCEPT", "DRIVE", "READ", "VECTOR", "GATHER", "EMIT",
                                   "UPDATE", "SCAN", "CLEAR", "DUMP", "LOAD"))
_FIRE, _POINT, _TRIM, _LINE, _FLIP, _SEAL, _SEED = (int(op) for op in CAPACITOR_ONLY)
_DIFFERENCE, _INVERTED = int(Half.DIFFERENCE), int(Half.INVERTED)
_TIME, _CONTROL, _INSTRUCTIONS = INDEX["time"], INDEX["control"], INDEX["instructions"]
_PACKETS_IN, _PACKETS_OUT = INDEX["packets_in"], INDEX["packets_out"]
_LINES_UNIT, _VECTOR_UNIT, _UPDATE_UNIT, _SCAN_UNIT = range(4)
MATRIX_FIELDS = tuple(matrix_fields(UnitParams()))
_M = {name: index for index, name in enumerate(MATRIX_FIELDS)}
_TILE, _ROW0, _COL0, _ROWS, _COLS, _WALK, _CHI_BASE, _WORDS_PER_LINE = (
    _M[name] for name in ("tile", "row0", "col0", "rows", "cols", "walk", "chi_base", "words_per_line"))
_ILLEGAL_OPCODE, _BAD_MATRIX, _BAD_ADDRESS, _NOT_CLEARED, _LOOP_DEPTH, _PROGRAM_END, _TORN, _NOT_STOPPED = (
    int(error) for error in (Error.ILLEGAL_OPCODE, Error.BAD_MATRIX, Error.BAD_ADDRESS, Error.NOT_CLEARED, Error.LOOP_DEPTH,
                             Error.PROGRAM_END, Error.TORN, Error.NOT_STOPPED))
_VECTOR_OP_GATHER, _VECTOR_OP_EMIT, _VECTOR_OP_SET_EXPONENT = int(VectorOp.GATHER), int(VectorOp.EMIT), int(VectorOp.SET_EXPONENT)
_B_VECTOR = int(BKind.VECTOR)
_LINES_DRIVE, _LINES_READ, _LINES_POINT, _LINES_FIRE, _LINES_TRIM = (
    int(op) for op in (LinesOp.DRIVE, LinesOp.READ, LinesOp.POINT, LinesOp.FIRE, LinesOp.TRIM))
_UPDATE_UPDATE, _UPDATE_CLEAR, _UPDATE_DUMP, _UPDATE_LOAD = (int(UpdateOp[name]) for name in ("UPDATE", "CLEAR", "DUMP", "LOAD"))


class UnitState(NamedTuple):
    """Registers and memories of the digital unit that outlive an instruction."""

    vec: np.ndarray
    """int32 (vector_words * vector_width,): vector memory"""
    luts: np.ndarray
    """int32 (n_luts, 2^lut_bits)"""
    exponents: np.ndarray
    """int64 (8,)"""
    peak: np.ndarray
    """int64 (1,)"""
    lines: np.ndarray
    """int32 (n_lines,): signed codes of the line drivers"""
    chi: np.ndarray
    """int32 (chi_words, lanes)"""
    dirty: np.ndarray
    """uint8 (chi_words,): lines programmed since their last scan"""
    cleared: np.ndarray
    """uint8 (n_matrices,)"""
    counters: np.ndarray
    """int64 (N_EVENTS,)"""
    trains: np.ndarray
    """int32 (n_lines,): signed codes of the train drivers"""
    step_shift: np.ndarray
    """int64 (1,): of the train drivers"""
    shift_register: np.ndarray
    """int64 (1,): of RANDOM trains"""
    line: np.ndarray
    """int64 (1,): register LINE"""
    polarity: np.ndarray
    """uint8 (n_matrices,): 1: the capacitor's part is subtracted"""
    torn: np.ndarray
    """uint8 (n_matrices,): a transfer was begun and not ended"""
    stopped: np.ndarray
    """uint8 (1,): a program was stopped and can be resumed"""
    at: np.ndarray
    """int64 (4,): of it, program counter, loops, packets taken so far, whether one more is armed"""
    loops: np.ndarray
    """int64 (2, loop_depth): first instructions of the bodies, iterations left"""


def new_unit(u: UnitParams) -> UnitState:
    """State after power-up; memories are 0 although the hardware promises that only after CLEAR."""
    return UnitState(
        vec=np.zeros(u.vector_words * u.vector_width, np.int32), luts=np.zeros((u.n_luts, 1 << u.lut_bits), np.int32),
        exponents=np.zeros(N_EXPONENTS, np.int64), peak=np.zeros(1, np.int64), lines=np.zeros(u.n_lines, np.int32),
        chi=np.zeros((u.chi_words, u.lanes), np.int32), dirty=np.zeros(u.chi_words, np.uint8),
        cleared=np.zeros(u.n_matrices, np.uint8), counters=np.zeros(N_EVENTS, np.int64), trains=np.zeros(u.n_lines, np.int32),
        step_shift=np.zeros(1, np.int64),
        shift_register=np.full(1, shift_register.START), line=np.zeros(1, np.int64), polarity=np.zeros(u.n_matrices, np.uint8),
        torn=np.zeros(u.n_matrices, np.uint8), stopped=np.zeros(1, np.uint8), at=np.zeros(4, np.int64),
        loops=np.zeros((2, u.loop_depth), np.int64))


def predecode(instructions, u: UnitParams) -> np.ndarray:
    """int64 (program_words, columns): opcode (-1 if undefined), wait mask, operands in the order of ``isa.FORMATS``."""
    table = np.full((u.program_words, _COLUMNS), -1, np.int64)
    for index, word in enumerate(instructions):
        try:
            opcode, wait, operands = decode(word)
        except ValueError:
            continue
        table[index, :2 + len(operands)] = [int(opcode), int(wait), *operands.values()]
    return table


@borrowing
def start_cycles(u):
    """Unit time from start to the first dispatch slot [cycles]."""
    return 4 + 2 * u.operand_checks + u.n_matrices


@borrowing
def jump_cycles(u):
    """From a NEXT that jumps to the next dispatch [cycles]."""
    return 3 + 2 * u.operand_checks


@borrowing
def _matrix_ok(u, d):
    """The descriptor check of ``hdl.decoder.DescriptorCheck``."""
    if not (d[_TILE] < u.n_tiles and d[_ROWS] > 0 and d[_COLS] > 0 and 0 < d[_WORDS_PER_LINE] <= u.groups_max):
        return False
    if d[_ROW0] + d[_ROWS] > u.n_rows or d[_COL0] + d[_COLS] > u.n_cols or d[_ROW0] % u.vector_width or d[_COL0] % u.vector_width:
        return False
    lines = d[_ROWS] if d[_WALK] == 0 else d[_COLS]
    return d[_CHI_BASE] + lines * d[_WORDS_PER_LINE] <= u.chi_words


@borrowing
def _beyond(u, address, count):
    return address + (count + u.vector_width - 1) // u.vector_width > u.vector_words


@borrowing
def _error_of(u, op, f, matrices, ok, line, cleared, torn):
    """Error of an instruction, as ``hdl.decoder.OperandCheck`` and the sequencer's dispatch find it.

    line, cleared, torn: of ``UnitState``. Not the state itself: numba counts references to each of its arrays at every call.
    """
    if op < 0 or (op == _VECTOR and f[0] > 10) or (op >= _FIRE and not u.capacitor) or (
            op == _SCAN and not u.refresh) or (op == _GATHER and not u.gather):
        return _ILLEGAL_OPCODE
    if op in (_DRIVE, _READ, _UPDATE, _SCAN, _CLEAR, _DUMP, _LOAD, _FIRE, _POINT, _TRIM, _FLIP, _SEAL):
        if f[0] >= u.n_matrices or not ok[f[0]]:
            return _BAD_MATRIX
        d = matrices[f[0]]
        bad = False
        if op == _DRIVE:
            bad = _beyond(u, f[2], d[_COLS] if f[1] else d[_ROWS])
        elif op == _READ:
            side = d[_ROWS] if f[1] else d[_COLS]
            bad = f[5] > side or _beyond(u, f[4], side if f[5] == 0 else f[5])
        elif op == _POINT or op == _TRIM:
            bad = line[0] >= (d[_COLS] if f[1] else d[_ROWS])
        elif op == _UPDATE:
            _, walk, _, lane = _axes(d)
            bad = _beyond(u, f[3], walk) or _beyond(u, f[5], lane)
        if bad:
            return _BAD_ADDRESS
        if op in (_UPDATE, _SCAN, _DUMP) and not cleared[f[0]]:
            return _NOT_CLEARED
        if torn[f[0]] and (op == _FIRE or (op == _READ and not f[7] & 2)):
            return _TORN
        return 0
    bad = False
    if op == _ACCEPT:
        bad = f[3] == 0 and _beyond(u, f[0], f[1])
    elif op == _VECTOR and f[0] != _VECTOR_OP_SET_EXPONENT:
        bad = (f[5] == 0 or _beyond(u, f[1], f[5]) or _beyond(u, f[2], f[5]) or f[3] >= u.vector_words
               or (f[4] == _B_VECTOR and _beyond(u, f[3], f[5])))
    elif op == _GATHER:
        bad = f[2] == 0 or f[4] == 0 or f[0] >= u.vector_words
    elif op == _EMIT:
        bad = f[1] == 0 or _beyond(u, f[0], f[1])
    return _BAD_ADDRESS if bad else 0


@borrowing
def _vector_command(u, op, f):
    last = u.n_exponents - 1
    if op == _VECTOR:
        return VectorCommand(f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8],
                             f[9] & last, f[10] & last, 0, 0, 0, 0, 0)
    if op == _GATHER:
        return VectorCommand(_VECTOR_OP_GATHER, f[0], 0, 0, 0, 0, 0, 0, 0, 0, 0, f[1], f[2], f[3], f[4], f[5])
    return VectorCommand(_VECTOR_OP_EMIT, 0, f[0], 0, 0, f[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@borrowing
def _lines_command(u, op, f, d, line, inverted):
    """Of DRIVE, READ, FIRE, POINT and TRIM; line: register LINE; inverted: polarity of the matrix that counts."""
    cols_side = f[1] if op == _DRIVE else not f[1]
    first, count = (d[_COL0], d[_COLS]) if cols_side else (d[_ROW0], d[_ROWS])
    if op == _DRIVE:
        return lines_command(_LINES_DRIVE, d[_TILE], f[1], first=first, count=count, address=f[2], shift=f[3], trains=f[4],
                             scaled=f[5], e=f[6] & (u.n_exponents - 1), dither=f[7], fine=f[8])
    if op == _READ:
        half = _INVERTED if f[2] == _DIFFERENCE and inverted else f[2]
        return lines_command(_LINES_READ, d[_TILE], f[1], half=half, select=f[3], first=first,
                             count=count if f[5] == 0 else f[5], address=f[4], steps=u.line_max if f[6] == 0 else f[6], store=1)
    if op == _FIRE:
        return lines_command(_LINES_FIRE, d[_TILE], 0, steps=u.slots, sequence=f[1], rows=f[2], down=f[2] ^ f[3] ^ inverted)
    at = line + (d[_COL0] if f[1] else d[_ROW0])
    if op == _POINT:
        return lines_command(_LINES_POINT, d[_TILE], f[1], first=at, steps=f[2])
    return lines_command(_LINES_TRIM, d[_TILE], f[1], steps=f[3], down=inverted, kind=f[2], line=at)


@borrowing
def _axes(d):
    """(walk_first, walk_count, lane_first, lane_count) of a matrix."""
    if d[_WALK] == 0:
        return d[_ROW0], d[_ROWS], d[_COL0], d[_COLS]
    return d[_COL0], d[_COLS], d[_ROW0], d[_ROWS]


@borrowing
def _update_command(u, op, f, d):
    walk_first, walk_count, lane_first, lane_count = _axes(d)
    if op == _UPDATE:
        return UpdateCommand(_UPDATE_UPDATE, f[1], f[2], f[10], f[3], f[4], walk_count, f[5], f[6], lane_count,
                             d[_WORDS_PER_LINE], d[_CHI_BASE], f[7], f[8] & (u.n_exponents - 1), f[9], d[_TILE], d[_WALK],
                             walk_first, lane_first)
    kind = _UPDATE_CLEAR if op == _CLEAR else _UPDATE_DUMP if op == _DUMP else _UPDATE_LOAD
    return UpdateCommand(kind, 0, 0, 0, 0, 0, walk_count, 0, 0, lane_count, d[_WORDS_PER_LINE], d[_CHI_BASE], 0, 0, 0, d[_TILE],
                         d[_WALK], walk_first, lane_first)


@borrowing
def _scan_command(f, d):
    walk_first, walk_count, lane_first, lane_count = _axes(d)
    return ScanCommand(d[_TILE], d[_WALK], walk_first, walk_count, lane_first, lane_count, d[_CHI_BASE],
                       f[1], f[2], f[3], f[4], f[5])


@borrowing
def _operand(u, value, shift):
    """Signed operand of the outer product, from the ledger's point of view: magnitude cut to line_bits, rounded to outer_bits."""
    line = min(abs(value) >> shift, u.line_max)
    drop = u.line_bits - u.outer_bits
    magnitude = min((line + (1 << drop >> 1)) >> drop, u.outer_max)
    return -magnitude if value < 0 else magnitude


@compiled
def _record(u, command, vec, exponents, sums, lines, operands):
    """Recompute an UPDATE in the ledger, from the vectors it is about to read."""
    walk, lanes = operands[0, :command.walk_count], operands[1, :command.lane_count]
    for k in range(command.walk_count):
        code = _operand(u, vec[command.walk_src * u.vector_width + k], command.walk_shift)
        walk[k] = -code if command.negate else code
    for k in range(command.lane_count):
        lanes[k] = _operand(u, vec[command.lane_src * u.vector_width + k], command.lane_shift)
    record_update(sums, lines, walk, lanes, exponents[command.e] + command.exponent, command.rate, u.outer_bits, u.outer_max,
                  u.update_max)


@compiled
def run(u, tc, convert_cycles, unit, tiles, rngs_read, rngs_program, program, matrices, entry, loop_count, packets, emitted,
        ledger, tick, stop_after):
    """Run from ``entry``, or RESUME, to HALT, an error, STARVED or a stop (``unit.stopped``); returns (error, pc).

    u: UnitConstants; tc, tiles: see ``model.analog.tile``; convert_cycles: ``TileParams``; program: ``predecode``;
    matrices: int64 (n_matrices, fields); packets: uint8 (n, bytes), one per ACCEPT or LOAD, the same at RESUME; emitted: see
    ``vector_unit``; ledger: (sums, lines, updates, net) of ``model.ledger``; tick: drift time of programming [ticks]; stop_after:
    a stop comes after so many cycles, -1: none.
    """
    sums, followed, updates, net = ledger
    # taken apart once: numba counts references at every use of a field
    (vec, luts, exponents, peak, lines, chi, dirty, cleared, counters, trains, step_shift, shift_register, line, polarity, torn,
     stopped, at, loops) = unit
    ok = np.zeros(u.n_matrices, np.uint8)
    for k in range(u.n_matrices):
        ok[k] = _matrix_ok(u, matrices[k])
    free = np.zeros(4, np.int64)
    loop_body, loop_left = loops[0], loops[1]
    operands = np.zeros((2, u.n_lines), np.int64)
    codes = np.zeros(u.n_lines, np.int32)
    load_lanes = (u.lanes + u.vector_width - 1) // u.vector_width * u.vector_width
    dumped = np.zeros((u.chi_words * load_lanes // u.vector_width, u.vector_width), np.int32)
    depth, pc, packet, starved = 0, entry, 0, False
    now = start_cycles(u)
    if entry == RESUME:
        if not stopped[0]:
            return _NOT_STOPPED, np.int64(0)
        pc, depth, packet, starved = at[0], at[1], at[2], at[3] != 0
        now = 0
    stopped[0] = 0
    accounted = 0  # cycles before this one are in ``control``, or a unit was busy
    after_barrier = False
    error = 0
    while True:
        if pc >= u.program_words:
            error = _PROGRAM_END
            break
        op, wait, f = program[pc, 0], program[pc, 1], program[pc, 2:]
        error = _error_of(u, op, f, matrices, ok, line, cleared, torn)
        if (op == _LOOP and depth == u.loop_depth) or (op == _NEXT and depth == 0):
            error = _LOOP_DEPTH
        if starved and (op == _WAIT or op == _ACCEPT or op == _LOAD):
            error = STARVED
        if error:
            break
        barrier = op == _WAIT or op == _EMIT or op == _SCAN or op == _DUMP or op == _LOAD or op == _HALT
        idle = free.max()
        earliest = now
        if barrier or after_barrier:
            earliest = max(earliest, idle)
        if wait & 1 or op == _DRIVE or op == _READ or op == _FIRE or op == _POINT or op == _TRIM or op == _SEED:
            earliest = max(earliest, free[_LINES_UNIT])
        if wait & 2 or op == _VECTOR or op == _GATHER or op == _EMIT:
            earliest = max(earliest, free[_VECTOR_UNIT])
        if wait & 4 or op == _UPDATE or op == _CLEAR or op == _DUMP or op == _LOAD:
            earliest = max(earliest, free[_UPDATE_UNIT])
        now = earliest
        if 0 <= stop_after <= now and idle <= now:
            counters[_CONTROL] += max(0, now - max(accounted, idle))
            counters[_TIME] += now
            stopped[0] = 1
            at[0], at[1], at[2], at[3] = pc, depth, packet, starved
            return 0, pc
        counters[_CONTROL] += max(0, now + 1 - max(accounted, idle))
        accounted = now + 1
        counters[_INSTRUCTIONS] += 1
        after_barrier = barrier
        following, step = pc + 1, 1
        if op == _HALT:
            break
        if op == _LOOP:
            loop_body[depth], loop_left[depth] = pc + 1, loop_count if f[0] == 0 else f[0]
            depth += 1
        elif op == _NEXT:
            if loop_left[depth - 1] > 1:
                loop_left[depth - 1] -= 1
                following, step = loop_body[depth - 1], jump_cycles(u)
            else:
                depth -= 1
        elif op == _ACCEPT:
            # the transfer is in the background; nothing reads its destination before the next WAIT
            starved = f[1] > 0
            while starved and packet < packets.shape[0]:
                starved = not host_stream.accept(u, f[0], f[1], f[2], f[3], f[4], packets[packet], vec, luts, counters)
                packet += 1
        elif op == _LINE:
            line[0] = 0 if f[0] else line[0] + 1
        elif op == _FLIP:
            polarity[f[0]] = f[1]
            torn[f[0]] = 1
        elif op == _SEAL:
            torn[f[0]] = 0
        elif op == _SEED:
            shift_register[0] = f[0]
            free[_LINES_UNIT] = now + read_unit.SEED_CYCLES
        elif op == _DRIVE or op == _READ or op == _FIRE or op == _POINT or op == _TRIM:
            inverted = f[7] & 1 if op == _READ and f[7] & 2 else np.int64(polarity[f[0]])
            command = _lines_command(u, op, f, matrices[f[0]], line[0], inverted)
            if op == _DRIVE:
                taken = read_unit.drive(u, command, vec, exponents, shift_register, trains if command.trains else lines,
                                        step_shift, counters)
            elif op == _READ:
                taken = read_unit.read(u, command, tc, convert_cycles, tiles, rngs_read, lines, vec, counters, codes)
            elif op == _FIRE:
                taken = read_unit.fire(u, command, tc, tiles, rngs_program, lines, trains, step_shift, shift_register, counters,
                                       tick)
            elif op == _POINT:
                taken = read_unit.point(u, command, lines, counters)
            else:
                taken = read_unit.trim(u, command, tc, tiles, rngs_program, lines, counters, tick)
            free[_LINES_UNIT] = now + taken
        elif op == _VECTOR or op == _GATHER or op == _EMIT:
            command = _vector_command(u, op, f)
            free[_VECTOR_UNIT] = now + vector_unit.execute(u, command, vec, luts, exponents, peak,
                                                           counters, emitted)
            if op == _EMIT:
                counters[_PACKETS_OUT] += 1
        elif op == _SCAN:
            command = _scan_command(f, matrices[f[0]])
            free[_SCAN_UNIT] = now + refresh.scan(u, command, tc, convert_cycles, tiles, rngs_read, rngs_program,
                                                  lines, dirty, counters, tick)
        elif op != _WAIT:
            command = _update_command(u, op, f, matrices[f[0]])
            if op == _UPDATE:
                if command.accumulate and f[0] < len(sums):
                    _record(u, command, vec, exponents, sums[f[0]], followed[f[0]], operands)
                    updates[f[0]] += 1
                taken = update_unit.update(u, command, vec, exponents, chi, dirty, net, tc, tiles,
                                           rngs_program, counters, tick)
            elif op == _CLEAR:
                cleared[f[0]] = 1
                refresh.fill(dirty, command.chi_base, command.walk_count, 0)
                taken = update_unit.clear(u, command, chi, counters)
            elif op == _DUMP:
                taken = update_unit.dump(u, command, chi, dumped, counters)
                counters[_PACKETS_OUT] += 1
            else:
                cleared[f[0]] = 1
                refresh.fill(dirty, command.chi_base, command.walk_count, 1)
                words = command.walk_count * command.words_per_line
                starved = True
                while starved and packet < packets.shape[0]:
                    starved = not host_stream.load(u, words, packets[packet], dumped.reshape((-1, load_lanes)), counters)
                    packet += 1
                if starved:
                    error = STARVED
                    break
                taken = update_unit.load(u, command, chi, dumped, counters)
            free[_UPDATE_UNIT] = now + taken
        now += step
        pc = following
    counters[_TIME] += now + 1
    return error, pc
