"""Crossbar tiles: the state of all tiles and the two operations of the tile port, ``read`` and ``program``.

``read`` and ``program`` take the tuple of a purpose's generators, for compiled callers; ``read_one`` and ``program_one`` the
tile's own one, for Python callers: numba takes 10 us to unwrap a generator at every call from Python.

State is integer (``pcm``: LSB = 2^g_lsb_log2 uS); generators are ``numpy.random.Generator``, one per tile and purpose, passed as
tuples indexed by tile. The functions called per image are compiled and check nothing but the edges of the tile: a line or output
that the tile does not have carries no charge (code 0), holds no device, and takes no draw.

Draw order of a tile: ``read`` takes one normal per output, ascending; ``program`` one per pulsed device, ascending lane, within a
lane G+ before G-. With ``noise`` False nothing is drawn and every value is its rounded mean (initial conductances stay random).
So an event split into several of consecutive lanes gives the same conductances.

In builds with ``unit.capacitor`` there are two more: ``fire``, a coincidence update, and ``trim``, an operation on the cells of
one line. ``trim`` draws per cell, ascending: RESET one for G+, one for G-; RAMP two; RECHARGE and TUNE none. ``fire`` draws
nothing. There cells have a capacitor (``capacitor``; W = gain (G+ - G-) +- (g - g_ref)), or, with ``capacitor.present`` 0, they
are PCM pairs alone: W = G+ - G- in both polarities, and a step up or down is a SET pulse on G+ or G-, which cannot be divided;
then ``fire`` and TUNE draw one per pulse, ``fire`` in order of rows, then columns. After a ramp a device has no memory of its
RESET left: n_set is at the end of its table.

Source: ``pcm`` and ``capacitor`` for the devices; design choice for the rest.
"""
from typing import NamedTuple

import numpy as np

from model.analog import capacitor, converter, crossbar, pcm
from model.compiled import borrowing, compiled
from model.isa import Half, Kind, Trim, Walk
from model.params import Params, TileParams

__all__ = [
    "Generators", "TileConstants", "TileState", "age", "decay", "digest_parts", "drift", "fire", "fire_one", "new_tiles",
    "program", "program_one", "read", "read_one", "spawn_generators", "ticks", "trim", "trim_one", "weights",
]

_DIFFERENCE, _POSITIVE, _NEGATIVE, _INVERTED = (int(half) for half in (
    Half.DIFFERENCE, Half.POSITIVE, Half.NEGATIVE, Half.INVERTED))
_SET, _RESET = int(Kind.SET), int(Kind.RESET)
_TRIM_RESET, _RAMP, _RECHARGE = int(Trim.RESET), int(Trim.RAMP), int(Trim.RECHARGE)
GAIN_BITS = 8
"""Fraction bits of the gain of the PCM pair [bit]."""
_ROWS = int(Walk.ROWS)


class Generators(NamedTuple):
    """Per purpose a tuple of generators, one per tile. The position of a field is its purpose number in the seed layout."""

    init: tuple[np.random.Generator, ...]
    """Initial conductances, device spread, then V_T, steps and ramps of cells with a capacitor."""
    read: tuple[np.random.Generator, ...]
    """Read noise of training."""
    program: tuple[np.random.Generator, ...]
    """Programming noise."""
    evaluation: tuple[np.random.Generator, ...]
    """Read noise of test passes: they change no training draw."""


class TileConstants(NamedTuple):
    """What the compiled functions need to know; made by ``new_tiles``."""

    device: pcm.DeviceConstants
    converter: converter.ConverterConstants
    sigma_scale: float
    """2^variance_lsb_log2 / (conductance LSB)^2, a power of two: from a summed variance to squared charge LSB."""
    capacitor: capacitor.CapacitorConstants
    gain: int
    """Of the PCM pair against the capacitor [2^-8]; 1.0 where there is none."""
    capacitor_variance: int
    """Read variance of g - g_ref [variance LSB]"""
    bound: int
    """No weight is beyond +- this [LSB]."""


