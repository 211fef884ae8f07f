"""Decoder: instruction word and matrix descriptor to unit commands, and the check of their operands.

Both parts are combinational. ``OperandCheck`` works one pipeline stage before ``Decoder`` (see ``sequencer``), so that its
adders are out of the dispatch path. Source: design choice; bit positions from ``model.isa``, nowhere else.
"""
from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import AcceptCommand, LinesCommand, MatrixDescriptor, ScanCommand, UpdateCommand, VectorCommand
from model import isa
from model.commands import LinesOp, UpdateOp
from model.isa import Error, Half, Opcode, VectorOp, Walk
from model.params import UnitParams

__all__ = ["Decoder", "DescriptorCheck", "OperandCheck", "is_opcode", "operand"]


def operand(word, opcode: Opcode, name: str):
    """Slice of an instruction word that holds operand ``name`` of ``opcode``; signed where the table says so."""
    place, entry = isa.offsets(opcode)[name]
    value = word[place:place + entry.bits]
    return value.as_signed() if entry.signed else value


def is_opcode(opcode, *values):
    """1 if ``opcode`` is one of ``values``."""
    return opcode.matches(*(f"{int(value):06b}" for value in values))


class DescriptorCheck(wiring.Component):
    """Checks one matrix descriptor: inside its tile and the chi memory, words of a line that the build holds, origins aligned.

    Members
    -------
    matrix : In(MatrixDescriptor)
    ok, words : Out
        Whether it is right, and how many chi words it has, for the descriptor of two cycles before; throughput 1 a cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({"matrix": In(MatrixDescriptor(u)), "ok": Out(1), "words": Out(range(u.chi_words + 1))})

    def elaborate(self, platform):
        m = Module()
        u, d = self.u, self.matrix
        aligned_bits = (u.vector_width - 1).bit_length()
        inside, words, base = Signal(), Signal(26), Signal(16)
        lines = Mux(d.walk == Walk.ROWS, d.rows, d.cols)
        m.d.sync += [
            inside.eq((d.tile < u.n_tiles) & (d.rows > 0) & (d.cols > 0) & (d.words_per_line > 0)
                      & (d.words_per_line <= u.groups_max)
                      & (d.row0 + d.rows <= u.n_rows) & (d.col0 + d.cols <= u.n_cols)
                      & (Cat(d.row0[:aligned_bits], d.col0[:aligned_bits]) == 0)),
            words.eq(lines * d.words_per_line), base.eq(d.chi_base),
            self.ok.eq(inside & (words + base <= u.chi_words)), self.words.eq(words),
        ]
        return m


class OperandCheck(wiring.Component):
    """Error of an instruction that can be told from its operands: opcode, matrix index, vector addresses.

    Members
    -------
    word, matrix, matrix_ok : In
        Instruction, the descriptor it names, the result of ``DescriptorCheck`` per matrix.
    error : Out(4)
        An ``isa.Error``; combinational.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "word": In(isa.INSTRUCTION_BITS), "matrix": In(MatrixDescriptor(u)), "matrix_ok": In(u.n_matrices), "error": Out(4)})

    def elaborate(self, platform):
        m = Module()
        u, word, matrix = self.u, self.word, self.matrix
        opcode = word[0:6]
        shift = (u.vector_width - 1).bit_length()

        def beyond(address, count):
            return address + (count + (u.vector_width - 1) >> shift) > u.vector_words

        def value(of, name):
            return operand(word, of, name)

        side = Signal(13)  # outputs of a READ, or lines of a DRIVE
        transpose = Mux(is_opcode(opcode, Opcode.READ), ~value(Opcode.READ, "transpose"), value(Opcode.DRIVE, "transpose"))
        m.d.comb += side.eq(Mux(transpose, matrix.cols, matrix.rows))
        read_count = value(Opcode.READ, "count")
        lane_count = Mux(matrix.walk == Walk.ROWS, matrix.cols, matrix.rows)
        walk_count = Mux(matrix.walk == Walk.ROWS, matrix.rows, matrix.cols)

        undefined, address = Signal(), Signal()
        with m.Switch(opcode):
            with m.Case(Opcode.HALT, Opcode.LOOP, Opcode.NEXT, Opcode.WAIT, Opcode.SCAN, Opcode.CLEAR, Opcode.DUMP, Opcode.LOAD):
                pass
            with m.Case(Opcode.ACCEPT):
                m.d.comb += address.eq(~value(Opcode.ACCEPT, "to_lut")
                                       & beyond(value(Opcode.ACCEPT, "dst"), value(Opcode.ACCEPT, "count")))
            with m.Case(Opcode.DRIVE):
                m.d.comb += address.eq(beyond(value(Opcode.DRIVE, "src"), side))
            with m.Case(Opcode.READ):
                m.d.comb += address.eq(beyond(value(Opcode.READ, "dst"), Mux(read_count == 0, side, read_count))
                                       | (read_count > side))
            with m.Case(Opcode.VECTOR):
                op, count = value(Opcode.VECTOR, "op"), value(Opcode.VECTOR, "count")
                m.d.comb += [
                    undefined.eq(op > VectorOp.SET_EXPONENT),
                    address.eq((op != VectorOp.SET_EXPONENT) & (
                        beyond(value(Opcode.VECTOR, "dst"), count) | beyond(value(Opcode.VECTOR, "a"), count)
                        | (value(Opcode.VECTOR, "b") >= u.vector_words)
                        | (value(Opcode.VECTOR, "b_kind") == isa.BKind.VECTOR) & beyond(value(Opcode.VECTOR, "b"), count)
                        | (count == 0))),
                ]
            with m.Case(Opcode.GATHER):
                m.d.comb += address.eq((value(Opcode.GATHER, "count0") == 0) | (value(Opcode.GATHER, "count1") == 0)
                                       | (value(Opcode.GATHER, "dst") >= u.vector_words))
            with m.Case(Opcode.EMIT):
                m.d.comb += address.eq(beyond(value(Opcode.EMIT, "src"), value(Opcode.EMIT, "count"))
                                       | (value(Opcode.EMIT, "count") == 0))
            if u.capacitor:
                with m.Case(*isa.CAPACITOR_ONLY):
                    pass
            with m.Case(Opcode.UPDATE):
                m.d.comb += address.eq(beyond(value(Opcode.UPDATE, "walk_src"), walk_count)
                                       | beyond(value(Opcode.UPDATE, "lane_src"), lane_count))
            with m.Default():
                m.d.comb += undefined.eq(1)

        of_matrix = is_opcode(opcode, *(op for op, (_, fields) in isa.FORMATS.items() if fields and fields[0].name == "matrix"))
        index = word[16:20]
        bad_matrix = of_matrix & ((index >= u.n_matrices) | ~Array(self.matrix_ok)[index])
        m.d.comb += self.error.eq(Mux(undefined, Error.ILLEGAL_OPCODE, Mux(bad_matrix, Error.BAD_MATRIX,
                                  Mux(address, Error.BAD_ADDRESS, Error.NONE))))
        return m


