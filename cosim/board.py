"""The board backend: a unit on an FPGA over a serial port, hardware in the loop. The analogue side is the host's model.

The unit's clock stands still while the host works (``hdl.host_bridge``), so that digest and cycles are those of the other
backends. Each request that runs the unit returns what it did, in order: pulses go to the model's devices, reads are answered with
the next request.
"""
import struct

import numpy as np

from cosim.link import Link, LinkError
from model.analog import tile as analog
from model.analog.side import AnalogSide
from model.commands import LinesOp
from model.digital import read_unit
from model.driver import Driver, UnitError
from model.isa import Kind, Walk
from model.ledger import count_pulse
from model.link_format import Command, Reason, Record
from model.params import Params, ParamsError, UnitParams
from model.regmap import register_map

__all__ = ["BoardBackend", "build_of", "capacities"]

ID = 0x5854524E


def capacities(link: Link) -> UnitParams:
    """The build that a board carries; raises LinkError if it is no unit of ours."""
    base = register_map(UnitParams())
    names = [name for name in base.registers if name == "ID" or name.startswith("CAPACITY.")]
    values = dict(zip(names, _read(link, [base.address(name) for name in names]), strict=True))
    if values.pop("ID") != ID:
        raise LinkError(f"{link.port}: what answers there is no crosstrain unit")
    try:
        return UnitParams(**{name.removeprefix("CAPACITY.").lower(): value for name, value in values.items()})
    except (ParamsError, TypeError) as error:
        raise LinkError(f"{link.port}: the board's capacities are not those of a unit of this version ({error})") from None


def build_of(port: str) -> tuple[UnitParams, int]:
    """Capacities and convert_cycles of the board at ``port``."""
    link = Link(port)
    try:
        return capacities(link), link.convert_cycles
    finally:
        link.close()