class TileState(NamedTuple):
    """All tiles; axes (tile, device or plane, row, col), col contiguous. ``g`` and ``variance`` follow from the other arrays."""

    g_programmed: np.ndarray
    """(tiles, 2, rows, cols) int32 [LSB]: conductance at ``tick``; device 0 is G+, 1 is G-."""
    n_set: np.ndarray
    """(tiles, 2, rows, cols) uint16: SET pulses since RESET, up to the end of the table."""
    tick: np.ndarray
    """(tiles, 2, rows, cols) int64 [drift tick]: last programming."""
    spread: np.ndarray
    """(tiles, 2, rows, cols) int32 [2^-12]: factor on the mean SET step; (tiles, 2, 0, 0) when ``device_spread`` is 0."""
    pulses: np.ndarray
    """(tiles, 2, 2) int64: pulses given, by Kind and device."""
    g: np.ndarray
    """(tiles, 3 or 4, rows, cols) int32 [LSB]: effective (drifted) conductance by Half: G+ - G-, G+, G-; with capacitors
    gain (G+ - G-) + (g - g_ref), G+, G-, gain (G+ - G-) - (g - g_ref)."""
    variance: np.ndarray
    """(tiles, 3, rows, cols) int16 [variance LSB]: read variance by Half: of the weight, of G+, of G-."""
    cells: capacitor.Cells
    ramp_spread: np.ndarray
    """(tiles, 2, rows, cols) int32 [2^-12]: factor on the mean of a ramp; (tiles, 2, 0, 0) without capacitors."""
    rewritten: np.ndarray
    """(2, tiles, rows, cols) int32: RESETs of the pair, RECHARGEs of the capacitor by TRIM, for the ledger; without capacitors
    (2, tiles, 0, 0)."""
    arrived: np.ndarray
    """(tiles, 2) int64: trains and TRIMs that came, for the ledger."""


def spawn_generators(seed: int, n_tiles: int) -> Generators:
    """Seeded generators: PCG64 over ``SeedSequence(seed, spawn_key=(purpose, tile))``.

    That is ``SeedSequence(seed).spawn(4)[purpose].spawn(n_tiles)[tile]``; purpose = position in ``Generators``. Purposes
    from 4 on are free for others (sample order). A tile's streams do not depend on the number of tiles.
    """
    def generator(purpose, tile):
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, tile))))

    return Generators(*(
        tuple(generator(purpose, tile) for tile in range(n_tiles)) for purpose in range(len(Generators._fields))))


def new_tiles(params: Params, generators: tuple[np.random.Generator, ...]) -> tuple[TileConstants, TileState]:
    """Tiles with conductances N(init_us) clipped to the window; ``generators`` is ``Generators.init``, one per tile.

    Per tile (2, rows, cols) normals are drawn, then as many for the spread if ``device_spread`` is not 0; then, with capacitors,
    those of ``capacitor.vary``; then, with ``unit.capacitor``, (2, rows, cols) for the ramps. The devices count as RESET
    and not yet pulsed (n_set = 0), programmed at tick 0.
    """
    u, p, c = params.unit, params.tile, params.capacitor
    device = pcm.device_constants(p, c if u.capacitor else None)
    capacitors, present = capacitor.capacitor_constants(params), u.capacitor and c.present
    gain = c.gain if present else 1.0
    span = capacitor.conductance(capacitors, capacitors.v_high, 0) if present else 0
    tc = TileConstants(
        device, converter.converter_constants(params), 2.0 ** (device.variance_lsb_log2 - 2 * p.g_lsb_log2), capacitors,
        round(gain * (1 << GAIN_BITS)), round(c.read_sigma_us**2 / 2.0**device.variance_lsb_log2) if present else 0,
        int(gain * device.g_max) + 1 + int(span))
    shape = (u.n_tiles, 2, u.n_rows, u.n_cols)
    planes = (u.n_tiles, 3, u.n_rows, u.n_cols)
    state = TileState(
        g_programmed=np.zeros(shape, np.int32), n_set=np.zeros(shape, np.uint16), tick=np.zeros(shape, np.int64),
        spread=np.zeros(shape if p.device_spread else (u.n_tiles, 2, 0, 0), np.int32),
        pulses=np.zeros((u.n_tiles, 2, 2), np.int64),
        g=np.zeros((u.n_tiles, 4 if u.capacitor else 3, u.n_rows, u.n_cols), np.int32), variance=np.zeros(planes, np.int16),
        cells=capacitor.new_cells(params), ramp_spread=np.zeros(shape if u.capacitor else (u.n_tiles, 2, 0, 0), np.int32),
        rewritten=np.zeros((2, u.n_tiles, u.n_rows, u.n_cols) if u.capacitor else (2, u.n_tiles, 0, 0), np.int32),
        arrived=np.zeros((u.n_tiles, 2), np.int64))
    one = 1 << pcm.SPREAD_BITS
    for tile, rng in enumerate(generators):
        g = pcm.normals(rng, shape[1:], p.init_us[0] / 2.0 ** p.g_lsb_log2, p.init_us[1] / 2.0 ** p.g_lsb_log2)
        state.g_programmed[tile] = np.clip(g, device.g_min, device.g_max)
        if p.device_spread:
            state.spread[tile] = np.maximum(pcm.normals(rng, shape[1:], one, p.device_spread * one), 0)
        if present:
            capacitor.vary(params, state.cells, tile, rng)
        if u.capacitor:
            state.ramp_spread[tile] = np.maximum(pcm.normals(rng, shape[1:], one, c.ramp_spread * one), 0)
        drift(tc, state, tile, 0)
    return tc, state


