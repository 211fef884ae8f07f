"""The capacitor scheme on the RTL, under Verilator over the analogue model, against the twins: one small build."""
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.backend import RtlBackend
from model.driver import UnitError
from model.isa import Opcode, encode
from model.machine import ModelBackend
from model.params import CAPACITOR, SMALL, CapacitorParams, Params
from model.program import Program, compile_network

pytestmark = pytest.mark.cosim

PARAMS = Params(unit=dataclasses.replace(SMALL.unit, capacitor=1, n_luts=8, program_words=1024, n_tiles=3, vector_words=256),
                tile=CAPACITOR.tile)
PAIRS = Params(unit=PARAMS.unit, tile=dataclasses.replace(CAPACITOR.tile, weight_range_us=43.0),
               capacitor=CapacitorParams(present=0))
"""PCM pairs alone, on the same build."""
LAYERS = (20, 12, 8, 4)
SIMULATED = {"host_wait"}
"""Counters that only a simulated host has."""


def compiled(activation="relu", trains="random", params=PARAMS):
    return compile_network(LAYERS, params, "softmax-ce", 0.05, activation, scheme="capacitor", trains=trains)


def packets(program, n=24):
    rng = np.random.default_rng(1)
    return program.packets("train", rng.integers(0, 256, (n, LAYERS[0])).astype(np.uint8), rng.integers(0, LAYERS[-1], n))


def results(backend, outputs):
    counters = {name: value for name, value in backend.counters().items() if name not in SIMULATED}
    return np.concatenate(outputs).tolist(), counters, backend.training_cycles, backend.conservation(), backend.digest()


def train(backend, program):
    """Train, transfer to either polarity, train on, evaluate."""
    backend.configure(program)
    backend.execute("clear")
    data, outputs = packets(program), []
    for n in range(1, 4):
        outputs.append(backend.run("train", data[8 * n - 8:8 * n]))
        backend.execute(program.upkeep(n))
    outputs.append(backend.run("evaluate", data[:5]))
    return results(backend, outputs)


@pytest.fixture
def rtl():
    opened = []

    def open_rtl(seed, params=PARAMS):
        opened.append(RtlBackend(params, seed, fast=False))
        return opened[-1]

    yield open_rtl
    for backend in opened:
        backend.close()


@pytest.mark.parametrize(("activation", "trains", "seed"), [("relu", "random", 1), ("tanh", "spread", 2), ("tanh", "random", 3)])
def test_rtl_equals_model(rtl, activation, trains, seed):
    program = compiled(activation, trains)
    assert train(rtl(seed), program) == train(ModelBackend(PARAMS, seed), program)


def test_pairs_on_the_rtl(rtl):
    """Without capacitors, on the same Verilog: steps are SET pulses, and transfers refresh pairs."""
    program = compiled(params=PAIRS)
    model = ModelBackend(PAIRS, 1)
    assert train(rtl(1, PAIRS), program) == train(model, program)
    pulses = model.side.tiles.pulses.sum(axis=0)
    assert pulses.min() > 0


def test_resumed_on_the_other_backend(rtl):
    """A state of the model goes on in the RTL, polarity and shift register included."""
    program = compiled()
    model = ModelBackend(PARAMS, 4)
    model.configure(program)
    model.execute("clear")
    data = packets(program)
    model.run("train", data[:8])
    model.execute(program.upkeep(1))
    model.run("train", data[8:11])
    state = model.state()
    other = rtl(4)
    other.configure(program)
    other.restore(state)

    def go_on(backend):
        outputs = [backend.run("train", data[11:16])]
        backend.execute(program.upkeep(2))
        return results(backend, [*outputs, backend.run("train", data[16:20])])

    assert go_on(other) == go_on(model)


@pytest.mark.parametrize("name", ["model", "rtl"])
def test_a_torn_matrix_does_not_fire(rtl, name):
    """FIRE between FLIP and SEAL is an error; so a transfer that was broken off cannot pass unnoticed."""
    backend = rtl(5) if name == "rtl" else ModelBackend(PARAMS, 5)
    program = compiled()
    backend.configure(program)
    backend.execute("clear")
    torn = Program(PARAMS, LAYERS, [encode(Opcode.FLIP, matrix=1, inverted=1), encode(Opcode.FIRE, matrix=0),
                                    encode(Opcode.FIRE, matrix=1), encode(Opcode.HALT)], {"clear": 0}, program.matrices)
    backend.configure(torn)
    with pytest.raises(UnitError, match="instruction 2 of clear with error 7: FIRE on a matrix whose transfer"):
        backend.execute("clear")
    backend.configure(program)
    with pytest.raises(UnitError, match="error 7"):
        backend.run("train", packets(program, 2))
    backend.execute("transfer_1")
    backend.run("train", packets(program, 2))


