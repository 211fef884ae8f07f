"""Payload layouts and signatures shared by several blocks: commands, vector memory ports, the tile port."""
from amaranth import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from model import commands, isa
from model.params import UnitParams

__all__ = [
    "AcceptCommand", "CodeWord", "LinesCommand", "LutWriteSignature", "MatrixDescriptor", "ProgramWriteSignature",
    "PulseCommand", "ScanCommand", "TileSignature", "UpdateCommand", "VectorCommand", "VectorReadSignature",
    "VectorWriteSignature", "WordStream",
]


def _layout(fields):
    return data.StructLayout({
        name: signed(bits) if is_signed else unsigned(bits) for name, (bits, is_signed, _) in fields.items()})


def MatrixDescriptor(u: UnitParams):
    """Layout of a run-time matrix descriptor."""
    return _layout(commands.matrix_fields(u))


def LinesCommand(u: UnitParams):
    """Layout of a read unit command."""
    return _layout(commands.lines_fields(u))


def VectorCommand(u: UnitParams):
    """Layout of a vector unit command."""
    return _layout(commands.vector_fields(u))


def UpdateCommand(u: UnitParams):
    """Layout of an update unit command."""
    return _layout(commands.update_fields(u))


def ScanCommand(u: UnitParams):
    """Layout of a refresh unit command."""
    return _layout(commands.scan_fields(u))


def AcceptCommand(u: UnitParams):
    """Layout of the command that arms the reception of one packet: ``isa`` operands of ACCEPT."""
    return data.StructLayout({entry.name: entry.bits for entry in isa.FORMATS[isa.Opcode.ACCEPT][1]})


def ProgramWriteSignature(u: UnitParams):
    """Write port of the program memory, seen from the writer: bits 32 ``part`` to 32 ``part`` + 31 of an instruction."""
    return wiring.Signature({
        "stb": Out(1), "address": Out(range(u.program_words)), "part": Out(range(isa.INSTRUCTION_BITS // 32)), "data": Out(32)})


def PulseCommand(u: UnitParams):
    """Layout of a pulse generator command: one line, ``counts[lane]`` pulses on G+ or, where ``negative[lane]``, on G-."""
    head = {name: unsigned(bits) for name, (bits, _, _) in commands.pulse_fields(u).items()}
    return data.StructLayout({**head, "counts": data.ArrayLayout(u.count_bits, u.lanes), "negative": u.lanes})


def VectorReadSignature(u: UnitParams):
    """Read port of the vector memory, seen from the reader: data is valid in the cycle after ``en``, and then held."""
    return wiring.Signature({
        "en": Out(1), "addr": Out(range(u.vector_words)),
        "data": In(data.ArrayLayout(signed(u.element_bits), u.vector_width)),
    })


def VectorWriteSignature(u: UnitParams):
    """Write port of the vector memory, seen from the writer: always accepted."""
    return wiring.Signature({
        "en": Out(1), "addr": Out(range(u.vector_words)), "mask": Out(u.vector_width),
        "data": Out(data.ArrayLayout(signed(u.element_bits), u.vector_width)),
    })


def LutWriteSignature(u: UnitParams):
    """Write port of the look-up tables, seen from the writer: always accepted; ``index`` a signed index in two's complement."""
    return wiring.Signature({"en": Out(1), "lut": Out(3), "index": Out(u.lut_bits), "data": Out(signed(u.element_bits))})


def WordStream(u: UnitParams):
    """Stream of words of vector_width elements, ``last`` with the last one of a packet; ``count`` elements of it are valid."""
    return stream.Signature(data.StructLayout({
        "elements": data.ArrayLayout(signed(u.element_bits), u.vector_width), "count": range(u.vector_width + 1), "last": 1}))


def CodeWord(u: UnitParams):
    """vector_width converter codes; element k of word w is output first + w * vector_width + k."""
    return data.ArrayLayout(signed(u.adc_bits), u.vector_width)


def TileSignature(u: UnitParams):
    """The tile port, seen from the digital unit: the only digital/analogue seam.

    Read: ``drive[line]`` is high for as many steps as the line's code, ``polarity[line]`` its sign (1: negative), while
    ``integrate`` is high; ``convert`` is one cycle long, with ``transpose, half, range, out_first, out_count`` valid; codes come
    back in order on ``codes``. Programming: ``pulse_pos[lane]`` / ``pulse_neg[lane]`` are the write drivers of G+ / G-, connected
    to the lines from ``program_first`` on of the axis other than ``program_walk``; ``program_line`` is the selected line of the
    walk axis.

    With ``capacitor``: ``fire`` is high for a train of slots; in a slot a cell takes a step up where its row is on ``drive`` and
    its column on ``up``, and a step down where on ``down``; a step is 2^-``step_shift`` of a full one. ``trim`` is high for a
    window in which ``drive`` programs the cells of column (``transpose``) or row ``trim_line`` by ``trim_kind`` (isa.Trim),
    ``polarity`` choosing G- or, with ``trim_down`` 0, steps down. ``half`` is INVERTED where a read subtracts the capacitor's
    part.
    """
    capacitor = {"fire": Out(1), "step_shift": Out(3), "up": Out(u.n_cols), "down": Out(u.n_cols), "trim": Out(1),
                 "trim_kind": Out(2), "trim_line": Out(13), "trim_down": Out(1)} if u.capacitor else {}
    return wiring.Signature({
        "tile": Out(4), "transpose": Out(1), "half": Out(2), "drive": Out(u.n_lines), "polarity": Out(u.n_lines),
        "integrate": Out(1), "convert": Out(1), "range": Out(2), "out_first": Out(13), "out_count": Out(13),
        "codes": In(stream.Signature(CodeWord(u))),
        "program_tile": Out(4), "program_walk": Out(1), "program_line": Out(13), "program_first": Out(13),
        "program_kind": Out(1), "pulse_pos": Out(u.lanes), "pulse_neg": Out(u.lanes), **capacitor,
    })
