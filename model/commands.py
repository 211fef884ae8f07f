"""Commands between sequencer and units: one table of fields for the RTL layouts and the twins' tuples.

Each table maps a field name to (bits, signed, meaning). ``hdl/ports.py`` builds the payload layouts from them,
the named tuples below are the form in which the twins take them.
"""
import enum
from collections import namedtuple

from model.params import UnitParams

__all__ = [
    "LinesCommand", "LinesOp", "MatrixDescriptor", "ScanCommand", "UpdateCommand", "UpdateOp", "VectorCommand", "lines_fields",
    "matrix_fields", "pulse_fields", "scan_fields", "update_fields", "vector_fields",
]


def matrix_fields(u: UnitParams):
    """Run-time descriptor of a matrix; row0 and col0 are multiples of vector_width."""
    return {
        "tile": (4, False, "tile"), "row0": (13, False, "first row"), "col0": (13, False, "first column"),
        "rows": (13, False, "rows"), "cols": (13, False, "columns"), "walk": (1, False, "Walk"),
        "chi_base": (16, False, "first chi word; line l, group g is at chi_base + l * words_per_line + g"),
        "words_per_line": (13, False, "ceil(lane axis length / lanes)"),
    }


def lines_fields(u: UnitParams):
    """To the read unit."""
    return {
        "op": (3, False, "LinesOp"), "tile": (4, False, "tile"), "transpose": (1, False, "side driven"),
        "half": (2, False, "Half"), "range": (2, False, "converter range select"),
        "first": (13, False, "DRIVE, POINT: first line driven; READ: first output"),
        "count": (13, False, "DRIVE: lines; READ: outputs"), "address": (12, False, "vector word: source or destination"),
        "shift": (5, False, "DRIVE: right shift of the magnitude"),
        "steps": (8, False, "READ, TRIM: window [steps]; POINT: code of the line"),
        "store": (1, False, "READ: write codes to the vector memory"),
        "trains": (1, False, "DRIVE: load the train drivers"), "scaled": (1, False, "DRIVE: the shift is less E[e]"),
        "e": (3, False, "DRIVE: exponent register"), "dither": (1, False, "DRIVE: round at random"),
        "fine": (3, False, "DRIVE: largest step shift"),
        "sequence": (1, False, "FIRE: Sequence"),
        "rows": (1, False, "FIRE: sign of the rows that fire"), "down": (1, False, "FIRE: positive columns step down"),
        "kind": (2, False, "TRIM: Trim"), "line": (13, False, "TRIM: the line of the cells"),
        "seed": (31, False, "SEED: state of the shift register"),
    }


def vector_fields(u: UnitParams):
    """To the vector unit."""
    return {
        "op": (5, False, "VectorOp"), "dst": (12, False, "first word"), "a": (12, False, "first word of a"),
        "b": (12, False, "first word of b"), "b_kind": (2, False, "BKind"), "count": (13, False, "elements"),
        "shift": (5, False, "shift"), "imm": (16, True, "immediate"), "lut": (3, False, "table"),
        "e_dst": (3, False, "exponent written"), "e_src": (3, False, "exponent read"),
        "element": (18, False, "GATHER: first source element"), "count0": (12, False, "GATHER: inner count"),
        "stride0": (16, True, "GATHER: inner stride"), "count1": (12, False, "GATHER: outer count"),
        "stride1": (16, True, "GATHER: outer stride"),
    }


def update_fields(u: UnitParams):
    """To the update unit."""
    return {
        "op": (2, False, "UpdateOp"), "accumulate": (1, False, "add"), "threshold": (1, False, "pulse"),
        "negate": (1, False, "subtract"), "walk_src": (12, False, "vector word"), "walk_shift": (5, False, "right shift"),
        "walk_count": (13, False, "lines"), "lane_src": (12, False, "vector word"), "lane_shift": (5, False, "right shift"),
        "lane_count": (13, False, "length of the lane axis"), "words_per_line": (13, False, "groups"),
        "chi_base": (16, False, "first chi word"), "rate": (12, False, "integer part of the learning rate"),
        "e": (3, False, "exponent register"), "exponent": (8, True, "constant exponent"), "tile": (4, False, "tile"),
        "walk": (1, False, "Walk"), "walk_first": (13, False, "first line of the matrix on the walk axis"),
        "lane_first": (13, False, "first line of the matrix on the lane axis"),
    }


def pulse_fields(u: UnitParams):
    """To the pulse generator, without the per-lane fields ``counts`` and ``negative``."""
    return {
        "tile": (4, False, "tile"), "walk": (1, False, "Walk: the axis of ``line``"), "line": (13, False, "absolute line"),
        "first": (13, False, "absolute position of lane 0 on the lane axis"), "kind": (1, False, "Kind"),
        "refresh": (1, False, "1: counted as refresh, not as a threshold's pulse"),
        "dirty": (16, False, "chi_base + line within the matrix: index of the line's dirty bit"),
    }


def scan_fields(u: UnitParams):
    """To the refresh unit."""
    return {
        "tile": (4, False, "tile"), "walk": (1, False, "Walk: the axis whose lines are scanned"),
        "walk_first": (13, False, "first line"), "walk_count": (13, False, "lines"), "lane_first": (13, False, "first cell"),
        "lane_count": (13, False, "cells of a line"), "dirty_base": (16, False, "first dirty bit"),
        "steps": (8, False, "code and window"), "high": (12, False, "code"), "low": (12, False, "code"),
        "bound": (6, False, "pulses"), "floor": (8, False, "code"),
    }


_U = UnitParams()
MatrixDescriptor = namedtuple("MatrixDescriptor", matrix_fields(_U))
LinesCommand = namedtuple("LinesCommand", lines_fields(_U))
VectorCommand = namedtuple("VectorCommand", vector_fields(_U))
UpdateCommand = namedtuple("UpdateCommand", update_fields(_U))
ScanCommand = namedtuple("ScanCommand", scan_fields(_U))


class LinesOp(enum.IntEnum):
    """Operations of the read unit."""

    DRIVE = 0
    READ = 1
    POINT = 2
    FIRE = 3
    TRIM = 4
    SEED = 5


class UpdateOp(enum.IntEnum):
    """Operations of the update unit."""

    UPDATE = 0
    CLEAR = 1
    DUMP = 2
    LOAD = 3
