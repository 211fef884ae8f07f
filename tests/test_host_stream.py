"""Packets in and out: twin against naive packing, RTL against twin under idle and stall, wrong packets, foreign AXI."""
import dataclasses
import itertools
import random

import numpy as np
import pytest
from amaranth import Cat, Elaboratable, EnableInserter, Module, Mux, Signal
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover

from cosim.build import run_cocotb, verilog_of
from hdl.host_stream import HostStream
from model.digital import host_stream as twin
from model.events import INDEX, N_EVENTS
from model.params import SMALL, Params, UnitParams
from tests.formal import drive_stream, prove, stream_contract
from tests.sim import PAUSES, pauses, simulate

BUILDS = {
    "width1": dataclasses.replace(SMALL.unit, vector_width=1, lanes=5),
    "width2": dataclasses.replace(SMALL.unit, vector_width=2, lanes=7),
    "width4": SMALL.unit,
    "width8": dataclasses.replace(SMALL.unit, vector_width=8, lanes=10),
    "width16": dataclasses.replace(SMALL.unit, vector_width=16, lanes=35),
}
FAULTS = ("none", "none", "none", "short", "long", "no_last", "missing_bytes", "hole")


def test_model_round_trips():
    source = np.random.default_rng(1)
    for u in [build.constants for build in BUILDS.values()] + [UnitParams().constants]:
        chi = source.integers(-2047, 2048, (3, u.lanes))
        packet = twin.dump_packet(u, chi)
        assert len(packet) == twin.load_bytes(u, 3)
        assert (twin.unpack_dump(u, packet) == chi).all()
        counters = np.zeros(N_EVENTS, np.int64)
        loaded = np.zeros((4, u.lanes + 1), np.int32)
        assert twin.load(u, 3, packet, loaded, counters)
        assert (loaded[:3, :-1] == chi).all()
        assert not twin.load(u, 2, packet, loaded, counters)
        assert (counters[INDEX["packets_in"]], counters[INDEX["packets_refused"]]) == (1, 1)
    values = source.integers(-32768, 32768, 7)
    assert twin.emit_packet(values).tobytes() == b"".join(int(value).to_bytes(2, "little", signed=True) for value in values)
    assert (twin.unpack_emit(twin.emit_packet(values)) == values).all()


@pytest.mark.parametrize(("needed", "length", "taken"), [
    (8, 8, 1), (8, 7, 0), (8, 9, 0), (9, 8, 0), (9, 9, 1), (9, 16, 1), (9, 17, 0), (1, 8, 1), (1, 0, 0)])
def test_model_length(needed, length, taken):
    u = SMALL.unit.constants
    vec, luts = np.full(256, -1, np.int32), np.zeros((u.n_luts, 1 << u.lut_bits), np.int32)
    counters = np.zeros(N_EVENTS, np.int64)
    packet = np.arange(200, 200 + length).astype(np.uint8)
    assert twin.accept(u, 3, needed, 0, 0, 0, packet, vec, luts, counters) == taken
    start = 3 * u.vector_width
    expected = np.full(256, -1)
    if taken:
        expected[start:start + needed] = packet[:needed]
    assert (vec == expected).all()
    assert counters[INDEX["packets_in"]] == taken
    assert counters[INDEX["packets_refused"]] == 1 - taken


def test_model_pack_message():
    assert twin.pack([255, 0], wide=False).tolist() == [255, 0]
    assert twin.pack([-2], wide=True).tolist() == [254, 255]
    with pytest.raises(ValueError, match="elements 0 to 256: allowed is 0 to 255"):
        twin.pack([0, 256], wide=False)


def beats_of(packet):
    """(data, keep, last) of every beat of a packet of bytes."""
    beats = []
    for start in range(0, len(packet), 8):
        part = bytes(packet[start:start + 8])
        beats.append([int.from_bytes(part, "little"), (1 << len(part)) - 1, int(start + 8 >= len(packet))])
    return beats


