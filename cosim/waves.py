"""Waves: a short simulation's VCD as FST, and signals read back from an FST.

Verilator's own FST writer needs system headers that a fresh machine has not; the library pylibfst brings its own.
"""
from collections.abc import Iterator
from pathlib import Path

import pylibfst
from pylibfst import ffi, lib

__all__ = ["changes", "vcd_to_fst"]


def vcd_to_fst(vcd: Path, fst: Path) -> None:
    """Convert; ``fst`` appears whole (a temporary file, then renamed)."""
    unfinished = fst.with_suffix(".part")
    writer = lib.fstWriterCreate(str(unfinished).encode(), 1)
    handles: dict[str, tuple[int, int]] = {}
    with vcd.open(encoding="utf-8") as lines:
        for line in lines:
            words = line.split()
            if not words:
                continue
            first = words[0]
            if first == "$var":
                width, code, name = int(words[2]), words[3], words[4]
                alias = handles[code][0] if code in handles else 0
                handle = lib.fstWriterCreateVar(writer, lib.FST_VT_VCD_WIRE, lib.FST_VD_IMPLICIT, width, name.encode(), alias)
                handles.setdefault(code, (handle, width))
            elif first == "$scope":
                lib.fstWriterSetScope(writer, lib.FST_ST_VCD_MODULE, words[2].encode(), ffi.NULL)
            elif first == "$upscope":
                lib.fstWriterSetUpscope(writer)
            elif first == "$timescale":
                text = "".join(words[1:]) or next(lines).strip()
                lib.fstWriterSetTimescaleFromString(writer, text.removesuffix("$end").encode())
            elif first[0] == "#":
                lib.fstWriterEmitTimeChange(writer, int(first[1:]))
            elif first[0] == "b":
                handle, width = handles[words[1]]
                lib.fstWriterEmitValueChange(writer, handle, first[1:].rjust(width, "0").encode())
            elif first[0] in "01":
                lib.fstWriterEmitValueChange(writer, handles[first[1:]][0], first[:1].encode())
    lib.fstWriterClose(writer)
    unfinished.replace(fst)


def changes(fst: Path, names: list[str]) -> Iterator[tuple[int, str, int]]:
    """(time, name, value) of every change of the signals ``names`` (full names, dots between scopes), in time order."""
    reader = lib.fstReaderOpen(str(fst).encode())
    if reader == ffi.NULL:
        raise OSError(f"{fst}: no FST file")
    signals = pylibfst.get_scopes_signals2(reader)[1].by_name
    found = {signals[name].handle: name for name in names}
    events: list[tuple[int, str, int]] = []

    def take(_, time, handle, value):
        text = pylibfst.string(value)
        events.append((time, found[handle], int(text, 2)))

    lib.fstReaderClrFacProcessMaskAll(reader)
    for handle in found:
        lib.fstReaderSetFacProcessMask(reader, handle)
    pylibfst.fstReaderIterBlocks(reader, take)
    lib.fstReaderClose(reader)
    return iter(events)
