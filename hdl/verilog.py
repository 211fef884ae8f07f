"""Verilog text of a component, as other tools take it: the same bytes on every machine, without source paths.

Amaranth writes a module for every instance and a line for every word of a memory. Equal modules become one here, under the name
of the first, and zeros become a loop, so that the text shows what repeats.
"""
import re
import warnings

from amaranth.back import verilog

__all__ = ["verilog_of"]

_CONSTANT_PROCESS = re.compile(r"always @\*\n +([^=\n]+?) = \d+'h[0-9a-f]+;")
"""Constant bits of a signal whose other bits are assigned in a process: without an operand ``always @*`` would never run."""
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
    return _merge_modules(_ZEROS.sub(_zero_loop, text))


def _zero_loop(found):
    memory, zero, last = found.groups()
    index = f"\\$index${memory.strip(chr(92) + ' ')} "       # no signal of Amaranth's has this name
    return (f"  integer {index};\n  initial\n    for ({index}= 0; {index}<= {last}; {index}= {index}+ 1)\n"
            f"      {memory}[{index}] = {zero};\n")


def _merge_modules(text):
    """``text`` with one module for all equal ones, children before their parents."""
    head, *modules = re.split(r"(?m)^(?=module )", text)
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
            return head + "".join(modules)
        instance = re.compile(rf"(?m)^(  )({'|'.join(map(re.escape, renamed))})(?= )")
        modules = [instance.sub(lambda found, new=renamed: found[1] + new[found[2]], module) for module in kept]
