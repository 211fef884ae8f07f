"""Write the unit for other flows: ``python -m hdl.generate [--params FILE.toml] [--out DIRECTORY]``.

    crosstrain.v, <block>.v   the whole unit and each block by itself (Verilog, but for assertions and always_comb)
    params.json               every parameter of the build
    registers.h, registers/   C header and HTML document of the register map, from hdl/registers.rdl
    ports.md                  each block's data sheet and its port list: direction, bits, fields of packed ports
    isa.md                    the instruction set: opcodes, operands and their bits, from model/isa.py

The same parameters give the same bytes on every machine; nothing in them names a path, a date or a host.
Files of the same names are overwritten. A block is a module ``hdl/x_y.py`` with a component ``XY`` that takes ``UnitParams``.
Struct payloads are packed, first field lowest.
"""
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from amaranth import Shape
from amaranth.lib import data, wiring
from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_html import HTMLExporter

import hdl
from hdl.verilog import verilog_of
from model import isa
from model.command_line import command_line, run_cli
from model.files import make_folder
from model.params import MNIST, Params, UnitParams
from model.regmap import compile_rdl

__all__ = ["TOP", "block_classes", "generate", "port_table"]

TOP = "crosstrain"
"""Verilog module of ``hdl.top``; every other block's module has the name of its file."""


def block_classes() -> dict[str, type]:
    """Verilog name -> class of every block in ``hdl``; the top of a board is apart, see ``hdl.board``."""
    blocks = {}
    for info in pkgutil.iter_modules(hdl.__path__):
        if info.name not in ("board", "generate", "synthesize"):
            block = getattr(importlib.import_module(f"hdl.{info.name}"), info.name.title().replace("_", ""), None)
            if isinstance(block, type) and issubclass(block, wiring.Component):
                blocks[TOP if info.name == "top" else info.name] = block
    return blocks


def port_table(component) -> str:
    """Markdown table of the Verilog ports of a component, ``clk`` and ``rst`` apart."""
    rows = ["| port | direction | bits | fields |", "|---|---|---|---|"]
    for path, member, _ in component.signature.flatten(component):
        name = "__".join(str(part) for part in path)
        shape = Shape.cast(member.shape)
        direction = "in" if member.flow == wiring.In else "out"
        rows.append(f"| `{name}` | {direction} | {shape.width}{' signed' if shape.signed else ''} | {_fields(member.shape)} |")
    return "\n".join(rows) + "\n"


def _fields(shape):
    """Bit positions of the fields of a packed shape."""
    if isinstance(shape, data.ArrayLayout):
        element = Shape.cast(shape.elem_shape)
        inner = _fields(shape.elem_shape)
        sign = " signed" if element.signed else ""
        return f"{shape.length} elements of {element.width}{sign}, element 0 lowest" + (f": {inner}" if inner else "")
    if isinstance(shape, data.StructLayout):
        parts = []
        for name, field in shape:
            high, inner = field.offset + field.width - 1, _fields(field.shape)
            sign = " signed" if Shape.cast(field.shape).signed else ""
            bits = f"{high}:{field.offset}" if field.width != 1 else f"{field.offset}"
            parts.append(f"`{name}` {bits}{sign}" + (f" ({inner})" if inner else ""))
        return ", ".join(parts)
    return ""


def generate(params: Params, out: Path) -> list[Path]:
    """Write everything for a build into ``out``; returns the Verilog files."""
    u: UnitParams = params.unit
    root = compile_rdl(u)
    make_folder(out)
    files, ports = [], ["# Ports of the build\n\nEvery block has `clk` and `rst` too (synchronous, active high).\n"]
    for name, block in sorted(block_classes().items(), key=lambda item: (item[0] != TOP, item[0])):
        component = block(u)
        files.append(out / f"{name}.v")
        files[-1].write_text(verilog_of(component, name), encoding="utf-8")
        sheet = inspect.cleandoc(sys.modules[block.__module__].__doc__ or "")
        ports.append(f"## {name}\n\n```\n{sheet}\n```\n\n{port_table(component)}")
    (out / "ports.md").write_text("\n".join(ports), encoding="utf-8")
    sheet = inspect.cleandoc(isa.__doc__ or "")
    (out / "isa.md").write_text(f"# Instruction set\n\n{sheet}\n\n{isa.document()}", encoding="utf-8")
    (out / "params.json").write_text(params.to_json(), encoding="utf-8")
    CHeaderExporter().export(root, str(out / "registers.h"), reuse_typedefs=False)
    HTMLExporter().export(root, str(out / "registers"), title="crosstrain registers")
    page = out / "registers" / "index.html"
    text = page.read_text(encoding="utf-8")
    time = re.search(r"BUILD_TS = (\d+);", text)
    page.write_text(text.replace(time[1], "0") if time else text, encoding="utf-8")
    return files


_cli = command_line()


@_cli.command(help="Write Verilog, registers and port list.")
def _run(
    params: Annotated[Path | None, typer.Option(help="TOML file: what differs from the default build.")] = None,
    out: Annotated[Path, typer.Option(help="Directory.")] = Path("build/verilog"),
) -> None:
    files = generate(Params.from_toml(params) if params else MNIST, out)
    print(f"{out}: {len(files)} Verilog files, params.json, ports.md, isa.md, registers.h, registers/index.html")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(_cli, "python -m hdl.generate", argv, "stopped")


if __name__ == "__main__":
    sys.exit(main())
