"""The instruction set: one table for encoder, RTL decoder, model interpreter and document.

An instruction is ``INSTRUCTION_BITS`` wide: opcode in bits 5:0, wait mask in bits 8:6, operands from bit 16.
The sequencer dispatches in order; an instruction starts when its own unit is idle, every unit named in its
wait mask is idle, and, for a *barrier*, all units are idle. After a barrier the next one waits for it.

Vector addresses count words of ``vector_width`` elements. Elements are signed 16 bit.
Rounding is ``round_shift(v, s) = (v + (1 << s >> 1)) >> s`` (to nearest, ties up); ``sat16`` clips to
-32768..32767 and counts. Source: design choice throughout.
"""
import enum
from typing import NamedTuple

__all__ = [
    "BARRIERS", "CAPACITOR_ONLY", "ERRORS", "FORMATS", "INSTRUCTION_BITS", "N_EXPONENTS", "BKind", "Error", "Field", "Half",
    "Kind", "Opcode", "Sequence", "Trim", "VectorOp", "Wait", "Walk", "decode", "document", "encode",
]

INSTRUCTION_BITS = 128
N_EXPONENTS = 8
"""Exponent registers E[0..7], signed 8 bit: the shared exponent of a scaled vector. Of a build with fewer, instructions name them
modulo ``unit.n_exponents``."""


class Opcode(enum.IntEnum):
    """What the sequencer dispatches, and to which unit."""

    HALT = 0
    LOOP = 1
    NEXT = 2
    WAIT = 3
    ACCEPT = 4
    DRIVE = 5
    READ = 6
    VECTOR = 7
    GATHER = 8
    EMIT = 9
    UPDATE = 10
    SCAN = 11
    CLEAR = 12
    DUMP = 13
    LOAD = 14
    FIRE = 15
    POINT = 16
    TRIM = 17
    LINE = 18
    FLIP = 19
    SEAL = 20
    SEED = 21


class VectorOp(enum.IntEnum):
    """Operations of the vector unit; r = sat16(round_shift(f(a, b), shift)) unless stated otherwise."""

    ADD = 0
    """f = a + b"""
    SUB = 1
    """f = a - b"""
    MUL = 2
    """f = a * b"""
    MAX = 3
    """f = max(a, b)"""
    COMPARE = 4
    """f = 1 if a > b else 0"""
    SHL = 5
    """r = sat16(a << shift), shift 0..15 (b is ignored)"""
    LUT = 6
    """r = table[lut][clip(round_shift(a, shift)) to lut_bits signed] (the clip is not counted)"""
    SUM = 7
    """r = sat16(round_shift(sum of a over count, shift)), one element"""
    PEAK_MAX = 8
    """r = sat16(round_shift(max of a over count, shift)), one element"""
    SCALE = 9
    """n = max(bits(peak) - line_bits, -15); r = round_shift(a, n) clipped to +-line_max (not counted), or a << -n;
    E[e_dst] = E[e_src] + n, wrapping at 8 bit; peak = 0 gives n = 0."""
    SET_EXPONENT = 10
    """E[e_dst] = imm (low 8 bit); no vector access"""
    GATHER = 11
    """dispatched by GATHER: r[i * count0 + j] = v[element + i * stride1 + j * stride0], one element a cycle"""
    EMIT = 12
    """dispatched by EMIT: elements leave on the output stream as one packet"""


class BKind(enum.IntEnum):
    """Where operand b comes from."""

    VECTOR = 0
    ELEMENT = 1
    """element 0 of word b, for every element"""
    IMMEDIATE = 2


class Half(enum.IntEnum):
    """Which devices of the pairs are read."""

    DIFFERENCE = 0
    """G+ - G-, and the capacitor's part added to it where cells have one"""
    POSITIVE = 1
    NEGATIVE = 2
    INVERTED = 3
    """as DIFFERENCE, but the capacitor's part is subtracted: never in an instruction, see FLIP"""


