"""The host's end of the link to a board: frames, and requests that are repeated until they are answered. Format: ``hdl/link.py``.

Nothing wrong gets through: a frame must have the right CRC, session and sequence. What cannot be mended by repeating ends in
one ``LinkError``: no answer (cable, power), a port that is gone, a board that was reset.
"""
import contextlib
import secrets
import struct
import time
import zlib
from collections import Counter

import serial

from model.errors import InputError
from model.link_format import BAUD, ESCAPE, FLAG, FLIP, VERSION, Command, Status

__all__ = ["Link", "LinkError", "decode", "encode"]

TRIES = 10
"""Times a request is sent [1]."""
PATIENCE_S = 0.5
"""How long an answer is waited for before the request is repeated the first time [s]; each time half as long again, up to four
times as long: a slow board must not be buried under repeated requests."""


class LinkError(InputError):
    """The link or the board failed; the run cannot go on."""


def encode(session: int, sequence: int, command: int, body: bytes) -> bytes:
    """A frame with its flags."""
    content = struct.pack("<HBB", session, sequence, command) + body
    content += struct.pack("<I", zlib.crc32(content))
    escaped = content.replace(bytes([ESCAPE]), bytes([ESCAPE, ESCAPE ^ FLIP])).replace(
        bytes([FLAG]), bytes([ESCAPE, FLAG ^ FLIP]))
    return bytes([FLAG]) + escaped + bytes([FLAG])


def decode(escaped: bytes) -> tuple[int, int, int, bytes] | None:
    """(session, sequence, status, body) of what stood between two flags; None where that is no whole frame."""
    content, parts = bytearray(), escaped.split(bytes([ESCAPE]))
    content += parts[0]
    for part in parts[1:]:
        if not part:
            return None
        content.append(part[0] ^ FLIP)
        content += part[1:]
    if len(content) < 8 or zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        return None
    return *struct.unpack("<HBB", content[:4]), bytes(content[4:-4])


class Link:
    """A connection to a board; raises LinkError in every method.

    port: name of the serial port; an answer is waited for ``patience_s`` [s], ``tries`` times.
    What the board says of itself: ``convert_cycles``, ``trace`` (``model.link_format.LinkParams``), ``body_bytes``,
    ``reply_bytes`` (longest body of a request and of a reply). ``traffic`` counts ``requests``, those ``repeated``, and bytes
    ``sent`` and ``received``.
    """

    def __init__(self, port: str, patience_s: float = PATIENCE_S, tries: int = TRIES):
        self.port, self.patience_s, self.tries = port, patience_s, tries
        self.traffic: Counter[str] = Counter()
        self.session, self.sequence, self.pending = 1 + secrets.randbelow(0xFFFF), 0, b""
        with self._port_errors():
            self.serial = serial.Serial(port, BAUD, timeout=patience_s, write_timeout=patience_s * tries, exclusive=True)
            with contextlib.suppress(Exception):                     # FTDI: answer after 1 ms instead of 16; not every port can
                self.serial.set_low_latency_mode(True)
            self.serial.reset_input_buffer()
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self):
        answer = self.request(Command.CONNECT)
        if len(answer) != 6 or answer[0] != VERSION:
            raise LinkError(f"{self.port}: the board speaks another version of the link ({answer.hex()}), "
                            f"this host version {VERSION}")
        self.convert_cycles, self.trace, receive_log2, reply_log2 = struct.unpack("<xHBBB", answer)
        self.body_bytes, self.reply_bytes = (1 << receive_log2) - 8, (1 << reply_log2) - 4

    def request(self, command: int, body: bytes = b"") -> bytes:
        """Have a request executed, once; returns the body of its reply."""
        self.sequence = (self.sequence + 1) % 256
        frame = encode(self.session, self.sequence, command, body)
        self.traffic["requests"] += 1
        with self._port_errors():
            for attempt in range(self.tries):
                self.traffic["repeated"] += attempt > 0
                self.serial.write(frame)
                self.traffic["sent"] += len(frame)
                reply = self._reply(min(self.patience_s * 1.5**attempt, 4 * self.patience_s))
                if reply is not None:
                    status, answer = reply
                    if status == Status.LOST:
                        raise LinkError(f"{self.port}: the board was reset or taken by another host, its state is lost")
                    return answer
        raise LinkError(f"{self.port}: no answer, the request was sent {self.tries} times: check cable and power")

    def close(self) -> None:
        """Free the port."""
        with contextlib.suppress(Exception):
            self.serial.close()

    def _reply(self, patience_s):
        """(status, body) of the reply to the present request, or None if none comes in time."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            content = self.serial.read(max(1, self.serial.in_waiting))
            self.traffic["received"] += len(content)
            *frames, self.pending = (self.pending + content).split(bytes([FLAG]))
            for frame in frames:
                found = decode(frame)
                if found and found[:2] == (self.session, self.sequence):
                    return found[2:]
        return None

    @contextlib.contextmanager
    def _port_errors(self):
        try:
            yield
        except (serial.SerialException, OSError, ValueError) as error:
            if isinstance(error, LinkError):
                raise
            raise LinkError(f"{self.port}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return f"the port failed ({' '.join(text.split())}): check cable and name"
