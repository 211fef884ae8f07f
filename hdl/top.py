"""The whole digital unit: registers, sequencer, vector unit, read unit, update unit, pulse generator, refresh, host streams.

Host side: AXI4-Lite (``s_axil_*``) and AXI4-Stream (``s_axis_*`` in, ``m_axis_*`` out). Analogue side: the tile port (``tile``).
This file only joins blocks; each block's own file is its data sheet.

Clocks: one, ``clk``, with ``rst``. With ``gated=True`` the units in ``DOMAINS`` get clocks of their own, ``<unit>_clk``, in phase
with ``clk``, and ``<unit>_active`` says in which cycles a clock edge is needed: a simulator (or a chip) may leave the others
out. No register moves in a cycle that is left out, so both forms behave equally (tested).

On a board there are no lines: with ``bridged=True`` the line drivers are left out, ``hdl.line_store`` stands for them, and its
port ``stored`` for ``drive``, ``polarity``, ``up`` and ``down`` of the tile port, which stay low. Nothing else differs.
"""
from amaranth import Assert, ClockDomain, DomainRenamer, Module, Mux, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.counters import Counters, event_widths
from hdl.host_stream import HostStream
from hdl.line_driver import LineDriver
from hdl.line_store import LineStore, StoredSignature
from hdl.ports import TileSignature, UpdateCommand
from hdl.pulse_gen import PulseGen
from hdl.read_unit import ReadUnit
from hdl.refresh import Refresh
from hdl.registers import Registers
from hdl.sequencer import Sequencer
from hdl.update_unit import UpdateUnit
from hdl.vector_memory import VectorMemory
from hdl.vector_unit import VectorUnit
from model.commands import UpdateOp
from model.params import UnitParams

__all__ = ["DOMAINS", "Top"]

DOMAINS = ("registers", "host_stream", "refresh", "vector_unit", "update_unit", "accumulator", "pulse_gen", "line_driver")
"""Units with clocks of their own when ``gated``: the wide ones, and those that are seldom needed."""


