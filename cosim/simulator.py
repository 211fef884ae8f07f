"""Inside the simulator: the analogue agent and the command server of the ``rtl`` backend (a cocotb test).

The agent is woken by ``attention`` (see ``cosim.bench``), hands pulses and reads to the analogue model and feeds packets: once
per image and read, never per cycle. Physics and state are ``model.analog``'s. Commands come over a local socket from
``cosim.backend``; while it waits for one, simulated time stands still.
"""
import os
import resource
import traceback
from multiprocessing.connection import Client

import cocotb
import numpy as np
from cocotb.triggers import First, Timer, ValueChange

from cosim.bench import HEAD_BEATS, STATUS
from cosim.feeder import feed_bytes
from cosim.recorders import PulseRecord, UpdateRecord
from model.analog import tile as analog
from model.analog.side import AnalogSide
from model.isa import Kind
from model.ledger import count_pulse
from model.params import Params
from model.regmap import register_map

__all__ = ["Unit", "serve"]

PATIENCE = 20_000
"""How long a unit may wait for a packet after the last one has left the feeder [ns of simulation, two a cycle]."""


def _bits(handle) -> np.ndarray:
    """Value of a signal as uint8 bits, bit 0 first."""
    return np.frombuffer(str(handle.value).encode(), np.uint8)[::-1] - 48


class _Fields:
    """Named bit ranges of a flat signal."""

    def __init__(self, layout):
        self.ranges = {name: slice(field.offset, field.offset + field.width) for name, field in layout}

    def read(self, bits, name) -> int:
        part = bits[self.ranges[name]]
        return int.from_bytes(np.packbits(part, bitorder="little").tobytes(), "little")


