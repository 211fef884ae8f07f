"""cocotb tests of ``hdl.registers``: cocotbext-axi's AXI4-Lite master, with pauses on every channel, on the generated Verilog."""
import itertools
import os
import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from hdl.registers import kept
from model.params import Params
from model.regmap import register_map

U = Params.from_json(os.environ["CROSSTRAIN_PARAMS"]).unit
MAP = register_map(U)


async def _start(dut, seed) -> Any:
    """Clock, reset, master; ``seed`` None means without pauses."""
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    for name in ("busy", "done", "accepting", "stopped", "error", "error_pc", "pc", "read_value"):
        getattr(dut, name).value = 0
    master: Any = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    if seed is not None:
        channels = (master.write_if.aw_channel, master.write_if.w_channel, master.write_if.b_channel,
                    master.read_if.ar_channel, master.read_if.r_channel)
        for index, channel in enumerate(channels):
            source = random.Random(seed + index)
            channel.set_pause_generator(source.random() < 0.5 for _ in itertools.count())
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    return master


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(seed=[None, 1, 2])
async def every_register(dut, seed):
    """Every register answers as its access says, in bursts the master sends without waiting for answers."""
    master = await _start(dut, seed)
    source = random.Random(9)
    expected = {}
    for register in MAP.registers.values():
        if register.name == "CONTROL":
            continue
        word = source.randrange(1 << 32)
        answer = await master.write(register.address, word.to_bytes(4, "little"))
        assert answer.resp == (AxiResp.OKAY if register.writable else AxiResp.SLVERR), register.name
        if register.writable:
            expected[register.name] = word & sum((1 << field.bits) - 1 << field.low for field in register.fields.values())
            if register.name.startswith("MATRIX["):
                expected[register.name] = kept(U, register.name, word)
    for register in MAP.registers.values():
        answer = await master.read(register.address, 4)
        assert answer.resp == AxiResp.OKAY, register.name
        if register.name in expected:
            assert int.from_bytes(answer.data, "little") == expected[register.name], register.name
    for address in (0x20, 0x400 + 16 * U.n_matrices, 0x7FFC, MAP.program.address):
        assert (await master.read(address, 4)).resp == AxiResp.SLVERR
    reads = [cocotb.start_soon(master.read(MAP.address("CAPACITY.LANES"), 8)) for _ in range(4)]
    for read in reads:
        assert (await read).data == U.lanes.to_bytes(4, "little") + U.vector_width.to_bytes(4, "little")


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(seed=[None, 3])
async def bytes_and_program(dut, seed):
    """Unaligned writes arrive as strobes; a program arrives instruction by instruction."""
    master = await _start(dut, seed)
    address = MAP.address("LOOP_COUNT")
    await master.write(address, b"\x11\x22\x33\x44")
    await master.write(address + 1, b"\xAA\xBB")
    assert int(dut.loop_count.value) == 0x44BBAA11
    program = [random.Random(4).randrange(1 << 128) for _ in range(5)]
    commits = []

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            if int(dut.program_write__stb.value):
                commits.append(tuple(int(getattr(dut, f"program_write__{name}").value) for name in ("address", "part", "data")))

    watching = cocotb.start_soon(watch())
    data = b"".join(word.to_bytes(16, "little") for word in program)
    assert (await master.write(MAP.program.address + 32, data)).resp == AxiResp.OKAY
    await ClockCycles(dut.clk, 3)
    watching.cancel()
    assert commits == [(2 + index, part, word >> 32 * part & 0xFFFF_FFFF)
                       for index, word in enumerate(program) for part in range(4)]
