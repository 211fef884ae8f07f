"""Inside the simulator: the analogue agent and the command server of the ``rtl`` backend (a cocotb test).

The agent is woken by ``attention`` (see ``cosim.bench``), hands pulses and reads to the analogue model and feeds packets: once
per image and read, never per cycle. Physics and state are ``model.analog``'s. Commands come over a local socket from
``cosim.backend``; while it waits for one, simulated time stands still. With the environment variable CROSSTRAIN_RECORD set to a
file, everything written to the simulation is recorded there, see ``cosim.recording``.
"""
import os
import resource
import struct
import time
import traceback
from multiprocessing.connection import Client
from pathlib import Path

import cocotb
import numpy as np
from cocotb.simtime import get_sim_time
from cocotb.triggers import First, Timer, ValueChange

from cosim import vpi
from cosim.bench import STATUS, memories
from cosim.feeder import CODE_BITS, feed_bytes
from cosim.recorders import BEATS, COUNT_BITS, FIRES, PULSES, TRIMS, UPDATES, lane_words, walked_depth
from cosim.recording import Recording
from model.analog import tile as analog
from model.analog.side import AnalogSide
from model.compiled import borrowing, compiled
from model.isa import Error, Kind
from model.ledger import count_pulse
from model.params import Params
from model.regmap import register_map

__all__ = ["Unit", "serve"]

CYCLE = 2
"""A cycle of the bench [ns]."""
PATIENCE = 20_000
"""How long a unit may wait for a packet after the last one has left the feeder [ns of simulation, two a cycle]."""
_COUNTS = {"n_converts": 0, "n_done": 0, "n_pulses": PULSES, "n_updates": UPDATES, "n_beats": BEATS, "n_fires": FIRES,
           "n_trims": TRIMS}
"""Counts of ``status`` and the depths of their rings; 0: no ring."""
_WORDS = [name for name, field in STATUS if field.width == COUNT_BITS]
_LEVELS = {name: field.offset % COUNT_BITS for name, field in STATUS if field.width == 1}
_SET = int(Kind.SET)
_unpack_status = struct.Struct(f"<{STATUS.size // COUNT_BITS}H").unpack


@borrowing
def _take_lines(driven, n_lines, line_bits, lines):
    """Signed line codes that were really driven.

    driven: uint32 words from the pulse meter, bit b of every line's count at b * n_lines + line, then the polarities.
    """
    for line in range(n_lines):
        value = np.int32(0)
        for bit in range(line_bits):
            place = bit * n_lines + line
            value |= np.int32(driven[place >> 5] >> np.uint32(place & 31) & np.uint32(1)) << bit
        place = line_bits * n_lines + line
        lines[line] = -value if driven[place >> 5] >> np.uint32(place & 31) & np.uint32(1) else value


@borrowing
def _serve_read(driven, n_lines, line_bits, lines, tc, tiles, generator, tile, transpose, half, select, steps, first, count,
                codes):
    """``analog.read_one`` with the line codes that were really driven."""
    _take_lines(driven, n_lines, line_bits, lines)
    analog.read_one(tc, tiles, generator, tile, lines, transpose, half, select, steps, first, count, codes)


@compiled
def _serve_train(records, n_rows, n_cols, tc, tiles, generators, tick):
    """``analog.fire`` with the slots of a train; records: uint8 rows of ``recorders.slot_record``."""
    patterns = np.zeros((3, max(n_rows, n_cols)), np.uint32)
    for slot in range(records.shape[0]):
        record, start = records[slot], 4
        for side in range(3):
            size = n_rows if side == 0 else n_cols
            for line in range(size):
                patterns[side, line] |= np.uint32(record[start + (line >> 3)] >> (line & 7) & 1) << np.uint32(slot)
            start += (size + 7) // 8
    tile = np.int64(records[0, 0]) | np.int64(records[0, 1]) << 8
    analog.fire(tc, tiles, generators, tile, patterns[0, :n_rows], patterns[1, :n_cols], patterns[2, :n_cols],
                np.int64(records[0, 2]), tick)


