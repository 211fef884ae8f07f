"""Where the time of the cosimulation goes: the samples of ``perf`` in the simulator's process, by block of the unit.

    python -m cosim.profile PERF_DATA

A sample in the simulation is resolved by ``addr2line`` to its line of the generated C++, where the first signal named tells the
block (-g1 is part of a fast build). Needs Linux, perf and binutils; how to record is in ``cosim/README.md``.
"""
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

__all__ = ["group_of_library", "group_of_line", "main"]

GROUPS = {
    "update unit, accumulator, pulse generator": ("update_unit", "pulse_gen"),
    "line drivers": ("line_driver",),
    "vector unit and memory": ("vector_unit", "vector_memory"),
    "read unit": ("read_unit",),
    "sequencer, registers, counters, host streams": ("sequencer", "registers", "counters", "host_stream"),
    "refresh": ("refresh",),
}
"""Group -> modules below ``bench.core.unit``."""
BETWEEN = "wires between blocks, recorders and feeders"
SCHEDULING = "Verilator: scheduling, clocks"
LIBRARIES = {
    "VPI": ("libcocotbvpi", "libgpi"),
    "Python, cocotb, NumPy": ("libpython", "_ctypes", "libffi", "_multiarray_umath", "_struct"),
    "analogue model, ledger": ("perf-", "[JIT]", "_generator", "_pcg64"),
}
"""Group -> how the names of its files begin; everything else is OTHER."""
OTHER = "C library, kernel"

_SAMPLE = re.compile(r"\s*[0-9a-f]+ (\S+?)(?:\+0x([0-9a-f]+))? \((.*)\)")
_SIGNAL = re.compile(r"bench__DOT__core__DOT__(?:unit__DOT__(\w+?)(?:__DOT__|\b))?")


def group_of_library(path: str) -> str:
    """Group of a sample outside the simulation, by the file it is in."""
    name = path.rsplit("/", 1)[-1]
    return next((group for group, begins in LIBRARIES.items() if name.startswith(begins)), OTHER)


def group_of_line(lines: list[str], number: int) -> str:
    """Group of line ``number`` (from 1) of a generated file: the first signal in it, or in a line next to it, tells."""
    for distance in (0, 1, -1, 2, -2, 3, -3):
        at = number - 1 + distance
        if 0 <= at < len(lines) and (found := _SIGNAL.search(lines[at])):
            return next((group for group, modules in GROUPS.items() if found[1] in modules), BETWEEN)
    return SCHEDULING


def _run(*command: str, text: str = "") -> list[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout.splitlines()


def _groups_in(program: str, places: list[tuple[str, int]]):
    """Group of each (mangled symbol, offset) in the simulation."""
    symbols = {parts[2]: int(parts[0], 16) for line in _run("nm", program) if len(parts := line.split()) == 3}
    addresses = "\n".join(hex(symbols.get(symbol, 0) + offset) for symbol, offset in places)
    files: dict[str, list[str]] = {}
    chains: list[list[str]] = []
    for line in _run("addr2line", "-i", "-a", "-e", program, text=addresses):
        if line.startswith("0x"):
            chains.append([])
        else:
            chains[-1].append(line.split(" ")[0])
    for chain in chains:                                                      # innermost function first
        generated = [place for place in chain if re.search(r"/Vtop\w*\.cpp:\d+$", place)]
        if generated:
            name, number = generated[-1].rsplit(":", 1)
            if name not in files:
                files[name] = Path(name).read_text(encoding="utf-8").splitlines()
            yield group_of_line(files[name], int(number))
        else:
            yield "VPI" if any("verilated_vpi" in place for place in chain) else SCHEDULING


def main(path: str) -> None:
    """Print the share of each group."""
    found: Counter[str] = Counter()
    places: dict[str, list[tuple[str, int]]] = {}
    for line in _run("perf", "script", "-i", path, "--no-demangle", "-F", "ip,sym,symoff,dso"):
        if match := _SAMPLE.match(line):
            symbol, offset, file = match.groups()
            if file.endswith("/bench"):
                places.setdefault(file, []).append((symbol, int(offset or "0", 16)))
            else:
                found[group_of_library(file)] += 1
    for program, inside in places.items():
        found.update(_groups_in(program, inside))
    for group, count in found.most_common():
        print(f"{100 * count / found.total():5.1f} %  {group}")
    print(f"{found.total()} samples")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cosim.profile PERF_DATA")
    main(sys.argv[1])
