"""The FPGA top of a board: UART, link, host bridge, event encoder and the unit, on the board's oscillator.

    rx, tx - uart - link - host_bridge - unit (registers, streams, converter codes)
                              |            |
                              +-- event_encoder (tile port, output stream, trace)

Two clocks in phase: the board's, which always runs, and the unit's, a copy of it that stands still while the unit would wait for
the host (``hdl.host_bridge``). ``TARGETS`` are the boards, each with the build that it carries; ``python -m hdl.board NAME --out
DIRECTORY`` writes its Verilog.

The unit's clock, by ``Target.gate``: ``enable``: every register of the unit has a clock enable (iCE40: its global buffers have no
gate); ``dcca``: a gate of the ECP5's clock network, and one that is always open for the board's clock, so that both have the
same way. ``enable`` is a register, so that a gate has it before the clock falls.

Ports: clk_in, reset_n In(1) (a button; asynchronous), rx In(1), tx Out(1), busy Out(1) (a lamp: a request is executed). Without a
target: clk, rst, rx, tx, busy.
Timing: of its blocks. Source: design choice; EHXPLLL and DCCA: Lattice FPGA-TN-02200; SB_PLL40_PAD: FPGA-TN-02052.
"""
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from amaranth import (
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    EnableInserter,
    Instance,
    Module,
    Signal,
)
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hdl.event_encoder import EventEncoder
from hdl.host_bridge import HostBridge
from hdl.link import Link
from hdl.top import Top
from hdl.uart import Uart
from hdl.verilog import verilog_of
from model.command_line import command_line, run_cli
from model.files import write_whole
from model.link_format import BAUD, LinkParams
from model.params import ParamsError, UnitParams

__all__ = ["TARGETS", "Board", "Target", "target_of"]

RESET_CYCLES = 16


@dataclass(frozen=True, kw_only=True)
class Target:
    """A board and the build that it carries."""

    family: str
    """``ecp5`` or ``ice40``."""
    oscillator_mhz: int
    clock_mhz: int
    """The board's clock behind its PLL; as ``oscillator_mhz``: there is none [MHz]."""
    gate: str
    unit: UnitParams
    link: LinkParams = field(default_factory=LinkParams)

    def __post_init__(self):
        self.link.check(self.unit)
        exact = self.clock_mhz * 1_000_000 / BAUD
        if abs(self.link.divisor / exact - 1) > 0.02:
            raise ParamsError(f"divisor = {self.link.divisor}: {self.clock_mhz} MHz and {BAUD} bit/s need {exact:.1f}, +- 2 %")


def _digits(**changes):
    """64-54-10 for the 8x8 digits."""
    return UnitParams(**{**dict(lanes=8, vector_width=4, n_tiles=2, n_rows=68, n_cols=56, n_matrices=2, chi_words=1024,
                                vector_words=256, n_luts=4, program_words=256, loop_depth=2), **changes})


def _smallest():
    """64-54-10 with as little logic as there is: a lane, vector words of an element, nothing that its training does not need."""
    return _digits(lanes=1, vector_width=1, n_rows=65, n_cols=54, eps_log2=7, chi_bits=8, chi_words=4096, vector_words=512,
                   lut_bits=8, loop_depth=1, update_max_steps=1, counter_bits=32, n_exponents=4, refresh=0, gather=0,
                   operand_checks=0, event_counters=0)


def _paper(**changes):
    """784-250-10, all of chi in block RAM: 252 lanes, as many as 250 need block RAMs, so that 251 rows fit one word, too."""
    return UnitParams(**{**dict(lanes=252, line_words=1, update_max_steps=1, vector_width=4, n_tiles=2, n_rows=788, n_cols=252,
                                n_matrices=2, vector_words=1024, lut_bits=8, loop_depth=2), **changes})


TARGETS = {
    "ulx3s-85f": Target(family="ecp5", oscillator_mhz=25, clock_mhz=80, gate="dcca", link=LinkParams(divisor=27), unit=_paper()),
    "ecp5-25f": Target(family="ecp5", oscillator_mhz=25, clock_mhz=30, gate="enable", link=LinkParams(divisor=10),
                       unit=_digits(capacitor=1, n_luts=8, program_words=1024, vector_words=512, loop_depth=4)),
    "icebreaker": Target(family="ice40", oscillator_mhz=12, clock_mhz=24, gate="enable", link=LinkParams(divisor=8, trace=0,
                         receive_log2=9, reply_log2=9), unit=_smallest()),
}
"""Name -> board."""


def target_of(name: str) -> Target:
    """The board of a name; raises ParamsError for one that is none."""
    if name not in TARGETS:
        raise ParamsError(f"unknown target {name!r}: allowed are {', '.join(TARGETS)}")
    return TARGETS[name]