@compiled
def _serve_pulses(records, n_lanes, tc, tiles, generators, net, tick):
    """Hand the pulses recorded to their tiles, in order; SET pulses of thresholds count in ``net`` int32 (tiles, rows, cols).

    records: uint8 rows of ``recorders.pulse_record``.
    """
    lanes = np.zeros((2, n_lanes), np.uint8)
    side_bytes = (n_lanes + 7) // 8
    for record in records:
        tile, walk, line, first, kind, _, refresh, _ = record[:16].view(np.uint16)
        for side in range(2):
            for lane in range(n_lanes):
                lanes[side, lane] = record[16 + side * side_bytes + (lane >> 3)] >> (lane & 7) & 1
        if kind == _SET and not refresh:
            count_pulse(net[tile], walk, line, first, lanes[0], lanes[1])
        analog.program_one(tc, tiles, generators[tile], tile, walk, line, first, lanes[0], lanes[1], kind, tick)


class _Compiled:
    """A compiled function without numba's dispatch, which looks up the types of all arguments anew (15 us for a generator)."""

    def __init__(self, function):
        self.function, self.entry = function, None

    def __call__(self, *arguments):
        if self.entry is None:
            result = self.function(*arguments)
            overload, = self.function.overloads.values()
            self.entry = overload.entry_point
            return result
        return self.entry(*arguments)