def broken(beats, fault, needed):
    """The beats with a fault, or None where there is no fault or the packet has no room for it."""
    beats = [list(beat) for beat in beats]
    if fault == "none" or (len(beats) == 1 and fault in ("short", "hole")):
        return None
    if fault == "short":
        beats = beats[:-1]
        beats[-1][2] = 1
    elif fault == "long":
        beats[-1][1:] = [255, 0]
        beats.append([1, 255, 0])
        beats.append([2, 1, 1])
    elif fault == "no_last":
        beats[-1][1:] = [255, 0]
        beats.append([3, 255, 1])
    elif fault == "missing_bytes":
        beats[-1][1] = ((1 << (needed - 1) % 8 + 1) - 1) >> 1
    elif fault == "hole":
        beats[0][1] = 0x7F
    return beats


class Bench:
    """Commands, packets and the state of the destinations, cross-checked with the twin."""

    def __init__(self, u, idle, stall, gated=False, seed=0):
        self.u, self.block = u, HostStream(u)
        self.dut = EnableInserter(self.block.active)(self.block) if gated else self.block
        self.idle, self.stall, self.seed = idle, stall, seed
        size = u.vector_words * u.vector_width
        self.vec, self.luts = np.zeros(size, np.int32), np.zeros((u.n_luts, 1 << u.lut_bits), np.int32)
        self.loaded, self.sent, self.events, self.trace = [], [], [0, 0, 0], []
        self.finished = False

    async def watch(self, ctx):
        """Sample the outputs every cycle; the stalls of w_host, o_load and m_axis come from here."""
        block, u = self.block, self.u
        stalls = [pauses(self.stall, self.seed + 1 + k) for k in range(3)]
        word = []
        while not self.finished:
            for port, stall in zip((block.w_host.ready, block.o_load.ready, block.m_axis_tready), stalls, strict=True):
                ctx.set(port, not next(stall))
            (write, taken, payload, lut_en, lut, index, entry, load, loading, load_word, valid, ready, data, keep, last, *events,
             active) = (
                await ctx.tick().sample(
                    block.w_host.valid, block.w_host.ready, block.w_host.payload, block.lut_write.en, block.lut_write.lut,
                    block.lut_write.index, block.lut_write.data, block.o_load.valid,
                    block.o_load.ready, block.o_load.payload, block.m_axis_tvalid, block.m_axis_tready, block.m_axis_tdata,
                    block.m_axis_tkeep, block.m_axis_tlast, block.events.packets_in, block.events.packets_refused,
                    block.events.packets_out, block.active))[2:]
            self.trace.append((write, lut_en, load, valid, data if valid else 0, keep, last, tuple(events)))
            assert active or not any(events)
            self.events = [total + event for total, event in zip(self.events, events, strict=True)]
            if write and taken:
                for k in range(u.vector_width):
                    if payload.mask >> k & 1:
                        self.vec[payload.addr * u.vector_width + k] = payload.data[k]
            if lut_en:
                self.luts[lut, index] = entry
            if load and loading:
                if load_word.count == 0:
                    self.loaded.clear()
                else:
                    self.loaded.append(([load_word.elements[k] for k in range(load_word.count)], load_word.last))
            if valid and ready:
                word += [data >> 8 * k & 255 for k in range(8) if keep >> k & 1]
                assert last or keep == 255
                if last:
                    self.sent.append(word)
                    word = []

    async def command(self, ctx, port, payload):
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)

    async def put(self, ctx, beats, idle):
        block = self.block
        for data, keep, last in beats:
            while next(idle):
                await ctx.tick()
            ctx.set(block.s_axis_tdata, data)
            ctx.set(block.s_axis_tkeep, keep)
            ctx.set(block.s_axis_tlast, last)
            ctx.set(block.s_axis_tvalid, 1)
            await ctx.tick().until(block.s_axis_tready)
            ctx.set(block.s_axis_tvalid, 0)

    async def done(self, ctx):
        while ctx.get(self.block.accepting) or ctx.get(self.block.o_load.valid):
            await ctx.tick()

    def run(self, bench, *others):
        async def main(ctx):
            await bench(ctx)
            self.finished = True
        simulate(self.dut, self.watch, main, *others)


