"""A board: training through a virtual one equals the model backend; faults of the line end in the same digest or in one error."""
import dataclasses
import json
import re

import numpy as np
import pytest
from amaranth import Cat, Elaboratable, Module, Signal
from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover

from cosim import link_speed
from cosim.board import BoardBackend
from cosim.board_test import CASES, NETLIST_PATIENCE_S, expected, experiment_of, train_on, verdict
from cosim.faults import Faults
from cosim.link import Link, LinkError
from cosim.train import main
from cosim.virtual_board import VirtualBoard
from hdl.board import TARGETS, Board, Target
from hdl.host_bridge import HostBridge
from hdl.synthesize import netlist_of
from hdl.verilog import verilog_of
from model import datasets
from model.link_format import Command, LinkParams
from model.machine import ModelBackend
from model.params import SMALL as SMALL_PARAMS
from model.params import Params, ParamsError, UnitParams
from model.program import compile_experiment
from tests.formal import any_value, prove

LAYERS, IMAGES = (64, 16, 10), 40
UNIT = dict(lanes=16, vector_width=4, n_tiles=2, n_rows=68, n_cols=20, n_matrices=2, chi_words=128, vector_words=256)
SMALL = Target(family="ecp5", oscillator_mhz=25, clock_mhz=15, gate="dcca", unit=UnitParams(**UNIT),
               link=LinkParams(divisor=5, receive_log2=9, reply_log2=6))
"""With PLL, clock gates and trace, and with replies so short that every record is cut."""

pytestmark = [pytest.mark.cosim, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def experiment():
    return experiment_of(SMALL.unit, SMALL.link.convert_cycles, LAYERS, IMAGES)


@pytest.fixture(scope="module")
def model(experiment):
    return expected(experiment)


def virtual(**faults):
    return VirtualBoard(SMALL, Faults(**faults))


SLOW = ("wrong bits", "lost bytes", "doubled bytes", "every byte wrong")
"""Cases of which ``all three`` has a part."""


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES])
def test_training_ends_right_or_with_one_error(case, experiment, model):
    faults, message = CASES[case]
    with virtual(**faults) as board:
        outcome = train_on(board.port, experiment, patience_s=1.0)
    assert verdict(outcome, model, message) == ("right" if message is None else "one error")
    if message is None:
        assert outcome.weights_checked == model.weights_checked > 0
        assert (outcome.repeated > 0) == bool(faults)
    else:
        assert "\n" not in outcome.error


@pytest.mark.slow
def test_capacitors_and_wide_codes():
    """The other scheme, converter codes of two bytes, words of two elements, and a unit with clock enables."""
    unit = UnitParams(**{**UNIT, "capacitor": 1, "adc_bits": 9, "n_luts": 8, "program_words": 1024, "vector_width": 2,
                         "vector_words": 1024})
    target = Target(family="ice40", oscillator_mhz=12, clock_mhz=12, gate="enable", unit=unit, link=LinkParams(divisor=4))
    experiment = experiment_of(unit, target.link.convert_cycles, LAYERS, 20)
    with VirtualBoard(target) as board:
        outcome = train_on(board.port, experiment, patience_s=1.0)
    assert verdict(outcome, expected(experiment), None) == "right"


@pytest.mark.slow
def test_netlist_trains_as_the_model():
    """The whole FPGA top after synthesis, cell by cell: LUTs, carries, flip-flops, block RAMs; words of one element."""
    unit = UnitParams(**{**UNIT, "lanes": 4, "chi_words": 512, "vector_width": 1, "vector_words": 1024})
    target = Target(family="ice40", oscillator_mhz=12, clock_mhz=12, gate="enable", unit=unit,
                    link=LinkParams(divisor=4, trace=0))
    experiment = experiment_of(unit, target.link.convert_cycles, LAYERS, 4)
    with VirtualBoard(target, netlist=True, fast=False) as board:
        outcome = train_on(board.port, experiment, patience_s=NETLIST_PATIENCE_S)
    assert verdict(outcome, expected(experiment), None) == "right"


def test_a_netlist_of_another_family_is_refused():
    with pytest.raises(ParamsError, match="family = ecp5"):
        netlist_of(SMALL)


def test_faults_come_from_their_seed():
    def spoilt(seed):
        faults = Faults(flip=0.1, drop=0.1, double=0.1, seed=seed)
        return faults.to_board(bytes(1000)) + faults.to_host(bytes(1000))

    assert spoilt(1) == spoilt(1) != spoilt(2)
    assert Faults().to_board(bytes(range(256))) == bytes(range(256))
    assert len(Faults(drop=1.0).to_board(bytes(9))) == 0
    assert Faults(double=1.0).to_host(b"ab") == b"aabb"
    assert all(byte.bit_count() == 1 for byte in Faults(flip=1.0).to_host(bytes(99)))


def test_another_build_is_refused(experiment):
    params = Params(unit=UnitParams(**{**UNIT, "lanes": 8, "chi_words": 256}))
    with virtual() as board:
        with pytest.raises(ParamsError, match=r"lanes = 16, not 8; chi_words = 128, not 256"):
            BoardBackend(params, 1, board.port)
        Link(board.port).close()