class Decoder(wiring.Component):
    """The commands an instruction stands for; only the one of its own unit is meaningful.

    Members
    -------
    word, matrix : In
        Instruction and the descriptor it names. ``line``: register LINE; ``inverted``: polarity of that matrix.
    lines, vector, update, scan, accept : Out
        Command payloads; combinational.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "word": In(isa.INSTRUCTION_BITS), "matrix": In(MatrixDescriptor(u)), "line": In(13), "inverted": In(1),
            "lines": Out(LinesCommand(u)), "vector": Out(VectorCommand(u)), "update": Out(UpdateCommand(u)),
            "scan": Out(ScanCommand(u)), "accept": Out(AcceptCommand(u)),
        })

    def elaborate(self, platform):
        m = Module()
        u, word, matrix = self.u, self.word, self.matrix
        opcode = word[0:6]

        def copy(command, of, *names):
            return [getattr(command, name).eq(operand(word, of, name)) for name in names]

        # DRIVE and READ: the side named by ``transpose`` is driven, the other one is read
        reading = is_opcode(opcode, Opcode.READ)
        transpose = operand(word, Opcode.DRIVE, "transpose")
        cols_side = Mux(reading, ~transpose, transpose)
        side_count = Mux(cols_side, matrix.cols, matrix.rows)
        count, steps = operand(word, Opcode.READ, "count"), operand(word, Opcode.READ, "steps")
        lines = {"op": Mux(reading, LinesOp.READ, LinesOp.DRIVE), "first": Mux(cols_side, matrix.col0, matrix.row0),
                 "half": operand(word, Opcode.READ, "half"), "steps": Mux(steps == 0, u.line_max, steps)}
        if u.capacitor:
            lines |= self._capacitor(m, opcode, lines)
        m.d.comb += [
            self.lines.tile.eq(matrix.tile), self.lines.transpose.eq(transpose),
            self.lines.count.eq(Mux(reading & (count != 0), count, side_count)), *copy(self.lines, Opcode.READ, "range"),
            self.lines.address.eq(Mux(reading, operand(word, Opcode.READ, "dst"), operand(word, Opcode.DRIVE, "src"))),
            *copy(self.lines, Opcode.DRIVE, "shift"), self.lines.store.eq(1),
            *(getattr(self.lines, name).eq(value) for name, value in lines.items()),
        ]

        m.d.comb += copy(
            self.vector, Opcode.VECTOR, "op", "dst", "a", "b", "b_kind", "count", "shift", "imm", "lut", "e_dst", "e_src")
        m.d.comb += copy(self.vector, Opcode.GATHER, "element", "count0", "stride0", "count1", "stride1")
        with m.If(is_opcode(opcode, Opcode.GATHER)):
            m.d.comb += [self.vector.op.eq(VectorOp.GATHER), *copy(self.vector, Opcode.GATHER, "dst")]
        with m.If(is_opcode(opcode, Opcode.EMIT)):
            m.d.comb += [self.vector.op.eq(VectorOp.EMIT), self.vector.a.eq(operand(word, Opcode.EMIT, "src")),
                         *copy(self.vector, Opcode.EMIT, "count")]

        by_rows = matrix.walk == Walk.ROWS
        walk_count, lane_count = Mux(by_rows, matrix.rows, matrix.cols), Mux(by_rows, matrix.cols, matrix.rows)
        walk_first, lane_first = Mux(by_rows, matrix.row0, matrix.col0), Mux(by_rows, matrix.col0, matrix.row0)
        m.d.comb += [
            *copy(self.update, Opcode.UPDATE, "accumulate", "threshold", "walk_src", "walk_shift", "lane_src", "lane_shift",
                  "rate", "e", "exponent", "negate"),
            self.update.walk_count.eq(walk_count), self.update.lane_count.eq(lane_count),
            self.update.words_per_line.eq(matrix.words_per_line), self.update.chi_base.eq(matrix.chi_base),
            self.update.tile.eq(matrix.tile), self.update.walk.eq(matrix.walk), self.update.walk_first.eq(walk_first),
            self.update.lane_first.eq(lane_first),
        ]
        with m.Switch(opcode):
            for op in (Opcode.CLEAR, Opcode.DUMP, Opcode.LOAD):
                with m.Case(op):
                    m.d.comb += self.update.op.eq(UpdateOp[op.name])
        m.d.comb += [
            *copy(self.scan, Opcode.SCAN, "steps", "high", "low", "bound", "floor"), self.scan.tile.eq(matrix.tile),
            self.scan.walk.eq(matrix.walk), self.scan.walk_first.eq(walk_first), self.scan.walk_count.eq(walk_count),
            self.scan.lane_first.eq(lane_first), self.scan.lane_count.eq(lane_count), self.scan.dirty_base.eq(matrix.chi_base),
        ]
        m.d.comb += copy(self.accept, Opcode.ACCEPT, "dst", "count", "wide", "to_lut", "lut")
        return m

    def _capacitor(self, m, opcode, lines):
        """Fields of the lines' command that the capacitor scheme changes or adds; ``lines``: their values without it."""
        word, inverted = self.word, self.inverted
        fire, point, trim, seed = (is_opcode(opcode, op) for op in (Opcode.FIRE, Opcode.POINT, Opcode.TRIM, Opcode.SEED))
        own, half = operand(word, Opcode.READ, "polarity"), operand(word, Opcode.READ, "half")
        first, rows = Signal(13), operand(word, Opcode.FIRE, "rows")     # first: line LINE of the side that ``transpose`` names
        m.d.comb += first.eq(self.line + Mux(operand(word, Opcode.POINT, "transpose"), self.matrix.col0, self.matrix.row0))
        return {
            "op": Mux(fire, LinesOp.FIRE, Mux(point, LinesOp.POINT, Mux(
                trim, LinesOp.TRIM, Mux(seed, LinesOp.SEED, lines["op"])))),
            "seed": operand(word, Opcode.SEED, "state"),
            "first": Mux(point, first, lines["first"]), "line": first,
            "half": Mux((half == Half.DIFFERENCE) & Mux(own[1], own[0], inverted), Half.INVERTED, half),
            "steps": Mux(fire, self.u.slots, Mux(point, operand(word, Opcode.POINT, "code"),
                                                 Mux(trim, operand(word, Opcode.TRIM, "steps"), lines["steps"]))),
            "down": Mux(fire, rows ^ operand(word, Opcode.FIRE, "negate") ^ inverted, inverted), "rows": rows,
            "sequence": operand(word, Opcode.FIRE, "sequence"), "kind": operand(word, Opcode.TRIM, "kind"),
            **{name: operand(word, Opcode.DRIVE, name) for name in ("trains", "scaled", "e", "dither", "fine")},
        }
