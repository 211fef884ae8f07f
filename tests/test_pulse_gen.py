"""Pulse generator: trains against the twin, pulse for pulse and cycle for cycle; exclusion is proven."""
import random
from collections import namedtuple

import numpy as np
import pytest
from amaranth import Cat, Elaboratable, EnableInserter, Module, Mux, Signal, Value
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover

from hdl.pulse_gen import PulseGen
from model.digital import pulse_gen as twin
from model.events import INDEX, N_EVENTS
from model.isa import Kind
from model.params import SMALL, UnitParams
from tests.formal import any_value, drive_stream, past_valid, prove
from tests.sim import PAUSES, pauses, simulate, stream_put

TINY = {"vector_width": 4, "n_rows": 8, "n_cols": 8, "n_tiles": 2}
UNITS = {
    "small": SMALL.unit,
    "odd": UnitParams(lanes=7, **TINY, set_cycles=1, set_gap_cycles=1, reset_cycles=4, reset_gap_cycles=1),
    "deep": UnitParams(lanes=3, **TINY, eps_log2=8, chi_bits=12, update_max_steps=15, set_cycles=2, set_gap_cycles=3,
                       reset_cycles=1, reset_gap_cycles=1),
    "one_lane": UnitParams(lanes=1, **TINY, set_cycles=1, set_gap_cycles=2, reset_cycles=2, reset_gap_cycles=2),
}
EVENTS = ("set_pos", "set_neg", "set_refresh", "reset_refresh")
Command = namedtuple("Command", "tile walk line first kind refresh dirty counts negative")
Pulse = namedtuple("Pulse", "tile walk line first kind pos neg")


class Recorder:
    """Stands in for the tile: keeps what is programmed."""

    def __init__(self):
        self.pulses = []

    def program(self, _tc, _state, rng, tile, walk, line, first, pos, neg, kind, _tick):
        assert rng == "generators"
        self.pulses.append(Pulse(tile, walk, line, first, kind, tuple(pos.tolist()), tuple(neg.tolist())))


def corners(u):
    full, none = [u.count_max] * u.lanes, [0] * u.lanes
    ramp = [lane % (u.count_max + 1) for lane in range(u.lanes)]
    alternate = [lane & 1 for lane in range(u.lanes)]
    head = {"tile": 1, "walk": 1, "line": 8191, "first": 8190, "refresh": 0, "dirty": 65535}
    return [Command(kind=kind, counts=counts, negative=negative, **head)
            for kind in (0, 1) for counts in (full, ramp, ramp[::-1]) if any(counts)
            for negative in (none, [1] * u.lanes, alternate)]


def random_commands(u, n, seed):
    source = random.Random(seed)
    out = []
    for _ in range(n):
        top = source.choice((1, 1, 2, u.count_max))
        counts = [source.randint(0, top) if source.random() < 0.4 else 0 for _ in range(u.lanes)]
        counts[source.randrange(u.lanes)] = source.randint(1, top)
        out.append(Command(
            source.randrange(2), source.randrange(2), source.randrange(u.n_rows), source.randrange(u.n_rows),
            source.randrange(2), source.randrange(2), source.randrange(1 << 16), counts,
            [source.randrange(2) for _ in range(u.lanes)]))
    return out


def run_twin(u, commands, monkeypatch):
    recorder, counters = Recorder(), np.zeros(N_EVENTS, np.int64)
    monkeypatch.setattr(twin, "analog", recorder)
    times = [twin.fire.py_func(
        u.constants, None, None, "generators", counters, c.tile, c.walk, c.line, c.first, c.kind, c.refresh,
        np.array(c.counts, np.int32), np.array(c.negative, np.uint8), np.zeros((2, len(c.counts)), np.uint8), 0)
        for c in commands]
    return recorder.pulses, times, [int(counters[INDEX[name]]) for name in EVENTS]