class Kind(enum.IntEnum):
    """Programming pulse kinds."""

    SET = 0
    RESET = 1


class Trim(enum.IntEnum):
    """What TRIM does to the cells of a line, each by the code of its line driver."""

    RESET = 0
    """both PCM devices to RESET where the code is not 0"""
    RAMP = 1
    """SET ramp of |code| steps on G+, or on G- where the code is negative"""
    RECHARGE = 2
    """capacitor to its initial voltage where the code is not 0"""
    TUNE = 3
    """|code| steps up on the capacitor, or down where the code is negative"""


class Sequence(enum.IntEnum):
    """Thresholds of the slots of a coincidence train."""

    SPREAD = 0
    """rows fire first slots first, columns in slots spread evenly: the overlap of x and delta is x delta / slots"""
    RANDOM = 1
    """the same, but for two words of a shift register that are XORed to the thresholds of a train: the overlap is that in the
    mean"""


class Walk(enum.IntEnum):
    """Which axis UPDATE walks line by line; lanes lie along the other."""

    ROWS = 0
    COLS = 1


class Wait(enum.IntFlag):
    """Units an instruction may wait for."""

    NONE = 0
    LINES = 1
    VECTOR = 2
    UPDATE = 4
    ALL = 7


class Error(enum.IntEnum):
    """Error codes of the sequencer."""

    NONE = 0
    ILLEGAL_OPCODE = 1
    BAD_MATRIX = 2
    BAD_ADDRESS = 3
    NOT_CLEARED = 4
    LOOP_DEPTH = 5
    PROGRAM_END = 6
    TORN = 7
    NOT_STOPPED = 8


ERRORS = {
    Error.NONE: "no error",
    Error.ILLEGAL_OPCODE: "opcode or vector operation not defined",
    Error.BAD_MATRIX: "matrix index beyond the build, or descriptor outside tile or chi memory",
    Error.BAD_ADDRESS: "vector operand outside the vector memory",
    Error.NOT_CLEARED: "UPDATE, SCAN or DUMP of a matrix before CLEAR or LOAD",
    Error.LOOP_DEPTH: "more nested LOOPs than loop_depth, or NEXT without LOOP",
    Error.PROGRAM_END: "ran past the end of the program memory",
    Error.TORN: "FIRE on a matrix whose transfer was begun by FLIP and not ended by SEAL, or READ of it by its own polarity",
    Error.NOT_STOPPED: "resume where no program is stopped, or where another one was loaded since",
}


class Field(NamedTuple):
    """An operand: name, width [bit], signedness, meaning."""

    name: str
    bits: int
    signed: bool
    doc: str


def _f(name, bits, doc, signed=False):
    return Field(name, bits, signed, doc)


_MATRIX = _f("matrix", 4, "matrix descriptor")
_TRANSPOSE = _f("transpose", 1, "0: rows are driven, columns read; 1: columns are driven, rows read")

