"""A recording: everything Python writes to a simulation, with its time, so that ``cosim/replay.cpp`` can do it without Python.

The file is a sequence of records, little endian. A record is a head of 16 bytes, then its content:

=====  ======  ==========================================================================================================
byte   field   meaning
=====  ======  ==========================================================================================================
0      time    simulated time [ps], uint64
8      kind    uint8, see below
9      after   uint8; 0: written before the model is evaluated at this time (a timer fired); 1: after (a signal changed)
10     place   uint16, number of the signal or memory, in the order of the NAME records, from 0
12     size    bytes of content, uint32
=====  ======  ==========================================================================================================

=====  ==========================================================================================================
kind   content
=====  ==========================================================================================================
0      NAME: the full name of a signal or memory; number 0 is ``bench.status``, which is read only
1      SIGNAL: the value put, uint32 words, lowest first
2      MEMORY: first index and number of words (uint32 each), then the words as ``vpi_put_value_array`` takes them
3      MARK: ``bench.status`` at this place, uint32 words; the replay gives the seconds from one mark to the next
=====  ==========================================================================================================
"""
import struct
from pathlib import Path

import numpy as np
from cocotb.simtime import get_sim_time
from cocotb.triggers import Timer, current_gpi_trigger

from cosim import vpi

__all__ = ["Recording"]

_NAME, _SIGNAL, _MEMORY, _MARK = range(4)
_head = struct.Struct("<QBBHI").pack


class Recording:
    """A recording into ``path``; its signals and memories are those of ``cosim.vpi``, and what is put into them is recorded.

    It is whole up to the last ``mark``.
    """

    def __init__(self, path: Path):
        self.file = path.open("wb")
        self.places = 0
        self._declare("bench.status")

    def signal(self, name: str, width: int) -> vpi.Signal:
        """``vpi.Signal``, recorded."""
        return _RecordedSignal(self, self._declare(name), name, width)

    def memory(self, name: str, width: int, depth: int) -> vpi.Memory:
        """``vpi.Memory``, recorded."""
        return _RecordedMemory(self, self._declare(name), name, width, depth)

    def mark(self, status: np.ndarray) -> None:
        """Record a mark with the words of ``bench.status``."""
        self.write(_MARK, 0, status.tobytes())
        self.file.flush()

    def write(self, kind: int, place: int, content: bytes) -> None:
        """Append a record of now."""
        after = not isinstance(current_gpi_trigger(), Timer)
        self._append(int(get_sim_time("step")), kind, after, place, content)

    def _declare(self, name):
        self._append(0, _NAME, False, self.places, name.encode())
        self.places += 1
        return self.places - 1

    def _append(self, time, kind, after, place, content):
        self.file.write(_head(time, kind, after, place, len(content)) + content)


class _RecordedSignal(vpi.Signal):
    def __init__(self, recording, place, name, width):
        super().__init__(name, width)
        self.recording, self.place = recording, place

    def put(self, value):
        super().put(value)
        self.recording.write(_SIGNAL, self.place, self._word[:1].tobytes())


class _RecordedMemory(vpi.Memory):
    def __init__(self, recording, place, name, width, depth):
        super().__init__(name, width, depth)
        self.recording, self.place = recording, place

    def put(self, words):
        super().put(words)
        where = struct.pack("<II", self.depth - len(words), len(words))
        self.recording.write(_MEMORY, self.place, where + words[::-1].tobytes())
