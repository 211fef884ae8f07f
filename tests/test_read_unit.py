"""Read unit with its line drivers: lines, windows, codes and times against the twin; exclusion with pulses is proven."""
import dataclasses
import itertools
import random

import numpy as np
import pytest
from amaranth import Array, Const, Elaboratable, EnableInserter, Module, Mux, Signal
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib.wiring import connect

from hdl.decoder import Decoder, operand
from hdl.line_driver import Bank, LineDriver
from hdl.pulse_gen import PulseGen
from hdl.read_unit import ReadUnit
from hdl.vector_memory import VectorMemory
from model.analog import tile as analog
from model.commands import LinesCommand, LinesOp
from model.digital import read_unit as twin
from model.digital.shift_register import START
from model.events import INDEX, N_EVENTS
from model.isa import Half, Opcode
from model.params import SMALL, Params, TileParams, UnitParams
from tests.formal import any_value, drive_stream, prove
from tests.sim import PAUSES, pauses, simulate, stream_put

TINY = {"lanes": 7, "n_tiles": 2, "n_matrices": 2, "vector_words": 16}
UNITS = {
    "small": SMALL.unit,
    "wide": UnitParams(**TINY, vector_width=8, n_rows=24, n_cols=8, line_bits=5, adc_bits=6),
    "cols": UnitParams(**TINY, vector_width=4, n_rows=8, n_cols=12, line_bits=8, adc_bits=12, lut_bits=12),
    "short": UnitParams(**TINY, vector_width=2, n_rows=4, n_cols=4, line_bits=3, outer_bits=3),
    "trains": UnitParams(**TINY, vector_width=4, n_rows=12, n_cols=8, line_bits=6, capacitor=1, slot_bits=5, reset_gap_cycles=3),
    "few": UnitParams(**TINY, vector_width=1, n_rows=4, n_cols=7, line_bits=4, capacitor=1, slot_bits=2, reset_gap_cycles=1),
}
EVENTS = ("phase_drive", "phase_window", "phase_convert", "phase_readout", "line_cycles", "line_saturations",
          "conversions_forward", "conversions_transpose", "conversions_scan", "phase_fire", "fires", "fired_codes", "phase_trim",
          "trims", "ramps")
EXPONENTS = (-40, -9, -1, 0, 1, 2, 7, 100)


def command(op, **fields):
    return LinesCommand(**{**dict.fromkeys(LinesCommand._fields, 0), "op": op, **fields})


