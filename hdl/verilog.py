"""Verilog text of a component, as other tools take it: the same bytes on every machine, without source paths."""
import re
import warnings

from amaranth.back import verilog

__all__ = ["verilog_of"]

_CONSTANT_PROCESS = re.compile(r"always @\*\n +([^=\n]+?) = \d+'h[0-9a-f]+;")
"""Constant bits of a signal whose other bits are assigned in a process: without an operand ``always @*`` would never run."""


def verilog_of(component, name: str) -> str:
    """Verilog of ``component`` as module ``name``; raises ValueError for a signal of which only a part is in a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    if found := _CONSTANT_PROCESS.search(text):
        raise ValueError(f"{name}: {found[1]} is constant while other bits of the signal are in a process: "
                         "assign the signal as a whole")
    return text