def run_rtl(u, commands, idle="none", hold="none", gated=False):
    """Returns pulses with their widths and gaps checked, cycles from accept to the next ready, event totals."""
    dut = PulseGen(u)
    top = EnableInserter(dut.active)(dut) if gated else dut
    pulses, accepts, ready, events, done = [], [], [], [0] * 4, False
    held = pauses(hold, 7)

    async def feed(ctx):
        nonlocal done
        idles = pauses(idle, 3)
        for command in commands:
            negative = sum(bit << lane for lane, bit in enumerate(command.negative))
            await stream_put(ctx, dut.i, command._replace(negative=negative)._asdict(), idles)
        await ctx.tick().repeat(1)
        while ctx.get(dut.busy):
            await ctx.tick()
        await ctx.tick().repeat(3)
        done = True

    async def watch(ctx):
        cycle, before, since, silence = 0, (0, 0), 0, 1 << 30
        while not done:
            ctx.set(dut.hold, next(held))
            # the feeder moves after the clock edge as well: look at the settled cycle just before the next edge
            await ctx.delay(0.4e-6)
            pos, neg, kind = ctx.get(dut.pulse_pos), ctx.get(dut.pulse_neg), ctx.get(dut.program_kind)
            width, gap = ((u.set_cycles, u.set_gap_cycles), (u.reset_cycles, u.reset_gap_cycles))[kind]
            assert pos & neg == 0
            if pos | neg and not before[0] | before[1]:
                assert silence >= 0, "gap too short"
                pulses.append(Pulse(
                    ctx.get(dut.program_tile), ctx.get(dut.program_walk), ctx.get(dut.program_line), ctx.get(dut.program_first),
                    kind, tuple(pos >> lane & 1 for lane in range(u.lanes)), tuple(neg >> lane & 1 for lane in range(u.lanes))))
                since = 0
            elif pos | neg:
                assert (pos, neg) == before, "lanes changed within a pulse"
            if pos | neg:
                since += 1
            elif before[0] | before[1]:
                assert since == width
                silence = -gap
            silence += not pos | neg
            if (pos | neg) or silence < 0:
                assert ctx.get(dut.busy)
            if ctx.get(dut.i.ready):
                ready.append(cycle)
                if ctx.get(dut.i.valid):
                    accepts.append(cycle)
            step = [ctx.get(dut.events[name]) for name in EVENTS]
            assert ctx.get(dut.active) or step == [0] * 4
            events[:] = [a + b for a, b in zip(events, step, strict=True)]
            before = (pos, neg)
            cycle += 1
            await ctx.tick()

    simulate(top, watch, feed)
    times = [min(t for t in ready if t > accept) - accept for accept in accepts]
    return pulses, times, events


@pytest.mark.parametrize("name", UNITS)
def test_rtl_is_the_twin(name, monkeypatch):
    u = UNITS[name]
    commands = corners(u) + random_commands(u, 20, seed=1)
    assert run_rtl(u, commands) == run_twin(u, commands, monkeypatch)


@pytest.mark.parametrize("idle", PAUSES)
@pytest.mark.parametrize("hold", PAUSES)
@pytest.mark.parametrize("gated", [False, True])
def test_rtl_idle_hold_gated(idle, hold, gated, monkeypatch):
    u = UNITS["odd"]
    commands = random_commands(u, 40, seed=2)
    pulses, times, events = run_twin(u, commands, monkeypatch)
    rtl_pulses, rtl_times, rtl_events = run_rtl(u, commands, idle, hold, gated)
    assert (rtl_pulses, rtl_events) == (pulses, events)
    if hold == "none":
        assert rtl_times == times


def test_total_dose_is_the_counts(monkeypatch):
    u = UNITS["deep"]
    commands = corners(u) + random_commands(u, 50, seed=3)
    pulses, _, events = run_twin(u, commands, monkeypatch)
    want = sum(sum(c.counts) for c in commands)
    assert sum(sum(p.pos) + sum(p.neg) for p in pulses) == sum(events) == want
    assert events[3] == sum(sum(c.counts) for c in commands if c.kind == Kind.RESET)


