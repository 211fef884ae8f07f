"""Register map and AXI4-Lite slave: names against the other sources, access rules, handshakes, and a foreign AXI master."""
import dataclasses
import itertools
import random

import pytest
from amaranth import Cat, Elaboratable, Module, Mux, Signal
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib.wiring import In

from cosim.build import run_cocotb, verilog_of
from hdl.counters import READ_SPACING
from hdl.registers import OKAY, SLVERR, Registers, kept
from model import commands
from model.events import EVENTS, N_EVENTS
from model.params import SMALL, Params, ParamsError, UnitParams
from model.regmap import register_map
from tests.formal import prove
from tests.sim import PAUSES, pauses, simulate

U = SMALL.unit
MAP = register_map(U)


def test_names():
    lows = [name.split(".")[1] for name in MAP.registers if name.startswith("COUNTER.") and name.endswith(".LO")]
    assert lows == [event.name.upper() for event in EVENTS]
    for index, event in enumerate(EVENTS):
        base = MAP.address("COUNTER.TIME.LO") + 8 * index
        assert MAP.address(f"COUNTER.{event.name.upper()}.LO") == base
        assert MAP.address(f"COUNTER.{event.name.upper()}.HI") == base + 4
    capacities = {name.removeprefix("CAPACITY."): register.fields["value"].reset for name, register in MAP.registers.items()
                  if name.startswith("CAPACITY.")}
    assert capacities == {name.upper(): value for name, value in dataclasses.asdict(U).items()}
    fields = {name: field.bits for part in range(4) for name, field in MAP.registers[f"MATRIX[0].WORD{part}"].fields.items()}
    assert fields == {name: bits for name, (bits, _, _) in commands.matrix_fields(U).items()}
    assert all(field.text for register in MAP.registers.values() for field in register.fields.values())


def test_counter_texts_are_those_of_the_events():
    text = MAP.registers  # LO and HI have texts of their own; the counter's text is in the RDL beside its name
    from model.regmap import RDL
    source = RDL.read_text(encoding="utf-8")
    assert len(text) == 8 + len(dataclasses.fields(UnitParams)) + 4 * U.n_matrices + 2 * N_EVENTS
    for event in EVENTS:
        assert f'counter {event.name.upper()}; {event.name.upper()}->desc = "{event.doc}";' in source


def test_capacities_of_the_build():
    assert "MATRIX[3].WORD0" in MAP.registers
    assert "MATRIX[4].WORD0" not in MAP.registers
    assert MAP.program.words == 4 * U.program_words
    assert register_map(UnitParams()).program.words == 4 * UnitParams().program_words
    assert register_map(UnitParams(program_words=2048)).program.words == 4 * 2048
    with pytest.raises(ParamsError, match="program_words = 4096: allowed is 16 to 2048"):
        UnitParams(program_words=4096)


def test_pack_messages():
    assert MAP.unpack("MATRIX[0].WORD0", MAP.pack("MATRIX[0].WORD0", tile=3, chi_base=9)) == {"tile": 3, "walk": 0, "chi_base": 9}
    with pytest.raises(ValueError, match=r"CONTROL has no field go: it has start, stop, clear"):
        MAP.pack("CONTROL", go=1)
    with pytest.raises(ValueError, match=r"tile = 16: allowed is 0 to 15"):
        MAP.pack("MATRIX[0].WORD0", tile=16)
    with pytest.raises(ValueError, match="needs exactly the fields"):
        MAP.matrix_writes(0, {"tile": 1})
    with pytest.raises(ValueError, match="the build has no such descriptor"):
        MAP.matrix_writes(4, {})
    last = U.program_words - 1
    with pytest.raises(ValueError, match=f"program of 2 instructions at {last}: the build holds {U.program_words}"):
        MAP.program_writes([0, 0], first=last)


class Host:
    """AXI4-Lite master in pysim; every channel idles or stalls by its own pause pattern."""

    def __init__(self, ctx, dut, idle, stall, seed=0):
        self.ctx, self.dut = ctx, dut
        self.idle, self.stall = pauses(idle, seed), pauses(stall, seed + 1)
        self.order = random.Random(seed)

    def port(self, name):
        return getattr(self.dut, f"s_axil_{name}")

    async def send(self, channel, **payload):
        while next(self.idle):
            await self.ctx.tick()
        for name, value in payload.items():
            self.ctx.set(self.port(name), value)
        self.ctx.set(self.port(f"{channel}valid"), 1)
        await self.ctx.tick().until(self.port(f"{channel}ready"))
        self.ctx.set(self.port(f"{channel}valid"), 0)

    async def receive(self, channel, *names):
        while next(self.stall):
            await self.ctx.tick()
        self.ctx.set(self.port(f"{channel}ready"), 1)
        values = await self.ctx.tick().sample(*map(self.port, names)).until(self.port(f"{channel}valid"))
        self.ctx.set(self.port(f"{channel}ready"), 0)
        return values

    async def write(self, address, word, strobe=15):
        """The slave may wait for both channels: the later one comes while the other is held."""
        sends = [("aw", {"awaddr": address}), ("w", {"wdata": word, "wstrb": strobe})]
        for channel, payload in self.order.sample(sends, 2):
            while next(self.idle):
                await self.ctx.tick()
                assert not self.ctx.get(self.port("awready"))
                assert not self.ctx.get(self.port("wready"))
            for name, value in payload.items():
                self.ctx.set(self.port(name), value)
            self.ctx.set(self.port(f"{channel}valid"), 1)
        taken = await self.ctx.tick().sample(self.port("wready")).until(self.port("awready"))
        assert taken == (1,)
        self.ctx.set(self.port("awvalid"), 0)
        self.ctx.set(self.port("wvalid"), 0)
        return (await self.receive("b", "bresp"))[0]

    async def read(self, address):
        await self.send("ar", araddr=address)
        return await self.receive("r", "rdata", "rresp")