class Board(wiring.Component):
    """See the module."""

    def __init__(self, u: UnitParams, link: LinkParams = LinkParams(), target: Target | None = None):    # noqa: B008 - frozen
        self.u, self.link, self.target = (target.unit, target.link, target) if target else (u, link, None)
        super().__init__({"rx": In(1), "tx": Out(1), "busy": Out(1), **({"clk_in": In(1), "reset_n": In(1)} if target else {})})

    def elaborate(self, platform):
        m = Module()
        u, link = self.u, self.link
        enable, unit_reset = Signal(), Signal()
        self._clocks(m, enable, unit_reset)

        m.submodules.uart, m.submodules.link = uart, frames = Uart(u, link), Link(u, link)
        bridge, encoder, unit = HostBridge(u, link), EventEncoder(u, link), Top(u, bridged=True)
        m.submodules.host_bridge = bridge
        m.submodules.event_encoder = DomainRenamer("encoder")(encoder)
        renamed = DomainRenamer({"sync": "unit", "link": "sync"})(unit)
        m.submodules.unit = renamed if self.target and self.target.gate == "dcca" else EnableInserter({"unit": enable})(renamed)

        m.d.comb += [enable.eq(bridge.enable), unit_reset.eq(bridge.unit_reset), uart.rx.eq(self.rx), self.tx.eq(uart.tx)]
        connect(m, frames.tx, uart.i)
        m.d.comb += [frames.rx_stb.eq(uart.o_stb), frames.rx.eq(uart.o)]
        m.d.comb += [getattr(bridge, name).eq(getattr(frames, name)) for name in ("start", "command", "end", "data", "full")]
        m.d.comb += [getattr(frames, name).eq(getattr(bridge, name)) for name in ("address", "done")]
        connect(m, bridge.body, frames.body)
        with m.If(frames.start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(bridge.done):
            m.d.sync += self.busy.eq(0)

        tile = unit.tile
        here = {**{name: getattr(unit, name) for name in unit.signature.members},
                **{name: getattr(tile, name) for name in tile.signature.members}}
        for name in encoder.signature.members:
            if name in here and name != "stored":
                m.d.comb += getattr(encoder, name).eq(here[name])
        connect(m, unit.stored, encoder.stored)
        connect(m, encoder.o, bridge.events)
        connect(m, bridge.codes, tile.codes)
        m.d.comb += [
            encoder.enable.eq(enable), bridge.events_hold.eq(encoder.hold), bridge.read_stb.eq(encoder.read_stb),
            bridge.out_count.eq(tile.out_count), bridge.convert.eq(tile.convert), bridge.unit_done.eq(unit.trace_done),
            bridge.unit_starved.eq(unit.trace_starved), bridge.output_valid.eq(unit.m_axis_tvalid), unit.m_axis_tready.eq(1),
            unit.s_axis_tdata.eq(bridge.axis_tdata), unit.s_axis_tkeep.eq(bridge.axis_tkeep),
            unit.s_axis_tlast.eq(bridge.axis_tlast), unit.s_axis_tvalid.eq(bridge.axis_tvalid),
            bridge.axis_tready.eq(unit.s_axis_tready),
            unit.s_axil_awaddr.eq(bridge.axil_address), unit.s_axil_araddr.eq(bridge.axil_address),
            unit.s_axil_wdata.eq(bridge.axil_wdata), unit.s_axil_wstrb.eq(0xF),
        ]
        for name in ("awvalid", "wvalid", "arvalid"):
            m.d.comb += getattr(unit, f"s_axil_{name}").eq(getattr(bridge, f"axil_{name}"))
        for name in ("awready", "wready", "bvalid", "bresp", "arready", "rvalid", "rdata", "rresp"):
            m.d.comb += getattr(bridge, f"axil_{name}").eq(getattr(unit, f"s_axil_{name}"))
        m.d.comb += [unit.s_axil_bready.eq(bridge.axil_ready), unit.s_axil_rready.eq(bridge.axil_ready)]
        return m

    def _clocks(self, m, enable, unit_reset):
        """The domains ``sync`` (with a target), ``unit`` and ``encoder``."""
        target = self.target
        m.domains.unit = unit = ClockDomain()
        held = Signal(init=1)                           # thousands of registers listen: straight from one
        m.d.sync += held.eq(unit_reset)
        m.domains.encoder = encoder = ClockDomain()     # the board's clock, the unit's reset
        m.d.comb += [unit.rst.eq(held), encoder.clk.eq(ClockSignal("sync")), encoder.rst.eq(held)]
        if target is None:
            m.d.comb += unit.clk.eq(ClockSignal("sync"))
            return
        m.domains.sync = sync = ClockDomain()
        clock, locked = self.clk_in, Const(1)
        if target.clock_mhz != target.oscillator_mhz:
            clock, locked = Signal(), Signal()
            m.submodules.pll = self._pll(clock, locked)
        if target.gate == "dcca":
            m.submodules.gate = Instance("DCCA", i_CLKI=clock, i_CE=Const(1), o_CLKO=sync.clk)
            m.submodules.unit_gate = Instance("DCCA", i_CLKI=clock, i_CE=enable, o_CLKO=unit.clk)
        else:
            m.d.comb += [sync.clk.eq(clock), unit.clk.eq(clock)]
        # reset: at power-up, with the button, and until the PLL has locked; its end is in step with the clock
        start = ClockDomain("start", reset_less=True)
        m.domains += start
        m.d.comb += start.clk.eq(sync.clk)
        button, left = Signal(2, init=0), Signal(range(RESET_CYCLES + 1), init=RESET_CYCLES)
        m.d.start += button.eq((button << 1) | (self.reset_n & locked))
        with m.If(~button[1]):
            m.d.start += left.eq(RESET_CYCLES)
        with m.Elif(left != 0):
            m.d.start += left.eq(left - 1)
        reset = Signal(init=1)
        m.d.start += reset.eq(left != 0)
        m.d.comb += sync.rst.eq(reset)

    def _pll(self, clock, locked):
        """The PLL of the family, from ``clk_in`` to ``clock``."""
        make = {"ecp5": self._ecp5_pll, "ice40": self._ice40_pll}.get(self.target.family)
        if make is None:
            raise ParamsError(f"family = {self.target.family}: only ecp5 and ice40 have a PLL here; without, clock_mhz is "
                              "oscillator_mhz")
        return make(clock, locked)

    def _ecp5_pll(self, clock, locked):
        """EHXPLLL, feedback from its output: 5 MHz at the phase detector, 600 MHz or a little less in the oscillator."""
        target = self.target
        if target.oscillator_mhz % 5 or target.clock_mhz % 5:
            raise ParamsError(f"clock_mhz = {target.clock_mhz}: an ECP5 board's PLL here makes multiples of 5 MHz of such")
        divide = 600 // target.clock_mhz
        return Instance(
            "EHXPLLL", p_CLKI_DIV=target.oscillator_mhz // 5, p_CLKFB_DIV=target.clock_mhz // 5, p_CLKOP_DIV=divide,
            p_CLKOP_CPHASE=divide // 2, p_CLKOP_FPHASE=0, p_CLKOP_ENABLE="ENABLED", p_FEEDBK_PATH="CLKOP",
            p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED", p_OUTDIVIDER_MUXA="DIVA",
            p_PLLRST_ENA="DISABLED",
            i_CLKI=self.clk_in, i_CLKFB=clock, i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0), i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0), i_PHASESTEP=Const(0), i_PHASELOADREG=Const(0), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
            o_CLKOP=clock, o_LOCK=locked)

    def _ice40_pll(self, clock, locked):
        """SB_PLL40_PAD: the oscillator's clock at the phase detector, 533 to 1066 MHz in the PLL's oscillator."""
        target = self.target
        shifts = [shift for shift in range(1, 7) if 533 <= target.clock_mhz << shift <= 1066
                  and (target.clock_mhz << shift) % target.oscillator_mhz == 0]
        if not shifts or not 10 <= target.oscillator_mhz <= 25:
            raise ParamsError(f"clock_mhz = {target.clock_mhz}: an iCE40 board's PLL here multiplies an oscillator of 10 to 25 "
                              "MHz, so that clock_mhz 2^n is a multiple of it, from 533 to 1066 MHz")
        factor = (target.clock_mhz << shifts[0]) // target.oscillator_mhz
        return Instance(
            "SB_PLL40_PAD", p_FEEDBACK_PATH="SIMPLE", p_DIVR=Const(0, 4), p_DIVF=Const(factor - 1, 7),
            p_DIVQ=Const(shifts[0], 3), p_FILTER_RANGE=Const(1, 3),
            i_PACKAGEPIN=self.clk_in, i_RESETB=Const(1), i_BYPASS=Const(0), o_PLLOUTGLOBAL=clock, o_LOCK=locked)


_cli = command_line()


@_cli.command(help="Write the Verilog of a board's FPGA top.")
def _write(
    target: Annotated[str, typer.Argument(help=", ".join(TARGETS))],
    out: Annotated[Path, typer.Option(help="Directory.")] = Path("build/boards"),
) -> None:
    board, file = target_of(target), out / f"{target}.v"
    with write_whole(file) as path:
        path.write_text(verilog_of(Board(board.unit, target=board), "board"), encoding="utf-8")
    print(file)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(_cli, "python -m hdl.board", argv, "stopped")


if __name__ == "__main__":
    sys.exit(main())
