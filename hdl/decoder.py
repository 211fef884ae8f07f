"""Decoder: instruction word and matrix descriptor to unit commands, and the check of their operands.

A descriptor that was found right needs fewer bits than its registers have, and an instruction is about one axis of its matrix, so
what is kept beside an instruction are the ``MatrixAxes``. ``OperandCheck`` works two pipeline stages before ``Decoder``, the
adders of ``beyond`` one (see ``sequencer``), so that they are out of the dispatch path. Source: design choice; bit positions from
``model.isa``, nowhere else.
"""
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import AcceptCommand, LinesCommand, ScanCommand, UpdateCommand, VectorCommand
from model import isa
from model.commands import LinesOp, UpdateOp
from model.isa import Half, Opcode, VectorOp, Walk
from model.params import UnitParams

__all__ = [
    "Decoder", "DescriptorCheck", "MatrixAxes", "OperandCheck", "RightMatrix", "Span", "about_columns", "beyond", "is_opcode",
    "operand"]


def operand(word, opcode: Opcode, name: str):
    """Slice of an instruction word that holds operand ``name`` of ``opcode``; signed where the table says so."""
    place, entry = isa.offsets(opcode)[name]
    value = word[place:place + entry.bits]
    return value.as_signed() if entry.signed else value


def is_opcode(opcode, *values):
    """1 if ``opcode`` is one of ``values``."""
    return opcode.matches(*(f"{int(value):06b}" for value in values))


def about_columns(word, walk):
    """1 if an instruction that names a matrix, with this walk axis, is about its columns: driven, not READ, or the walk axis."""
    # of these opcodes, bit 3 tells those about the walk axis, bit 1 READ: about the side that is not driven
    return Mux(word[3], walk == Walk.COLS, operand(word, Opcode.DRIVE, "transpose") ^ word[1])


def _bits(most):
    """Bits of a number up to ``most``, at least 1."""
    return max(1, most.bit_length())


def RightMatrix(u: UnitParams):
    """Layout of a descriptor with as many bits of each field as a right one needs."""
    return data.StructLayout({
        "tile": _bits(u.n_tiles - 1), "row0": _bits(u.n_rows - 1), "col0": _bits(u.n_cols - 1), "rows": _bits(u.n_rows),
        "cols": _bits(u.n_cols), "walk": 1, "chi_base": _bits(u.chi_words - 1), "words_per_line": _bits(u.groups_max)})


def MatrixAxes(u: UnitParams):
    """Layout of a right descriptor as an instruction sees it: ``first`` and ``count`` of the axis that it is about, and of the
    other one. That is the side driven or read, the walk axis where there is no ``transpose``.
    """
    first, count = _bits(u.n_lines - 1), _bits(u.n_lines)
    return data.StructLayout({
        "tile": _bits(u.n_tiles - 1), "walk": 1, "first": first, "count": count, "other_first": first, "other_count": count,
        "chi_base": _bits(u.chi_words - 1), "words_per_line": _bits(u.groups_max)})


