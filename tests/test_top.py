"""The whole unit alone: its generated Verilog between cocotbext-axi and a tile port that Python serves in every cycle."""
import dataclasses

import pytest

from cosim.build import run_cocotb, verilog_of
from hdl.top import Top
from model.params import SMALL, Params, TileParams

pytestmark = pytest.mark.cosim


def test_whole_unit_with_foreign_axi():
    params = Params(unit=dataclasses.replace(SMALL.unit, lanes=7), tile=TileParams(init_us=(8.0, 1.5)))
    assert run_cocotb("top", {"top.v": verilog_of(Top(params.unit), "top")}, "top", "cosim.bench_top",
                      build_args=("-Wno-UNOPTFLAT",), env={"CROSSTRAIN_PARAMS": params.to_json()}) == 7