def _read(link, addresses):
    values = []
    size = min((link.reply_bytes - 1) // 4, link.body_bytes // 2)
    for first in range(0, len(addresses), size):
        part = addresses[first:first + size]
        answer = link.request(Command.READ, struct.pack(f"<{len(part)}H", *part))
        if len(answer) != 4 * len(part) + 1 or answer[-1]:
            raise LinkError(f"{link.port}: registers from {part[0]:#06x} on cannot be read")
        values += struct.unpack(f"<{len(part)}I", answer[:-1])
    return values


class BoardBackend(Driver):
    """A unit behind ``port``. seed: root of all generators; follow_all: the ledger follows every weight.

    Raises ParamsError when the board's build is not that of ``params``.
    """

    name = "board"

    def __init__(self, params: Params, seed: int, port: str, *, follow_all: bool = False, patience_s: float | None = None):
        super().__init__(params)
        self.link = Link(port) if patience_s is None else Link(port, patience_s)
        try:
            self._check_build(capacities(self.link))
            self.map = register_map(self.u)
            self.side = AnalogSide(params, seed, follow_all)
        except BaseException:
            self.link.close()
            raise
        self.code_bytes = 1 if self.u.adc_bits <= 8 else 2
        self.lines, self.trains = np.zeros(self.u.n_lines, np.int32), np.zeros(self.u.n_lines, np.int32)
        self.codes = np.zeros(self.u.n_lines, np.int32)
        self.walked, self.lane_codes = np.zeros(self.u.n_lines, np.int64), np.zeros(self.u.n_lines, np.int32)
        self.update: tuple[int, int] | None = None      # matrix and rate of the UPDATE under way
        self.exponent = 0
        self.programmed: set[tuple[int, int, int]] = set()
        self.matrix_of: dict[int, int] = {}

    def _check_build(self, found):
        wrong = [f"{name} = {getattr(found, name)}, not {value}" for name, value in vars(self.u).items()
                 if getattr(found, name) != value]
        if self.link.convert_cycles != self.params.tile.convert_cycles:
            wrong.append(f"convert_cycles = {self.link.convert_cycles}, not {self.params.tile.convert_cycles}")
        if wrong:
            raise ParamsError(f"{self.link.port}: the board's build has {'; '.join(wrong)}: give its parameters, or none")

    # ---- registers ----------------------------------------------------------------------------------------------------

    def _write(self, writes):
        """Write (address, word) pairs."""
        size = self.link.body_bytes // 6
        for first in range(0, len(writes), size):
            body = b"".join(struct.pack("<HI", address, word) for address, word in writes[first:first + size])
            if self.link.request(Command.WRITE, body) != b"\0":
                raise LinkError(f"{self.link.port}: the board refused to write a register")

    def _write_named(self, **values):
        self._write([(self.map.address(name), value) for name, value in values.items()])

    def _load(self, program):
        writes = self.map.program_writes(program.instructions)
        for index, descriptor in enumerate(program.matrices):
            writes += self.map.matrix_writes(index, descriptor._asdict())
        self._write(writes)
        self.matrix_of = {d.chi_base: index for index, d in enumerate(program.matrices)}

    def _counters(self, names):
        addresses = [self.map.address(f"COUNTER.{name.upper()}.{half}") for name in names for half in ("LO", "HI")]
        values = _read(self.link, addresses)
        return [low | high << 32 for low, high in zip(values[::2], values[1::2], strict=True)]

    # ---- running ------------------------------------------------------------------------------------------------------

    def _execute(self, entry, loop_count, packets, n_outputs, *, evaluating, time, stop_after=None):
        if stop_after is not None:
            raise UnitError("stop_after: a board runs from one event to the next, the host cannot stop it in between")
        self.side.begin(time)
        self.generators = self.side.generators.evaluation if evaluating else self.side.generators.read
        self._write_named(ENTRY=entry, LOOP_COUNT=loop_count, CONTROL=self.map.pack("CONTROL", start=1))
        self.beats = []
        queue = [bytes(packet) for packet in packets]
        queue.reverse()
        packet, codes, pending = b"", b"", b""
        wanted = False                                  # a packet would be taken now
        while True:
            if not packet and queue and wanted:
                packet = queue.pop()
            body, sent = self._run_body(codes, packet)
            answer = self.link.request(Command.RUN, body)
            reason, beats_left, words_left = answer[-3] & 0x7F, answer[-2], answer[-1]
            wanted = bool(answer[-3] & 0x80) or reason == Reason.STARVED
            packet = packet[max(0, -(-sent // 8) - beats_left) * 8:]
            pending += answer[:-3]
            codes = codes[len(codes) - words_left * self.u.vector_width * self.code_bytes:] if words_left else b""
            if reason == Reason.MORE:
                continue
            codes = self._records(pending) or codes
            pending = b""
            if reason == Reason.DONE:
                break
            if reason == Reason.STARVED and not packet and not queue:
                raise RuntimeError("the unit waits for a packet, but there is none left")
        self._flush_update()
        status, pc = _read(self.link, [self.map.address(name) for name in ("STATUS", "ERROR_PC")])
        return self._packets(), self.map.unpack("STATUS", status)["error"], pc

    def _run_body(self, codes, packet):
        """Body of a RUN, and the bytes of ``packet`` in it."""
        room = min(self.link.body_bytes - 3 - len(codes), 255 * 8) // 8 * 8
        part = packet[:room]
        whole = len(part) == len(packet)
        tail = (len(part) - 1) % 8 + 1 if part and whole else 0
        return struct.pack("<BH", tail, 7 + len(codes)) + codes + part + bytes(-len(part) % 8), len(part)

    def _records(self, content):
        """Do what the records say; returns the codes of the READ that ends them, or nothing."""
        at, codes, u = 0, b"", self.u
        side = self.side
        while at < len(content):
            kind, at = content[at], at + 1
            if kind == Record.BEAT:
                self.beats.append((content[at], content[at + 1:at + 9]))
                at += 9
            elif kind == Record.READ:
                head, select, steps, first, count, base, words = struct.unpack_from("<BBBHHBB", content, at)
                at = self._lines(content, at + 9, base, words, self.lines)
                analog.read_one(side.constants, side.tiles, self.generators[head & 15], head & 15,
                                read_unit.driven(u.constants, self.lines, steps), head >> 4 & 1, head >> 5 & 3, select, steps,
                                first, count, self.codes)
                padded = -(-count // u.vector_width) * u.vector_width
                self.codes[count:padded] = 0
                codes = self.codes[:padded].astype(f"<i{self.code_bytes}").tobytes()
            elif kind == Record.PULSE:
                at = self._pulse(content, at)
            elif kind == Record.FIRE:
                at = self._fire(content, at)
            elif kind == Record.TRIM:
                head, trim, line, down, steps, base, words = struct.unpack_from("<BBHBBBB", content, at)
                at = self._lines(content, at + 8, base, words, self.lines)
                analog.trim_one(side.constants, side.tiles, side.generators.program[head & 15], head & 15, head >> 4, line,
                                read_unit.driven(u.constants, self.lines, steps), trim, steps, down, side.tick)
            else:
                at = self._traced(kind, content, at)
        return codes

    def _fire(self, content, at):
        tile, flags, state, base, words = struct.unpack_from("<BBIBB", content, at)
        at = self._lines(content, at + 8, base, words, self.lines)
        at = self._lines(content, at + 2, content[at], content[at + 1], self.trains)
        u, side = self.u, self.side
        rows, ups, downs = np.zeros(u.n_rows, np.uint32), np.zeros(u.n_cols, np.uint32), np.zeros(u.n_cols, np.uint32)
        command = read_unit.lines_command(
            int(LinesOp.FIRE), tile, 0, sequence=flags & 1, rows=flags >> 1 & 1, down=flags >> 2 & 1)
        read_unit.patterns(u.constants, command, self.lines, self.trains, np.array([state]), rows, ups, downs)
        analog.fire(side.constants, side.tiles, side.generators.program, tile, rows, ups, downs, flags >> 3 & 7, side.tick)
        return at

    def _traced(self, kind, content, at):
        """Records of an UPDATE, for the ledger."""
        if kind == Record.UPDATE:
            self._flush_update()
            chi_base, rate = struct.unpack_from("<HH", content, at)
            self.update = self.matrix_of[chi_base], rate
            self.walked[:], self.lane_codes[:], self.exponent = 0, 0, 0
            return at + 4
        if kind == Record.LANES:
            return self._lines(content, at + 2, struct.unpack_from("<H", content, at)[0], 1, self.lane_codes, clear=False)
        if kind == Record.LINE:
            line, code, self.exponent = struct.unpack_from("<Hbh", content, at)
            self.walked[line] = code
            return at + 5
        raise LinkError(f"{self.link.port}: the board sent an unknown record {kind}")

    def _flush_update(self):
        """Hand the UPDATE that has ended to the ledger."""
        if self.update is not None:
            matrix, rate = self.update
            d = self.side.ledger.matrices[matrix]
            lines, lanes = (d.rows, d.cols) if d.walk == Walk.ROWS else (d.cols, d.rows)
            self.side.ledger.record(matrix, self.walked[:lines], self.lane_codes[:lanes].astype(np.int64), self.exponent, rate)
            self.update = None

    def _lines(self, content, at, base, words, lines, *, clear=True):
        """Unpack words of codes into ``lines``, all others 0 with ``clear``; returns the place after them."""
        width = self.u.vector_width
        if clear:
            lines[:] = 0
        place, end = base * width, (base + words) * width
        while place < end:
            code, at = content[at], at + 1
            if code == 0x80:
                lines[place:place + content[at]] = 0
                place, at = place + content[at], at + 1
            else:
                lines[place] = -(code & 0x7F) if code & 0x80 else code
                place += 1
        return at

    def _pulse(self, content, at):
        head, line, first = struct.unpack_from("<BHH", content, at)
        tile, walk, kind, refresh = head & 15, head >> 4 & 1, head >> 5 & 1, head >> 6 & 1
        at += 5
        size = -(-self.u.lanes // 8)
        lanes = np.zeros(2 * size, np.uint8)
        while content[at] != 0xFF:
            lanes[content[at]] = content[at + 1]
            at += 2
        pos, neg = (np.unpackbits(part, bitorder="little")[:self.u.lanes] for part in (lanes[:size], lanes[size:]))
        if kind == Kind.SET and not refresh:
            count_pulse(self.side.ledger.net[tile], walk, line, first, pos, neg)
            self.programmed.add((tile, walk, line))
        side = self.side
        analog.program_one(side.constants, side.tiles, side.generators.program[tile], tile, walk, line, first, pos, neg, kind,
                           side.tick)
        return at + 1

    def _packets(self):
        """Whole packets among the beats received, as int16 elements."""
        packets, part = [], b""
        for last, content in self.beats:
            part += content
            if last:
                packets.append(np.frombuffer(part, "<i2"))
                part = b""
        return packets

    # ---- the rest of Driver -------------------------------------------------------------------------------------------

    def _digest_parts(self):
        return self.side.digest_parts()

    def _resume(self, stop_after=None):
        raise UnitError("nothing to go on with: a board is not stopped")

    def _clear_ledger(self, matrices):
        self.side.clear_ledger(matrices)
        self._blind()

    def _blind(self):
        """Without a trace the ledger follows no weight, and says so."""
        if not self.link.trace:
            self.side.ledger.lines = [np.zeros(0, np.int64) for _ in self.side.ledger.lines]

    def _check_transfers(self, transfers, trains, trims):
        return self.side.check_transfers(transfers, trains, trims)

    def _check_conservation(self, chi):
        return self.side.ledger.check(lambda matrix: chi[matrix])

    def _after(self, entry, *result):
        """See ``Driver._after``; CLEAR and SCAN leave no line marked."""
        outputs = super()._after(entry, *result)
        if entry in ("clear", "scan"):
            self.programmed = set()
        return outputs

    def _dirty(self):
        return self._dirty_map(self.programmed)

    def _side_state(self):
        return self.side.state()

    def _restore_side(self, state, dirty):
        self.side.restore(state)
        self._blind()
        self.programmed = self._programmed(dirty)

    def close(self):
        """Free the port."""
        self.link.close()