def _masked(old, new, strobe):
    mask = sum(255 << 8 * byte for byte in range(4) if strobe >> byte & 1)
    return old & ~mask | new & mask


@pytest.mark.parametrize(("idle", "stall", "checks"), [
    *((*pause, 1) for pause in itertools.product(PAUSES, PAUSES)), (PAUSES[0], PAUSES[0], 0)])
def test_every_address(idle, stall, checks):
    """A model of the map against the RTL: every register, the gaps around them, random words and strobes."""
    u = dataclasses.replace(U, operand_checks=checks)
    dut = Registers(u)
    source = random.Random(7)
    addresses = {register.address: register for register in register_map(u).registers.values()}
    writable = {address: sum((1 << field.bits) - 1 << field.low for field in register.fields.values())
                for address, register in addresses.items() if register.writable and register.name != "CONTROL"}
    shown = {"busy": 1, "done": 0, "accepting": 1, "stopped": 1, "error": 5, "error_pc": 0xABC, "pc": 0x123}
    hardware = {MAP.address("STATUS"): MAP.pack("STATUS", busy=1, accepting=1, stopped=1, error=5),
                MAP.address("ERROR_PC"): 0xABC, MAP.address("PC"): 0x123}
    gaps = [0x20, 0xFC, 0x100 + 4 * len(dataclasses.fields(UnitParams)), 0x3FC, 0x400 + 16 * U.n_matrices, 0x7FC,
            0x800 + 8 * N_EVENTS, 0xFFC, 0x7FFC, 0x8000 + 16 * U.program_words, 0xFFFC]

    async def bench(ctx):
        for name, value in shown.items():
            ctx.set(getattr(dut, name), value)
        host = Host(ctx, dut, idle, stall)
        words = {address: 0 for address in writable}
        for address in gaps:
            assert address not in addresses
            assert await host.write(address, 0xFFFF_FFFF) == SLVERR
            assert (await host.read(address))[1] == SLVERR
        for address in addresses:
            word, strobe = source.randrange(1 << 32), source.choice([15, 15, 1, 2, 12, 0])
            if address == MAP.address("CONTROL"):
                continue
            assert await host.write(address, word, strobe) == (OKAY if address in writable else SLVERR), addresses[address].name
            if address in words:
                words[address] = _masked(words[address], word, strobe) & writable[address]
                if addresses[address].name.startswith("MATRIX["):
                    words[address] = kept(u, addresses[address].name, words[address])
        for address, register in addresses.items():
            data, response = await host.read(address)
            assert response == OKAY, register.name
            if address in words:
                assert data == words[address], register.name
            elif address in hardware:
                assert data == hardware[address], register.name
            elif not register.name.startswith("COUNTER."):
                assert data == sum((field.reset or 0) << field.low for field in register.fields.values()), register.name
        assert ctx.get(dut.loop_count) == words[MAP.address("LOOP_COUNT")]
        assert ctx.get(dut.entry) == words[MAP.address("ENTRY")] % U.program_words
        for index in range(U.n_matrices):
            for part in range(4):
                name = f"MATRIX[{index}].WORD{part}"
                for field, value in MAP.unpack(name, words[MAP.address(name)]).items():
                    assert ctx.get(dut.matrices[index][field]) == value

    simulate(dut, bench)