def test_a_unit_that_starves_and_registers_that_are_not(experiment):
    program = compile_experiment(experiment, experiment.rate)
    with virtual() as board:
        backend = BoardBackend(experiment.params, 1, board.port)
        backend.configure(program)
        backend.execute("clear")
        with pytest.raises(RuntimeError, match="none left"):
            backend._execute(program.entries["train_one"], 1, np.zeros((0, 0), np.uint8), 10, evaluating=False, time=0)
        with pytest.raises(LinkError, match="refused to write"):
            backend._write([(backend.map.address("STATUS"), 1)])
        assert backend.link.request(9, b"abc") == b""                   # an unknown command
        backend.close()


@pytest.mark.parametrize("target", [SMALL, pytest.param(TARGETS["icebreaker"], marks=pytest.mark.slow)],
                         ids=["small", "icebreaker"])
def test_state_moves_between_backends(target):
    """A board's state is the model's; either goes on from the other's, to equal digests."""
    experiment = experiment_of(target.unit, target.link.convert_cycles, LAYERS, IMAGES)
    data, program = datasets.load("digits"), compile_experiment(experiment, experiment.rate)
    packets = program.packets("train", data.train_images[:30], data.train_labels[:30])

    def begun(backend, state=None):
        backend.configure(program)
        backend.execute("clear") if state is None else backend.restore(state)
        return backend

    with VirtualBoard(target) as board:
        one = begun(BoardBackend(experiment.params, 1, board.port))
        other = begun(ModelBackend(experiment.params, 1))
        states = []
        for backend in (one, other):
            backend.run("train", packets[:20])
            if "scan" in program.entries:
                backend.execute("scan")
            backend.run("train", packets[20:25])
            states.append(backend.state())
        assert states[0].keys() == states[1].keys()
        wait = list(other.counters()).index("host_wait")
        for name, array in states[1].items():
            found = states[0][name]
            if "ledger" in name and not target.link.trace:      # it follows no weight then
                continue
            if name == "counters":
                found[wait] = array[wait] = 0
            assert np.array_equal(found, array), name
        one.close()
        swapped = (begun(BoardBackend(experiment.params, 1, board.port), states[1]),
                   begun(ModelBackend(experiment.params, 1), states[0]))
        for backend in (*swapped, other):
            backend.run("train", packets[25:])
            assert backend.conservation()[0]
        assert swapped[0].digest() == swapped[1].digest() == other.digest()
        swapped[0].close()


class ClockSpec(Elaboratable):
    """With any host and any unit: the unit's clock does not run in a cycle with an event that is not recorded, nor in one in
    which a beat or a word of codes that it wants is not at hand."""

    def elaborate(self, platform):
        m = Module()
        u = SMALL_PARAMS.unit
        m.submodules.dut = dut = HostBridge(u, LinkParams(receive_log2=9, reply_log2=6))
        for name in ("command", "data", "full", "start", "events_hold", "read_stb", "out_count", "convert", "unit_done",
                     "unit_starved", "output_valid", "axil_awready", "axil_wready", "axil_bvalid", "axil_bresp", "axil_arready",
                     "axil_rvalid", "axil_rdata", "axil_rresp", "axis_tready"):
            port = getattr(dut, name)
            m.d.comb += port.eq(any_value(m, len(port), name=f"any_{name}"))
        m.d.comb += [dut.events.valid.eq(any_value(m, 1, "any_event")), dut.body.ready.eq(1),
                     dut.codes.ready.eq(any_value(m, 1, "any_ready"))]
        held, reset = Signal(), Signal(init=1)
        m.d.sync += [held.eq(dut.events_hold), reset.eq(dut.unit_reset)]
        m.d.comb += Assert(~dut.enable | ~held | reset)
        m.d.comb += [dut.end.eq(AnyConst(len(dut.end))), Assume(~dut.enable | ~dut.convert | dut.events_hold),
                     Assert(~dut.enable | ~dut.running | ~dut.wants),
                     Assert((Cat(dut.running, dut.accessing, dut.unit_reset) & ~dut.states) == 0)]
        m.d.comb += Cover(dut.enable & dut.axis_tvalid & (dut.command == Command.RUN))
        return m


@pytest.mark.formal
def test_the_clock_stops_for_every_event():
    prove(ClockSpec(), "host_bridge_clock", depth=3, mode="prove", cover_depth=24)


def test_what_an_image_costs_on_the_link(capsys):
    with virtual() as board:
        assert link_speed.main(["--port", board.port, "--dataset", "digits", "--layers", "64-16-10", "--images", "4"]) == 0
    found = re.search(r"each: (\d+) bytes to the board, (\d+) back, .*\n.* wires take ([\d.]+) ms", capsys.readouterr().out)
    there, back, wires_ms = map(float, found.groups())
    assert there > 64                                    # a pixel is a byte
    assert back > 0
    assert wires_ms == pytest.approx((there + back) / 300, abs=0.06)
    assert link_speed.main(["--port", "/dev/none"]) == 2


