"""Recorders (bench only): what Python reads once per image instead of looking at pulses, updates and beats as they pass.

Each recorder fills memories as rings and counts what it has written since reset; Python remembers how far it has read, so nothing
is handed back. Fields are whole bytes, so that a record is read as a row of integers. The memories are read by their names.
"""
from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from model.commands import UpdateOp
from model.params import UnitParams

__all__ = [
    "BEATS",
    "COUNT_BITS",
    "FIRES",
    "PULSES",
    "TRIMS",
    "UPDATES",
    "FireRecorder",
    "OutputRecorder",
    "PulseRecorder",
    "TrimRecorder",
    "UpdateRecorder",
    "lane_words",
    "pulse_record",
    "slot_record",
    "trim_record",
    "walked_depth",
]

COUNT_BITS = 16
"""Width of the counts; they wrap."""
PULSES = 64
UPDATES = 32
BEATS = 512
FIRES = 16
TRIMS = 16
"""Depths of the rings [records, updates, beats, trains, records], powers of two."""


def pulse_record(u: UnitParams) -> data.StructLayout:
    """One programming pulse: where, its kind and measured width [cycles], whether a SCAN ran, and its lanes."""
    return data.StructLayout({
        **{name: 16 for name in ("tile", "walk", "line", "first", "kind", "width", "refresh", "unused")},
        "pos": -(-u.lanes // 8) * 8, "neg": -(-u.lanes // 8) * 8})


class PulseRecorder(wiring.Component):
    """Records every pulse of the tile port's programming half, with the width it had on the wires, in the memory ``pulses``.

    Members: the programming signals; ``refresh``: a SCAN is running; ``count``: pulses recorded, each after its end;
    ``glitch``: lanes changed within a pulse, or G+ and G- of a lane were high together (kept).
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "program_tile": In(4), "program_walk": In(1), "program_line": In(13), "program_first": In(13), "program_kind": In(1),
            "pulse_pos": In(u.lanes), "pulse_neg": In(u.lanes), "refresh": In(1), "count": Out(COUNT_BITS), "glitch": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        now, high, before = Signal(pulse_record(self.u)), Signal(), Signal()
        m.submodules.pulses = pulses = memory.Memory(shape=now.shape().size, depth=PULSES, init=[])
        write = pulses.write_port()
        m.d.comb += [high.eq(self.pulse_pos.any() | self.pulse_neg.any()), write.addr.eq(self.count), write.data.eq(now),
                     write.en.eq(before & ~high)]
        m.d.sync += [before.eq(high), self.count.eq(self.count + write.en)]
        with m.If(high & before):
            m.d.sync += now.width.eq(now.width + 1)
            with m.If((now.pos != self.pulse_pos) | (now.neg != self.pulse_neg)):
                m.d.sync += self.glitch.eq(1)
        with m.Elif(high):
            m.d.sync += [now.tile.eq(self.program_tile), now.walk.eq(self.program_walk), now.line.eq(self.program_line),
                         now.first.eq(self.program_first), now.kind.eq(self.program_kind), now.refresh.eq(self.refresh),
                         now.width.eq(1), now.pos.eq(self.pulse_pos), now.neg.eq(self.pulse_neg)]
        with m.If((self.pulse_pos & self.pulse_neg).any()):
            m.d.sync += self.glitch.eq(1)
        return m


def _bytes(bits):
    return -(-bits // 8) * 8


def slot_record(u: UnitParams) -> data.StructLayout:
    """A slot of a coincidence train: the tile, what divides its steps, and the lines that were high."""
    return data.StructLayout({"tile": 16, "step_shift": 16, "rows": _bytes(u.n_rows), "up": _bytes(u.n_cols),
                              "down": _bytes(u.n_cols)})


class FireRecorder(wiring.Component):
    """Records every slot of the coincidence trains in the memory ``slots``: FIRES trains of ``u.slots`` records.

    Members: ``fire, step_shift, tile, drive, up, down`` of the tile port; ``count``: trains recorded, each after its end;
    ``glitch``: a train of another number of slots, or lines high outside of a train (kept).
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({"fire": In(1), "step_shift": In(3), "tile": In(4), "drive": In(u.n_lines), "up": In(u.n_cols),
                          "down": In(u.n_cols), "count": Out(COUNT_BITS), "glitch": Out(1)})

    def elaborate(self, platform):
        m = Module()
        u = self.u
        now, slot, before = Signal(slot_record(u)), Signal(u.slot_bits + 1), Signal()
        m.submodules.slots = slots = memory.Memory(shape=now.shape().size, depth=FIRES * u.slots, init=[])
        write = slots.write_port()
        m.d.comb += [
            now.tile.eq(self.tile), now.step_shift.eq(self.step_shift), now.rows.eq(self.drive[:u.n_rows]), now.up.eq(self.up),
            now.down.eq(self.down),
            write.addr.eq(self.count * u.slots + slot), write.data.eq(now), write.en.eq(self.fire),
        ]
        m.d.sync += [before.eq(self.fire), slot.eq(Mux(self.fire, slot + 1, 0)),
                     self.count.eq(self.count + (before & ~self.fire))]
        with m.If((before & ~self.fire & (slot != u.slots)) | (~self.fire & (self.up | self.down).any())):
            m.d.sync += self.glitch.eq(1)
        return m


def trim_record(u: UnitParams) -> data.StructLayout:
    """A TRIM: where, what, the trains before it, and what each line carried (as the pulse meter shows it)."""
    return data.StructLayout({**{name: 16 for name in ("tile", "transpose", "kind", "line", "down", "steps", "fires", "unused")},
                              "driven": _bytes(u.n_lines * (u.line_bits + 1))})


class TrimRecorder(wiring.Component):
    """Records every TRIM in the memory ``trims``.

    Members: ``trim, tile, transpose, trim_kind, trim_line, trim_down`` of the tile port; ``driven``: of the pulse meter, complete
    in the cycle after the window; ``fires``: trains so far; ``count``: TRIMs recorded.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "trim": In(1), "tile": In(4), "transpose": In(1), "trim_kind": In(2), "trim_line": In(13), "trim_down": In(1),
            "driven": In(u.n_lines * (u.line_bits + 1)), "fires": In(COUNT_BITS), "count": Out(COUNT_BITS)})

    def elaborate(self, platform):
        m = Module()
        now, before, steps = Signal(trim_record(self.u)), Signal(), Signal(16)
        m.submodules.trims = trims = memory.Memory(shape=now.shape().size, depth=TRIMS, init=[])
        write = trims.write_port()
        m.d.comb += [
            now.tile.eq(self.tile), now.transpose.eq(self.transpose), now.kind.eq(self.trim_kind), now.line.eq(self.trim_line),
            now.down.eq(self.trim_down), now.steps.eq(steps), now.fires.eq(self.fires), now.driven.eq(self.driven),
            write.addr.eq(self.count), write.data.eq(now), write.en.eq(before & ~self.trim),
        ]
        m.d.sync += [before.eq(self.trim), steps.eq(Mux(self.trim, steps + 1, 0)), self.count.eq(self.count + write.en)]
        return m


def lane_words(u: UnitParams) -> int:
    """Places of an update in the memory ``lanes`` [words of vector_width], a power of two."""
    return 1 << (u.n_lines // u.vector_width - 1).bit_length()


def walked_depth(u: UnitParams) -> int:
    """Depth of the memory ``walked`` [lines]: those of several images."""
    return 4 * u.chi_words


class UpdateRecorder(wiring.Component):
    """Records the operands of every accumulating UPDATE.

    ``updates`` (ring of UPDATES): chi_base, rate, exponent (int16), end: lines in ``walked`` up to and with this update.
    ``walked`` (ring of ``walked_depth``): line and its signed code, ``negate`` applied (int16 each).
    ``lanes``: signed lane codes (int8), ``lane_words`` places for each update.

    Members: ``start, op, chi_base, rate, accumulate``: the command as it is accepted; ``trace_*``: see ``hdl.update_unit``;
    ``n_updates, n_walked``: what was recorded. The newest update is complete when the update unit is idle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        code = 1 + u.outer_bits
        super().__init__({
            "start": In(1), "op": In(2), "chi_base": In(16), "rate": In(12), "accumulate": In(1),
            "trace_line_stb": In(1), "trace_line": In(13), "trace_code": In(signed(code)), "trace_lane_stb": In(1),
            "trace_lane_address": In(13), "trace_lanes": In(data.ArrayLayout(code, u.vector_width)),
            "trace_exponent": In(signed(10)), "n_updates": Out(COUNT_BITS), "n_walked": Out(COUNT_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        record = data.StructLayout({"chi_base": 16, "rate": 16, "exponent": signed(16), "end": 16})
        line = data.StructLayout({"line": 16, "code": signed(16)})
        m.submodules.updates = updates = memory.Memory(shape=record.size, depth=UPDATES, init=[])
        m.submodules.walked = walked = memory.Memory(shape=line.size, depth=walked_depth(u), init=[])
        m.submodules.lanes = lanes = memory.Memory(shape=8 * u.vector_width, depth=UPDATES * lane_words(u), init=[])
        begins = self.start & (self.op == UpdateOp.UPDATE) & self.accumulate
        now, new, place, end = Signal(record), Signal(record), Signal(range(UPDATES)), Signal(COUNT_BITS)
        m.d.comb += [new.eq(now), new.end.eq(end), place.eq(self.n_updates - 1), end.eq(self.n_walked + self.trace_line_stb)]
        with m.If(begins):
            m.d.comb += [new.chi_base.eq(self.chi_base), new.rate.eq(self.rate), new.exponent.eq(0), place.eq(self.n_updates)]
            m.d.sync += self.n_updates.eq(self.n_updates + 1)
        with m.Else():
            m.d.comb += new.exponent.eq(self.trace_exponent)
        with m.If(begins | self.trace_line_stb):
            m.d.sync += [now.eq(new), self.n_walked.eq(end)]
        write = updates.write_port()
        m.d.comb += [write.addr.eq(place), write.data.eq(new), write.en.eq(begins | self.trace_line_stb)]
        one = Signal(line)
        write = walked.write_port()
        m.d.comb += [one.line.eq(self.trace_line), one.code.eq(self.trace_code), write.addr.eq(self.n_walked),
                     write.data.eq(one), write.en.eq(self.trace_line_stb)]
        write = lanes.write_port()
        m.d.comb += [write.addr.eq(place * lane_words(u) + self.trace_lane_address), write.en.eq(self.trace_lane_stb)]
        for k in range(u.vector_width):
            code = self.trace_lanes[k]
            m.d.comb += write.data.word_select(k, 8).eq(Mux(code[-1], -code[:-1], code[:-1]))
        return m


class OutputRecorder(wiring.Component):
    """Takes the output stream at once into the memory ``beats``: 8 bytes of data, then ``last``.

    Members: ``tdata, tlast, tvalid, tready``; ``count``.
    """

    def __init__(self, u: UnitParams):
        super().__init__({"tdata": In(64), "tlast": In(1), "tvalid": In(1), "tready": Out(1), "count": Out(COUNT_BITS)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = memory.Memory(shape=72, depth=BEATS, init=[])
        write = beats.write_port()
        m.d.comb += [self.tready.eq(1), write.addr.eq(self.count), write.data.eq(self.tdata | Mux(self.tlast, 1 << 64, 0)),
                     write.en.eq(self.tvalid)]
        m.d.sync += self.count.eq(self.count + self.tvalid)
        return m
