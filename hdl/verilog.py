"""Verilog text of a component, as other tools take it: the same bytes on every machine, without source paths.

Amaranth writes a module for every instance and a line for every word of a memory. Equal modules become one here, under the name
of the first, and zeros become a loop, so that the text shows what repeats.

What a register takes next is a process of its own in Amaranth's text, ``always @*``. Here it stands in the register's clocked
process, as one writes it by hand. So a simulator evaluates it when that clock rises, not whenever an operand may have changed:
Verilator needs a quarter less time by it, since most clocks of the unit stand still most of the time. For the same reason an
assertion is reached only where it fails.
"""
import re
import warnings
from collections import Counter

from amaranth.back import verilog

__all__ = ["verilog_of"]

_CONSTANT_PROCESS = re.compile(r"always @\*\n +([^=\n]+?) = \d+'h[0-9a-f]+;")
"""Constant bits of a signal whose other bits are assigned in a process: without an operand ``always @*`` would never run."""
_REGISTER = re.compile(r"(?m)^  always @\(posedge (\S+ ?)\)\n    (\\\S+ |\S+) <= (\\\$\d+) ;\n")
"""A register that takes a signal without a name: clock, register, signal."""
_PROCESS = re.compile(r"(?m)^  always @\* begin\n    if \(\S+ \) begin end\n((?:    .*\n)+)  end\n")
"""A process without a clock; its first statement is there for simulators that do not run it otherwise."""
_ASSIGNED = re.compile(r"(?m)^( +)(\S+) *(\[[^]]*\])? *= ")
"""Of an assignment in a process: indent, signal, bits."""
_ASSERTION = re.compile(r"    if \(1'h1\) begin\n      if \(!(\S+ ?)\)\n        (\$write.*)\n      (assert \(\1\);)\n    end\n")
"""An assertion: what holds, the message otherwise, the statement."""
_NUMBERED = re.compile(r"\\\$auto\$\S+ ")
"""A name that holds a running number of the whole design."""
_ZEROS = re.compile(r"  initial begin\n    (\S+ ?)\[0\] = (\d+'h0+);\n(?:    \1\[\d+\] = \2;\n)*    \1\[(\d+)\] = \2;\n  end\n")


def verilog_of(component, name: str) -> str:
    """Verilog of ``component`` as module ``name``; raises ValueError for a signal of which only a part is in a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    if found := _CONSTANT_PROCESS.search(text):
        raise ValueError(f"{name}: {found[1]} is constant while other bits of the signal are in a process: "
                         "assign the signal as a whole")
    text = _ASSERTION.sub(r"    if (!\1) begin\n      \2\n      \3\n    end\n", _ZEROS.sub(_zero_loop, text))
    head, *modules = re.split(r"(?m)^(?=module )", text)
    return head + "".join(_merged([_clocked(module) for module in modules]))


def _clocked(module):
    """``module`` with the process of what a register takes next in the register's own, where nothing else reads it."""
    registers = {found[3]: found for found in _REGISTER.finditer(module)}
    uses = Counter(re.findall(r"\\\$\d+(?= )", module))
    moved = set()

    def move(found):
        places = _ASSIGNED.findall(found[1])
        name = places[0][1]
        # its declaration, its assignments and the register
        if name not in registers or {place[1] for place in places} != {name} or uses[name] != len(places) + 2:
            return found[0]
        moved.add(name)
        clock, register = registers[name][1], registers[name][2]
        body = _ASSIGNED.sub(lambda place: f"{place[1]}{register}{place[3] or ''} <= ",
                            found[1].removeprefix(f"    {name}  = {register};\n"))
        return f"  always @(posedge {clock}) begin\n{body}  end\n"

    module = _PROCESS.sub(move, module)
    module = _REGISTER.sub(lambda found: "" if found[3] in moved else found[0], module)
    return re.sub(r"(?m)^  reg (?:\[\d+:0\] )?(\\\$\d+) ;\n", lambda found: "" if found[1] in moved else found[0], module)


def _zero_loop(found):
    memory, zero, last = found.groups()
    index = f"\\$index${memory.strip(chr(92) + ' ')} "       # no signal of Amaranth's has this name
    return (f"  integer {index};\n  initial\n    for ({index}= 0; {index}<= {last}; {index}= {index}+ 1)\n"
            f"      {memory}[{index}] = {zero};\n")


def _merged(modules):
    """``modules`` with one for all equal ones, children before their parents."""
    while True:
        first, renamed, kept = {}, {}, []
        for module in modules:
            name = module.split(maxsplit=2)[1]
            numbered = {old: f"\\$auto${index} " for index, old in enumerate(dict.fromkeys(_NUMBERED.findall(module)))}
            module = _NUMBERED.sub(lambda found, new=numbered: new[found[0]], module)
            body = module.removeprefix(f"module {name}")
            if body in first:
                renamed[name] = first[body]
            else:
                first[body] = name
                kept.append(module)
        if not renamed:
            return modules
        instance = re.compile(rf"(?m)^(  )({'|'.join(map(re.escape, renamed))})(?= )")
        modules = [instance.sub(lambda found, new=renamed: found[1] + new[found[2]], module) for module in kept]