def test_control_program_counters():
    dut = Registers(U)
    pulses, commits, finished = [], [], []
    value = 0x8001_FFFF_1234 % (1 << U.counter_bits)

    async def watch(ctx):
        while not finished:
            start, stop, clear, resume, stb, address, part, data = (
                await ctx.tick().sample(dut.start, dut.stop, dut.clear, dut.resume, dut.program_write.stb,
                                        dut.program_write.address, dut.program_write.part, dut.program_write.data))[2:]
            if start or stop or clear or resume:
                pulses.append((start, stop, clear, resume))
            if stb:
                commits.append((address, part, data))

    async def counters(ctx):
        values = [0, 0, 0]                              # of the cycles to come
        while not finished:
            en, index = (await ctx.tick().sample(dut.read_en, dut.read_index))[2:]
            values = [*values[1:], value + index if en else 0]
            ctx.set(dut.read_value, values[0])

    async def bench(ctx):
        host = Host(ctx, dut, "none", "none")
        await host.write(MAP.address("CONTROL"), 1)
        await host.write(MAP.address("CONTROL"), 6)
        await host.write(MAP.address("CONTROL"), 8)
        await host.write(MAP.address("CONTROL"), 15, strobe=14)
        assert await host.read(MAP.address("CONTROL")) == (0, OKAY)
        program = [random.Random(3).randrange(1 << 128) for _ in range(3)]
        for address, word in MAP.program_writes(program, first=U.program_words - 3):
            assert await host.write(address, word) == OKAY
        assert await host.write(MAP.program.address, 1, strobe=7) == SLVERR
        assert (await host.read(MAP.program.address))[1] == SLVERR
        assert pulses == [(1, 0, 0, 0), (0, 1, 1, 0), (0, 0, 0, 1)]
        assert commits == [(U.program_words - 3 + index, part, word >> 32 * part & 0xFFFF_FFFF)
                           for index, word in enumerate(program) for part in range(4)]
        for index, event in enumerate(EVENTS):
            low, _ = await host.read(MAP.address(f"COUNTER.{event.name.upper()}.LO"))
            await host.read(MAP.address("PC"))
            high, _ = await host.read(MAP.address("COUNTER.TIME.HI"))
            assert low | high << 32 == value + index
        finished.append(True)

    simulate(dut, watch, counters, bench)


@pytest.mark.cosim
def test_cosim():
    """A foreign AXI4-Lite master on the generated Verilog."""
    params = Params(unit=U)
    assert run_cocotb("registers", {"registers.v": verilog_of(Registers(U), "registers")}, "registers", "cosim.bench_registers",
                      env={"CROSSTRAIN_PARAMS": params.to_json()}) == 5


class AxiLiteContract(Elaboratable):
    """The rules a slave keeps against any master that keeps its own."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Registers(U)
        free = [name for name, member in dut.signature.members.items() if member.flow == In and name.startswith("s_axil_")]
        m.d.comb += [getattr(dut, name).eq(AnySeq(len(getattr(dut, name)))) for name in free]
        m.d.comb += [getattr(dut, name).eq(AnySeq(len(getattr(dut, name)))) for name in
                     ("busy", "done", "accepting", "stopped", "error", "error_pc", "pc", "read_value")]

        def fires(channel):
            return getattr(dut, f"s_axil_{channel}valid") & getattr(dut, f"s_axil_{channel}ready")

        for channel, payload, claim in (("aw", ("awaddr", "awprot"), Assume), ("w", ("wdata", "wstrb"), Assume),
                                        ("ar", ("araddr", "arprot"), Assume), ("b", ("bresp",), Assert),
                                        ("r", ("rdata", "rresp"), Assert)):
            valid = getattr(dut, f"s_axil_{channel}valid")
            now = Cat(getattr(dut, f"s_axil_{name}") for name in payload)
            waiting, before = Signal(name=f"{channel}_waiting"), Signal(len(now), name=f"{channel}_before")
            m.d.sync += [waiting.eq(valid & ~getattr(dut, f"s_axil_{channel}ready")), before.eq(now)]
            with m.If(waiting):
                m.d.comb += [claim(valid), claim(now == before)]

        # one response per request: the open requests are those that the slave shows to hold or to answer
        counts = {channel: Signal(4, name=f"open_{channel}") for channel in ("aw", "w", "ar")}
        for channel, response in (("aw", "b"), ("w", "b"), ("ar", "r")):
            m.d.sync += counts[channel].eq(counts[channel] + fires(channel) - fires(response))
            answering = getattr(dut, f"s_axil_{response}valid")
            m.d.comb += Assert(counts[channel] == (~dut.s_axil_arready if channel == "ar" else answering))
            with m.If(answering):
                m.d.comb += Assert(counts[channel] != 0)
        m.d.comb += Assert(fires("aw") == fires("w"))
        # an answer is never further away, once the request is complete (safety form of liveness)
        for name, cycles, ready, valid in (
                ("b", 3, dut.s_axil_awvalid & dut.s_axil_wvalid & ~dut.s_axil_bvalid, dut.s_axil_bvalid),
                ("r", 5, counts["ar"] != 0, dut.s_axil_rvalid)):
            age = Signal(3, name=f"age_{name}")
            m.d.sync += age.eq(Mux(ready & ~valid, age + 1, 0))
            m.d.comb += Assert(age < cycles)
        # what the counters ask for
        recent = Signal(READ_SPACING)
        m.d.sync += recent.eq(Cat(dut.read_en, recent))
        m.d.comb += [Assert(~(dut.read_en & recent[:-1].any())), Cover(dut.read_en)]
        m.d.comb += [
            Cover(fires("b") & (dut.s_axil_bresp == OKAY)), Cover(fires("b") & (dut.s_axil_bresp == SLVERR)),
            Cover(fires("r") & (dut.s_axil_rresp == OKAY)), Cover(fires("r") & (dut.s_axil_rresp == SLVERR)),
            Cover(dut.program_write.stb), Cover(dut.start),
        ]
        return m


@pytest.mark.formal
def test_formal():
    prove(AxiLiteContract(), "registers_axi_lite", depth=8)
