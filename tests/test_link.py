"""Link: the board's end against the host's, byte by byte, over a line that spoils, loses, doubles and cuts."""
import random
import zlib

import pytest
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.link import decode, encode
from hdl.link import BODY, Link
from model.link_format import Command, LinkParams, Status
from model.params import SMALL
from tests.sim import simulate

U, PARAMS = SMALL.unit, LinkParams(receive_log2=9, reply_log2=8)
PATIENCE = 120
"""Cycles without a byte after which the host repeats."""


@given(st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))
def test_decode_is_the_inverse_of_encode(session, sequence, command, body):
    frame = encode(session, sequence, command, body)
    assert frame[0] == frame[-1] == 0x7E
    assert 0x7E not in frame[1:-1]
    assert decode(frame[1:-1]) == (session, sequence, command, body)


@given(st.binary(max_size=60), st.data())
@settings(max_examples=300)
def test_a_spoilt_frame_is_none(body, draw):
    frame = encode(7, 3, 1, body)[1:-1]
    place = draw.draw(st.integers(0, len(frame) - 1))
    assert decode(frame[:place] + bytes([frame[place] ^ 1 << draw.draw(st.integers(0, 7))]) + frame[place + 1:]) is None
    assert decode(frame[:place] + frame[place + 1:]) is None
    assert decode(frame[:place] + frame[place:place + 1] + frame[place:]) is None


class Line:
    """Host's side of a simulated board whose executor answers a body with its CRC and counts what it executed."""

    def __init__(self, spoil=lambda byte: [byte]):
        self.dut, self.spoil, self.executed, self.received = Link(U, PARAMS), spoil, [], b""

    async def executor(self, ctx):
        """Read a request's body, a byte a cycle; answer; ``done``."""
        dut, body, answer, address, end = self.dut, bytearray(), None, BODY, 0
        async for _, _, start, command, stop, data in ctx.tick().sample(dut.start, dut.command, dut.end, dut.data):
            ctx.set(dut.done, 0)
            if start:
                body, answer, address, end = bytearray(), None, BODY, stop
                self.executed.append((command, None))
            elif end and answer is None:
                if address >= BODY + 2:                 # of the address set two ticks ago
                    body.append(data)
                if len(body) == end - BODY:
                    self.executed[-1] = (self.executed[-1][0], bytes(body))
                    answer = list(answer_to(body))
            if end and answer is None:
                ctx.set(dut.address, address)
                address += 1
            elif answer is not None:
                ctx.set(dut.body.valid, bool(answer))
                if answer:
                    ctx.set(dut.body.payload, answer.pop(0))
                else:
                    ctx.set(dut.done, 1)
                    end, answer = 0, None

    async def collect(self, ctx):
        ctx.set(self.dut.tx.ready, 1)
        async for _, _, valid, byte in ctx.tick().sample(self.dut.tx.valid, self.dut.tx.payload):
            if valid:
                self.received += bytes(self.spoil(byte))

    async def put(self, ctx, content):
        for byte in (out for sent in content for out in self.spoil(sent)):
            ctx.set(self.dut.rx, byte)
            ctx.set(self.dut.rx_stb, 1)
            await ctx.tick()
            ctx.set(self.dut.rx_stb, 0)
            await ctx.tick().repeat(11)

    async def ask(self, ctx, session, sequence, command, body, tries=40, patience=PATIENCE):
        """Status and body of the reply; None without one."""
        self.received = b""
        for _ in range(tries):
            await self.put(ctx, encode(session, sequence, command, body))
            quiet, before = 0, len(self.received)
            while quiet < patience:
                await ctx.tick()
                quiet = quiet + 1 if len(self.received) == before else 0
                before = len(self.received)
                for part in self.received.split(b"\x7e")[:-1]:
                    found = decode(part)
                    if found and found[:2] == (session, sequence):
                        return found[2:]
        return None

    def run(self, bench):
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(self.executor, background=True)
        sim.add_testbench(self.collect, background=True)
        sim.add_testbench(bench)
        sim.run()


