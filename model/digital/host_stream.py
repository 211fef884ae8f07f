"""Twin of ``hdl.host_stream``: packets as strings of bytes, exactly as they pass the AXI4-Streams.

``packet``: uint8, the bytes of a packet that ``tkeep`` marks. ``vec`` and ``luts`` as in ``vector_memory`` and ``vector_unit``.
The input functions are compiled; those that pack and unpack at the host's side are numpy. A packet takes no unit time.
"""
import numpy as np

from model.compiled import borrowing, compiled
from model.events import INDEX
from model.params import UnitConstants

__all__ = ["accept", "dump_packet", "emit_packet", "load", "load_bytes", "pack", "right_length", "unpack_dump", "unpack_emit"]

BEAT_BYTES = 8
BEAT_ELEMENTS = 4
_PACKETS_IN, _PACKETS_REFUSED = INDEX["packets_in"], INDEX["packets_refused"]


def pack(elements, wide: bool) -> np.ndarray:
    """Bytes of an ACCEPT packet; raises ValueError for an element that does not fit."""
    elements = np.asarray(elements, np.int64)
    low, high = (-32768, 32767) if wide else (0, 255)
    if elements.size and not (low <= elements.min() and elements.max() <= high):
        raise ValueError(f"elements {elements.min()} to {elements.max()}: allowed is {low} to {high}")
    return elements.astype("<i2").view(np.uint8) if wide else elements.astype(np.uint8)


@borrowing
def right_length(needed, length):
    """Whether a packet of ``length`` bytes is taken where ``needed`` bytes are expected: as many beats, enough bytes."""
    return needed <= length and (needed + 7) // 8 == (length + 7) // 8


@borrowing
def accept(u, dst, count, wide, to_lut, lut, packet, vec, luts, counters):
    """Offer a packet to an armed ACCEPT; returns 1 when it is taken, 0 when it is refused and nothing changes.

    In the RTL a refused packet leaves its destination undefined; here it is left as it was.
    """
    if not right_length(count * (2 if wide else 1), len(packet)):
        counters[_PACKETS_REFUSED] += 1
        return 0
    for k in range(min(count, 1 << u.lut_bits) if to_lut else count):
        value = np.int32(packet[k])
        if wide:
            value = np.int32(packet[2 * k]) | np.int32(packet[2 * k + 1]) << 8
            value = value - 65536 if value > 32767 else value
        if to_lut:
            luts[lut, k] = value
        else:
            vec[dst * u.vector_width + k] = value
    counters[_PACKETS_IN] += 1
    return 1


def emit_packet(elements) -> np.ndarray:
    """Bytes of an EMIT packet."""
    return np.asarray(elements).astype("<i2").view(np.uint8)


def unpack_emit(packet) -> np.ndarray:
    """Elements of an EMIT packet, int16."""
    return np.asarray(packet, np.uint8).view("<i2").astype(np.int16)


@borrowing
def load_bytes(u, words):
    """Bytes of a packet of ``words`` chi words: each is padded to whole beats, but for the last."""
    padded = (u.lanes + BEAT_ELEMENTS - 1) // BEAT_ELEMENTS * BEAT_ELEMENTS
    return 2 * (padded * (words - 1) + u.lanes)


def dump_packet(u: UnitConstants, chi) -> np.ndarray:
    """Bytes of a DUMP packet; ``chi``: (words, lanes)."""
    chi = np.asarray(chi)
    padded = np.zeros((len(chi), -(-u.lanes // BEAT_ELEMENTS) * BEAT_ELEMENTS), "<i2")
    padded[:, :u.lanes] = chi
    return padded.reshape(-1).view(np.uint8)[:load_bytes(u, len(chi))]


@borrowing
def _unpack(lanes, packet, out):
    """Elements of the first ``len(out)`` chi words of a packet; out: int32 (words, at least lanes)."""
    padded = (lanes + BEAT_ELEMENTS - 1) // BEAT_ELEMENTS * BEAT_ELEMENTS
    for word in range(out.shape[0]):
        for lane in range(lanes):
            place = 2 * (word * padded + lane)
            value = np.int32(packet[place]) | np.int32(packet[place + 1]) << 8
            out[word, lane] = value - 65536 if value > 32767 else value


def unpack_dump(u: UnitConstants, packet) -> np.ndarray:
    """Chi words of a DUMP packet, int32 (words, lanes)."""
    packet = np.asarray(packet, np.uint8)
    padded = -(-u.lanes // BEAT_ELEMENTS) * BEAT_ELEMENTS
    chi = np.zeros((-(-len(packet) // (2 * padded)), u.lanes), np.int32)
    _unpack(u.lanes, packet, chi)
    return chi


@compiled
def load(u, words, packet, chi, counters):
    """Offer a packet to an armed LOAD; chi: int32 (at least words, at least lanes). Returns 1, or 0 when it is refused."""
    if not right_length(load_bytes(u, words), len(packet)):
        counters[_PACKETS_REFUSED] += 1
        return 0
    _unpack(u.lanes, packet, chi[:words])
    counters[_PACKETS_IN] += 1
    return 1
