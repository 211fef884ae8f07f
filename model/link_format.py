"""Numbers of the link between host and board, for both its ends: frames, commands, records.

What they mean: ``hdl/link.py``, ``hdl/host_bridge.py``, ``hdl/event_encoder.py``.
"""
import enum
from dataclasses import dataclass

from model.params import ParamsError, UnitParams

__all__ = ["BAUD", "CRC_RESIDUE", "ESCAPE", "FLAG", "FLIP", "VERSION", "Command", "LinkParams", "Reason", "Record", "Status"]

BAUD = 3_000_000
"""Rate of the link: the fastest of an FTDI FT231X, and of an FT2232H behind a UART [bit/s]."""
FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
"""Ends a frame; the next byte is XORed with FLIP. RFC 1662, section 4."""
CRC_POLYNOMIAL, CRC_RESIDUE = 0xEDB88320, 0xDEBB20E3
"""CRC-32 of RFC 1662, section C.3, bits reversed; the register after a frame and its CRC."""
VERSION = 2
"""Of this format; a board answers CONNECT with it."""


class Command(enum.IntEnum):
    """What a request asks for."""

    CONNECT = 0
    WRITE = 1
    READ = 2
    RUN = 3


class Status(enum.IntEnum):
    """Of a reply."""

    OK = 0
    LOST = 1


class Reason(enum.IntEnum):
    """Why the unit's clock stopped at the end of a RUN."""

    MORE = 0
    CONVERT = 1
    STARVED = 2
    DONE = 3


class Record(enum.IntEnum):
    """First byte of a record."""

    UPDATE = 1
    LANES = 2
    LINE = 3
    FIRE = 4
    TRIM = 5
    PULSE = 6
    BEAT = 7
    READ = 8


@dataclass(frozen=True, kw_only=True)
class LinkParams:
    """A board's end of the link."""

    divisor: int = 8
    """Cycles of the board's clock per bit [1], 4 to 65535."""
    convert_cycles: int = 3
    """``TileParams.convert_cycles`` of the run [cycles], 1 to 4095: the bridge stands for the converters."""
    receive_log2: int = 11
    """log2 of the longest request [log2 byte], 9 to 14."""
    reply_log2: int = 10
    """log2 of the longest reply [log2 byte], 6 to 14."""
    trace: int = 1
    """1: operands of UPDATE are sent, for the host's conservation ledger; 0: they are not, and the host checks no weight [1]."""

    def __post_init__(self):
        for name, low, high in (("divisor", 4, 65535), ("convert_cycles", 1, 4095), ("receive_log2", 9, 14),
                                ("reply_log2", 6, 14), ("trace", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ParamsError(f"{name} = {getattr(self, name)}: allowed is {low} to {high}")

    def check(self, u: UnitParams) -> None:
        """Raise ParamsError where the records' fields are too narrow for a unit."""
        for name, value, most in (("line_bits", u.line_bits, 7), ("lanes", u.lanes, 1016),
                                  ("lines / vector_width", u.n_lines // u.vector_width, 255)):
            if value > most:
                raise ParamsError(f"{name} = {value}: on a board at most {most}")
        for name in ("set_cycles", "reset_cycles"):
            if getattr(u, name) < 3:
                raise ParamsError(f"{name} = {getattr(u, name)}: on a board at least 3")

    def code_bytes(self, u: UnitParams) -> int:
        """Bytes of a converter code [byte]."""
        return 1 if u.adc_bits <= 8 else 2
