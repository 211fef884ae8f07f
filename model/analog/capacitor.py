"""3T1C capacitor cells: voltage, read transistor, steps up and down, decay; the shared reference; integers as state.

The lower-significance part of a weight is g - g_ref. V is the voltage of a cell's capacitor, V_T, up and down are its own:

    g       = (k - q u) u,   u = max(V - V_T, 0)
    n up    V <- clip(V + n 2^-f up (1 - a (V - V_sym)))        n: slots in which row and column overlap, taken as one step
    n down  V <- clip(V - n 2^-f down (1 + b (V - V_sym)))      f: step shift of the train, one for all cells
    decay   V <- V_decay - (V_decay - V) exp(-t / tau)
    recharge V <- V_init

The reference of a column is such a cell that is never stepped: it decays with the others, so that only differences matter. TRIM
RECHARGE of a column recharges its reference too.

Units: voltages are integers of 2^-24 V, conductances of 2^g_lsb_log2 uS, slopes Q12, decay factors Q24. Nothing is drawn after
the cells are made.

Source: Ambrogio et al. 2018 [papers.md A2, A4, A6]; the curves, the reference per column and all formats are design choices.
"""
import math
from typing import NamedTuple

import numpy as np

from model.analog.pcm import normals
from model.compiled import borrowing
from model.params import Params

__all__ = ["CapacitorConstants", "Cells", "capacitor_constants", "conductance", "decay", "new_cells", "popcount", "stepped",
           "vary"]

V_BITS = 24
"""Fraction bits of a voltage [bit]."""
SLOPE_BITS = 12
"""Fraction bits of the slopes a and b [bit]."""
DECAY_BITS = 24
"""Fraction bits of a decay factor [bit]."""


class CapacitorConstants(NamedTuple):
    """Constants as integers; made by ``capacitor_constants``."""

    v_init: int
    v_low: int
    v_high: int
    v_decay: int
    v_symmetric: int
    """[2^-24 V]"""
    k: int
    """[LSB/V]"""
    q: int
    """[LSB/V^2]"""
    up_slope: int
    down_slope: int
    """a, b [2^-12/V]"""
    decay: np.ndarray
    """exp(-n tick / tau) over n = 0 .. 2^10 - 1 ticks, int64 [2^-24]; longer times take several steps."""


class Cells(NamedTuple):
    """All tiles' cells, axes (tile, row, col), int32; references (tile, col). All empty where there are no capacitors."""

    v: np.ndarray
    """[2^-24 V]"""
    v_reference: np.ndarray
    """(tiles, cols) [2^-24 V]"""
    threshold: np.ndarray
    """V_T [2^-24 V]"""
    threshold_reference: np.ndarray
    """(tiles, cols) [2^-24 V]"""
    up: np.ndarray
    """Step up at V_sym [2^-24 V]"""
    down: np.ndarray
    """Step down at V_sym [2^-24 V]"""


def capacitor_constants(params: Params) -> CapacitorConstants:
    """Integers and the decay table of ``params``."""
    p, one = params.capacitor, 1 << V_BITS
    lsb_us = 2.0 ** params.tile.g_lsb_log2
    tick_s = params.tile.cycle_s * 2.0 ** p.decay_tick_log2
    return CapacitorConstants(
        v_init=round(p.v_init * one), v_low=round(p.v_window[0] * one), v_high=round(p.v_window[1] * one),
        v_decay=round(p.v_decay * one), v_symmetric=round(p.v_symmetric * one),
        k=round(p.slope[0] / lsb_us), q=round(p.slope[1] / lsb_us),
        up_slope=round(p.step_slope[0] * (1 << SLOPE_BITS)), down_slope=round(p.step_slope[1] * (1 << SLOPE_BITS)),
        decay=np.array([round(math.exp(-n * tick_s / p.decay_s) * (1 << DECAY_BITS)) for n in range(1 << 10)], np.int64))