@borrowing
def read(tc, state, rng, tile, codes, transpose, half, range_select, steps, first, count, out):
    """One read: converter codes of outputs ``first`` ... into ``out[:count]`` (int32); returns the number of clipped codes.

    ``codes``: int32, signed dose of each driven line [PWM steps] (what it carried within the window), by absolute position;
    entries past the driven side are ignored. ``transpose``, ``half``, ``range_select``: as in ``isa``. ``steps``: the window
    [PWM steps], >= 1. ``rng``: ``Generators.read`` or ``.evaluation``. Charge noise: N(0, sum_i code_i^2 sigma_i^2), rounded to
    the charge LSB.
    """
    return read_one(tc, state, rng[tile], tile, codes, transpose, half, range_select, steps, first, count, out)


@compiled
def read_one(tc, state, generator, tile, codes, transpose, half, range_select, steps, first, count, out):
    """``read`` with the tile's own generator."""
    n_driven = state.g.shape[3] if transpose else state.g.shape[2]
    n_outputs = state.g.shape[2] if transpose else state.g.shape[3]
    n = max(min(count, n_outputs - first), 0)
    out[:count] = 0
    weights = codes[:n_driven]
    charge = np.zeros(n, np.int64)
    variance = np.zeros(n, np.int64)
    if transpose:
        crossbar.transpose(state.g[tile, half], weights, first, charge)
    else:
        crossbar.forward(state.g[tile, half], weights, first, tc.bound, charge)
    if tc.device.noise:
        squares, part = weights * weights, half % _INVERTED
        if transpose:
            crossbar.transpose(state.variance[tile, part], squares, first, variance)
        else:
            crossbar.forward(state.variance[tile, part], squares, first, 2 * pcm.VARIANCE_MAX, variance)
        scale = tc.sigma_scale
        for j in range(n):
            sigma = np.int64(np.sqrt(float(variance[j]) * scale) + 0.5)
            charge[j] += (sigma * pcm.draw(generator) + (1 << (pcm.DRAW_BITS - 1))) >> pcm.DRAW_BITS
    lsb, adc_max = converter.lsb_charge(tc.converter, range_select, steps), tc.converter.adc_max
    clips = 0
    for j in range(n):
        code, clipped = converter.convert(adc_max, lsb, charge[j])
        out[j] = code
        clips += clipped
    return clips


@borrowing
def program(tc, state, rng, tile, walk, line, first, pos, neg, kind, tick):
    """One pulse of the tile port; returns the number of devices it reached.

    Lane k is connected to position ``first + k`` of the axis other than ``walk``; ``line`` is the selected line of the walk axis.
    Where ``pos[k]`` (uint8) is set, G+ gets one pulse of ``kind`` (isa.Kind), where ``neg[k]``, G-. ``tick``: drift time [tick].
    ``rng``: ``Generators.program``.
    """
    return program_one(tc, state, rng[tile], tile, walk, line, first, pos, neg, kind, tick)