class DescriptorCheck(wiring.Component):
    """Checks one matrix descriptor: inside its tile and the chi memory, words of a line that the build holds, origins aligned.

    Members
    -------
    matrix, fits : In(RightMatrix), In(1)
        Descriptor, and whether all bits that are left out of it are 0.
    ok, words : Out
        Whether it is right, and how many chi words it has, for the descriptor of two cycles before; throughput 1 a cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({"matrix": In(RightMatrix(u)), "fits": In(1), "ok": Out(1), "words": Out(range(u.chi_words + 1))})

    def elaborate(self, platform):
        m = Module()
        u, d = self.u, self.matrix
        aligned_bits = (u.vector_width - 1).bit_length()
        lines = Mux(d.walk == Walk.ROWS, d.rows, d.cols)
        sound, words, base = Signal(), Signal(len(d.rows | d.cols) + len(d.words_per_line)), Signal.like(d.chi_base)
        row_end, col_end = Signal(len(d.row0 + d.rows)), Signal(len(d.col0 + d.cols))
        m.d.sync += [
            sound.eq(self.fits & (d.tile < u.n_tiles) & (d.rows > 0) & (d.cols > 0) & (d.words_per_line > 0)
                     & (d.words_per_line <= u.groups_max) & (Cat(d.row0[:aligned_bits], d.col0[:aligned_bits]) == 0)),
            row_end.eq(d.row0 + d.rows), col_end.eq(d.col0 + d.cols), words.eq(lines * d.words_per_line), base.eq(d.chi_base),
            self.ok.eq(sound & (row_end <= u.n_rows) & (col_end <= u.n_cols) & (words + base <= u.chi_words)),
            self.words.eq(words),
        ]
        return m


def Span(u: UnitParams):
    """Layout of a range of the vector memory: ``words`` whole words from ``address`` on, and a ``part`` of one more."""
    return data.StructLayout({"used": 1, "address": 12, "words": 16 - (u.vector_width - 1).bit_length(), "part": 1})


def beyond(u: UnitParams, span):
    """1 where a span ends beyond the vector memory, address + words + part > vector_words, a power of two."""
    bits, address, words = (u.vector_words - 1).bit_length(), span.address, span.words
    # the lowest bit makes the carry of a word that is not full
    end = (Cat(1, address[:bits + 1]) + Cat(span.part, words[:bits + 1]))[1:]
    return span.used & (end[bits + 1] | (end[bits] & end[:bits].any()) | address[bits + 1:].any() | words[bits + 1:].any())


class OperandCheck(wiring.Component):
    """What an instruction needs of its descriptor, and errors that can be told from its operands; combinational.

    Members
    -------
    word, matrix, matrix_ok, columns : In
        Instruction, the descriptor it names, whether there is such a one and it is right, and ``about_columns`` of them.
    axes : Out(MatrixAxes)
        What the instruction needs of the descriptor. READ: ``count`` is how many outputs it reads.
    undefined, bad_matrix, bad_number : Out(1)
        Errors; the first one counts. In a build with ``operand_checks`` 0 only ``undefined`` is found.
    spans : Out(ArrayLayout(Span, 3))
        What it reads and writes of the vector memory; one that goes ``beyond`` is an error, too, found a stage later.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "word": In(isa.INSTRUCTION_BITS), "matrix": In(RightMatrix(u)), "matrix_ok": In(1), "columns": In(1),
            "axes": Out(MatrixAxes(u)), "undefined": Out(1), "bad_matrix": Out(1), "bad_number": Out(1),
            "spans": Out(data.ArrayLayout(Span(u), 3))})

    def elaborate(self, platform):
        m = Module()
        u, word, matrix, axes, columns = self.u, self.word, self.matrix, self.axes, self.columns
        opcode, shift = word[0:6], (u.vector_width - 1).bit_length()

        def value(of, name):
            return operand(word, of, name)

        side, read_count = Signal.like(axes.count), value(Opcode.READ, "count")
        counted = is_opcode(opcode, Opcode.READ) & (read_count != 0)
        m.d.comb += [
            axes.tile.eq(matrix.tile), axes.walk.eq(matrix.walk), axes.chi_base.eq(matrix.chi_base),
            axes.words_per_line.eq(matrix.words_per_line), side.eq(Mux(columns, matrix.cols, matrix.rows)),
            axes.count.eq(Mux(counted, read_count, side)),
            axes.first.eq(Mux(columns, matrix.col0, matrix.row0)), axes.other_first.eq(Mux(columns, matrix.row0, matrix.col0)),
            axes.other_count.eq(Mux(columns, matrix.rows, matrix.cols)),
        ]

        spans, bad_number = Signal.like(self.spans), Signal()

        def span(place, of, address, count, used=1):
            one = spans[place]
            return [one.used.eq(used), one.address.eq(value(of, address)), one.words.eq(count[shift:]),
                    one.part.eq(count[:shift].any())]

        with m.Switch(opcode):
            with m.Case(Opcode.HALT, Opcode.LOOP, Opcode.NEXT, Opcode.WAIT, Opcode.CLEAR, Opcode.DUMP, Opcode.LOAD):
                pass
            if u.refresh:
                with m.Case(Opcode.SCAN):
                    pass
            with m.Case(Opcode.ACCEPT):
                m.d.comb += span(0, Opcode.ACCEPT, "dst", value(Opcode.ACCEPT, "count"), ~value(Opcode.ACCEPT, "to_lut"))
            with m.Case(Opcode.EMIT):
                m.d.comb += [*span(0, Opcode.EMIT, "src", value(Opcode.EMIT, "count")),
                             bad_number.eq(value(Opcode.EMIT, "count") == 0)]
            with m.Case(Opcode.DRIVE):
                m.d.comb += span(0, Opcode.DRIVE, "src", side)
            with m.Case(Opcode.READ):
                # read_count > side, as a carry
                m.d.comb += [*span(0, Opcode.READ, "dst", axes.count),
                             bad_number.eq((read_count[:len(side)] + ~side)[-1] | read_count[len(side):].any())]
            with m.Case(Opcode.UPDATE):
                m.d.comb += [*span(0, Opcode.UPDATE, "walk_src", side), *span(1, Opcode.UPDATE, "lane_src", axes.other_count)]
            with m.Case(Opcode.VECTOR):
                op, count = value(Opcode.VECTOR, "op"), value(Opcode.VECTOR, "count")
                moves = op != VectorOp.SET_EXPONENT
                m.d.comb += [
                    self.undefined.eq(op > VectorOp.SET_EXPONENT),
                    *span(0, Opcode.VECTOR, "dst", count, moves), *span(1, Opcode.VECTOR, "a", count, moves),
                    *span(2, Opcode.VECTOR, "b", count, moves & (value(Opcode.VECTOR, "b_kind") == isa.BKind.VECTOR)),
                    bad_number.eq(moves & ((count == 0) | (value(Opcode.VECTOR, "b") >= u.vector_words))),
                ]
            if u.gather:
                with m.Case(Opcode.GATHER):
                    m.d.comb += bad_number.eq((value(Opcode.GATHER, "count0") == 0) | (value(Opcode.GATHER, "count1") == 0)
                                              | (value(Opcode.GATHER, "dst") >= u.vector_words))
            if u.capacitor:
                with m.Case(*isa.CAPACITOR_ONLY):
                    pass
            with m.Default():
                m.d.comb += self.undefined.eq(1)

        of_matrix = is_opcode(opcode, *(op for op, (_, fields) in isa.FORMATS.items() if fields and fields[0].name == "matrix"))
        if u.operand_checks:
            m.d.comb += [self.bad_matrix.eq(of_matrix & ~self.matrix_ok), self.bad_number.eq(bad_number), self.spans.eq(spans)]
        return m


