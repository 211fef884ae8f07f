"""Recorders (bench only): what Python reads once per image instead of looking at pulses, updates and beats as they pass.

Each recorder fills a few wide registers; ``taken`` (a pulse) empties it: what comes in that cycle is kept. ``full`` asks for
attention before anything is lost; ``lost`` says that something was, and stays.
"""
from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from model.commands import UpdateOp
from model.params import UnitParams

__all__ = ["PULSE_RECORDS", "SINK_BEATS", "UPDATE_RECORDS", "OutputRecorder", "PulseRecord", "PulseRecorder", "UpdateRecord",
           "UpdateRecorder"]

PULSE_RECORDS = 16
UPDATE_RECORDS = 8
SINK_BEATS = 64


def PulseRecord(u: UnitParams):
    """One programming pulse: where, which lanes, its kind and its measured width [cycles]."""
    return data.StructLayout({"tile": 4, "walk": 1, "line": 13, "first": 13, "kind": 1, "refresh": 1, "width": 15,
                              "pos": u.lanes, "neg": u.lanes})


class PulseRecorder(wiring.Component):
    """Records every pulse of the tile port's programming half, with the width it had on the wires.

    Members: the programming signals; ``refresh``: a SCAN is running; ``record_<k>, count``: those since ``taken``, record 0 is
    the newest; ``full``: all but two places are used; ``glitch``: lanes changed within a pulse, or G+ and G- of a lane were high
    together (kept).
    """

    def __init__(self, u: UnitParams):
        self.u = u
        super().__init__({
            "program_tile": In(4), "program_walk": In(1), "program_line": In(13), "program_first": In(13), "program_kind": In(1),
            "pulse_pos": In(u.lanes), "pulse_neg": In(u.lanes), "refresh": In(1), "taken": In(1),
            **{f"record_{k}": Out(PulseRecord(u).size) for k in range(PULSE_RECORDS)}, "count": Out(range(PULSE_RECORDS + 1)),
            "full": Out(1), "glitch": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        now, high, before = Signal(PulseRecord(self.u)), Signal(), Signal()
        m.d.comb += [high.eq(self.pulse_pos.any() | self.pulse_neg.any()), self.full.eq(self.count >= PULSE_RECORDS - 2)]
        m.d.sync += before.eq(high)
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
        records = [getattr(self, f"record_{k}") for k in range(PULSE_RECORDS)]
        with m.If(before & ~high):
            m.d.sync += [new.eq(old) for new, old in zip(records, [now.as_value(), *records[:-1]], strict=True)]
            m.d.sync += self.count.eq(Mux(self.taken, 1, self.count + 1))
        with m.Elif(self.taken):
            m.d.sync += self.count.eq(0)
        return m


def UpdateRecord(u: UnitParams):
    """Operands of one UPDATE: signed codes of every walk line (negated by ``negate``) and lane position, exponent and rate."""
    code = 1 + u.outer_bits
    return data.StructLayout({
        "chi_base": 16, "exponent": signed(16), "rate": 12, "accumulate": 1, "walk": code * u.n_lines, "lanes": code * u.n_lines})


class UpdateRecorder(wiring.Component):
    """Records the operands of the UPDATEs of an image.

    Members: ``start, chi_base, rate, accumulate, op``: the command as it is accepted; ``trace_*``: see ``hdl.update_unit``;
    ``record_<k>, count, taken`` as above, to be emptied only between updates; ``lost``: more than UPDATE_RECORDS without
    ``taken``.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        code = 1 + u.outer_bits
        super().__init__({
            "start": In(1), "op": In(2), "chi_base": In(16), "rate": In(12), "accumulate": In(1),
            "trace_line_stb": In(1), "trace_line": In(13), "trace_code": In(signed(code)), "trace_lane_stb": In(1),
            "trace_lane_address": In(13), "trace_lanes": In(data.ArrayLayout(signed(code), u.vector_width)),
            "trace_exponent": In(signed(10)), "taken": In(1),
            **{f"record_{k}": Out(UpdateRecord(u).size) for k in range(UPDATE_RECORDS)}, "count": Out(range(UPDATE_RECORDS + 1)),
            "lost": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        code = 1 + u.outer_bits
        word_bits = (u.vector_width - 1).bit_length()
        now = Signal(UpdateRecord(u))
        records = [getattr(self, f"record_{k}") for k in range(UPDATE_RECORDS)]
        begins = self.start & (self.op == UpdateOp.UPDATE)
        m.d.comb += records[0].eq(now)
        with m.If(begins):
            m.d.sync += [new.eq(old) for new, old in zip(records[1:], records[:-1], strict=True)]
            m.d.sync += [now.chi_base.eq(self.chi_base), now.rate.eq(self.rate), now.accumulate.eq(self.accumulate),
                         now.walk.eq(0), self.count.eq(Mux(self.taken, 1, self.count + 1))]
            with m.If(~self.taken & (self.count == UPDATE_RECORDS)):
                m.d.sync += self.lost.eq(1)
        with m.Elif(self.taken):
            m.d.sync += self.count.eq(0)

        # lines come in ascending order, so a word of codes is built up and written as a whole
        word, place, codes = Signal(13 - word_bits), Signal(13 - word_bits), Signal(code * u.vector_width)
        inserted = Signal.like(codes)
        m.d.comb += [place.eq(self.trace_line[word_bits:]), inserted.eq(Mux(place == word, codes, 0))]
        m.d.comb += inserted.word_select(self.trace_line[:word_bits], code).eq(self.trace_code)
        with m.If(begins):
            m.d.sync += codes.eq(0)
        with m.If(self.trace_line_stb):
            m.d.sync += [word.eq(place), codes.eq(inserted), now.exponent.eq(self.trace_exponent),
                         now.walk.word_select(place, code * u.vector_width).eq(inserted)]
        with m.If(self.trace_lane_stb):
            m.d.sync += now.lanes.word_select(self.trace_lane_address, code * u.vector_width).eq(self.trace_lanes)
        return m


class OutputRecorder(wiring.Component):
    """Takes the output stream: SINK_BEATS beats, then it holds ``ready`` low until ``taken``.

    Members: ``tdata, tlast, tvalid, tready``; ``beats`` (SINK_BEATS * 64 bits), ``lasts`` (a bit a beat), ``count``, ``full``.
    """

    def __init__(self, u: UnitParams):
        super().__init__({
            "tdata": In(64), "tlast": In(1), "tvalid": In(1), "tready": Out(1), "taken": In(1),
            "beats": Out(64 * SINK_BEATS), "lasts": Out(SINK_BEATS), "count": Out(range(SINK_BEATS + 1)), "full": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.tready.eq(self.count != SINK_BEATS), self.full.eq(self.count == SINK_BEATS)]
        with m.If(self.taken):
            m.d.sync += self.count.eq(0)
        with m.If(self.tvalid & self.tready):
            place = Signal(range(SINK_BEATS))
            with m.If(~self.taken):
                m.d.comb += place.eq(self.count)
            m.d.sync += [self.beats.word_select(place, 64).eq(self.tdata), self.lasts.bit_select(place, 1).eq(self.tlast),
                         self.count.eq(place + 1)]
        return m