@borrowing
def program_one(tc, state, generator, tile, walk, line, first, pos, neg, kind, tick):
    """``program`` with the tile's own generator."""
    n_rows, n_cols = state.g.shape[2], state.g.shape[3]
    by_row = walk == _ROWS
    if line >= (n_rows if by_row else n_cols):
        return 0
    n = 0
    for k in range(min(len(pos), (n_cols if by_row else n_rows) - first)):
        if pos[k] or neg[k]:
            row, col = (line, first + k) if by_row else (first + k, line)
            if pos[k]:
                _pulse(tc.device, state, generator, tile, 0, row, col, kind, tick)
                n += 1
            if neg[k]:
                _pulse(tc.device, state, generator, tile, 1, row, col, kind, tick)
                n += 1
            _derive(tc, state, tile, row, col)
    return n


@borrowing
def _pulse(device, state, rng, tile, side, row, col, kind, tick):
    z = pcm.draw(rng) if device.noise else np.int64(0)
    if kind == _SET:
        n = min(np.int64(state.n_set[tile, side, row, col]) + 1, len(device.set_mean) - 1)
        spread = state.spread[tile, side, row, col] if state.spread.shape[2] else np.int32(1 << pcm.SPREAD_BITS)
        level = pcm.set_level(device, state.g[tile, 1 + side, row, col], n, spread, z)
    else:
        n = 0
        level = pcm.reset_level(device, z)
    state.n_set[tile, side, row, col] = n
    state.g_programmed[tile, side, row, col] = level
    state.tick[tile, side, row, col] = tick
    state.g[tile, 1 + side, row, col] = level
    state.pulses[tile, kind, side] += 1


@borrowing
def _derive(tc, state, tile, row, col):
    """Weight and variances of a cell, from its effective conductances and its capacitor."""
    device = tc.device
    pos, neg = state.g[tile, _POSITIVE, row, col], state.g[tile, _NEGATIVE, row, col]
    variance_pos, variance_neg = pcm.read_variance(device, pos), pcm.read_variance(device, neg)
    state.variance[tile, _POSITIVE, row, col] = variance_pos
    state.variance[tile, _NEGATIVE, row, col] = variance_neg
    if state.cells.v.shape[1] == 0:
        state.g[tile, _DIFFERENCE, row, col] = pos - neg
        if state.g.shape[1] > _INVERTED:
            state.g[tile, _INVERTED, row, col] = pos - neg
        state.variance[tile, _DIFFERENCE, row, col] = variance_pos + variance_neg
    else:
        gain = np.int64(tc.gain)
        state.variance[tile, _DIFFERENCE, row, col] = (
            (gain * gain * (variance_pos + variance_neg) >> 2 * GAIN_BITS) + tc.capacitor_variance)
        _combine(tc, state, tile, row, col, _reference(tc, state, tile, col))


@borrowing
def _reference(tc, state, tile, col):
    """g_ref of a column [LSB]."""
    return capacitor.conductance(tc.capacitor, state.cells.v_reference[tile, col], state.cells.threshold_reference[tile, col])


@borrowing
def _combine(tc, state, tile, row, col, reference):
    """The weight in both polarities, from the cell's conductances."""
    pair = (tc.gain * (np.int64(state.g[tile, _POSITIVE, row, col]) - state.g[tile, _NEGATIVE, row, col])
            + (1 << GAIN_BITS - 1)) >> GAIN_BITS
    part = capacitor.conductance(tc.capacitor, state.cells.v[tile, row, col], state.cells.threshold[tile, row, col]) - reference
    state.g[tile, _DIFFERENCE, row, col] = pair + part
    state.g[tile, _INVERTED, row, col] = pair - part


