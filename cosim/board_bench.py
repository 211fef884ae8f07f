"""The bench of a virtual board: the FPGA top of a target, and a UART peer that takes and gives bytes by the burst.

    Python --to_board--> UartPeer --rx--> Board (PLL, reset, UART ... unit) --tx--> UartPeer --from_board--> Python

``attention`` changes when a burst has been sent, when ``from_board`` was filled by another half, and when the board falls silent
(``quiet``: nothing moved on either wire for QUIET_BITS bits, and no request is executed). ``primitives.v`` stands for the PLL
and the clock gates of the FPGA. With ``netlist=True`` the board is what Yosys made of it: cells of the FPGA, with Yosys' models.
"""
from functools import cache
from pathlib import Path

from amaranth import Cat, DomainRenamer, Instance, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from cosim.build import verilog_of
from hdl.board import Board, Target
from hdl.uart import Uart

__all__ = ["BURST", "RING", "STATUS", "BoardBench", "UartPeer", "bench_verilog"]

BURST, RING = 4096, 4096
"""Bytes of ``to_board`` and ``from_board``; the second a power of two."""
QUIET_BITS = 30
STATUS = data.StructLayout({"count": 16, "sending": 1, "quiet": 1, "seen": 1, "unused": 13})


class UartPeer(wiring.Component):
    """Members: ``rx, tx``: seen from the peer; ``go`` changes: the first ``n_bytes`` of ``to_board`` are sent; ``busy``: of the
    board; ``status``; ``attention``.
    """

    def __init__(self, target: Target):
        self.target = target
        super().__init__({"rx": In(1), "tx": Out(1), "go": In(1), "n_bytes": In(16), "busy": In(1), "status": Out(STATUS),
                          "attention": Out(1)})

    def elaborate(self, platform):
        m = Module()
        status = self.status
        m.submodules.uart = uart = Uart(self.target.unit, self.target.link)
        m.submodules.to_board = to_board = memory.Memory(shape=8, depth=BURST, init=[])
        m.submodules.from_board = from_board = memory.Memory(shape=8, depth=RING, init=[])
        read, write = to_board.read_port(), from_board.write_port()
        place, left, fetched = Signal(range(BURST + 1)), Signal(16), Signal()
        moves = uart.i.valid & uart.i.ready
        m.d.comb += [
            uart.rx.eq(self.rx), self.tx.eq(uart.tx), read.addr.eq(place), uart.i.payload.eq(read.data),
            uart.i.valid.eq(fetched & (left != 0)), write.addr.eq(status.count), write.data.eq(uart.o), write.en.eq(uart.o_stb),
            status.sending.eq(left != 0),
        ]
        m.d.sync += [fetched.eq((left != 0) & ~moves), status.count.eq(status.count + uart.o_stb)]
        with m.If(moves):
            m.d.sync += [place.eq(place + 1), left.eq(left - 1)]
        with m.Elif((status.seen != self.go) & (left == 0)):
            m.d.sync += [status.seen.eq(self.go), left.eq(self.n_bytes), place.eq(0)]
        still = Signal(range(QUIET_BITS * self.target.link.divisor + 1))
        moving = ~self.rx | ~uart.tx | (left != 0) | self.busy | (status.seen != self.go)
        m.d.sync += still.eq(Mux(moving, QUIET_BITS * self.target.link.divisor, still - (still != 0)))
        m.d.comb += status.quiet.eq(still == 0)
        before = Signal(3)
        now = Cat(status.sending, status.quiet, status.count[(RING // 2).bit_length() - 1])
        m.d.sync += before.eq(now)
        with m.If(((before ^ now) & Cat(before[0], ~before[1], 1)).any()):
            m.d.sync += self.attention.eq(~self.attention)
        return m


class BoardBench(wiring.Component):
    """See the module; ``netlist``: the board is a module of its own, not part of this component."""

    def __init__(self, target: Target, netlist: bool = False):
        self.target, self.netlist = target, netlist
        super().__init__({"clk_in": In(1), "reset_n": In(1), "go": In(1), "n_bytes": In(16), "status": Out(STATUS),
                          "attention": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.peer = peer = UartPeer(self.target)
        if self.netlist:
            m.submodules.board = Instance("board", i_clk_in=self.clk_in, i_reset_n=self.reset_n, i_rx=peer.tx, o_tx=peer.rx,
                                          o_busy=peer.busy)
        else:
            board = Board(self.target.unit, target=self.target)
            m.submodules.board = DomainRenamer({"sync": "board"})(board)
            m.d.comb += [board.clk_in.eq(self.clk_in), board.reset_n.eq(self.reset_n), board.rx.eq(peer.tx),
                         peer.rx.eq(board.tx), peer.busy.eq(board.busy)]
        m.d.comb += [peer.go.eq(self.go), peer.n_bytes.eq(self.n_bytes), self.status.eq(peer.status),
                     self.attention.eq(peer.attention)]
        return m


@cache
def bench_verilog(target: Target, netlist: bool = False) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Sources, and what Python sees of them: modules ``core`` (Amaranth) and ``bench`` (the clock). netlist: without board."""
    text = """// What Python writes passes a register.
module bench;
  reg clk = 0;
  reg rst = 1;
  reg rst_q = 1;
  reg reset_n = 1;
  reg go = 0;
  reg [15:0] n_bytes = 0;
  reg reset_n_q = 1;
  reg go_q = 0;
  reg [15:0] n_bytes_q = 0;
  wire [31:0] status;
  wire attention;
  always @(posedge clk) begin
    rst_q <= rst;
    reset_n_q <= reset_n;
    go_q <= go;
    n_bytes_q <= n_bytes;
  end
  core core (.clk(clk), .rst(rst_q), .clk_in(clk), .reset_n(reset_n_q), .go(go_q), .n_bytes(n_bytes_q), .status(status),
             .attention(attention));
  always #1 clk = ~clk;
endmodule
"""
    sources = {"core.v": verilog_of(BoardBench(target, netlist), "core"), "bench.sv": text,
               "primitives.v": (Path(__file__).parent / "primitives.v").read_text(encoding="utf-8")}
    visible = {"bench": {**dict.fromkeys(("rst", "reset_n", "go", "n_bytes"), "rw"), "status": "rd", "attention": "rd"},
               "core.peer": {"to_board": "rw", "from_board": "rd"}}
    return sources, visible