def corner_commands(u):
    read = {"tile": 1, "range": 1, "address": 2, "store": 1}
    last_word = (u.n_lines // u.vector_width - 1) * u.vector_width
    yield command(LinesOp.READ, **read, count=1, steps=1)                        # lines as after reset
    for shift in (0, 1, 9, 15, 16, 31):
        yield command(LinesOp.DRIVE, count=u.n_lines, shift=shift)
        yield command(LinesOp.READ, **read, count=u.n_cols, steps=u.line_max)
    yield command(LinesOp.DRIVE, count=1)
    yield command(LinesOp.READ, **read, count=u.n_cols, steps=1)
    yield command(LinesOp.DRIVE, first=last_word, count=u.vector_width, address=u.vector_words - 1)
    yield command(LinesOp.READ, **read, count=u.n_rows - 1, first=1, steps=u.line_max, transpose=1)
    yield command(LinesOp.DRIVE, count=max(1, last_word - 1), address=1)
    yield command(LinesOp.READ, **{**read, "store": 0}, count=1, first=u.n_cols - 1, steps=3)
    for line, steps in ((0, 1), (u.n_lines - 1, u.line_max), (1, 2)):
        yield command(LinesOp.POINT, first=line, steps=steps)
        yield command(LinesOp.READ, **{**read, "range": 3}, half=1 + line % 2, count=u.n_cols, steps=steps)
    if u.capacitor:
        for shift, sequence, rows in itertools.product((0, 9), (0, 1), (0, 1)):
            yield command(LinesOp.DRIVE, count=u.n_rows, shift=shift)
            yield command(LinesOp.DRIVE, count=u.n_cols, shift=shift, address=2, trains=1)
            yield command(LinesOp.FIRE, tile=1, steps=u.slots, sequence=sequence, rows=rows, down=shift == 9)
        for e, fine in itertools.product(range(len(EXPONENTS)), (0, 3, 7)):
            yield command(LinesOp.DRIVE, count=u.n_cols, shift=8, scaled=1, e=e, trains=e % 2, dither=e // 2 % 2, fine=fine)
            yield command(LinesOp.FIRE, tile=1, steps=u.slots)
        for kind in range(4):
            yield command(LinesOp.TRIM, tile=1, transpose=1, kind=kind, line=kind % u.n_cols, steps=u.line_max - kind)
        yield command(LinesOp.READ, **read, half=3, count=u.n_cols, steps=3)
        yield command(LinesOp.SEED, seed=(1 << 31) - 1)
        yield command(LinesOp.FIRE, steps=u.slots, sequence=1)


def random_commands(u, n, seed):
    source = random.Random(seed)
    for _ in range(n):
        trained = u.capacitor * (LinesOp.FIRE, LinesOp.TRIM)
        op = source.choice((LinesOp.DRIVE, LinesOp.READ, LinesOp.READ, LinesOp.POINT, *trained))
        transpose = source.randrange(2)
        n_out = u.n_rows if transpose else u.n_cols
        if op == LinesOp.FIRE:
            yield command(LinesOp.DRIVE, count=u.n_cols, shift=source.choice((4, 8)), address=source.randrange(4), trains=1)
            yield command(op, tile=source.randrange(2), steps=u.slots, sequence=source.randrange(2), rows=source.randrange(2),
                          down=source.randrange(2))
        elif op == LinesOp.TRIM:
            yield command(op, tile=source.randrange(2), transpose=transpose, kind=source.randrange(4), down=source.randrange(2),
                          line=source.randrange(u.n_cols if transpose else u.n_rows), steps=source.randint(1, u.line_max))
        elif op == LinesOp.READ:
            first = source.randrange(n_out)
            yield command(op, tile=source.randrange(2), transpose=transpose, half=source.randrange(3 + u.capacitor),
                          range=source.randrange(4), first=first, count=source.randint(1, n_out - first),
                          address=source.randrange(u.vector_words // 2), store=source.randrange(2),
                          steps=source.randint(1, source.choice((3, u.line_max))))
        elif op == LinesOp.POINT:
            yield command(op, first=source.randrange(u.n_lines), steps=source.randint(1, u.line_max))
        else:
            first = source.randrange(u.n_lines // u.vector_width) * u.vector_width
            yield command(op, first=first, count=source.randint(1, u.n_lines - first),
                          address=source.randrange(u.vector_words // 2), shift=source.choice((0, 3, 8, 9, source.randrange(32))))


def operands(u, seed):
    source = np.random.default_rng(seed)
    vec = source.integers(-32768, 32768, u.vector_words * u.vector_width).astype(np.int32)
    vec >>= source.integers(0, 16, vec.size)
    vec[:6] = (-32768, 32767, 0, -1, 1, u.line_max + 1)
    vec[6:12] = (u.line_max, -u.line_max, -u.line_max - 1, u.line_max << 9, (u.line_max + 1 << 8) - 1, -(u.line_max + 1) << 7)
    return np.clip(vec, -32768, 32767).astype(np.int32)


class Tile:
    """The tile model behind the port: charge from the waveform, codes ``convert_cycles`` after the strobe."""

    def __init__(self, u, seed=5, convert_cycles=3):
        self.u, self.convert_cycles = u, convert_cycles
        generators = analog.spawn_generators(seed, u.n_tiles)
        params = Params(unit=u, tile=TileParams(convert_cycles=convert_cycles))
        self.constants, self.state = analog.new_tiles(params, generators.init)
        self.read_rngs, self.program_rngs = generators.read, generators.program


class Path(Elaboratable):
    """Read unit, line drivers and vector memory."""

    def __init__(self, u, gated):
        self.memory, self.unit, self.driver, self.gated = VectorMemory(u), ReadUnit(u), LineDriver(u), gated

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        for name in ("unit", "driver"):
            block = getattr(self, name)
            m.submodules[name] = EnableInserter(block.active)(block) if self.gated else block
        connect(m, self.unit.vector, self.memory.lines)
        connect(m, self.unit.w, self.memory.w_lines)
        connect(m, self.unit.lines, self.driver.i)
        m.d.comb += self.unit.last.eq(self.driver.last)
        if self.driver.u.capacitor:
            m.d.comb += self.unit.dither.eq(self.driver.dither)
        return m


def run_twin(u, commands, vec, tile):
    lines, counters, codes = np.zeros(u.n_lines, np.int32), np.zeros(N_EVENTS, np.int64), np.zeros(u.n_lines, np.int32)
    trains, register, exponents = np.zeros(u.n_lines, np.int32), np.full(1, START), np.array(EXPONENTS)
    step_shift = np.zeros(1, np.int64)
    patterns = [np.zeros(size, np.uint32) for size in (u.n_rows, u.n_cols, u.n_cols)]
    vec, times, windows = vec.copy(), [], []
    for c in commands:
        if c.op == LinesOp.DRIVE:
            times.append(twin.drive(u.constants, c, vec, exponents, register, trains if c.trains else lines, step_shift,
                                    counters))
        elif c.op == LinesOp.FIRE:
            twin.patterns(u.constants, c, lines, trains, register.copy(), *patterns)
            windows.append((c.tile, int(step_shift[0]), *(tuple(pattern.tolist()) for pattern in patterns)))
            times.append(twin.fire(u.constants, c, tile.constants, tile.state, tile.program_rngs, lines, trains, step_shift,
                                   register, counters, 0))
        elif c.op == LinesOp.SEED:
            register[0] = c.seed
            times.append(twin.SEED_CYCLES)
        elif c.op == LinesOp.TRIM:
            windows.append((c.tile, c.transpose, c.kind, c.line, c.down, *twin.driven(u.constants, lines, c.steps).tolist()))
            times.append(twin.trim(u.constants, c, tile.constants, tile.state, tile.program_rngs, lines, counters, 0))
        elif c.op == LinesOp.POINT:
            times.append(twin.point(u.constants, c, lines, counters))
        else:
            windows.append(tuple(twin.driven(u.constants, lines, c.steps).tolist()))
            times.append(twin.read(u.constants, c, tile.constants, tile.convert_cycles, tile.state, tile.read_rngs, lines, vec,
                                   counters, codes))
    return vec.tolist(), times, windows, [int(counters[INDEX[name]]) for name in EVENTS]


def run_rtl(u, commands, vec, tile, idle="none", stall="none", busy="none", gated=False):
    path = Path(u, gated)
    dut, driver, memory = path.unit, path.driver, path.memory
    ready, accepts, windows, events, out, tapped = [], [], [], [0] * len(EVENTS), [], []
    done = False
    width = u.vector_width
    busies, stalls = pauses(busy, 11), pauses(stall, 12)
    slots = np.zeros((3, u.n_lines), np.uint32)

    async def feed(ctx):
        nonlocal done
        for word in range(u.vector_words):
            data = vec[word * width:(word + 1) * width].tolist()
            await stream_put(ctx, memory.w_host, {"addr": word, "mask": (1 << width) - 1, "data": data})
        idles = pauses(idle, 13)
        for c in commands:
            await stream_put(ctx, dut.i, c._asdict(), idles)
        await ctx.tick().until(dut.i.ready)
        await ctx.tick().repeat(2)
        done = True
        for word in range(u.vector_words):
            ctx.set(memory.a.addr, word)
            ctx.set(memory.a.en, 1)
            await ctx.tick()
            out.extend(ctx.get(memory.a.data[k]) for k in range(width))

    async def watch(ctx):
        charge, words, delay, steps, before, cycle, firing, trimming = None, [], 0, 0, 0, 0, 0, 0
        for e, exponent in enumerate(EXPONENTS):
            ctx.set(dut.exponents[e], exponent)
        while not done:
            ctx.set(dut.program_busy, next(busies))
            ctx.set(dut.codes.valid, bool(words) and delay <= 0 and not next(stalls))
            if words:
                ctx.set(dut.codes.payload, words[0])
            await ctx.delay(0.4e-6)
            integrate, drive, polarity = ctx.get(driver.integrate), ctx.get(driver.drive), ctx.get(driver.polarity)
            if ctx.get(dut.fire):
                assert integrate
                assert ctx.get(dut.hold)
                trains = ctx.get(driver.trains)
                negative = ctx.get(driver.trains_polarity) ^ (-ctx.get(dut.down) & (1 << u.n_lines) - 1)
                if not before:
                    slots[:], steps = 0, 0
                for side, lines in enumerate((drive, trains & ~negative, trains & negative)):
                    slots[side] |= (np.array([lines >> line & 1 for line in range(u.n_lines)], np.uint32) << np.uint32(steps))
                steps += 1
            elif integrate:
                charge, steps = (charge, steps) if before else (np.zeros(u.n_lines, np.int32), 0)
                steps += 1
                for line in range(u.n_lines):
                    if drive >> line & 1:
                        assert abs(charge[line]) == steps - 1, "a pulse begins with the window and has no hole"
                        charge[line] += -1 if polarity >> line & 1 else 1
                assert ctx.get(dut.hold)
            else:
                assert drive == 0
            if ended := firing and not ctx.get(dut.fire):
                assert steps == u.slots
                windows.append((ctx.get(dut.tile), ctx.get(dut.step_shift), *(
                    tuple(slots[side][:size].tolist()) for side, size in enumerate((u.n_rows, u.n_cols, u.n_cols)))))
            if trimming and not ctx.get(dut.trim):
                analog.trim(tile.constants, tile.state, tile.program_rngs, ctx.get(dut.tile), ctx.get(dut.transpose),
                            ctx.get(dut.trim_line), charge, ctx.get(dut.trim_kind), steps, ctx.get(dut.down), 0)
                names = ("tile", "transpose", "trim_kind", "trim_line", "down")
                windows.append((*(ctx.get(getattr(dut, name)) for name in names), *charge.tolist()))
            if ended:
                analog.fire(tile.constants, tile.state, tile.program_rngs, ctx.get(dut.tile), slots[0][:u.n_rows],
                            slots[1][:u.n_cols], slots[2][:u.n_cols], ctx.get(dut.step_shift), 0)
            firing, trimming = ctx.get(dut.fire), ctx.get(dut.trim)
            if ctx.get(dut.convert):
                assert (before, integrate) == (1, 0), "the strobe follows the window"
                first, count = ctx.get(dut.out_first), ctx.get(dut.out_count)
                codes = np.zeros(count, np.int32)
                analog.read(tile.constants, tile.state, tile.read_rngs, ctx.get(dut.tile), charge, ctx.get(dut.transpose),
                            ctx.get(dut.half), ctx.get(dut.range), steps, first, count, codes)
                windows.append(tuple(charge.tolist()))
                flat = codes.tolist() + [-1] * (-count % width)                  # past the end: anything, must not be stored
                words = [flat[k:k + width] for k in range(0, len(flat), width)]
                delay = tile.convert_cycles
                tapped.append(list(words))
                taps = []
            delay -= 1
            if ctx.get(dut.codes.ready) and ctx.get(dut.codes.valid):
                words.pop(0)
                taps.append([ctx.get(dut.code_word[k]) for k in range(width)])
                assert ctx.get(dut.code_stb)
                assert ctx.get(dut.code_index) == (len(taps) - 1) * width
                if not words:
                    assert taps == tapped.pop()
            else:
                assert not ctx.get(dut.code_stb)
            if ctx.get(dut.i.ready):
                ready.append(cycle)
                if ctx.get(dut.i.valid):
                    accepts.append(cycle)
            step = [ctx.get(dut.events[name]) if name in dut.events.shape().members else 0 for name in EVENTS]
            assert ctx.get(dut.active) or not any(step)
            events[:] = [a + b for a, b in zip(events, step, strict=True)]
            before = integrate
            cycle += 1
            await ctx.tick()

    simulate(path, watch, feed)
    times = [min(t for t in ready if t > accept) - accept for accept in accepts]
    return out, times, windows, events


@pytest.mark.parametrize("name", UNITS)
def test_rtl_is_the_twin(name):
    u = UNITS[name]
    commands = [*corner_commands(u), *random_commands(u, 25, seed=1)]
    vec = operands(u, 2)
    assert run_rtl(u, commands, vec, Tile(u)) == run_twin(u, commands, vec, Tile(u))


@pytest.mark.parametrize(("idle", "stall", "busy"), list(itertools.product(PAUSES, PAUSES, PAUSES)))
def test_rtl_idle_stall_busy(idle, stall, busy):
    u = UNITS["short"]
    commands = [*corner_commands(u), *random_commands(u, 40, seed=3)]
    vec = operands(u, 4)
    gated = busy == "none"
    vec_out, times, windows, events = run_twin(u, commands, vec, Tile(u, convert_cycles=2))
    rtl_vec, rtl_times, rtl_windows, rtl_events = run_rtl(u, commands, vec, Tile(u, convert_cycles=2), idle, stall, busy, gated)
    assert (rtl_vec, rtl_windows) == (vec_out, windows)
    phases = 2 if stall == "none" else 4                            # codes that come late lengthen convert and readout
    assert (rtl_events[:2], rtl_events[phases:]) == (events[:2], events[phases:])
    if (stall, busy) == ("none", "none"):
        assert rtl_times == times


def test_gating_changes_nothing():
    u = UNITS["wide"]
    commands, vec = list(random_commands(u, 40, seed=6)), operands(u, 7)
    ungated = run_rtl(u, commands, vec, Tile(u), idle="random")
    assert run_rtl(u, commands, vec, Tile(u), idle="random", gated=True) == ungated


def test_model_drive_is_the_definition():
    u = UNITS["cols"]
    source = random.Random(8)
    for _ in range(200):
        v, shift = source.choice((-32768, 32767, source.randint(-32768, 32767))), source.randrange(20)
        vec, lines = np.full(u.vector_width, v, np.int32), np.full(u.n_lines, 9, np.int32)
        twin.drive(u.constants, command(LinesOp.DRIVE, first=4, count=1, shift=shift), vec, np.array(EXPONENTS),
                   np.ones(1, np.int64), lines, np.zeros(1, np.int64), np.zeros(N_EVENTS, np.int64))
        want = [0] * u.n_lines
        want[4] = int(np.sign(v)) * min(abs(v) // 2 ** shift, u.line_max)
        assert lines.tolist() == want


def test_model_drive_divides_the_steps():
    """Of a train's shift, what exceeds line_bits divides the steps, as far as it may; code x step is v 2^-shift, cut once."""
    u = dataclasses.replace(UNITS["cols"], capacitor=1, slot_bits=2)
    for v, shift, fine in itertools.product((-32768, 1000, 32767), range(32), range(8)):
        vec, lines, step_shift = np.full(u.vector_width, v, np.int32), np.zeros(u.n_lines, np.int32), np.full(1, 5)
        twin.drive(u.constants, command(LinesOp.DRIVE, count=1, shift=shift, trains=1, fine=fine), vec, np.array(EXPONENTS),
                   np.ones(1, np.int64), lines, step_shift, np.zeros(N_EVENTS, np.int64))
        assert step_shift[0] == min(max(shift - u.line_bits, 0), fine)
        assert abs(lines[0]) == min(abs(v) >> shift - step_shift[0], u.line_max)


class WindowSpec(Elaboratable):
    """Any writes between windows: a line's pulse is as long as its code and begins with the window, which is ``steps`` long."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m, u = Module(), self.u
        m.submodules.dut = dut = Bank(u)
        for name in ("clear", "en", "addr", "polarity", "start", "steps"):
            port = getattr(dut.i, name)
            m.d.comb += port.eq(any_value(m, port.shape(), name))
        m.d.comb += dut.i.magnitude.eq(any_value(m, u.line_bits * u.vector_width, "magnitude"))
        m.d.comb += Assume(~(dut.integrate & (dut.i.clear | dut.i.en | dut.i.start)))
        m.d.comb += Assume(dut.i.clear + dut.i.en + dut.i.start <= 1)
        m.d.comb += Assume(~dut.i.start | (dut.i.steps != 0))
        line = Signal(range(u.n_lines))
        m.d.comb += [line.eq(AnyConst(len(line))), Assume(line < u.n_lines)]

        code, sign, steps = Signal(u.line_bits), Signal(), Signal(u.line_bits)
        with m.If(dut.i.clear):
            m.d.sync += [code.eq(0), sign.eq(0)]
        with m.Elif(dut.i.en & (dut.i.addr == line // u.vector_width)):
            place = line % u.vector_width
            m.d.sync += [code.eq(dut.i.magnitude[place]), sign.eq(dut.i.polarity.bit_select(place, 1))]
        with m.If(dut.i.start):
            m.d.sync += steps.eq(dut.i.steps)
        drive, past = dut.drive.bit_select(line, 1), Signal(u.line_bits + 1)      # steps of the window before this cycle
        m.d.sync += past.eq(Mux(dut.integrate, past + 1, 0))
        started = Signal()
        m.d.sync += started.eq(dut.i.start)
        m.d.comb += [
            Assert(drive == (dut.integrate & (past < code))), Assert(dut.polarity.bit_select(line, 1) == sign),
            Assert(~dut.integrate | (past < steps)), Assert(dut.last == (dut.integrate & (past + 1 == steps))),
            Assert(dut.steps == steps),
            Assert(~dut.integrate | (dut.step == past + 1)), Assert(dut.integrate | (dut.step == 0)),
        ]
        for bit, plane in enumerate(dut.planes):
            m.d.comb += Assert(plane.bit_select(line, 1) == code[bit])
        with m.If(started):
            m.d.comb += Assert(dut.integrate & (past == 0))
        with m.If(dut.integrate):
            m.d.comb += Assert(dut.active)
        m.d.comb += Cover((past == 6) & ~dut.integrate & (code == 5) & sign)
        return m


class TrainSpec(Elaboratable):
    """Any writes between windows: in slot k a line is high just when its code is above the slot's threshold, and of rows when its
    sign is the one asked for. So the pulses of a code in a train of spread slots are those that the code says: round(code / 2).
    A random train's thresholds are the spread ones XOR what ``random`` was at its start.
    """

    def __init__(self, u, side):
        self.u, self.side = u, side

    def elaborate(self, platform):
        m, u = Module(), self.u
        m.submodules.dut = dut = Bank(u, self.side)
        for name in ("clear", "en", "addr", "polarity", "start", "train", "sequence", "negative"):
            port = getattr(dut.i, name)
            m.d.comb += port.eq(any_value(m, port.shape(), name))
        m.d.comb += [dut.i.steps.eq(u.slots), dut.i.magnitude.eq(any_value(m, u.line_bits * u.vector_width, "magnitude")),
                     dut.random.eq(any_value(m, u.line_bits, "random")), Assume(~dut.i.start | dut.i.train),
                     Assume(~(dut.integrate & (dut.i.clear | dut.i.en | dut.i.start))),
                     Assume(dut.i.clear + dut.i.en + dut.i.start <= 1)]
        code, sign, slot, random, sequence, negative, pulses = (
            Signal(u.line_bits), Signal(), Signal(u.line_bits + 1), Signal(u.line_bits), Signal(), Signal(), Signal(u.line_bits))
        with m.If(dut.i.clear):
            m.d.sync += [code.eq(0), sign.eq(0)]
        with m.Elif(dut.i.en & (dut.i.addr == 0)):
            m.d.sync += [code.eq(dut.i.magnitude[1]), sign.eq(dut.i.polarity[1])]
        with m.If(dut.i.start):
            m.d.sync += [sequence.eq(dut.i.sequence), negative.eq(dut.i.negative), pulses.eq(0), random.eq(dut.random)]
        m.d.sync += slot.eq(Mux(dut.integrate, slot + 1, 0))
        drive = dut.drive[1]
        spread = Mux(self.side, Array((1, 5, 3, 7))[slot[:2]], Array((1, 3, 5, 7))[slot[:2]])
        chosen = Const(1) if self.side else sign == negative
        with m.If(drive):
            m.d.sync += pulses.eq(pulses + 1)
        m.d.comb += [
            Assert(drive == (dut.integrate & (code > (spread ^ Mux(sequence, random, 0))) & chosen)),
            Assert(dut.integrate | (dut.drive == 0)), Assert(~dut.integrate | (dut.step == slot + 1)),
            Assert(dut.integrate | (dut.step == 0)), Assert(~dut.integrate | (slot < u.slots)), Assert(dut.steps[:2] == 0),
            Assert(~dut.integrate | (dut.steps == u.slots)), Assert(dut.polarity[1] == sign),
            *(Assert(plane[1] == code[bit]) for bit, plane in enumerate(dut.planes)),
            Cover((slot == u.slots) & (pulses == 2) & (code == 4) & ~sequence), Cover(drive & sequence),
        ]
        held = dut.held
        m.d.comb += Assert(~dut.integrate | (held.train & (held.sequence == sequence) & (held.negative == negative)
                                             & (held.random == random)))
        full = Signal()                                      # a whole train of spread slots has passed since the start
        m.d.sync += full.eq(dut.last & ~sequence)
        if self.side == 0:
            m.d.comb += Assert(~dut.integrate | sequence | ~chosen | (pulses == Mux(code > 2 * slot, slot, code >> 1)))
            m.d.comb += Assert(~full | ~chosen | (pulses == code >> 1))
        return m


class PolarityIsTheSign(Elaboratable):
    """A FIRE steps down just when rows, ``negate`` and polarity say so; a read takes the capacitor's part by the same one."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Decoder(self.u)
        m.d.comb += [dut.word.eq(any_value(m, len(dut.word), "word")), dut.inverted.eq(any_value(m, 1, "inverted"))]
        opcode, lines = dut.word[:6], dut.lines

        def value(op, name):
            return operand(dut.word, op, name)

        own = value(Opcode.READ, "polarity")
        fire, read, trim = (opcode == op for op in (Opcode.FIRE, Opcode.READ, Opcode.TRIM))
        whole = value(Opcode.READ, "half") == Half.DIFFERENCE
        m.d.comb += [
            Assert(~fire | (lines.down == value(Opcode.FIRE, "rows") ^ value(Opcode.FIRE, "negate") ^ dut.inverted)),
            Assert(~trim | (lines.down == dut.inverted)),
            Assert(~(read & whole & ~own[1]) | ((lines.half == Half.INVERTED) == dut.inverted)),
            Assert(~(read & whole & own[1]) | ((lines.half == Half.INVERTED) == own[0])),
            Cover(fire & lines.down), Cover(read & (lines.half == Half.INVERTED)),
        ]
        return m


class ExclusionSpec(Elaboratable):
    """Any commands on both sides: no pulse, and no gap of a pulse, within a window or at its strobe; SET and RESET apart."""

    def __init__(self, u):
        self.u = u

    def elaborate(self, platform):
        m, u = Module(), self.u
        m.submodules.unit = unit = ReadUnit(u)
        m.submodules.driver = driver = LineDriver(u)
        m.submodules.pulses = pulses = PulseGen(u)
        connect(m, unit.lines, driver.i)
        m.d.comb += [unit.last.eq(driver.last), pulses.hold.eq(unit.hold), unit.program_busy.eq(pulses.busy)]
        drive_stream(m, unit.i)
        drive_stream(m, unit.codes)
        drive_stream(m, pulses.i)
        m.d.comb += unit.vector.data.eq(any_value(m, u.element_bits * u.vector_width, "data"))
        m.d.comb += [Assume(~unit.i.valid | (unit.i.payload.steps[:u.line_bits] != 0)),
                     Assume(~pulses.i.valid | pulses.i.payload.counts.as_value().any())]
        firing = pulses.pulse_pos.any() | pulses.pulse_neg.any()
        window = Signal()
        m.d.comb += window.eq(driver.integrate | unit.convert)
        silent = Signal(8, init=255)                                     # cycles since the last pulse
        kind = Signal()                                                  # of the last pulse
        m.d.sync += silent.eq(Mux(firing, 0, Mux(silent == 255, silent, silent + 1)))
        with m.If(firing):
            m.d.sync += kind.eq(pulses.program_kind)
        gap = Mux(kind, u.reset_gap_cycles, u.set_gap_cycles)
        m.d.comb += [
            Assert(~(window & firing)), Assert(~window | unit.hold if u.capacitor else window == unit.hold),
            Assert(~(driver.integrate & unit.convert)),
            Assert((pulses.busy & ~pulses.armed) | (silent + 1 >= gap)),
            Assert(~window | (silent >= gap)), Assert((pulses.pulse_pos & pulses.pulse_neg) == 0),
            Assert(driver.integrate | (driver.drive == 0)),
            Assert(~unit.lines.en | unit.events.phase_drive),
        ]
        if u.capacitor:                                                  # both banks run as one
            rows, columns = driver.rows, driver.columns
            m.d.comb += [
                Assert(~columns.integrate | (rows.integrate & (columns.step == rows.step) & (columns.steps == rows.steps))),
                Assert(columns.integrate | ((columns.step == 0) & (columns.drive == 0))),
                Assert(rows.integrate | (rows.step == 0)),
                Assert(~(unit.fire | unit.trim) | driver.integrate), Cover(unit.fire & columns.integrate), Cover(unit.trim),
            ]
        with m.If(firing & (silent != 0)):
            m.d.comb += Assert(silent >= gap)
        with m.If(firing & (silent == 0)):                               # the kind does not change under a pulse
            m.d.comb += Assert((kind == pulses.program_kind) | (silent == 255))
        waited = Signal()
        m.d.sync += waited.eq((waited | (unit.i.valid & unit.i.ready & pulses.busy & (unit.i.payload.op == LinesOp.READ)))
                              & ~unit.convert)
        m.d.comb += [Cover(waited & unit.convert), Cover(pulses.armed & unit.hold & (silent < 8))]
        return m


FORMAL = UnitParams(
    lanes=2, vector_width=4, n_rows=4, n_cols=4, line_bits=3, outer_bits=2, n_tiles=2, vector_words=16, eps_log2=11, chi_bits=12,
    update_max_steps=1, set_cycles=2, set_gap_cycles=2, reset_cycles=3, reset_gap_cycles=3)


@pytest.mark.formal
def test_formal_window():
    prove(WindowSpec(FORMAL), "line_driver_window", depth=4, cover_depth=12)


TRAINS = dataclasses.replace(FORMAL, capacitor=1, slot_bits=2)


@pytest.mark.formal
@pytest.mark.parametrize("side", [0, 1])
def test_formal_train(side):
    prove(TrainSpec(TRAINS, side), f"line_driver_train_{side}", depth=3, cover_depth=12)


@pytest.mark.formal
def test_formal_polarity_is_the_sign():
    prove(PolarityIsTheSign(TRAINS), "decoder_polarity", depth=1)


@pytest.mark.formal
def test_formal_exclusion_with_trains():
    prove(ExclusionSpec(dataclasses.replace(TRAINS, reset_gap_cycles=3)), "read_unit_exclusion_trains", depth=12, cover_depth=24)


@pytest.mark.formal
def test_formal_exclusion():
    prove(ExclusionSpec(FORMAL), "read_unit_exclusion", depth=12, cover_depth=24)
