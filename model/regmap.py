"""Register map as data, read from ``hdl/registers.rdl`` for one build: name -> address, fields, access, reset, text.

Used by the RTL (``hdl/registers.py``), by drivers that address registers by name, and by the documents. Names are those of the
RDL below the address map: ``STATUS``, ``MATRIX[2].WORD0``, ``COUNTER.TIME.LO``. Addresses are bytes.
"""
import dataclasses
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from systemrdl.compiler import RDLCompiler
from systemrdl.node import MemNode, RegNode, RootNode

from model.params import UnitParams

__all__ = ["RDL", "Field", "Register", "RegisterMap", "Window", "compile_rdl", "register_map"]

RDL = Path(__file__).resolve().parent.parent / "hdl" / "registers.rdl"
ADDRESS_BITS = 16


class Field(NamedTuple):
    """Bits ``low + bits - 1 : low`` of a register; ``reset`` is None where hardware supplies the value."""

    name: str
    low: int
    bits: int
    readable: bool
    writable: bool
    pulse: bool
    reset: int | None
    text: str


class Register(NamedTuple):
    """A 32-bit register."""

    name: str
    address: int
    fields: dict[str, Field]
    text: str

    @property
    def writable(self) -> bool:
        """Whether a write answers OKAY."""
        return any(field.writable for field in self.fields.values())


class Window(NamedTuple):
    """A range of 32-bit words that is no register."""

    name: str
    address: int
    words: int
    text: str


@dataclasses.dataclass(frozen=True)
class RegisterMap:
    """Registers in address order and the program window."""

    registers: dict[str, Register]
    program: Window

    def address(self, name: str) -> int:
        """Byte address of a register; raises KeyError that names it."""
        return self.registers[name].address

    def pack(self, name: str, **values: int) -> int:
        """Register value from field values, the others 0; raises ValueError for an unknown field or one out of range."""
        word = 0
        for key, value in values.items():
            field = self.registers[name].fields.get(key)
            if field is None:
                raise ValueError(f"{name} has no field {key}: it has {', '.join(self.registers[name].fields)}")
            if not 0 <= value < 1 << field.bits:
                raise ValueError(f"{name}.{key} = {value}: allowed is 0 to {(1 << field.bits) - 1}")
            word |= int(value) << field.low
        return word

    def unpack(self, name: str, word: int) -> dict[str, int]:
        """Field values of a register value."""
        return {key: word >> field.low & (1 << field.bits) - 1 for key, field in self.registers[name].fields.items()}

    def matrix_writes(self, index: int, descriptor: Mapping[str, int]) -> list[tuple[int, int]]:
        """(address, word) of every write that sets matrix ``index``; ``descriptor``: all fields of commands.matrix_fields."""
        prefix = f"MATRIX[{index}]."
        names = [name for name in self.registers if name.startswith(prefix)]
        if not names:
            raise ValueError(f"matrix {index}: the build has no such descriptor")
        fields = {field for name in names for field in self.registers[name].fields}
        if set(descriptor) != fields:
            raise ValueError(f"descriptor of matrix {index}: needs exactly the fields {', '.join(sorted(fields))}")
        return [(self.address(name), self.pack(name, **{key: descriptor[key] for key in self.registers[name].fields}))
                for name in names]

    def program_writes(self, instructions: Iterable[int], first: int = 0) -> list[tuple[int, int]]:
        """(address, word) of every write that loads 128-bit ``instructions`` from index ``first`` on."""
        writes = [(self.program.address + 16 * index + 4 * part, word >> 32 * part & 0xFFFF_FFFF)
                  for index, word in enumerate(instructions, first) for part in range(4)]
        if writes and writes[-1][0] >= self.program.address + 4 * self.program.words:
            raise ValueError(f"program of {len(writes) // 4} instructions at {first}: the build holds {self.program.words // 4}")
        return writes


def compile_rdl(u: UnitParams) -> RootNode:
    """Elaborate the RDL with the capacities of a build: the input of the PeakRDL exporters."""
    compiler = RDLCompiler()
    compiler.compile_file(str(RDL))
    return compiler.elaborate(parameters={name.upper(): value for name, value in dataclasses.asdict(u).items()})


@lru_cache
def register_map(u: UnitParams) -> RegisterMap:
    """The register map of a build."""
    top = compile_rdl(u).top
    registers, program = {}, None
    for node in top.descendants(unroll=True):
        name = node.get_path().removeprefix(f"{top.inst_name}.")
        if isinstance(node, MemNode):
            program = Window(name, node.absolute_address, node.get_property("mementries"), _text(node))
        elif isinstance(node, RegNode):
            registers[name] = Register(name, node.absolute_address, {field.name: field for field in map(_field, node.fields())},
                                       _text(node))
    assert program is not None
    return RegisterMap(dict(sorted(registers.items(), key=lambda item: item[1].address)), program)


def _field(node):
    reset = None if node.is_hw_writable else node.get_property("reset") or 0
    return Field(node.inst_name, node.low, node.width, node.is_sw_readable, node.is_sw_writable,
                 bool(node.get_property("singlepulse")), reset, _text(node))


def _text(node):
    name, text = node.get_property("name"), node.get_property("desc") or ""
    own = f"{name}." if name != node.inst_name else ""
    return " ".join(f"{own} {text}".split())
