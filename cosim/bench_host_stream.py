"""cocotb tests of ``hdl.host_stream``: cocotbext-axi's AXI4-Stream source and sink, with pauses, on the generated Verilog."""
import itertools
import os
import random
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Const
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSink, AxiStreamSource

from hdl.host_stream import HostStream
from model.digital import host_stream as twin
from model.events import N_EVENTS
from model.params import Params

U = Params.from_json(os.environ["CROSSTRAIN_PARAMS"]).unit
BLOCK: Any = HostStream(U)


def _pause(seed):
    source = random.Random(seed)
    return (seed is not None and source.random() < 0.5 for _ in itertools.count())


def _bits(port, value):
    """The integer of a payload, by the port's own layout."""
    return Const.cast(port.payload.shape().const(value)).value


async def _put(dut, name, value):
    """Transfer one payload into the stream ``name``."""
    dut[f"{name}__payload"].value = _bits(getattr(BLOCK, name), value)
    dut[f"{name}__valid"].value = 1
    await RisingEdge(dut.clk)
    while not int(dut[f"{name}__ready"].value):
        await RisingEdge(dut.clk)
    dut[f"{name}__valid"].value = 0


async def _start(dut, seed):
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    for name in ("i_accept", "i_load", "i_emit", "i_dump"):
        dut[f"{name}__valid"].value = 0
    dut.w_host__ready.value = 0
    dut.o_load__ready.value = 0
    dut.disarm.value = 0
    source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
    sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
    if seed is not None:
        source.set_pause_generator(_pause(seed))
        sink.set_pause_generator(_pause(seed + 1))
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    return source, sink


async def _memory(dut, vec, seed):
    """The vector memory's host port: takes writes, stalls at random."""
    pause = _pause(seed)
    layout = BLOCK.w_host.payload.shape()
    while True:
        dut.w_host__ready.value = ready = int(not next(pause))
        await RisingEdge(dut.clk)
        if ready and int(dut.w_host__valid.value):
            write: Any = data.Const(layout, int(dut.w_host__payload.value))
            for k in range(U.vector_width):
                if write.mask >> k & 1:
                    vec[write.addr * U.vector_width + k] = write.data[k]


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(seed=[None, 5, 6])
async def packets_in(dut, seed):
    """Packets queued by the host meet the ACCEPTs one by one; wrong ones are passed over."""
    source, _ = await _start(dut, seed)
    vec = np.zeros(U.vector_words * U.vector_width, np.int32)
    expected, luts = vec.copy(), np.zeros((U.n_luts, 1 << U.lut_bits), np.int32)
    counters = np.zeros(N_EVENTS, np.int64)
    cocotb.start_soon(_memory(dut, vec, seed))
    values = np.random.default_rng(1)
    lengths = [1, 7, 8, 9, U.vector_width, 3 * U.vector_width + 5, 61]
    commands = [(dst, count, wide, 0, 0) for dst, count in enumerate(lengths) for wide in (False, True)]
    for index, (_, count, wide, _, _) in enumerate(commands):
        if index % 3 == 0:
            source.send_nowait(AxiStreamFrame(bytes((count << wide) + 9)))
        element = values.integers(-32768, 32768, count) if wide else values.integers(0, 256, count)
        packet = twin.pack(element, wide)
        source.send_nowait(AxiStreamFrame(packet.tobytes()))
        assert twin.accept(U.constants, *commands[index], packet, expected, luts, counters)
    for dst, count, wide, to_lut, lut in commands:
        await _put(dut, "i_accept", {"dst": dst, "count": count, "wide": wide, "to_lut": to_lut, "lut": lut})
        await RisingEdge(dut.clk)
        while int(dut.accepting.value):
            await RisingEdge(dut.clk)
    assert source.empty()
    await ClockCycles(dut.clk, 2)
    assert (vec == expected).all()


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(seed=[None, 7, 8])
async def packets_out(dut, seed):
    """EMIT and DUMP packets arrive byte for byte as the twin packs them."""
    _, sink = await _start(dut, seed)
    values = np.random.default_rng(2)
    width = U.vector_width
    for count in (1, 3, 4, width, width + 1, 3 * width - 2):
        elements = values.integers(-32768, 32768, count)
        for start in range(0, count, width):
            part = [int(value) for value in elements[start:start + width]]
            await _put(dut, "i_emit", {"elements": part + [0] * (width - len(part)), "count": len(part),
                                       "last": start + width >= count})
        frame = await sink.recv()
        assert bytes(frame.tdata) == twin.emit_packet(elements).tobytes()
    chi = values.integers(-2047, 2048, (3, U.lanes))
    for index, line in enumerate(chi):
        for start in range(0, U.lanes, width):
            part = [int(value) for value in line[start:start + width]]
            await _put(dut, "i_dump", {"elements": part + [0] * (width - len(part)), "count": len(part),
                                       "last": index == 2 and start + width >= U.lanes})
    frame = await sink.recv()
    assert bytes(frame.tdata) == twin.dump_packet(U.constants, chi).tobytes()
    assert sink.empty()
