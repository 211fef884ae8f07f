"""Verilog text of a component, as other tools take it: the same bytes on every machine, without source paths."""
import re
import warnings

from amaranth.back import verilog

__all__ = ["verilog_of"]

_CONSTANT_PROCESS = re.compile(r"always @\*(\n +[^=\n]+ = \d+'h[0-9a-f]+;)")
"""Constant bits of a signal whose other bits vary: ``always @*`` without an operand would never run, ``always_comb`` does."""


def verilog_of(component, name: str) -> str:
    """Verilog of ``component`` as module ``name``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    return _CONSTANT_PROCESS.sub(r"always_comb\1", text)