@borrowing
def _step(tc, cells, tile, row, col, n, step_shift):
    """``n`` steps of a cell's capacitor, down where n < 0, each 2^-step_shift of a full one."""
    cells.v[tile, row, col] = capacitor.stepped(
        tc.capacitor, cells.v[tile, row, col], cells.up[tile, row, col], cells.down[tile, row, col], n, step_shift)


@borrowing
def _set_pulses(tc, state, generator, tile, row, col, n, tick):
    """``n`` steps of a pair without a capacitor: SET pulses on G+, or on G- where n < 0."""
    for _ in range(abs(n)):
        _pulse(tc.device, state, generator, tile, 0 if n > 0 else 1, row, col, _SET, tick)
    _derive(tc, state, tile, row, col)


@compiled
def fire(tc, state, rng, tile, rows, ups, downs, step_shift, tick):
    """A coincidence update: a cell takes a step up in every slot in which its row and its column's up line are high, and so down.

    Slot patterns, uint32, bit s for slot s: ``rows`` (n_rows,); ``ups``, ``downs`` (n_cols,), never both in a slot. The steps of
    a cell are taken as one, up less down; a step is 2^-step_shift of a full one. tick: drift time [tick]. ``rng``:
    ``Generators.program``.
    """
    fire_one(tc, state, rng[tile], tile, rows, ups, downs, step_shift, tick)


@compiled
def fire_one(tc, state, generator, tile, rows, ups, downs, step_shift, tick):
    """``fire`` with the tile's own generator."""
    state.arrived[tile, 0] += 1
    columns, pairs = np.flatnonzero(ups | downs), state.cells.v.shape[1] == 0
    references = np.zeros(len(columns), np.int64)
    for k, col in enumerate(columns if not pairs else columns[:0]):
        references[k] = _reference(tc, state, tile, col)
    for row in np.flatnonzero(rows):
        pattern = rows[row]
        for k, col in enumerate(columns):
            n = capacitor.popcount(pattern & ups[col]) - capacitor.popcount(pattern & downs[col])
            if n and pairs:
                _set_pulses(tc, state, generator, tile, row, col, n, tick)
            elif n:
                _step(tc, state.cells, tile, row, col, n, step_shift)
                _combine(tc, state, tile, row, col, references[k])


@borrowing
def trim(tc, state, rng, tile, transpose, line, codes, kind, steps, down, tick):
    """One operation ``kind`` (isa.Trim) on the cells of column ``line`` (``transpose``) or row ``line``; draws: see the module.

    codes: int32, signed dose of each line driver [steps], by absolute position along the line; steps: the window; down: TUNE
    with positive codes steps down; tick: drift time [tick]. A cell is RESET or recharged where its line was high for all of the
    window. RECHARGE of a column recharges its reference. ``rng``: ``Generators.program``.
    """
    trim_one(tc, state, rng[tile], tile, transpose, line, codes, kind, steps, down, tick)


@borrowing
def trim_one(tc, state, generator, tile, transpose, line, codes, kind, steps, down, tick):
    """``trim`` with the tile's own generator."""
    state.arrived[tile, 1] += 1
    n_rows, n_cols = state.g.shape[2], state.g.shape[3]
    if line >= (n_cols if transpose else n_rows):
        return
    cells, pairs = state.cells, state.cells.v.shape[1] == 0
    if pairs and kind == _RECHARGE:
        return
    if kind == _RECHARGE and transpose:
        cells.v_reference[tile, line] = tc.capacitor.v_init
    for place in range(n_rows if transpose else n_cols):
        code = codes[place]
        if code == 0 and kind != _RECHARGE:
            continue
        row, col = (place, line) if transpose else (line, place)
        if kind == _TRIM_RESET:
            if abs(code) == steps:
                for side in range(2):
                    _pulse(tc.device, state, generator, tile, side, row, col, _RESET, tick)
                state.rewritten[0, tile, row, col] += 1
        elif kind == _RAMP:
            _ramp(tc.device, state, generator, tile, 0 if code > 0 else 1, row, col, abs(code), tick)
        elif kind == _RECHARGE:
            if abs(code) == steps:
                cells.v[tile, row, col] = tc.capacitor.v_init
                state.rewritten[1, tile, row, col] += 1
        elif pairs:
            _set_pulses(tc, state, generator, tile, row, col, -code if down else code, tick)
        else:
            _step(tc, cells, tile, row, col, -code if down else code, 0)
        _derive(tc, state, tile, row, col)


