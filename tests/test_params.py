"""Parameters: ranges, messages, TOML and JSON, and the derived numbers the RTL relies on."""
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.params import MNIST, SMALL, Params, ParamsError, TileParams, UnitParams

BUILDS = st.builds(
    UnitParams, outer_bits=st.integers(2, 7), eps_log2=st.integers(3, 11), chi_bits=st.integers(12, 16),
    update_max_steps=st.integers(1, 15), lanes=st.integers(1, 1024))


@pytest.mark.parametrize(("field", "value", "message"), [
    ("lanes", 0, "lanes = 0: allowed is 1 to 1024"),
    ("lanes", True, "lanes = True: allowed is"),
    ("vector_width", 12, "vector_width = 12: must be a power of two"),
    ("n_rows", 801, "n_rows = 801: must be a multiple of vector_width = 32"),
    ("chi_bits", 11, "chi_bits = 11: allowed is 12 to 16"),
    ("outer_bits", 8, "outer_bits = 8: allowed is 2 to 7"),
    ("n_exponents", 6, "n_exponents = 6: must be a power of two"),
    ("operand_checks", 2, "operand_checks = 2: allowed is 0 to 1"),
])
def test_unit_ranges(field, value, message):
    with pytest.raises(ParamsError, match=message):
        dataclasses.replace(MNIST.unit, **{field: value})


def test_capacitors_need_their_counters():
    with pytest.raises(ParamsError, match="event_counters = 0"):
        UnitParams(capacitor=1, event_counters=0)


def test_tile_ranges():
    with pytest.raises(ParamsError, match=r"device_spread = 0.6: allowed is 0.0 to 0.5"):
        TileParams(device_spread=0.6)
    with pytest.raises(ParamsError, match=r"adc_range = 0.0: allowed is 0.01 to 1000.0"):
        TileParams(adc_range=(12.0, 0.0, 12.0, 1.0))


def test_json_round_trip():
    for params in (MNIST, SMALL):
        assert Params.from_json(params.to_json()) == params


def test_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[unit]\nlanes = 64\n[tile]\nstep_us = 1\nset_mean = [0, 0.5, 1]\n", encoding="utf-8")
    params = Params.from_toml(path)
    assert (params.unit.lanes, params.tile.step_us, params.tile.set_mean) == (64, 1.0, (0.0, 0.5, 1.0))
    assert params.unit.n_rows == MNIST.unit.n_rows


@pytest.mark.parametrize(("text", "message"), [
    ("[unit]\nlanes = '8'\n", r"mine.toml: unit.lanes = '8': must be of type int"),
    ("[tile]\nset_mean = [1]\n", r"mine.toml: tile.set_mean = \[1\]: must be a list of 3 numbers"),
    ("unit = 3\n", r"mine.toml: unit = 3: must be a table"),
    ("[unit\n", r"mine.toml: not valid TOML"),
    ("[tile]\nnoise = 1\n", r"mine.toml: tile.noise = 1: must be of type bool"),
])
def test_toml_messages(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match=message):
        Params.from_toml(path)


@given(BUILDS)
def test_update_and_count_bounds(u):
    """The widths the accumulator is built on: an update stays within U_max, a count within its bits."""
    half = 1 << u.outer_bits >> 1
    assert u.multiplicand_max * u.outer_max + half >> u.outer_bits <= u.update_max
    assert (u.multiplicand_max + 1) * u.outer_max > u.update_max << u.outer_bits
    assert u.count_max == (u.chi_max + u.update_max) // u.eps
    assert u.count_max < 1 << u.count_bits
    assert u.chi_max >= u.eps - 1


@pytest.mark.parametrize("lanes", [1, 7, 64, 250, 1024])
def test_with_lanes_keeps_the_capacity(lanes):
    u = MNIST.unit.with_lanes(lanes)
    assert u.lanes == lanes
    assert u.chi_words == 65536 or u.lanes * u.chi_words >= MNIST.unit.lanes * MNIST.unit.chi_words