class Decoder(wiring.Component):
    """The commands an instruction stands for; only the one of its own unit is meaningful.

    Members
    -------
    word, matrix : In
        Instruction and what it needs of the descriptor it names. ``line``: register LINE; ``inverted``: polarity of that matrix.
    lines, vector, update, scan, accept : Out
        Command payloads; combinational.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "word": In(isa.INSTRUCTION_BITS), "matrix": In(MatrixAxes(u)), "line": In(13), "inverted": In(1),
            "lines": Out(LinesCommand(u)), "vector": Out(VectorCommand(u)), "update": Out(UpdateCommand(u)),
            "scan": Out(ScanCommand(u)), "accept": Out(AcceptCommand(u)),
        })

    def elaborate(self, platform):
        m = Module()
        u, word, matrix = self.u, self.word, self.matrix
        opcode = word[0:6]

        def copy(command, of, *names):
            return [getattr(command, name).eq(operand(word, of, name)) for name in names]

        def exponents(command, of, *names):
            bits = (u.n_exponents - 1).bit_length()
            return [getattr(command, name).eq(operand(word, of, name)[:bits]) for name in names]

        reading, steps = is_opcode(opcode, Opcode.READ), operand(word, Opcode.READ, "steps")
        lines = {"op": Mux(reading, LinesOp.READ, LinesOp.DRIVE), "first": matrix.first,
                 "half": operand(word, Opcode.READ, "half"), "steps": Mux(steps == 0, u.line_max, steps)}
        if u.capacitor:
            lines |= self._capacitor(m, opcode, lines)
        m.d.comb += [
            self.lines.tile.eq(matrix.tile), *copy(self.lines, Opcode.DRIVE, "transpose", "shift"),
            self.lines.count.eq(matrix.count), *copy(self.lines, Opcode.READ, "range"),
            self.lines.address.eq(Mux(reading, operand(word, Opcode.READ, "dst"), operand(word, Opcode.DRIVE, "src"))),
            self.lines.store.eq(1), *(getattr(self.lines, name).eq(value) for name, value in lines.items()),
        ]

        m.d.comb += copy(
            self.vector, Opcode.VECTOR, "op", "dst", "a", "b", "b_kind", "count", "shift", "imm", "lut")
        m.d.comb += exponents(self.vector, Opcode.VECTOR, "e_dst", "e_src")
        m.d.comb += copy(self.vector, Opcode.GATHER, "element", "count0", "stride0", "count1", "stride1")
        with m.If(is_opcode(opcode, Opcode.GATHER)):
            m.d.comb += [self.vector.op.eq(VectorOp.GATHER), *copy(self.vector, Opcode.GATHER, "dst")]
        with m.If(is_opcode(opcode, Opcode.EMIT)):
            m.d.comb += [self.vector.op.eq(VectorOp.EMIT), self.vector.a.eq(operand(word, Opcode.EMIT, "src")),
                         *copy(self.vector, Opcode.EMIT, "count")]

        op = Mux(is_opcode(opcode, Opcode.CLEAR), UpdateOp.CLEAR, Mux(is_opcode(opcode, Opcode.DUMP), UpdateOp.DUMP, Mux(
            is_opcode(opcode, Opcode.LOAD), UpdateOp.LOAD, UpdateOp.UPDATE)))
        axes = {"tile": matrix.tile, "walk": matrix.walk, "walk_first": matrix.first, "walk_count": matrix.count,
                "lane_first": matrix.other_first, "lane_count": matrix.other_count}
        m.d.comb += [
            *copy(self.update, Opcode.UPDATE, "accumulate", "threshold", "walk_src", "walk_shift", "lane_src", "lane_shift",
                  "rate", "exponent", "negate"),
            *exponents(self.update, Opcode.UPDATE, "e"),
            self.update.op.eq(op), self.update.words_per_line.eq(matrix.words_per_line), self.update.chi_base.eq(matrix.chi_base),
            *(getattr(self.update, name).eq(value) for name, value in axes.items()),
            *copy(self.scan, Opcode.SCAN, "steps", "high", "low", "bound", "floor"), self.scan.dirty_base.eq(matrix.chi_base),
            *(getattr(self.scan, name).eq(value) for name, value in axes.items()),
        ]
        m.d.comb += copy(self.accept, Opcode.ACCEPT, "dst", "count", "wide", "to_lut", "lut")
        return m

    def _capacitor(self, m, opcode, lines):
        """Fields of the lines' command that the capacitor scheme changes or adds; ``lines``: their values without it."""
        word, inverted = self.word, self.inverted
        fire, point, trim, seed = (is_opcode(opcode, op) for op in (Opcode.FIRE, Opcode.POINT, Opcode.TRIM, Opcode.SEED))
        own, half = operand(word, Opcode.READ, "polarity"), operand(word, Opcode.READ, "half")
        first, rows = Signal(13), operand(word, Opcode.FIRE, "rows")     # first: line LINE of the side that ``transpose`` names
        m.d.comb += first.eq(self.line + self.matrix.first)
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
            "e": operand(word, Opcode.DRIVE, "e")[:(self.u.n_exponents - 1).bit_length()],
            **{name: operand(word, Opcode.DRIVE, name) for name in ("trains", "scaled", "dither", "fine")},
        }