class Top(wiring.Component):
    """See the module.

    Members
    -------
    s_axil_*, s_axis_*, m_axis_* : the host's ports, see ``hdl.registers`` and ``hdl.host_stream``.
    tile : Out(TileSignature)
    trace : Out
        For a bench's recorders: the update unit's commands and operands, and whether a SCAN runs. Leave open in a design.
    <unit>_clk, <unit>_active : In(1), Out(1)
        Only when ``gated``.
    stored, beat_next : Out(StoredSignature(u)), Out(1)
        Only when ``bridged``: the lines' codes; ``m_axis_tvalid`` of the next cycle.
    """

    def __init__(self, u: UnitParams, gated: bool = False, bridged: bool = False):
        self.u, self.gated, self.bridged = u, gated, bridged
        self.registers, self.host_stream = Registers(u), HostStream(u)
        self.update_unit = UpdateUnit(u, "accumulator" if gated else "sync")
        host = {name: member for block in (self.registers, self.host_stream)
                for name, member in block.signature.members.items() if name.startswith(("s_axi", "m_axi"))}
        gates = {name: port for unit in DOMAINS for name, port in ((f"{unit}_clk", In(1)), (f"{unit}_active", Out(1)))}
        trace = {name: member for name, member in self.update_unit.signature.members.items() if name.startswith("trace_")}
        super().__init__({
            **host, "tile": Out(TileSignature(u)), **(gates if gated else {}), **trace,
            **({"stored": Out(StoredSignature(u)), "beat_next": Out(1)} if bridged else {}), "trace_command_stb": Out(1),
            "trace_command": Out(UpdateCommand(u)), "trace_refresh": Out(1), "trace_starved": Out(1), "trace_done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u = self.u
        registers, host, update = self.registers, self.host_stream, self.update_unit
        sequencer, memory, vector, read = Sequencer(u), VectorMemory(u), VectorUnit(u), ReadUnit(u)
        lines, pulses = (LineStore if self.bridged else LineDriver)(u), PulseGen(u)
        refresh = Refresh(u) if u.refresh else None
        blocks = {"sequencer": sequencer, "vector_memory": memory, "read_unit": read, "registers": registers, "host_stream": host,
                  **({"refresh": refresh} if u.refresh else {}), "vector_unit": vector, "update_unit": update,
                  "pulse_gen": pulses, "line_driver": lines}
        for name, block in blocks.items():
            m.submodules[name] = DomainRenamer({"sync": name})(block) if self.gated and name in DOMAINS else block
        if self.gated:
            active = {**{name: blocks[name].active for name in DOMAINS if name in blocks},
                      "accumulator": update.accumulator_active}
            for name in DOMAINS:
                self._own_clock(m, name, active.get(name, 0))

        self._host(m, registers, host, sequencer)
        self._vector_side(m, sequencer, host, memory, vector, read, update)
        self._tile_side(m, sequencer, vector, read, lines, update, pulses, refresh)
        self._counters(m, registers, [sequencer, read, vector, update, pulses, host, *([refresh] if refresh else [])])

        m.d.comb += [
            sequencer.host_stall.eq(vector.host_stall | update.host_stall), sequencer.accepting.eq(host.accepting),
            self.trace_command_stb.eq(update.i.valid & update.i.ready), self.trace_command.eq(update.i.payload),
            self.trace_starved.eq(sequencer.events.host_wait & host.accepting), self.trace_done.eq(sequencer.resting),
            *(getattr(self, name).eq(getattr(update, name)) for name in update.signature.members if name.startswith("trace_")),
        ]
        return m

    def _own_clock(self, m, name, active):
        """Make the clock domain ``name``, driven by a port; it is reset with ``clk``."""
        m.domains += (domain := ClockDomain(name))
        m.d.comb += [domain.clk.eq(getattr(self, f"{name}_clk")), domain.rst.eq(ResetSignal("sync")),
                     getattr(self, f"{name}_active").eq(active | ResetSignal("sync"))]

    def _host(self, m, registers, host, sequencer):
        if self.bridged:
            m.d.comb += self.beat_next.eq(host.beat_next)
        for block in (registers, host):
            for name, member in block.signature.members.items():
                if name.startswith(("s_axi", "m_axi")):
                    inner, outer = getattr(block, name), getattr(self, name)
                    m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        connect(m, registers.program_write, sequencer.program_write)
        m.d.comb += [getattr(sequencer, name).eq(getattr(registers, name))
                     for name in ("start", "stop", "resume", "entry", "loop_count", "matrices")]
        m.d.comb += [getattr(registers, name).eq(getattr(sequencer, name))
                     for name in ("busy", "done", "stopped", "error", "error_pc", "pc")]
        m.d.comb += [registers.accepting.eq(host.accepting), host.disarm.eq(sequencer.disarm)]
        connect(m, sequencer.o_accept, host.i_accept)
        connect(m, sequencer.o_load, host.i_load)

    def _vector_side(self, m, sequencer, host, memory, vector, read, update):
        connect(m, sequencer.o_vector, vector.i)
        connect(m, vector.a, memory.a)
        connect(m, vector.b, memory.b)
        connect(m, vector.w, memory.w_vector)
        connect(m, read.vector, memory.lines)
        connect(m, read.w, memory.w_lines)
        connect(m, update.vector, memory.update)
        connect(m, host.w_host, memory.w_host)
        connect(m, host.lut_write, vector.lut_write)
        connect(m, vector.o, host.i_emit)
        connect(m, update.o_dump, host.i_dump)
        connect(m, host.o_load, update.i_load)
        m.d.comb += update.exponents.eq(vector.exponents)

    def _tile_side(self, m, sequencer, vector, read, lines, update, pulses, refresh):
        u = self.u
        connect(m, sequencer.o_update, update.i)
        if refresh:
            self._refresh(m, sequencer, read, update, pulses, refresh)
        else:
            m.d.comb += sequencer.o_scan.ready.eq(1)
            connect(m, sequencer.o_lines, read.i)
            connect(m, update.o_pulse, pulses.i)
        connect(m, read.lines, lines.i)
        if self.bridged:
            connect(m, lines.stored, flipped(self.stored))
        else:
            m.d.comb += [self.tile.drive.eq(lines.drive), self.tile.polarity.eq(lines.polarity)]
        if u.capacitor:
            if not self.bridged:
                down = (lines.trains_polarity ^ read.down.replicate(u.n_lines))[:u.n_cols]
                m.d.comb += [self.tile.up.eq(lines.trains & ~down), self.tile.down.eq(lines.trains & down)]
            m.d.comb += [getattr(self.tile, name).eq(getattr(read, name)) for name in ("fire", "step_shift", "trim", "trim_kind",
                                                                                     "trim_line")]
            m.d.comb += [self.tile.trim_down.eq(read.down), read.dither.eq(lines.dither)]
        m.d.comb += [
            read.last.eq(lines.last), read.program_busy.eq(pulses.busy), pulses.hold.eq(read.hold),
            update.pulse_busy.eq(pulses.busy),
        ]
        for name in ("tile", "transpose", "half", "range", "out_first", "out_count", "convert"):
            m.d.comb += getattr(self.tile, name).eq(getattr(read, name))
        m.d.comb += [self.tile.integrate.eq(lines.integrate & ~(read.fire | read.trim)), read.exponents.eq(vector.exponents)]
        for name in ("program_tile", "program_walk", "program_line", "program_first", "program_kind", "pulse_pos", "pulse_neg"):
            m.d.comb += getattr(self.tile, name).eq(getattr(pulses, name))
        connect(m, flipped(self.tile.codes), read.codes)

    def _refresh(self, m, sequencer, read, update, pulses, refresh):
        """Read unit and pulse generator take commands from their own master, or from the refresh unit.

        Nothing else runs during a SCAN: it is a barrier, and what comes next waits for it.
        """
        connect(m, sequencer.o_scan, refresh.i)
        for sink, own, other, chosen in ((read.i, sequencer.o_lines, refresh.o_lines, refresh.reading),
                                         (pulses.i, update.o_pulse, refresh.o_pulse, refresh.pulsing)):
            m.d.comb += [
                sink.valid.eq(own.valid | other.valid), sink.payload.eq(Mux(chosen, other.payload, own.payload)),
                own.ready.eq(sink.ready), other.ready.eq(sink.ready),
            ]
            m.d.sync += Assert(~(refresh.busy & own.valid), "two commands at once")
        # the refresh unit pulses lane 0; where nothing is pulsed the side does not matter
        m.d.comb += pulses.i.payload.negative[1:].eq(update.o_pulse.payload.negative[1:])
        accepted, op = update.i.valid & update.i.ready, update.i.payload.op
        m.d.comb += [
            self.trace_refresh.eq(refresh.busy),
            refresh.code_stb.eq(read.code_stb), refresh.code_index.eq(read.code_index), refresh.code_word.eq(read.code_word),
            refresh.pulse_busy.eq(pulses.busy),
        ]
        # one cycle later, so that no path leads through two units: the update unit is not idle before its last mark and fill are
        # there, so that no SCAN is either
        m.d.sync += [
            refresh.mark_stb.eq(update.o_pulse.valid & update.o_pulse.ready), refresh.mark_index.eq(update.o_pulse.payload.dirty),
            refresh.fill_stb.eq(accepted & ((op == UpdateOp.CLEAR) | (op == UpdateOp.LOAD))),
            refresh.fill_value.eq(op == UpdateOp.LOAD),
            refresh.fill_base.eq(update.i.payload.chi_base), refresh.fill_count.eq(update.i.payload.walk_count),
        ]

    def _counters(self, m, registers, units):
        m.submodules.counters = counters = Counters(self.u, event_widths(*units))
        for event in counters.counted:
            unit, = (unit for unit in units if event.name in unit.events.shape().members)
            m.d.comb += counters.events[event.name].eq(unit.events[event.name])
        m.d.comb += [counters.clear.eq(registers.clear), counters.read_en.eq(registers.read_en),
                     counters.read_index.eq(registers.read_index), registers.read_value.eq(counters.read_value)]