@pytest.mark.parametrize("name", ["model", "rtl"])
def test_a_line_beyond_the_matrix_is_an_error(rtl, name):
    backend = rtl(6) if name == "rtl" else ModelBackend(PARAMS, 6)
    program = compiled()
    words = [encode(Opcode.LINE, zero=1), encode(Opcode.LOOP, count=5), encode(Opcode.POINT, matrix=2, transpose=1, code=3),
             encode(Opcode.LINE), encode(Opcode.NEXT), encode(Opcode.HALT)]
    backend.configure(Program(PARAMS, LAYERS, words, {"clear": 0}, program.matrices))
    with pytest.raises(UnitError, match="instruction 2 of clear with error 3"):
        backend.execute("clear")


def begun(backend, program):
    """A backend that has trained and is about to transfer."""
    backend.configure(program)
    backend.execute("clear")
    backend.run("train", packets(program)[:8])
    return backend


def end(backend, program):
    """What comes after the first transfer; everything that must be equal."""
    data = packets(program)
    outputs = [backend.run("train", data[8:16])]
    backend.execute("transfer_0")
    return results(backend, [*outputs, backend.run("train", data[16:20]), backend.run("evaluate", data[:5])])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30))
def test_a_stopped_transfer_is_the_same(stops):
    """On the twins, stopped after any cycles again and again: counters and digest are those of a transfer nobody stopped."""
    program = compiled()
    whole, backend = (begun(ModelBackend(PARAMS, 7), program) for _ in range(2))
    whole.execute("transfer_1")
    backend.execute("transfer_1", stop_after=stops[0])
    assert backend.stopped == "transfer_1"
    for stop in stops[1:]:
        if backend.stopped:
            backend.resume(stop_after=stop)
    if backend.stopped:
        backend.resume()
    assert (backend.stopped, backend.transferring) == (None, False)
    assert end(backend, program) == end(whole, program)


def test_a_stopped_transfer_on_the_rtl(rtl):
    """Stopped again and again, the RTL is at each stop where the twins are then, and ends like one that nobody stopped."""
    program, draw = compiled(), np.random.default_rng(8)
    whole, model, unit = (begun(backend, program) for backend in (ModelBackend(PARAMS, 7), ModelBackend(PARAMS, 7), rtl(7)))
    whole.execute("transfer_1")
    stops, before = 0, unit.counters()["time"]
    unit.execute("transfer_1", stop_after=0)
    while unit.stopped:
        passed = unit.counters()["time"] - before
        if stops == 0:
            model.execute("transfer_1", stop_after=passed)
        else:
            model.resume(stop_after=passed)
        assert model.stopped == unit.stopped
        assert results(unit, [[]]) == results(model, [[]])
        stops, before = stops + 1, unit.counters()["time"]
        unit.resume(stop_after=int(draw.integers(0, 12_000)))
    model.resume()
    assert stops > 5
    assert end(unit, program) == end(model, program) == end(whole, program)


@pytest.mark.parametrize("name", ["model", "rtl"])
def test_what_is_refused_within_a_transfer(rtl, name):
    """Training, reading by a polarity that not all weights have, another transfer, a state; one of before can be restored."""
    backend = rtl(9) if name == "rtl" else ModelBackend(PARAMS, 9)
    program = compiled()
    with pytest.raises(UnitError, match="nothing to go on with: resume where no program is stopped"):
        begun(backend, program).resume()
    before = backend.state()
    backend.execute("transfer_1", stop_after=5000)
    assert backend.stopped
    with pytest.raises(UnitError, match="a transfer was begun and has not ended, so there is no state to keep"):
        backend.state()
    digest = backend.digest()
    for entry in ("train", "evaluate"):
        with pytest.raises(UnitError, match=f"of {entry} with error 7: .* or READ of it by its own polarity"):
            backend.run(entry, packets(program)[8:10])
        assert backend.digest() == digest or entry == "evaluate"
        assert not backend.stopped
    with pytest.raises(UnitError, match="or where another one was loaded since"):
        backend.resume()
    with pytest.raises(UnitError, match="transfer_1: a transfer was begun and has not ended"):
        backend.execute("transfer_1")
    backend.restore(before)
    whole = begun(ModelBackend(PARAMS, 9), program)
    for side in (backend, whole):
        side.execute("transfer_1")
    assert backend.digest() == whole.digest()


@pytest.mark.parametrize("fault", ["lose_train", "move_trim"])
def test_conservation_finds_what_is_lost(rtl, fault):
    program = compiled()
    unit = begun(rtl(3), program)
    assert unit.conservation() == (True, sum((n + 1) * m for n, m in itertools.pairwise(LAYERS)))
    unit.inject(fault)
    unit.run("train", packets(program)[:2])
    unit.execute("transfer_1")
    assert not unit.conservation()[0]