def accepts(u, source, n):
    """ACCEPT commands: corners, then random ones."""
    width, entries = u.vector_width, 1 << u.lut_bits
    corners = [(0, 1), (1, 8), (2, 9), (0, width), (0, width + 1), (3, 4 * width - 1), (u.vector_words - 2, 2 * width)]
    for dst, count in corners:
        for wide in (0, 1):
            yield {"dst": dst, "count": count, "wide": wide, "to_lut": 0, "lut": 0}
    for count in (1, 5, entries if width == 4 else 9, entries + 3 if width == 4 else 16):
        yield {"dst": 1, "count": count, "wide": source.randrange(2), "to_lut": 1, "lut": source.randrange(u.n_luts)}
    for _ in range(n):
        count = source.randrange(1, 6 * width)
        yield {"dst": source.randrange(u.vector_words - 6), "count": count, "wide": source.randrange(2),
               "to_lut": int(source.random() < 0.2), "lut": source.randrange(u.n_luts)}


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(("idle", "stall"), list(itertools.product(PAUSES, PAUSES)))
def test_accept(name, idle, stall):
    u = BUILDS[name]
    bench, source = Bench(u, idle, stall), random.Random(5)
    vec, luts = bench.vec.copy(), bench.luts.copy()
    counters = np.zeros(N_EVENTS, np.int64)

    async def main(ctx):
        gaps = pauses(idle, 11)
        for command in accepts(u, source, 4):
            count, wide = command["count"], command["wide"]
            needed = count << wide
            extra = source.randrange(3) if needed % 8 in range(1, 6) else 0
            packet = np.array([source.randrange(256) for _ in range(needed + extra)], np.uint8)
            await bench.command(ctx, bench.block.i_accept, command)
            for fault in source.sample(FAULTS, 2):
                beats = broken(beats_of(packet), fault, needed)
                if beats is not None:
                    await bench.put(ctx, beats, gaps)
                    counters[INDEX["packets_refused"]] += 1
                    assert ctx.get(bench.block.accepting)
            await bench.put(ctx, beats_of(packet), gaps)
            assert twin.accept(u.constants, *command.values(), packet, vec, luts, counters)
            await bench.done(ctx)
            assert (bench.vec == vec).all(), command
            assert (bench.luts == luts).all()
        assert bench.events[0] == counters[INDEX["packets_in"]] > 0
        assert bench.events[1] == counters[INDEX["packets_refused"]] > 0

    bench.run(main)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(("idle", "stall"), list(itertools.product(PAUSES, PAUSES)))
