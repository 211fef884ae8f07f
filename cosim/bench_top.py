"""cocotb tests of the whole unit on its own Verilog: cocotbext-axi at the host's ports, Python at the tile port in every cycle.

Nothing of ``cosim.bench`` takes part: charge and widths are measured here from the wires, so that its meter, feeders and
recorders are not their own judges. The tile is ``model.analog``'s; the same run on ``model.machine`` is what must come out.
"""
import itertools
import os
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from model.analog import tile as analog
from model.analog.side import AnalogSide
from model.digital import host_stream
from model.isa import Error, Kind, Opcode, encode
from model.machine import ModelBackend
from model.params import Params
from model.program import compile_network
from model.regmap import register_map

PARAMS = Params.from_json(os.environ["CROSSTRAIN_PARAMS"])
U, MAP = PARAMS.unit, register_map(PARAMS.unit)
LAYERS, LOSS, RATE, SEED = (10, 6, 3), "softmax-ce", 1.0, 3
HOST_COUNTERS = {"host_wait", "packets_refused"}
"""Counters that depend on the host."""


def _bits(handle):
    return np.frombuffer(str(handle.value).encode(), np.uint8)[::-1] - 48


async def _tile(dut, side):
    """The analogue side: charge of every window, pulses by their width, codes ``convert_cycles`` after the strobe."""
    codes, charge, steps, integrating = np.zeros(U.n_lines, np.int32), np.zeros(U.n_lines, np.int32), 0, 0
    wait, words = 0, []
    pulse: tuple[tuple[int, ...], np.ndarray, np.ndarray] | None = None
    width = 0
    while True:
        await RisingEdge(dut.clk)                                      # what is read now belongs to the cycle that ends here
        if int(dut.tile__integrate.value):
            if not integrating:
                charge[:], steps = 0, 0
            charge += _bits(dut.tile__drive).astype(np.int32) * (1 - 2 * _bits(dut.tile__polarity).astype(np.int32))
            steps += 1
        integrating = int(dut.tile__integrate.value)
        pos, neg = _bits(dut.tile__pulse_pos), _bits(dut.tile__pulse_neg)
        assert not (pos & neg).any(), "G+ and G- of a lane"
        if pos.any() or neg.any():
            assert not integrating, "read and program overlap"
            where = tuple(int(dut[f"tile__program_{name}"].value) for name in ("tile", "walk", "line", "first", "kind"))
            if pulse is None:
                pulse, width = (where, pos, neg), 0
            assert where == pulse[0]
            assert (pos == pulse[1]).all()
            assert (neg == pulse[2]).all()
            width += 1
        elif pulse is not None:
            (tile, walk, line, first, kind), last_pos, last_neg = pulse
            assert width == (U.set_cycles if kind == Kind.SET else U.reset_cycles)
            analog.program_one(side.constants, side.tiles, side.generators.program[tile], tile, walk, line, first,
                               np.ascontiguousarray(last_pos), np.ascontiguousarray(last_neg), kind, side.tick)
            pulse = None
        if int(dut.tile__codes__valid.value) and int(dut.tile__codes__ready.value):
            words.pop(0)
        if int(dut.tile__convert.value):
            tile, count = int(dut.tile__tile.value), int(dut.tile__out_count.value)
            analog.read_one(side.constants, side.tiles, side.generators.read[tile], tile, charge, int(dut.tile__transpose.value),
                            int(dut.tile__half.value), int(dut.tile__range.value), steps, int(dut.tile__out_first.value), count,
                            codes)
            padded = np.zeros(-(-count // U.vector_width) * U.vector_width, np.int32)
            padded[:count] = codes[:count]
            words, wait = [_pack(word) for word in padded.reshape(-1, U.vector_width)], PARAMS.tile.convert_cycles
        wait = max(0, wait - 1)
        dut.tile__codes__valid.value = int(bool(words) and wait == 0)
        dut.tile__codes__payload.value = words[0] if words else 0


def _pack(codes):
    return sum((int(code) & (1 << U.adc_bits) - 1) << (k * U.adc_bits) for k, code in enumerate(codes))


class Host:
    """The host's side of the unit by cocotbext-axi; ``seed``: streams pause at random, None: never."""

    def __init__(self, dut, seed):
        self.dut, self.stops = dut, 0
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
        if seed is not None:
            for k, port in enumerate((self.source, self.sink)):
                draw = random.Random(seed + k)
                port.set_pause_generator(draw.random() < 0.4 for _ in itertools.count())

    async def write(self, name, **fields):
        """Write a register by name."""
        await self.registers.write_dword(MAP.address(name), MAP.pack(name, **fields))

    async def read(self, name):
        """Fields of a register."""
        return MAP.unpack(name, await self.registers.read_dword(MAP.address(name)))

    async def counter(self, name):
        """A counter's value."""
        low = (await self.read(f"COUNTER.{name.upper()}.LO"))["value"]
        return low | (await self.read(f"COUNTER.{name.upper()}.HI"))["value"] << 32

    async def load(self, instructions, matrices=()):
        """Program and descriptors."""
        writes = MAP.program_writes(instructions)
        for index, descriptor in enumerate(matrices):
            writes += MAP.matrix_writes(index, descriptor._asdict())
        for address, word in writes:
            await self.registers.write_dword(address, word)

    async def start(self, entry, loop_count=0):
        """Start a program."""
        await self.write("ENTRY", value=entry)
        await self.write("LOOP_COUNT", value=loop_count)
        await self.write("CONTROL", start=1)

    async def finish(self):
        """Wait for the program's end; returns STATUS."""
        while (status := await self.read("STATUS"))["busy"]:
            await ClockCycles(self.dut.clk, 50)
        return status

    async def stop_and_resume(self, draw):
        """Stop the program and resume it, until a stop comes after its end; returns how often it was stopped."""
        count = 0
        while True:
            await ClockCycles(self.dut.clk, draw.randrange(1, 300))
            await self.write("CONTROL", stop=1)
            if not (await self.finish())["stopped"]:
                return count
            count += 1
            await ClockCycles(self.dut.clk, draw.randrange(1, 100))
            await self.write("CONTROL", resume=1)

    async def run(self, entry, packets=(), loop_count=0, n_outputs=0, stops=None):
        """Run a program to its end, stopped and resumed on the way with the generator ``stops``; returns its output packets as
        bytes.
        """
        await self.start(entry, loop_count)
        stopper = cocotb.start_soon(self.stop_and_resume(stops)) if stops else None
        for packet in packets:
            self.source.send_nowait(AxiStreamFrame(packet.tobytes()))
        outputs = [bytes((await self.sink.recv()).tdata) for _ in range(n_outputs)]
        if stopper:
            self.stops += await stopper
        status = await self.finish()
        assert status["done"]
        assert status["error"] == 0
        return outputs


async def _begin(dut, seed=None):
    Clock(dut.clk, 2, "ns").start()
    dut.rst.value = 1
    dut.tile__codes__valid.value = 0
    host = Host(dut, seed)
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    return host


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(seed=[None, 5, 6], stopped=[False, True])
async def trains_as_the_model(dut, seed, stopped):
    """Outputs, chi, devices, generators and every counter but the host's are the model's, also when the host's streams pause, and
    when it stops the unit and resumes it.
    """
    stops = random.Random(7) if stopped else None
    program = compile_network(LAYERS, PARAMS, LOSS, RATE)
    draw = np.random.default_rng(1)
    x, y = draw.integers(0, 256, (7, LAYERS[0])).astype(np.uint8), draw.integers(0, LAYERS[-1], 7)
    packets = program.packets("train", x, y)

    model = ModelBackend(PARAMS, SEED)
    model.configure(program)
    model.execute("clear")
    expected = model.run("train", packets[:6])
    model.execute("scan")
    expected = np.concatenate([expected, model.run("train", packets[6:])])

    host, side = await _begin(dut, seed), AnalogSide(PARAMS, SEED)
    tile = cocotb.start_soon(_tile(dut, side))
    await host.load(program.instructions, program.matrices)
    await host.run(program.entries["setup"], [program.lut_packet(lut) for lut in range(len(program.luts))])
    await host.run(program.entries["clear"])
    outputs = await host.run(program.entries["train"], packets[:6], loop_count=3, n_outputs=6, stops=stops)
    await host.run(program.entries["scan"], stops=stops)
    outputs += await host.run(program.entries["train_one"], packets[6:], n_outputs=1, stops=stops)
    assert host.stops > 10 if stopped else host.stops == 0
    elements = [host_stream.unpack_emit(np.frombuffer(output, np.uint8))[:program.n_outputs] for output in outputs]
    np.testing.assert_array_equal(elements, expected)
    for name, value in model.counters().items():
        if name not in HOST_COUNTERS:
            assert await host.counter(name) == value, name
    for matrix in range(program.n_matrices):
        dump, = await host.run(program.entries[f"dump_{matrix}"], n_outputs=1)
        d = program.matrices[matrix]
        n_words = (d.cols if d.walk else d.rows) * d.words_per_line
        words = host_stream.unpack_dump(U.constants, np.frombuffer(dump, np.uint8))
        np.testing.assert_array_equal(words, model.unit.chi[d.chi_base:d.chi_base + n_words])
    assert side.digest_parts() == model.side.digest_parts()
    assert await host.counter("set_pos") + await host.counter("set_neg") > 0
    assert not tile.done()


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def refuses_what_is_wrong(dut):
    """Unmapped addresses, packets of the wrong length, illegal instructions; and the unit goes on after each."""
    host = await _begin(dut)
    axi: Any = host.registers
    for address in (0x20, 0x3FC, 0xFFC, 0x8000 + 16 * U.program_words):
        assert (await axi.read(address, 4)).resp == AxiResp.SLVERR
        assert (await axi.write(address, bytes(4))).resp == AxiResp.SLVERR
    program = [encode(Opcode.ACCEPT, dst=0, count=12), encode(Opcode.WAIT), encode(Opcode.HALT), encode(Opcode.LOOP, count=2), 62]
    await host.load(program)
    await host.start(0)
    for length in (4, 40, 12):
        host.source.send_nowait(AxiStreamFrame(bytes(length)))
    status = await host.finish()
    assert (status["done"], status["error"]) == (1, 0)
    assert (await host.counter("packets_in"), await host.counter("packets_refused")) == (1, 2)
    await host.start(3)
    status = await host.finish()
    assert (status["done"], status["error"]) == (0, Error.ILLEGAL_OPCODE)
    assert (await host.read("ERROR_PC"))["value"] == 4
    host.source.send_nowait(AxiStreamFrame(bytes(12)))
    await host.run(0)