def new_cells(params: Params) -> Cells:
    """Cells at V_init, all alike: ``vary`` gives each its own; empty arrays where there are no capacitors."""
    u = params.unit
    rows, cols = (u.n_rows, u.n_cols) if u.capacitor and params.capacitor.present else (0, 0)
    v_init = round(params.capacitor.v_init * (1 << V_BITS))
    cell, reference = (u.n_tiles, rows, cols), (u.n_tiles, cols)
    return Cells(
        v=np.full(cell, v_init, np.int32), v_reference=np.full(reference, v_init, np.int32),
        threshold=np.zeros(cell, np.int32), threshold_reference=np.zeros(reference, np.int32),
        up=np.zeros(cell, np.int32), down=np.zeros(cell, np.int32))


def vary(params: Params, cells: Cells, tile: int, rng: np.random.Generator) -> None:
    """Draw V_T and steps of a tile's cells: normals for V_T (rows, cols), the references' V_T (cols), steps up, steps down."""
    p, one = params.capacitor, 1 << V_BITS
    step = p.step_us / max(p.slope[0] - 2 * p.slope[1] * (p.v_symmetric - p.threshold[0]), 1e-6) * one
    for array in (cells.threshold[tile], cells.threshold_reference[tile]):
        array[:] = normals(rng, array.shape, p.threshold[0] * one, p.threshold[1] * one)
    for array, spread in ((cells.up[tile], p.step_spread[0]), (cells.down[tile], p.step_spread[1])):
        array[:] = np.maximum(normals(rng, array.shape, step, spread * step), 0)


@borrowing
def conductance(c, v, threshold):
    """G [LSB] of a cell at ``v`` with V_T ``threshold`` [2^-24 V]."""
    u = max(np.int64(v) - threshold, 0)
    return (u * (c.k - (c.q * u >> V_BITS)) + (1 << V_BITS - 1)) >> V_BITS


@borrowing
def stepped(c, v, up, down, n, step_shift):
    """Voltage after ``n`` steps up (n > 0) or down (n < 0), each 2^-step_shift of a full one."""
    above = np.int64(v) - c.v_symmetric
    if n > 0:
        size = np.int64(up) * ((1 << SLOPE_BITS) - (c.up_slope * above >> V_BITS))
    else:
        size = np.int64(down) * ((1 << SLOPE_BITS) + (c.down_slope * above >> V_BITS))
    change = (n * max(size, 0) + (1 << SLOPE_BITS + step_shift - 1)) >> SLOPE_BITS + step_shift
    return min(max(np.int64(v) + change, c.v_low), c.v_high)


@borrowing
def decayed(c, v, factor):
    """Voltage after a time with decay factor ``factor`` [2^-24]."""
    return c.v_decay - (((c.v_decay - np.int64(v)) * factor + (1 << DECAY_BITS - 1)) >> DECAY_BITS)


@borrowing
def decay(c, cells, tile, n):
    """Let the cells of a tile decay for ``n`` decay ticks."""
    while n > 0:
        factor = c.decay[min(n, len(c.decay) - 1)]
        for col in range(cells.v_reference.shape[1]):
            cells.v_reference[tile, col] = decayed(c, cells.v_reference[tile, col], factor)
        for row in range(cells.v.shape[1]):
            for col in range(cells.v.shape[2]):
                cells.v[tile, row, col] = decayed(c, cells.v[tile, row, col], factor)
        n -= len(c.decay) - 1


@borrowing
def popcount(bits):
    """Ones of a 32 bit pattern."""
    bits = bits - (bits >> np.uint32(1) & np.uint32(0x55555555))
    bits = (bits & np.uint32(0x33333333)) + (bits >> np.uint32(2) & np.uint32(0x33333333))
    bits = (bits + (bits >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return np.int32(bits * np.uint32(0x01010101) >> np.uint32(24) & np.uint32(63))