FORMATS: dict[Opcode, tuple[str, tuple[Field, ...]]] = {
    Opcode.HALT: ("Stop; STATUS shows done.", ()),
    Opcode.LOOP: ("Repeat up to the matching NEXT; a count of 0 skips nothing: it means LOOP_COUNT.", (
        _f("count", 24, "iterations, 1..2^24-1; 0: take the register LOOP_COUNT"),)),
    Opcode.NEXT: ("End of a loop body.", ()),
    Opcode.WAIT: ("Barrier: until the packet of the last ACCEPT is complete. Waiting for the host is no unit time.", ()),
    Opcode.ACCEPT: ("Take the next input packet into the vector memory, in the background.", (
        _f("dst", 12, "first word"), _f("count", 16, "elements"), _f("wide", 1, "0: unsigned bytes; 1: signed 16 bit"),
        _f("to_lut", 1, "1: into look-up table ``lut`` instead, entries from index 0 up"), _f("lut", 3, "table"))),
    Opcode.DRIVE: ("Load the line drivers of a matrix side: mag = min(|v| >> shift, line_max), polarity = sign.", (
        _MATRIX, _TRANSPOSE, _f("src", 12, "first word"), _f("shift", 5, "right shift of the magnitude"),
        _f("trains", 1, "1: load the train drivers of FIRE instead"),
        _f("scaled", 1, "1: the shift is ``shift`` - E[e], limited to 0 to 31"), _f("e", 3, "exponent register"),
        _f("dither", 1, "1: round at random, by bits of the shift register, so that nothing is lost in the mean"),
        _f("fine", 3, "of what the shift of trains exceeds line_bits by, so many bits divide the steps of FIRE, not the codes"))),
    Opcode.READ: ("Read window, conversion, codes to the vector memory.", (
        _MATRIX, _TRANSPOSE, _f("half", 2, "Half"), _f("range", 2, "converter range select"), _f("dst", 12, "first word"),
        _f("count", 13, "outputs read; 0: all of the matrix side"), _f("steps", 8, "window [PWM steps]; 0: line_max"),
        _f("polarity", 2, "of the capacitor's part; 0, 1: that of the matrix, which has one between SEAL and FLIP; 2: added; "
                            "3: subtracted"))),
    Opcode.VECTOR: ("Elementwise operation of the vector unit; peak = max |r| is kept for SCALE.", (
        _f("op", 5, "VectorOp"), _f("dst", 12, "first word"), _f("a", 12, "first word of a"), _f("b", 12, "first word of b"),
        _f("b_kind", 2, "BKind"), _f("count", 13, "elements"), _f("shift", 5, "right shift of the result (left for SHL)"),
        _f("imm", 16, "immediate b", True), _f("lut", 3, "table"), _f("e_dst", 3, "exponent written"),
        _f("e_src", 3, "exponent read"))),
    Opcode.GATHER: ("Strided copy in two dimensions (patches of an image).", (
        _f("dst", 12, "first word"), _f("element", 18, "first source element"), _f("count0", 12, "inner count"),
        _f("stride0", 16, "inner stride [elements]", True), _f("count1", 12, "outer count"),
        _f("stride1", 16, "outer stride [elements]", True))),
    Opcode.EMIT: ("Barrier: send elements as one packet of the output stream.", (
        _f("src", 12, "first word"), _f("count", 13, "elements"))),
    Opcode.UPDATE: ("Outer product into chi, threshold into SET pulses; U = round(x4 d4 rate 2^(E[e] + exponent)).", (
        _MATRIX, _f("accumulate", 1, "add the outer product"), _f("threshold", 1, "turn whole steps eps into pulses"),
        _f("walk_src", 12, "first word of the vector along the walk axis"), _f("walk_shift", 5, "right shift of its magnitude"),
        _f("lane_src", 12, "first word of the vector along the lanes"), _f("lane_shift", 5, "right shift of its magnitude"),
        _f("rate", 12, "integer part of the learning rate"), _f("e", 3, "exponent register"),
        _f("exponent", 8, "constant exponent [log2 chi LSB]", True), _f("negate", 1, "subtract instead of add"))),
    Opcode.SCAN: ("Barrier: refresh the lines programmed since their last scan.", (
        _MATRIX, _f("steps", 8, "code and window of the scan reads [PWM steps]"),
        _f("high", 12, "a cell is due when its larger code exceeds this"), _f("low", 12, "and |difference| is below this"),
        _f("bound", 6, "most SET pulses of a rewrite"), _f("floor", 8, "differences up to this are left at RESET"))),
    Opcode.CLEAR: ("chi of a matrix = 0; its lines are marked clean.", (_MATRIX,)),
    Opcode.DUMP: ("Barrier: send chi of a matrix as one packet.", (_MATRIX,)),
    Opcode.LOAD: ("Barrier: take chi of a matrix from one input packet (the layout of DUMP).", (_MATRIX,)),
    Opcode.FIRE: ("Coincidence update: rows fire by line, columns by train drivers; an overlap is a step of the capacitor.", (
        _MATRIX, _f("sequence", 1, "Sequence"), _f("rows", 1, "sign of the rows that fire: 0 positive, 1 negative"),
        _f("negate", 1, "1: subtract instead of add"))),
    Opcode.POINT: ("Drive line LINE of a matrix side alone.", (_MATRIX, _TRANSPOSE, _f("code", 8, "its code"))),
    Opcode.TRIM: ("Program the cells of line LINE of a matrix side, each by the code of its line driver.", (
        _MATRIX, _TRANSPOSE, _f("kind", 2, "Trim"), _f("steps", 8, "window [steps]"))),
    Opcode.LINE: ("LINE += 1, or LINE = 0.", (_f("zero", 1, "1: LINE = 0"),)),
    Opcode.FLIP: ("Begin a transfer: set the polarity of a matrix; until SEAL it may not FIRE, nor READ by that polarity.", (
        _MATRIX, _f("inverted", 1, "0: the capacitor's part is added; 1: subtracted"))),
    Opcode.SEAL: ("End the transfer of a matrix.", (_MATRIX,)),
    Opcode.SEED: ("Set the shift register of RANDOM trains.", (_f("state", 31, "not 0"),)),
}