def test_load(name, idle, stall):
    u = BUILDS[name]
    bench, source = Bench(u, idle, stall), np.random.default_rng(3)
    counters = np.zeros(N_EVENTS, np.int64)

    async def main(ctx):
        gaps = pauses(idle, 11)
        for words in (1, 3, 2):
            chi = source.integers(-32768, 32768, (words, u.lanes))
            packet = twin.dump_packet(u.constants, chi)
            await bench.command(ctx, bench.block.i_load, {"words": words})
            for fault in ("short", "long", "hole"):
                beats = broken(beats_of(packet), fault, len(packet))
                if beats is not None:
                    await bench.put(ctx, beats, gaps)
                    counters[INDEX["packets_refused"]] += 1
            await bench.put(ctx, beats_of(packet), gaps)
            await bench.done(ctx)
            loaded = np.zeros(chi.shape, np.int32)
            assert twin.load(u.constants, words, packet, loaded, counters)
            assert (loaded == chi).all()
            per_word = -(-u.lanes // u.vector_width)
            assert [last for _, last in bench.loaded] == [0] * (words * per_word - 1) + [1]
            elements = [element for part, _ in bench.loaded for element in part]
            assert (np.array(elements).reshape(chi.shape) == chi).all()
            bench.loaded.clear()
        assert bench.events[:2] == [counters[INDEX["packets_in"]], counters[INDEX["packets_refused"]]]

    bench.run(main)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(("idle", "stall"), list(itertools.product(PAUSES, PAUSES)))
def test_send(name, idle, stall):
    u = BUILDS[name]
    bench, source = Bench(u, idle, stall), np.random.default_rng(4)
    expected = []

    async def send(ctx, port, words, gaps):
        for elements, last in words:
            while next(gaps):
                await ctx.tick()
            padded = [int(element) for element in elements] + [-1] * (u.vector_width - len(elements))
            await bench.command(ctx, port, {"elements": padded, "count": len(elements), "last": last})

    async def main(ctx):
        gaps = pauses(idle, 11)
        for count in [*range(1, 2 * u.vector_width + 2), 5 * u.vector_width]:
            values = source.integers(-32768, 32768, count)
            words = [(values[k:k + u.vector_width], int(k + u.vector_width >= count)) for k in range(0, count, u.vector_width)]
            await send(ctx, bench.block.i_emit, words, gaps)
            expected.append(twin.emit_packet(values).tolist())
        for rows in (1, 3):
            chi = source.integers(-32768, 32768, (rows, u.lanes))
            starts = range(0, u.lanes, u.vector_width)
            words = [(line[k:k + u.vector_width], int(index == rows - 1 and k == starts[-1]))
                     for index, line in enumerate(chi) for k in starts]
            await send(ctx, bench.block.i_dump, words, gaps)
            expected.append(twin.dump_packet(u.constants, chi).tolist())
        while len(bench.sent) < len(expected):
            await ctx.tick()
        await ctx.tick().repeat(3)
        assert bench.sent == expected
        assert bench.events[2] == len(expected)

    bench.run(main)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("stall", PAUSES)
def test_back_to_back(name, stall):
    """The host sends packet after packet without a gap: each command takes its own and not a beat more."""
    u = BUILDS[name]
    bench, size = Bench(u, "none", stall), 2 * u.vector_width
    packets = [bytes((16 * index + k) % 256 for k in range(size)) for index in range(6)]

    async def host(ctx):
        for packet in packets:
            await bench.put(ctx, beats_of(packet), pauses("none"))

    async def main(ctx):
        for index in range(len(packets)):
            await bench.command(ctx, bench.block.i_accept, {"dst": 2 * index, "count": size, "wide": 0, "to_lut": 0, "lut": 0})
        await bench.done(ctx)
        assert bench.vec[:size * len(packets)].astype(np.uint8).tobytes() == b"".join(packets)

    bench.run(main, host)


@pytest.mark.parametrize("name", BUILDS)
def test_throughput(name):
    """One beat per cycle each way, and the stated cycles where a beat is more than one write."""
    u = BUILDS[name]
    bench = Bench(u, "none", "none")
    count = 16 * u.vector_width

    async def main(ctx):
        for wide, to_lut, per_beat in ((0, 0, max(8 // u.vector_width, 1)), (1, 0, max(4 // u.vector_width, 1)), (0, 1, 8),
                                       (1, 1, 4)):
            beats = beats_of(bytes(count << wide))
            await bench.command(ctx, bench.block.i_accept, {"dst": 0, "count": count, "wide": wide, "to_lut": to_lut, "lut": 0})
            start = len(bench.trace)
            await bench.put(ctx, beats, pauses("none"))
            await bench.done(ctx)
            assert len(bench.trace) - start == len(beats) * per_beat + 4 - to_lut
            writes = [entry[0] for entry in bench.trace[start:]]
            assert sum(writes) == (0 if to_lut else 16)
            assert to_lut or writes[-3:] == [not u.vector_width > (4 if wide else 8), 1, 0]
        beats = beats_of(bytes(twin.load_bytes(u.constants, 3)))
        await bench.command(ctx, bench.block.i_load, {"words": 3})
        start = len(bench.trace)
        await bench.put(ctx, beats, pauses("none"))
        assert len(bench.trace) - start == max(len(beats), 3 * -(-u.lanes // u.vector_width)) + 2
        await bench.done(ctx)
        words = 8
        for last in [0] * (words - 1) + [1]:
            word = {"elements": [1] * u.vector_width, "count": u.vector_width, "last": last}
            await bench.command(ctx, bench.block.i_emit, word)
        await ctx.tick().repeat(2)
        valid = [entry[3] for entry in bench.trace]
        beats, gap = words * u.vector_width // 4, max(4 // u.vector_width, 1)
        assert sum(valid) == beats
        assert all(valid[valid.index(1):valid.index(1) + beats * gap:gap])

    bench.run(main)


@pytest.mark.parametrize("cut", range(4))
def test_disarm(cut):
    """A command is withdrawn after ``cut`` beats of its packet; the next command gets the packet after the cut one."""
    u = BUILDS["width8"]
    bench = Bench(u, "none", "none")

    async def main(ctx):
        command = {"dst": 1, "count": 24, "wide": 0, "to_lut": 0, "lut": 0}
        await bench.command(ctx, bench.block.i_accept, command)
        beats = beats_of(bytes(range(24)))
        await bench.put(ctx, beats[:cut], pauses("none"))
        ctx.set(bench.block.disarm, 1)
        await ctx.tick()
        ctx.set(bench.block.disarm, 0)
        ctx.set(bench.block.s_axis_tvalid, 1)
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(bench.block.accepting)
            assert not ctx.get(bench.block.s_axis_tready)
        ctx.set(bench.block.s_axis_tvalid, 0)
        await bench.command(ctx, bench.block.i_accept, {**command, "dst": 20, "count": 9})
        await bench.put(ctx, beats[cut:] if 0 < cut < 3 else [], pauses("none"))
        await bench.put(ctx, beats_of(bytes(range(100, 109))), pauses("none"))
        await bench.done(ctx)
        assert bench.vec[160:170].tolist() == [*range(100, 109), 0]
        assert bench.events[:2] == [2 if cut == 3 else 1, 0 < cut < 3]

    bench.run(main)


@pytest.mark.parametrize("loads", [0, 1])
@pytest.mark.parametrize("name", BUILDS)
def test_disarm_words(name, loads):
    """Withdrawn are words for o_load, however many; what was taken for the memory gets there."""
    u = BUILDS[name]
    block = HostStream(u)

    async def main(ctx):
        port = block.i_load if loads else block.i_accept
        ctx.set(port.payload, {"words": 4} if loads else {"dst": 3, "count": 4 * u.vector_width, "wide": 1})
        ctx.set(port.valid, 1)
        await ctx.tick()
        ctx.set(port.valid, 0)
        ctx.set(block.s_axis_tvalid, 1)
        ctx.set(block.s_axis_tkeep, 255)
        await ctx.tick().repeat(40)
        assert not ctx.get(block.s_axis_tready)
        ctx.set(block.disarm, 1)
        await ctx.tick()
        ctx.set(block.disarm, 0)
        assert not ctx.get(block.o_load.valid)
        assert not ctx.get(block.accepting)
        written = []
        ctx.set(block.w_host.ready, 1)
        for _ in range(5):
            if ctx.get(block.w_host.valid):
                written.append(ctx.get(block.w_host.payload.addr))
            await ctx.tick()
        assert written == ([] if loads else [3, 4][:min(u.vector_width, 2)])

    simulate(block, main)


@pytest.mark.parametrize(("idle", "stall"), list(itertools.product(PAUSES, PAUSES)))
def test_gating(idle, stall):
    """Clocked only while ``active``, the block does the same in every cycle."""
    traces = []
    for gated in (False, True):
        u = BUILDS["width8"]
        bench = Bench(u, idle, stall, gated)

        async def main(ctx, bench=bench, u=u):
            gaps = pauses(idle, 11)
            block = bench.block
            await bench.command(ctx, block.i_accept, {"dst": 1, "count": 21, "wide": 0, "to_lut": 0, "lut": 0})
            await ctx.tick().repeat(3)
            await bench.put(ctx, beats_of(bytes(range(9))), gaps)
            await bench.put(ctx, beats_of(bytes(range(21))), gaps)
            await bench.command(ctx, block.i_load, {"words": 2})
            await bench.put(ctx, beats_of(bytes(twin.load_bytes(u.constants, 2) - 8)), gaps)
            await ctx.tick().repeat(5)
            await bench.put(ctx, beats_of(bytes(twin.load_bytes(u.constants, 2))), gaps)
            await bench.done(ctx)
            for last in (0, 1):
                await bench.command(ctx, block.i_emit, {"elements": list(range(8)), "count": 8, "last": last})
            await ctx.tick().repeat(20)

        bench.run(main)
        assert bench.events == [2, 2, 1]
        traces.append(bench.trace)
    assert traces[0] == traces[1]


@pytest.mark.cosim
def test_cosim():
    """Foreign AXI4-Stream peers on the generated Verilog."""
    u = BUILDS["width8"]
    assert run_cocotb("host_stream", {"host_stream.v": verilog_of(HostStream(u), "host_stream")}, "host_stream",
                      "cosim.bench_host_stream", env={"CROSSTRAIN_PARAMS": Params(unit=u).to_json()}) == 6


class OutputContract(Elaboratable):
    """The streams out keep valid and payload, whatever comes on the streams in; nothing leaves that did not come in."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m = Module()
        u = self.u
        m.submodules.dut = dut = HostStream(u)
        for name in ("s_axis_tdata", "s_axis_tkeep", "s_axis_tlast", "s_axis_tvalid", "m_axis_tready"):
            m.d.comb += getattr(dut, name).eq(AnySeq(len(getattr(dut, name))))
        m.d.comb += [dut.w_host.ready.eq(AnySeq(1)), dut.o_load.ready.eq(AnySeq(1))]
        beat = Cat(dut.s_axis_tdata, dut.s_axis_tkeep, dut.s_axis_tlast)
        offered, beat_before = Signal(), Signal(len(beat))
        m.d.sync += [offered.eq(dut.s_axis_tvalid & ~dut.s_axis_tready), beat_before.eq(beat)]
        m.d.comb += Assume(~offered | (dut.s_axis_tvalid & (beat == beat_before)))
        for port in (dut.i_accept, dut.i_load, dut.i_emit):
            drive_stream(m, port)
        m.d.comb += Assume(dut.i_emit.payload.count <= u.vector_width)
        for port in (dut.w_host, dut.o_load):
            stream_contract(m, port)
        held = Cat(dut.m_axis_tdata, dut.m_axis_tkeep, dut.m_axis_tlast)
        waiting, before = Signal(), Signal(len(held))
        m.d.sync += [waiting.eq(dut.m_axis_tvalid & ~dut.m_axis_tready), before.eq(held)]
        with m.If(waiting):
            m.d.comb += [Assert(dut.m_axis_tvalid), Assert(held == before)]

        # words of no more than 4 elements: those of a beat are inside, and none where the next one waits for it
        inside = Signal(4)
        moves = dut.m_axis_tvalid & dut.m_axis_tready
        m.d.sync += inside.eq(Mux(moves, 0, inside) + (dut.i_emit.valid & dut.i_emit.ready))
        m.d.comb += [Assert(Mux(dut.m_axis_tvalid, (inside != 0) & (dut.slot == 0), inside == dut.slot)),
                     Assert(inside <= 4 // u.vector_width)]
        # nothing is taken without a command, and a command ends only with a packet
        with m.If(~dut.accepting):
            m.d.comb += [Assert(~dut.s_axis_tready), Assert(~dut.w_host.valid), Assert(~dut.lut_write.en)]
        m.d.comb += [Cover(dut.events.packets_out), Cover(dut.events.packets_in), Cover(dut.events.packets_refused),
                     Cover(dut.w_host.valid & ~dut.w_host.ready), Cover(dut.o_load.valid & dut.o_load.payload.last)]
        return m


@pytest.mark.formal
@pytest.mark.parametrize("width", [1, 4])
def test_formal(width):
    prove(OutputContract(dataclasses.replace(SMALL.unit, vector_width=width)), f"host_stream_contract_{width}", depth=6,
          cover_depth=12)