class Unit:
    """The unit under simulation with its analogue side."""

    def __init__(self, dut, params: Params, seed: int, follow_all: bool):
        self.dut, self.params, self.u = dut, params, params.unit
        self.side = AnalogSide(params, seed, follow_all)
        self.map = register_map(params.unit)
        self.serve_read, self.serve_pulses, self.serve_train = (
            _Compiled(function) for function in (_serve_read, _serve_pulses, _serve_train))
        self.widths = np.array([self.u.set_cycles, self.u.reset_cycles])      # by ``isa.Kind``
        self.line_codes, self.codes = np.zeros(self.u.n_lines, np.int32), np.zeros(self.u.n_lines, np.int32)
        self.matrix_of = {}
        self.programmed = set()
        self.status = vpi.Signal("bench.status", STATUS.size)
        self.driven = vpi.Signal("bench.driven", self.u.n_lines * (self.u.line_bits + 1))
        path = os.environ.get("CROSSTRAIN_RECORD")
        self.recording = Recording(Path(path)) if path else None
        memory, signal = (self.recording.memory, self.recording.signal) if self.recording else (vpi.Memory, vpi.Signal)
        self.memories = {name: memory(f"bench.core.{module}.{name}", width, depth)
                         for name, (module, width, depth, _) in memories(self.u).items()}
        self.inputs = {name: signal(f"bench.{name}", 32) for name in (
            "rst", "free_running", "packet_go", "packet_beats", "packet_tail", "packet_last",
            "reg_go", "reg_write", "reg_address", "reg_wdata")}
        self.outputs = {name: vpi.Signal(f"bench.{name}", 32) for name in ("reg_rdata", "reg_resp")}
        self.generators = self.side.generators.read
        self.reg_go, self.packet_go = 0, 0
        self.queue, self.beats = [], []
        self.seen, self.walked_seen = dict.fromkeys(_COUNTS, 0), 0
        self.done = self.register_done = self.starved = False
        self.fault = ""

    async def reset(self, gated):
        """Hold reset for a few cycles and let the first attention pass; gated: see ``cosim.backend``."""
        await Timer(20, "ns")
        self.inputs["free_running"].put(int(not gated))
        self.inputs["rst"].put(0)
        await self._settle()

    # ---- registers ----------------------------------------------------------------------------------------------------

    async def _access(self, write, address, data=0):
        self.reg_go ^= 1
        self.register_done = False
        for name, value in (("reg_write", write), ("reg_address", address), ("reg_wdata", data), ("reg_go", self.reg_go)):
            self.inputs[name].put(value)
        while not self.register_done:
            await self._service()
        if resp := self.outputs["reg_resp"].get_int():
            raise RuntimeError(f"register access at {address:#06x} answered {resp}")
        return self.outputs["reg_rdata"].get_int()

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

    async def execute(self, entry, loop_count, packets, evaluating, time, stop_after=None):
        """Run a program; returns (output packets as int16 arrays, error, pc, whether it is stopped).

        stop_after: CONTROL.stop is written so many cycles after CONTROL.start.
        """
        self.side.begin(time)
        self.generators = self.side.generators.evaluation if evaluating else self.side.generators.read
        self.queue = [piece for packet in packets for piece in self._pieces(packet)]
        self.queue.reverse()
        await self.write("ENTRY", value=entry)
        await self.write("LOOP_COUNT", value=loop_count)
        return await self._go("start", stop_after)

    async def resume(self, stop_after=None):
        """Go on with the program that is stopped; returns what ``execute`` does."""
        return await self._go("resume", stop_after)

    async def counters(self, names):
        """Values of the counters named."""
        values = []
        for name in names:
            low = (await self.read(f"COUNTER.{name.upper()}.LO"))["value"]
            values.append(low | (await self.read(f"COUNTER.{name.upper()}.HI"))["value"] << 32)
        return values

    async def clear_ledger(self, matrices):
        """Start the conservation ledger again."""
        self.side.clear_ledger(matrices)

    async def digest_parts(self):
        """The analogue part of the digest."""
        return self.side.digest_parts()

    async def check_conservation(self, chi):
        """Compare the ledger with chi."""
        return self.side.ledger.check(lambda matrix: chi[matrix])

    async def check_transfers(self, transfers, trains, trims):
        """Compare the ledger with transfers, and with what the unit counted."""
        return self.side.check_transfers(transfers, trains, trims)

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

    async def cpu_seconds(self):
        """CPU time so far [s]."""
        return time.process_time()

    async def inject(self, fault):
        """Arrange a fault, see ``cosim.backend``."""
        assert fault in ("lose_pulse", "lose_train", "move_trim")
        self.fault = fault

    async def mark(self):
        """Mark this place in the recording."""
        assert self.recording, "nothing is recorded"
        self.recording.mark(self.status.get())

    async def _go(self, how, stop_after):
        """Write CONTROL.<how> and wait for the program's end or its stop."""
        self.beats = []
        self.done = False
        await self.write("CONTROL", **{how: 1})
        self.done |= how == "resume" and (await self.read("STATUS"))["error"] == Error.NOT_STOPPED
        if stop_after is not None:
            deadline = round(get_sim_time("ns")) + CYCLE * stop_after
            while not self.done and (left := deadline - round(get_sim_time("ns"))) > 0:
                await First(ValueChange(self.dut.attention), Timer(left, "ns"))
                self._look()
            if not self.done:
                await self.write("CONTROL", stop=1)
        while not self.done:
            await self._service()
        await self._settle()
        status = await self.read("STATUS")
        pc = (await self.read("ERROR_PC"))["value"]
        return self._packets(), status["error"], pc, bool(status["stopped"])

    # ---- agent --------------------------------------------------------------------------------------------------------

    async def _settle(self):
        """Let the output stream run dry."""
        before = -1
        while before != self.seen["n_beats"]:
            before = self.seen["n_beats"]
            await Timer(400, "ns")
            self._look()

    async def _service(self):
        """Wait for attention, and not for ever where the unit waits for a packet that does not exist."""
        attention = ValueChange(self.dut.attention)
        if not self.starved:
            await attention
        elif await First(attention, patience := Timer(PATIENCE, "ns")) is patience and self._status()["starving"]:
            raise RuntimeError("the unit waits for a packet, but there is none left")
        self._look()

    def _status(self):
        """Words of ``status`` by name, and its levels."""
        words = _unpack_status(self.status.get().tobytes())
        status = dict(zip(_WORDS, words, strict=False))
        status.update((name, words[-1] >> bit & 1) for name, bit in _LEVELS.items())
        return status

    def _new(self, status, name):
        """How much a count has grown since the last look; raises RuntimeError when its ring was overrun."""
        grown = (status[name] - self.seen[name]) % (1 << COUNT_BITS)
        if _COUNTS[name] and grown > _COUNTS[name]:
            raise RuntimeError(f"the recorder of {name} was overrun")
        self.seen[name] = status[name]
        return grown

    def _look(self):
        """Take everything that is new: pulses before the read that they precede."""
        status = self._status()
        if status["glitch"] or status["train_glitch"]:
            raise RuntimeError("pulse glitch on the tile port")
        first = self.seen["n_pulses"]
        if n_pulses := self._new(status, "n_pulses"):
            self._pulses(self.memories["pulses"].get(first, n_pulses))
        if self.u.capacitor:
            self._capacitors(status)
        first = self.seen["n_beats"]
        if n_beats := self._new(status, "n_beats"):
            self.beats.append(self.memories["beats"].get(first, n_beats))
        converts, done = self._new(status, "n_converts"), self._new(status, "n_done")
        if converts or done:                      # then no UPDATE is under way
            self._updates(status)
        if converts:
            self._read(status)
        if self.queue and not status["feeder_busy"] and status["feeder_seen"] == self.packet_go:
            self._feed()
        self.starved = bool(status["starving"] and not self.queue)
        self.done |= bool(done)
        self.register_done = status["register_seen"] == self.reg_go

    def _pulses(self, records):
        """Hand recorded pulses to their tiles."""
        fields = records[:, :16].view(np.uint16)
        kind, width = fields[:, 4], fields[:, 5]
        if (wrong := np.flatnonzero(width != self.widths[kind])).size:
            raise RuntimeError(f"{Kind(kind[wrong[0]]).name} pulse of {width[wrong[0]]} cycles: "
                               f"it must have {self.widths[kind[wrong[0]]]}")
        thresholds = np.flatnonzero((kind == Kind.SET) & (fields[:, 6] == 0))
        self.programmed.update(map(tuple, fields[thresholds, :3].tolist()))
        if thresholds.size and self._strikes("lose_pulse"):
            records = np.delete(records, thresholds[0], axis=0)
        side = self.side
        self.serve_pulses(records, self.u.lanes, side.constants, side.tiles, side.generators.program, side.ledger.net, side.tick)

    def _capacitors(self, status):
        """Hand recorded trains and TRIMs to their tiles, in the order in which they came."""
        side, fire, trim = self.side, self.seen["n_fires"], self.seen["n_trims"]
        n_fires, n_trims = self._new(status, "n_fires"), self._new(status, "n_trims")

        def train_up_to(count):
            nonlocal fire, n_fires
            while n_fires and fire != count:
                slots = self.memories["slots"].get(fire * self.u.slots, self.u.slots)
                if not self._strikes("lose_train"):
                    self.serve_train(slots, self.u.n_rows, self.u.n_cols, side.constants, side.tiles, side.generators.program,
                                     side.tick)
                fire, n_fires = (fire + 1) % (1 << COUNT_BITS), n_fires - 1

        for record in self.memories["trims"].get(trim, n_trims) if n_trims else ():
            tile, transpose, kind, line, down, steps, fires, _ = record[:16].view(np.uint16).tolist()
            line += self._strikes("move_trim")
            train_up_to(fires)
            driven = np.zeros(-(-(len(record) - 16) // 4) * 4, np.uint8)
            driven[:len(record) - 16] = record[16:]
            _take_lines(driven.view(np.uint32), self.u.n_lines, self.u.line_bits, self.line_codes)
            analog.trim_one(side.constants, side.tiles, side.generators.program[tile], tile, transpose, line, self.line_codes,
                            kind, steps, down, side.tick)
        train_up_to(status["n_fires"])

    def _strikes(self, fault):
        """Whether ``fault`` is arranged for now; then it is not any more."""
        if self.fault != fault:
            return False
        self.fault = ""
        return True

    def _updates(self, status):
        """Hand the operands of the UPDATEs since the last look to the ledger."""
        first = self.seen["n_updates"]
        count = self._new(status, "n_updates")
        if not count:
            return
        start = self.walked_seen
        self.walked_seen = status["n_walked"]
        n_walked = (self.walked_seen - start) % (1 << COUNT_BITS)
        if n_walked > walked_depth(self.u):
            raise RuntimeError("the recorder of n_walked was overrun")
        records = self.memories["updates"].get(first, count).view(np.int16)
        walked = self.memories["walked"].get(start, n_walked).view(np.int16)
        words, ledger, taken = lane_words(self.u), self.side.ledger, 0
        for index, (chi_base, rate, exponent, end) in enumerate(records.tolist()):
            matrix = self.matrix_of[chi_base & 0xFFFF]
            d = ledger.matrices[matrix]
            walk_count, lane_count = (d.rows, d.cols) if d.walk == 0 else (d.cols, d.rows)
            n = (end - start - taken) % (1 << COUNT_BITS)
            walk, lanes = np.zeros(walk_count, np.int64), self.memories["lanes"].get(
                (first + index) % UPDATES * words, -(-lane_count // self.u.vector_width))
            walk[walked[taken:taken + n, 0]] = walked[taken:taken + n, 1]
            taken += n
            ledger.record(matrix, walk, lanes.view(np.int8).ravel()[:lane_count].astype(np.int64), exponent, rate)

    def _packets(self):
        """Whole packets among the beats received, as int16 elements; padding of the last beat is kept."""
        if not self.beats:
            return []
        beats = np.concatenate(self.beats)
        ends = np.flatnonzero(beats[:, 8]) + 1
        return [part[:, :8].copy().view("<i2").ravel() for part in np.split(beats, ends)[:len(ends)]]

    def _read(self, status):
        """Convert strobe: what the lines really carried goes through the crossbar, the codes go to the converter port."""
        u, side, tile, count = self.u, self.side, status["tile"], status["out_count"]
        self.serve_read(self.driven.get(), u.n_lines, u.line_bits, self.line_codes, side.constants, side.tiles,
                        self.generators[tile], tile, status["transpose"], status["half"], status["range"], status["steps"],
                        status["out_first"], count, self.codes)
        words = -(-count // u.vector_width)
        codes = self.codes[:words * u.vector_width].astype(f"<i{CODE_BITS // 8}")
        self.memories["codes"].put(codes.view(np.uint8).reshape(words, -1))

    # ---- packets ------------------------------------------------------------------------------------------------------

    def _pieces(self, packet):
        """A packet as (bytes, last) pieces that fit one write."""
        size = feed_bytes(self.u)
        return [(packet[k:k + size], k + size >= len(packet)) for k in range(0, len(packet), size)]

    def _feed(self):
        piece, last = self.queue.pop()
        self.packet_go ^= 1
        beats = -(-len(piece) // 8)
        content = np.zeros(8 * beats, np.uint8)
        content[:len(piece)] = piece
        self.memories["packet"].put(content.reshape(beats, 8))
        for name, value in (("packet_beats", beats), ("packet_tail", len(piece) - 8 * (beats - 1)), ("packet_last", int(last)),
                            ("packet_go", self.packet_go)):
            self.inputs[name].put(value)


@cocotb.test()
async def serve(dut):
    """Answer commands until ``close``."""
    with Client(os.environ["CROSSTRAIN_SOCKET"], authkey=bytes.fromhex(os.environ["CROSSTRAIN_KEY"])) as connection:
        params_json, seed, follow_all, gated = connection.recv()
        unit = Unit(dut, Params.from_json(params_json), seed, follow_all)
        await unit.reset(gated)
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