class Unit:
    """The unit under simulation with its analogue side."""

    def __init__(self, dut, params: Params, seed: int, follow_all: bool):
        self.dut, self.params, self.u = dut, params, params.unit
        self.side = AnalogSide(params, seed, follow_all)
        self.map = register_map(params.unit)
        self.status_fields, self.pulse_fields = _Fields(STATUS(self.u)), _Fields(PulseRecord(self.u))
        self.update_fields = _Fields(UpdateRecord(self.u))
        self.widths = {int(Kind.SET): self.u.set_cycles, int(Kind.RESET): self.u.reset_cycles}
        self.codes = np.zeros(self.u.n_lines, np.int32)
        self.matrix_of = {}
        self.programmed = set()
        self.generators, self.taken, self.taken_updates = self.side.generators.read, 0, 0
        self.reg_go, self.packet_go = 0, 0
        self.queue, self.beats = [], []
        self.done = self.register_done = self.starved = self.lose_pulse = False

    async def reset(self):
        """Hold reset for a few cycles and let the first attention pass."""
        await Timer(20, "ns")
        self.dut.rst.value = 0
        await self._settle()

    # ---- registers ----------------------------------------------------------------------------------------------------

    async def _access(self, write, address, data=0):
        dut = self.dut
        self.reg_go ^= 1
        self.register_done = False
        dut.reg_write.value, dut.reg_address.value, dut.reg_wdata.value, dut.reg_go.value = write, address, data, self.reg_go
        while not self.register_done:
            await self._service()
        if resp := int(dut.reg_resp.value):
            raise RuntimeError(f"register access at {address:#06x} answered {resp}")
        return int(dut.reg_rdata.value)

    async def write(self, name, **fields):
        """Write a register by name; fields not named are 0."""
        await self._access(1, self.map.address(name), self.map.pack(name, **fields))

    async def read(self, name):
        """Read a register by name; returns its fields."""
        return self.map.unpack(name, await self._access(0, self.map.address(name)))

    # ---- commands of the backend --------------------------------------------------------------------------------------

    async def load(self, instructions, matrices):
        """Write program and descriptors."""
        writes = self.map.program_writes(instructions)
        for index, descriptor in enumerate(matrices):
            writes += self.map.matrix_writes(index, descriptor._asdict())
        for address, word in writes:
            await self._access(1, address, word)
        self.matrix_of = {d.chi_base: index for index, d in enumerate(matrices)}

    async def execute(self, entry, loop_count, packets, evaluating, tick):
        """Run a program; returns (output packets as int16 arrays, error, pc)."""
        self.side.begin(tick)
        self.generators = self.side.generators.evaluation if evaluating else self.side.generators.read
        self.queue = [piece for packet in packets for piece in self._pieces(packet)]
        self.queue.reverse()
        self.beats = []
        await self.write("ENTRY", value=entry)
        await self.write("LOOP_COUNT", value=loop_count)
        self.done = False
        await self.write("CONTROL", start=1)
        while not self.done:
            await self._service()
        await self._settle()
        error = (await self.read("STATUS"))["error"]
        pc = (await self.read("ERROR_PC"))["value"]
        return self._packets(), error, pc

    async def counters(self, names):
        """Values of the counters named."""
        values = []
        for name in names:
            low = (await self.read(f"COUNTER.{name.upper()}.LO"))["value"]
            values.append(low | (await self.read(f"COUNTER.{name.upper()}.HI"))["value"] << 32)
        return values

    async def clear_ledger(self, matrices):
        """Start the conservation ledger again."""
        self.side.ledger.clear(matrices)

    async def digest_parts(self):
        """The analogue part of the digest."""
        return self.side.digest_parts()

    async def check_conservation(self, chi):
        """Compare the ledger with chi."""
        return self.side.ledger.check(lambda matrix: chi[matrix])

    async def get_programmed(self):
        """Lines (tile, walk, line) that thresholds have pulsed since ``set_programmed``."""
        return self.programmed

    async def set_programmed(self, lines):
        """Start anew from ``lines``: none, or those of a checkpoint."""
        self.programmed = lines

    async def side_state(self):
        """State of the analogue side."""
        return self.side.state()

    async def restore_side(self, state):
        """Go back to a state."""
        self.side.restore(state)

    async def memory(self):
        """Peak resident memory [MiB]."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    async def inject(self, fault):
        """Arrange a fault, see ``cosim.backend``."""
        assert fault == "lose_pulse"
        self.lose_pulse = True

    # ---- agent --------------------------------------------------------------------------------------------------------

    async def _settle(self):
        """Let the output stream run dry."""
        while True:
            await Timer(400, "ns")
            self._look()
            await Timer(4, "ns")
            if self.status_fields.read(_bits(self.dut.status), "n_beats") == 0:
                return

    async def _service(self):
        """Wait for attention, and not for ever where the unit waits for a packet that does not exist."""
        attention = ValueChange(self.dut.attention)
        if not self.starved:
            await attention
        elif await First(attention, patience := Timer(PATIENCE, "ns")) is patience and self._status()["starving"]:
            raise RuntimeError("the unit waits for a packet, but there is none left")
        self._look()

    def _status(self):
        bits = _bits(self.dut.status)
        return {name: self.status_fields.read(bits, name) for name in self.status_fields.ranges}

    def _look(self):
        """Take everything that is there."""
        dut = self.dut
        status = self._status()
        if status["glitch"] or status["lost"]:
            raise RuntimeError("pulse glitch on the tile port" if status["glitch"] else "update recorder overrun")
        for k in reversed(range(status["n_pulses"])):
            self._pulse(_bits(dut[f"pulse_{k}"]))
        if status["n_beats"]:
            self._output(status["n_beats"])
        if (status["convert"] or status["done"]) and status["n_updates"]:
            for k in reversed(range(status["n_updates"])):
                self._update(_bits(dut[f"update_{k}"]))
            self.taken_updates ^= 1
            dut.taken_updates.value = self.taken_updates
        if status["convert"]:
            self._read(status["steps"])
        if self.queue and not status["feeding"]:
            self._feed()
        self.starved = bool(status["starving"] and not self.queue)
        self.done |= bool(status["done"])
        self.register_done |= bool(status["register_done"])
        self.taken ^= 1
        dut.taken.value = self.taken

    def _pulse(self, bits):
        """Hand one recorded pulse to its tile."""
        def field(name):
            return self.pulse_fields.read(bits, name)

        kind, side, width = field("kind"), self.side, field("width")
        if width != self.widths[kind]:
            raise RuntimeError(f"{Kind(kind).name} pulse of {width} cycles: it must have {self.widths[kind]}")
        tile, walk, line, first = field("tile"), field("walk"), field("line"), field("first")
        pos, neg = (np.ascontiguousarray(bits[self.pulse_fields.ranges[name]]) for name in ("pos", "neg"))
        if kind == Kind.SET and not field("refresh"):
            self.programmed.add((tile, walk, line))
            if self.lose_pulse:
                self.lose_pulse = False
                return
            count_pulse(side.ledger.net[tile], walk, line, first, pos, neg)
        analog.program_one(side.constants, side.tiles, side.generators.program[tile], tile, walk, line, first, pos, neg, kind,
                           side.tick)

    def _update(self, bits):
        """Hand the operands of one UPDATE to the ledger."""
        f = self.update_fields
        if not f.read(bits, "accumulate"):
            return
        matrix = self.matrix_of[f.read(bits, "chi_base")]
        d = self.side.ledger.matrices[matrix]
        walk_count, lane_count = (d.rows, d.cols) if d.walk == 0 else (d.cols, d.rows)
        exponent = f.read(bits, "exponent")
        self.side.ledger.record(matrix, self._codes(bits, "walk", walk_count), self._codes(bits, "lanes", lane_count),
                                exponent - (exponent >> 15 << 16), f.read(bits, "rate"))

    def _codes(self, bits, name, count):
        """Signed operands of the outer product."""
        width = 1 + self.u.outer_bits
        weights = 1 << np.arange(width)
        weights[-1] = -weights[-1]
        return bits[self.update_fields.ranges[name]].reshape(-1, width)[:count].astype(np.int64) @ weights

    def _output(self, n_beats):
        head = n_beats <= HEAD_BEATS
        content = np.packbits(_bits(self.dut.out_head if head else self.dut.out_beats), bitorder="little")
        lasts = _bits(self.dut.out_lasts)
        self.beats += [(content[8 * k:8 * k + 8], lasts[k]) for k in range(n_beats)]

    def _packets(self):
        """Whole packets among the beats received, as int16 elements; padding of the last beat is kept."""
        packets, current = [], []
        for content, last in self.beats:
            current.append(content)
            if last:
                packets.append(np.concatenate(current).view("<i2"))
                current = []
        return packets

    def _read(self, steps):
        """Convert strobe: what the lines really carried goes through the crossbar, the codes go to the converter port."""
        u, side = self.u, self.side
        bits = _bits(self.dut.driven).reshape(u.line_bits + 1, u.n_lines)
        codes = np.zeros(u.n_lines, np.int32)
        for plane in range(u.line_bits):
            codes += bits[plane].astype(np.int32) << plane
        np.negative(codes, out=codes, where=bits[u.line_bits] == 1)
        header = int(self.dut.read_header.value)
        tile, transpose, half, select = header & 15, header >> 4 & 1, header >> 5 & 3, header >> 7 & 3
        first, count = header >> 9 & 0x1FFF, header >> 22 & 0x1FFF
        analog.read_one(side.constants, side.tiles, self.generators[tile], tile, codes, transpose, half, select, steps,
                        first, count, self.codes)
        self.dut.codes.value = _pack(self.codes[:count], u.adc_bits)

    # ---- packets ------------------------------------------------------------------------------------------------------

    def _pieces(self, packet):
        """A packet as (bytes, last) pieces that fit one write."""
        size = feed_bytes(self.u)
        return [(packet[k:k + size], k + size >= len(packet)) for k in range(0, len(packet), size)]

    def _feed(self):
        piece, last = self.queue.pop()
        self.packet_go ^= 1
        beats = -(-len(piece) // 8)
        dut = self.dut
        dut.packet_data.value = int.from_bytes(piece.tobytes(), "little")
        dut.packet_beats.value, dut.packet_tail.value = beats, len(piece) - 8 * (beats - 1)
        dut.packet_last.value, dut.packet_go.value = int(last), self.packet_go


def _pack(codes, bits):
    """Signed codes as one integer, code 0 lowest."""
    if bits == 8:
        return int.from_bytes(codes.astype(np.int8).tobytes(), "little")
    planes = (codes[:, None] >> np.arange(bits) & 1).astype(np.uint8)
    return int.from_bytes(np.packbits(planes.ravel(), bitorder="little").tobytes(), "little")


@cocotb.test()
async def serve(dut):
    """Answer commands until ``close``."""
    with Client(os.environ["CROSSTRAIN_SOCKET"], authkey=bytes.fromhex(os.environ["CROSSTRAIN_KEY"])) as connection:
        params_json, seed, follow_all, gated = connection.recv()
        unit = Unit(dut, Params.from_json(params_json), seed, follow_all)
        dut.free_running.value = int(not gated)
        await unit.reset()
        connection.send(("ready", None))
        while True:
            try:
                name, arguments = connection.recv()
            except EOFError:
                return
            if name == "close":
                return
            try:
                connection.send(("result", await getattr(unit, name)(*arguments)))
            except Exception:
                connection.send(("error", traceback.format_exc()))