CAPACITOR_ONLY = (Opcode.FIRE, Opcode.POINT, Opcode.TRIM, Opcode.LINE, Opcode.FLIP, Opcode.SEAL, Opcode.SEED)
"""Undefined in a build without ``unit.capacitor``."""

BARRIERS = (Opcode.WAIT, Opcode.EMIT, Opcode.SCAN, Opcode.DUMP, Opcode.LOAD)


def offsets(opcode: Opcode) -> dict[str, tuple[int, Field]]:
    """Bit offset and field of every operand of ``opcode``."""
    place, out = 16, {}
    for entry in FORMATS[opcode][1]:
        out[entry.name] = (place, entry)
        place += entry.bits
    assert place <= INSTRUCTION_BITS
    return out


def encode(opcode: Opcode, wait: Wait = Wait.NONE, **operands: int) -> int:
    """Instruction word; operands not named are 0. Raises ValueError for an unknown operand or one out of range."""
    word = int(opcode) | int(wait) << 6
    fields = offsets(opcode)
    for name, value in operands.items():
        if name not in fields:
            raise ValueError(f"{opcode.name} has no operand {name}: it has {', '.join(fields) or 'none'}")
        place, entry = fields[name]
        low, high = (-1 << entry.bits - 1, (1 << entry.bits - 1) - 1) if entry.signed else (0, (1 << entry.bits) - 1)
        if not low <= value <= high:
            raise ValueError(f"{opcode.name} {name} = {value}: allowed is {low} to {high}")
        word |= (int(value) & (1 << entry.bits) - 1) << place
    return word


def decode(word: int) -> tuple[Opcode, Wait, dict[str, int]]:
    """Inverse of ``encode``; raises ValueError for an undefined opcode."""
    opcode = Opcode(word & 63)
    operands = {}
    for name, (place, entry) in offsets(opcode).items():
        value = word >> place & (1 << entry.bits) - 1
        operands[name] = value - (1 << entry.bits) if entry.signed and value >> entry.bits - 1 else value
    return opcode, Wait(word >> 6 & 7), operands


def document() -> str:
    """The instruction set as a Markdown table."""
    rows = ["| opcode | meaning | operands (bits) |", "|---|---|---|"]
    for opcode, (meaning, _) in FORMATS.items():
        fields = ", ".join(
            f"`{name}` {place + entry.bits - 1}:{place}{' signed' if entry.signed else ''}: {entry.doc}"
            for name, (place, entry) in offsets(opcode).items())
        rows.append(f"| {int(opcode)} {opcode.name} | {meaning} | {fields or 'none'} |")
    return "\n".join(rows) + "\n"