@borrowing
def _ramp(device, state, rng, tile, side, row, col, n, tick):
    """SET ramp of ``n`` steps of a device that was RESET before; two draws."""
    z, z_excess = np.int64(0), np.int64(0)
    if device.noise:
        z, z_excess = pcm.draw(rng), pcm.draw(rng)
    level = pcm.ramp_level(device, n, state.ramp_spread[tile, side, row, col], z, z_excess)
    state.n_set[tile, side, row, col] = len(device.set_mean) - 1
    state.g_programmed[tile, side, row, col] = level
    state.tick[tile, side, row, col] = tick
    state.g[tile, 1 + side, row, col] = level
    state.pulses[tile, _SET, side] += 1


@compiled
def decay(tc, state, tile, n):
    """Let the capacitors of a tile decay for ``n`` decay ticks (0: nothing)."""
    if n <= 0 or state.cells.v.shape[1] == 0:
        return
    capacitor.decay(tc.capacitor, state.cells, tile, n)
    references = np.zeros(state.g.shape[3], np.int64)
    for col in range(len(references)):
        references[col] = _reference(tc, state, tile, col)
    for row in range(state.g.shape[2]):
        for col in range(state.g.shape[3]):
            _combine(tc, state, tile, row, col, references[col])


@borrowing
def drift(tc, state, tile, tick):
    """Effective conductances of a tile at ``tick``. Programmed values stay: a call with an earlier tick undoes it."""
    for row in range(state.g.shape[2]):
        for col in range(state.g.shape[3]):
            for side in range(2):
                passed = tick - state.tick[tile, side, row, col]
                state.g[tile, 1 + side, row, col] = pcm.drifted(tc.device, state.g_programmed[tile, side, row, col], passed)
            _derive(tc, state, tile, row, col)


def ticks(p: TileParams, seconds: float) -> int:
    """Drift ticks of a time, to nearest."""
    return round(seconds / (p.cycle_s * 2.0 ** p.drift_tick_log2))


def age(tc: TileConstants, state: TileState, p: TileParams, tick: int, seconds: float) -> None:
    """Let all tiles stand ``seconds`` (up to years) after ``tick``, for inference after training; 0.0 s undoes it."""
    for tile in range(len(state.g)):
        drift(tc, state, tile, tick + ticks(p, seconds))


def weights(p: TileParams, state: TileState, tile: int) -> np.ndarray:
    """Effective weights (DIFFERENCE plane) / weight_range_us of a tile, (rows, cols) float64 [1]."""
    return state.g[tile, _DIFFERENCE] * (2.0 ** p.g_lsb_log2 / p.weight_range_us)


def digest_parts(state: TileState, generators: Generators):
    """Yield (name, bytes) for the digest of a run, in this order, little endian, arrays in C order.

    g_programmed int32, n_set uint16, tick int64, spread int32, pulses int64, g int32 (``variance`` follows from g); with
    capacitors cells.v and cells.v_reference int32; then ``generator.<purpose>.<tile>`` for init, read, program: state (16 bytes),
    increment (16), has_uint32 (1), uinteger (4).
    The evaluation generators are left out: test passes change no training state.
    """
    for name in ("g_programmed", "n_set", "tick", "spread", "pulses", "g"):
        array = getattr(state, name)
        yield name, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    if state.cells.v.size:
        for name in ("v", "v_reference"):
            yield f"cells.{name}", getattr(state.cells, name).astype("<i4", copy=False).tobytes()
    for purpose in ("init", "read", "program"):
        for tile, generator in enumerate(getattr(generators, purpose)):
            s = generator.bit_generator.state
            yield f"generator.{purpose}.{tile}", (
                int(s["state"]["state"]).to_bytes(16, "little") + int(s["state"]["inc"]).to_bytes(16, "little")
                + int(s["has_uint32"]).to_bytes(1, "little") + int(s["uinteger"]).to_bytes(4, "little"))