def test_a_second_host_takes_the_board(experiment):
    with virtual() as board:
        first = Link(board.port)
        first.serial.close()
        second = Link(board.port)
        second.close()
        first.serial.open()
        with pytest.raises(LinkError, match="taken by another host"):
            first.request(2, b"\0\0")
        first.close()


def test_command_line(tmp_path, capsys):
    with virtual() as board:
        arguments = ["--dataset", "digits", "--layers", "64-16-10", "--images", "10", "--epochs", "1", "--test-images", "5"]
        assert main([*arguments, "--backend", "board", "--port", board.port, "--out", str(tmp_path / "run")]) == 0
        assert (tmp_path / "run" / "result.json").exists()
    capsys.readouterr()
    assert main([*arguments, "--backend", "board", "--port", board.port, "--out", str(tmp_path / "gone")]) == 2
    error = capsys.readouterr().err
    assert board.port in error
    assert error.count("\n") == 1
    assert not (tmp_path / "gone").exists()


def test_a_run_whose_cable_was_pulled_is_resumed(tmp_path, capsys):
    """On the model, from the board's last checkpoint, to the digest of a run that was never stopped."""
    parameters = tmp_path / "build.toml"
    parameters.write_text("[unit]\n" + "".join(f"{name} = {value}\n" for name, value in UNIT.items()))
    arguments = ["--dataset", "digits", "--layers", "64-16-10", "--images", "60", "--epochs", "1", "--test-images", "5",
                 "--refresh", "10", "--checkpoint", "10", "--params", str(parameters), "--out"]
    with virtual(pull_after=20_000) as board:
        assert main([*arguments, str(tmp_path / "run"), "--backend", "board", "--port", board.port]) == 2
    error = capsys.readouterr().err
    assert "check cable" in error
    assert "RESUME=1 goes on from there" in error
    assert error.count("\n") == 1
    assert main([*arguments, str(tmp_path / "run"), "--backend", "model", "--resume"]) == 0
    assert main([*arguments, str(tmp_path / "whole"), "--backend", "model"]) == 0
    digests = [json.loads((tmp_path / name / "result.json").read_text())["digest"] for name in ("run", "whole")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--backend", "board"], "needs the serial port"), (["--backend", "model", "--port", "x"], "only the backend board"),
    (["--target", "none"], "unknown target"), (["--target", "icebreaker", "--scheme", "capacitor"], "capacitor = 0"),
    (["--target", "icebreaker", "--refresh", "100"], "unit.refresh = 0"),
])
def test_bad_options(arguments, message, capsys):
    assert main(["--dataset", "digits", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"divisor": 3}, {"convert_cycles": 0}, {"receive_log2": 8}])
def test_link_parameters_out_of_range(changes):
    with pytest.raises(ParamsError, match=next(iter(changes))):
        LinkParams(**changes)


def test_units_that_no_board_can_carry():
    for changes in ({"line_bits": 8}, {"set_cycles": 2}):
        with pytest.raises(ParamsError, match=next(iter(changes))):
            LinkParams().check(UnitParams(**changes))


def test_targets_have_a_rate_the_host_can_meet():
    assert set(TARGETS) >= {"ulx3s-85f", "icebreaker"}
    with pytest.raises(ParamsError, match="divisor"):
        Target(family="ice40", oscillator_mhz=12, clock_mhz=12, gate="enable", unit=SMALL.unit, link=LinkParams(divisor=5))


@pytest.mark.parametrize(("name", "vco_mhz"), [("ulx3s-85f", 560), ("ecp5-25f", 600), ("icebreaker", 768)])
def test_pll_makes_the_boards_clock(name, vco_mhz):
    """Out of the parameters of the primitive, by the data sheets' equations."""
    target = TARGETS[name]
    text = verilog_of(Board(target.unit, target=target), "board")
    set_to = {key: int(value, 16) if base == "h" else int(value)
              for key, base, value in re.findall(r"\.(CLK\w*_DIV|DIV\w)\((?:\d+'([hd]))?([0-9a-f]+)\)", text)}
    if target.family == "ecp5":
        clock_mhz = target.oscillator_mhz * set_to["CLKFB_DIV"] / set_to["CLKI_DIV"]
        oscillator_mhz = clock_mhz * set_to["CLKOP_DIV"]
    else:
        oscillator_mhz = target.oscillator_mhz * (set_to["DIVF"] + 1) / (set_to["DIVR"] + 1)
        clock_mhz = oscillator_mhz / 2 ** set_to["DIVQ"]
    assert (clock_mhz, oscillator_mhz) == (target.clock_mhz, vco_mhz)


@pytest.mark.parametrize("target", [
    dataclasses.replace(SMALL, oscillator_mhz=12),
    dataclasses.replace(TARGETS["icebreaker"], clock_mhz=52, link=LinkParams(divisor=17)),
    dataclasses.replace(SMALL, family="other"),
], ids=["ecp5", "ice40", "other"])
def test_a_clock_that_no_pll_makes(target):
    with pytest.raises(ParamsError, match="PLL"):
        verilog_of(Board(target.unit, target=target), "board")