class PulseSpec(Elaboratable):
    """Any commands, any ``hold``: widths exact, gaps kept, one side, one kind, and the n-th slot fires lanes with counts > n."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m, u = Module(), self.u
        m.submodules.dut = dut = PulseGen(u)
        drive_stream(m, dut.i)
        m.d.comb += Assume(Value.cast(dut.i.payload.counts).any() | ~dut.i.valid)
        m.d.comb += dut.hold.eq(any_value(m, 1, "hold"))
        past = past_valid(m)
        lane = Signal(range(u.lanes))
        m.d.comb += lane.eq(AnyConst(len(lane)))
        on = Signal()
        on_before = Signal()
        m.d.comb += on.eq(dut.pulse_pos.any() | dut.pulse_neg.any())
        width = Mux(dut.program_kind, u.reset_cycles, u.set_cycles)
        gap = Mux(dut.program_kind, u.reset_gap_cycles, u.set_gap_cycles)
        high, low = Signal(8), Signal(8, init=255)             # cycles this pulse has lasted, cycles of silence so far
        head, head_before = Signal(32), Signal(32)
        m.d.comb += head.eq(dut.program_tile + (dut.program_walk << 4) + (dut.program_line << 5) + (dut.program_first << 18))
        m.d.sync += [on_before.eq(on), head_before.eq(head)]
        m.d.sync += [high.eq(Mux(on, high + 1, 0)), low.eq(Mux(on, 0, Mux(low == 255, low, low + 1)))]
        pos_before, neg_before, kind_before = Signal(u.lanes), Signal(u.lanes), Signal()
        m.d.sync += [pos_before.eq(dut.pulse_pos), neg_before.eq(dut.pulse_neg), kind_before.eq(dut.program_kind)]
        gap_before = Mux(kind_before, u.reset_gap_cycles, u.set_gap_cycles)

        # per lane: pulses owed by the last command
        owed, owed_side, fired = Signal(u.count_bits), Signal(), Signal()
        m.d.comb += fired.eq((dut.pulse_pos.bit_select(lane, 1) | dut.pulse_neg.bit_select(lane, 1)) & (high == 0))
        take = Signal()
        m.d.comb += take.eq(dut.i.valid & dut.i.ready)
        with m.If(take):
            m.d.sync += [owed.eq(dut.i.payload.counts[lane]), owed_side.eq(dut.i.payload.negative.bit_select(lane, 1))]
        with m.Elif(fired):
            m.d.sync += owed.eq(owed - 1)

        m.d.comb += Assert((dut.pulse_pos & dut.pulse_neg) == 0)
        m.d.comb += Assert(~on | (high < width))
        with m.If(past & ~on & on_before):
            m.d.comb += Assert(high == Mux(kind_before, u.reset_cycles, u.set_cycles))
        with m.If(past & on & ~on_before):
            m.d.comb += Assert(low >= gap_before)
        with m.If(past & on & on_before):
            m.d.comb += Assert((dut.pulse_pos == pos_before) & (dut.pulse_neg == neg_before) & (dut.program_kind == kind_before)
                               & (head == head_before))
        with m.If(on | (low + 1 < gap)):
            m.d.comb += Assert(dut.busy)
        with m.If(fired):
            m.d.comb += [Assert(owed > 0), Assert(dut.pulse_neg.bit_select(lane, 1) == owed_side)]
        with m.If(~dut.busy):
            m.d.comb += Assert(owed == 0)
        m.d.comb += Assert(dut.i.ready == ~dut.busy)
        rest = Cat(plane.bit_select(lane, 1) for plane in dut.rest)
        with m.If(dut.busy):                                   # ties the proof's copy of the command to the block's
            m.d.comb += [Assert(owed == Mux(dut.armed | (on & (high == 0)) | (rest == 0), rest, rest - 1)),
                         Assert(owed_side == dut.negative.bit_select(lane, 1))]
        held, begun = Signal(), Signal()
        m.d.sync += [held.eq(dut.hold), begun.eq((begun | on) & ~take)]
        with m.If(on & ~begun):
            m.d.comb += Assert(~held)
        with m.If(take):
            m.d.comb += Assert(dut.active)
        m.d.comb += Cover(take & ~on & past & (low + 1 == gap))
        m.d.comb += Cover(fired & (owed == 1) & (dut.program_kind == Kind.RESET))
        return m


FORMAL = UnitParams(lanes=2, **TINY, eps_log2=11, chi_bits=12, update_max_steps=2, set_cycles=3, set_gap_cycles=2, reset_cycles=2,
                    reset_gap_cycles=3)


@pytest.mark.formal
def test_formal_pulses():
    prove(PulseSpec(FORMAL), "pulse_gen_pulses", depth=24)