def answer_to(body):
    return bytes(body[::-1])[:200] + zlib.crc32(body).to_bytes(4, "little")


def requests(count, source):
    return [bytes(source.choice((0x7E, 0x7D, source.randrange(256))) for _ in range(source.choice((0, 1, 7, 30))))
            for _ in range(count)]


@pytest.mark.parametrize("fault", ["none", "flip", "drop", "double"])
def test_every_request_is_executed_once_and_answered_right(fault):
    source = random.Random(fault)

    def spoil(byte):
        if fault == "none" or source.random() > 0.02:
            return [byte]
        return {"flip": [byte ^ 1 << source.randrange(8)], "drop": [], "double": [byte, byte]}[fault]

    line, bodies = Line(spoil), requests(12, random.Random(1))

    async def bench(ctx):
        assert await line.ask(ctx, 0x1234, 250, Command.CONNECT, b"") == (Status.OK, answer_to(b""))
        for k, body in enumerate(bodies):
            assert await line.ask(ctx, 0x1234, (251 + k) % 256, 1 + k % 3, body) == (Status.OK, answer_to(body))

    line.run(bench)
    assert line.executed == [(0, b""), *((1 + k % 3, body) for k, body in enumerate(bodies))]


def test_frames_of_other_sessions_and_sequences():
    line = Line()

    async def bench(ctx):
        assert await line.ask(ctx, 5, 9, 1, b"x", 1) == (Status.LOST, b"")              # not connected
        assert await line.ask(ctx, 0, 1, 1, b"x", 1) == (Status.LOST, b"")              # 0 is no session
        assert await line.ask(ctx, 5, 0, Command.CONNECT, b"", 1) == (Status.OK, answer_to(b""))
        assert await line.ask(ctx, 5, 1, 2, b"abc", 1) == (Status.OK, answer_to(b"abc"))
        assert await line.ask(ctx, 6, 2, 2, b"x", 1) == (Status.LOST, b"")
        assert await line.ask(ctx, 5, 4, 2, b"x", 1) is None                            # not the next one
        assert await line.ask(ctx, 5, 1, 2, b"abc", 1) == (Status.OK, answer_to(b"abc"))        # again
        assert await line.ask(ctx, 5, 2, 3, b"y", 1) == (Status.OK, answer_to(b"y"))
        assert await line.ask(ctx, 8, 77, Command.CONNECT, b"", 1) == (Status.OK, answer_to(b""))
        assert await line.ask(ctx, 5, 3, 3, b"y", 1) == (Status.LOST, b"")

    line.run(bench)
    assert [body for _, body in line.executed] == [b"", b"abc", b"y", b""]


@pytest.mark.parametrize("size", [0, 1, 503, 504, 505, 700])
def test_a_frame_of_any_length(size):
    line, body = Line(), random.Random(size).randbytes(size)

    async def bench(ctx):
        assert await line.ask(ctx, 5, 0, Command.CONNECT, b"", 1) == (Status.OK, answer_to(b""))
        fits = size + 8 <= 1 << PARAMS.receive_log2
        assert await line.ask(ctx, 5, 1, 2, body, 1, 1000) == ((Status.OK, answer_to(body)) if fits else None)
        assert await line.ask(ctx, 5, 1 + fits, 2, b"abc", 1) == (Status.OK, answer_to(b"abc"))

    line.run(bench)


def test_full_is_told_in_time():
    dut = Link(U, PARAMS)

    async def bench(ctx):
        for byte in encode(1, 1, Command.CONNECT, b""):
            ctx.set(dut.rx, byte)
            ctx.set(dut.rx_stb, 1)
            await ctx.tick()
            ctx.set(dut.rx_stb, 0)
            await ctx.tick().repeat(11)
        ctx.set(dut.body.valid, 1)
        for taken in range(256):
            assert ctx.get(dut.full) == (taken > 252)          # at 253, three more fit
            assert ctx.get(dut.body.ready)
            await ctx.tick()

    simulate(dut, bench)
