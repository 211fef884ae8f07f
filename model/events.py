"""Event and cycle counters of the unit: one table for RTL counters, twins, registers and the energy model.

The order is the counter's index. A block increments its own counters only. Phase counters count the busy cycles
of one unit each, so overlapped phases are counted in each; ``time`` counts every cycle that is not spent
waiting for the host.
"""
from typing import NamedTuple

__all__ = ["EVENTS", "INDEX", "N_EVENTS", "Event"]


class Event(NamedTuple):
    """A counter: name, block that increments it, meaning."""

    name: str
    block: str
    doc: str
    capacitor: bool = False
    """Only in builds with ``unit.capacitor``: elsewhere it stays 0."""


EVENTS = (
    Event("time", "sequencer", "cycles from start to halt without waiting for the host"),
    Event("host_wait", "sequencer", "cycles spent waiting for the host"),
    Event("control", "sequencer", "cycles in which the sequencer dispatches and no unit is busy"),
    Event("instructions", "sequencer", "instructions dispatched"),
    Event("phase_drive", "read_unit", "cycles loading line drivers (DRIVE, POINT)"),
    Event("phase_window", "read_unit", "cycles of read windows"),
    Event("phase_convert", "read_unit", "cycles from convert strobe to the first code word"),
    Event("phase_readout", "read_unit", "cycles taking code words"),
    Event("line_cycles", "read_unit", "sum of driven line code magnitudes over all windows [line x PWM step]"),
    Event("line_saturations", "read_unit", "line codes clipped at line_max"),
    Event("conversions_forward", "read_unit", "converter codes of forward difference reads"),
    Event("conversions_transpose", "read_unit", "converter codes of transpose difference reads"),
    Event("conversions_scan", "read_unit", "converter codes of half reads"),
    Event("phase_vector", "vector_unit", "busy cycles of the vector unit"),
    Event("vector_words", "vector_unit", "vector words written by the vector unit"),
    Event("vector_saturations", "vector_unit", "elements clipped to 16 bit"),
    Event("phase_lanes", "update_unit", "cycles loading lane operands"),
    Event("phase_update", "update_unit", "cycles of UPDATE after loading lanes, pipeline moving"),
    Event("phase_program", "update_unit", "cycles of UPDATE held by programming pulses"),
    Event("phase_chi", "update_unit", "cycles of CLEAR, DUMP and LOAD"),
    Event("chi_rmw", "update_unit", "chi words read, modified and written"),
    Event("chi_words", "update_unit", "chi words written by CLEAR and LOAD or read by DUMP"),
    Event("lines_walked", "update_unit", "walk lines with a non-zero operand"),
    Event("lines_skipped", "update_unit", "walk lines skipped because their operand is zero"),
    Event("update_clips", "update_unit", "walk lines whose multiplicand was clipped at U_max"),
    Event("chi_saturations", "update_unit", "chi elements clipped (accumulate without threshold)"),
    Event("set_pos", "pulse_gen", "SET pulses on G+ commanded by thresholds [pulse x device]"),
    Event("set_neg", "pulse_gen", "SET pulses on G- commanded by thresholds [pulse x device]"),
    Event("set_refresh", "pulse_gen", "SET pulses of refresh [pulse x device]"),
    Event("reset_refresh", "pulse_gen", "RESET pulses of refresh [pulse x device]"),
    Event("phase_scan", "refresh", "cycles of SCAN"),
    Event("lines_scanned", "refresh", "lines read by SCAN"),
    Event("refreshes", "refresh", "cells reset and rewritten"),
    Event("refresh_misses", "refresh", "rewrites that reached the pulse bound short of their target"),
    Event("packets_in", "host_stream", "input packets taken"),
    Event("packets_refused", "host_stream", "input packets of the wrong length"),
    Event("packets_out", "host_stream", "output packets sent"),
    Event("phase_fire", "read_unit", "cycles of coincidence trains (FIRE)", True),
    Event("fires", "read_unit", "coincidence trains", True),
    Event("fired_codes", "read_unit", "sum of row code magnitudes over all FIREs [line x code]", True),
    Event("phase_trim", "read_unit", "cycles of TRIM", True),
    Event("trims", "read_unit", "TRIM instructions", True),
    Event("ramps", "read_unit", "TRIM instructions of kind RAMP", True),
)
N_EVENTS = len(EVENTS)
INDEX = {event.name: index for index, event in enumerate(EVENTS)}
