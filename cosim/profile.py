"""Where the time of the cosimulation goes: the samples of ``perf`` in the simulator's process, by block of the unit.

    python -m cosim.profile PERF_DATA

A sample in a function that Verilator generated counts for the blocks whose signals the function names, in proportion to how
often: a build has no line numbers, and most functions are of one block. Needs Linux and perf; how to record: ``cosim/README.md``.
"""
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

__all__ = ["group_of_library", "main", "shares_of_functions"]

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

_SAMPLE = re.compile(r"\s*[0-9a-f]+ (.+) \((\S+)\)$")
_FUNCTION = re.compile(r"(?m)^(?:[\w ]+ )?void (Vtop\w+)\([^;{]*\) \{\n((?:[^}\n].*\n|\n)*)\}")
"""A generated function: name, body."""
_EVALUATED = ("Vtop___024root___nba_", "Vtop___024root___eval_nba", "Vtop___024root___ico_", "Vtop___024root___act_")
"""How the names of functions begin that evaluate the design."""
_SIGNAL = re.compile(r"bench__DOT__core__DOT__(?:unit__DOT__(\w+?)(?:__DOT__|\b))?")


def group_of_library(path: str) -> str:
    """Group of a sample outside the simulation, by the file it is in."""
    name = path.rsplit("/", 1)[-1]
    return next((group for group, begins in LIBRARIES.items() if name.startswith(begins)), OTHER)


def shares_of_functions(text: str) -> dict[str, dict[str, float]]:
    """Generated function -> group -> share [1], by the signals named in it; of a C++ file."""
    shares = {}
    for function, body in _FUNCTION.findall(text):
        named = Counter(next((group for group, modules in GROUPS.items() if module in modules), BETWEEN)
                        for module in _SIGNAL.findall(body))
        if function.startswith(_EVALUATED) and named:
            shares[function] = {group: count / named.total() for group, count in named.items()}
    return shares


def _group_inside(symbol: str, shares: dict[str, dict[str, float]]) -> dict[str, float]:
    """Groups of a sample in the simulation, by its function."""
    name = symbol.removesuffix(".cold")
    return shares.get(name, {"VPI" if "Vpi" in name or name.startswith("vpi_") else SCHEDULING: 1.0})


def main(path: str) -> None:
    """Print the share of each group."""
    found: defaultdict[str, float] = defaultdict(float)
    n_samples, shares = 0, {}
    script = subprocess.run(["perf", "script", "-i", path, "-F", "ip,sym,dso"], capture_output=True, text=True, check=True)
    for symbol, file in filter(None, map(_sample, script.stdout.splitlines())):
        n_samples += 1
        if file.endswith("/bench"):
            if file not in shares:
                shares[file] = {function: share for source in Path(file).parent.glob("Vtop*.cpp")
                                for function, share in shares_of_functions(source.read_text(encoding="utf-8")).items()}
            for group, share in _group_inside(symbol, shares[file]).items():
                found[group] += share
        else:
            found[group_of_library(file)] += 1
    for group, count in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{100 * count / n_samples:5.1f} %  {group}")
    print(f"{n_samples} samples")


def _sample(line):
    """(symbol, file) of a line of ``perf script``, or None."""
    match = _SAMPLE.match(line)
    return match.groups() if match else None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cosim.profile PERF_DATA")
    main(sys.argv[1])
