// Simulation models of the FPGA primitives that hdl/board.py instantiates, as far as it uses them.

// A PLL locks after 100 cycles. Time is counted in cycles, so its output clock is its input clock.
module pll_lock (input clk, output lock);
  reg [6:0] left = 100;
  assign lock = left == 0;
  always @(posedge clk) if (left != 0) left <= left - 1;
endmodule

// PLL of the ECP5.
module EHXPLLL #(
  parameter CLKI_DIV = 1, parameter CLKFB_DIV = 1, parameter CLKOP_DIV = 1, parameter CLKOP_CPHASE = 0, parameter CLKOP_FPHASE = 0,
  parameter CLKOP_ENABLE = "ENABLED", parameter FEEDBK_PATH = "CLKOP", parameter INTFB_WAKE = "DISABLED",
  parameter STDBY_ENABLE = "DISABLED", parameter DPHASE_SOURCE = "DISABLED", parameter OUTDIVIDER_MUXA = "DIVA",
  parameter PLLRST_ENA = "DISABLED"
) (
  input CLKI, input CLKFB, input RST, input STDBY, input PHASESEL0, input PHASESEL1, input PHASEDIR, input PHASESTEP,
  input PHASELOADREG, input PLLWAKESYNC, input ENCLKOP, output CLKOP, output LOCK
);
  assign CLKOP = CLKI;
  pll_lock locking (.clk(CLKI), .lock(LOCK));
endmodule

// PLL of the iCE40, in the pad of the oscillator.
module SB_PLL40_PAD #(
  parameter FEEDBACK_PATH = "SIMPLE", parameter DIVR = 0, parameter DIVF = 0, parameter DIVQ = 0, parameter FILTER_RANGE = 0
) (
  input PACKAGEPIN, input RESETB, input BYPASS, output PLLOUTGLOBAL, output LOCK
);
  assign PLLOUTGLOBAL = PACKAGEPIN;
  pll_lock locking (.clk(PACKAGEPIN), .lock(LOCK));
endmodule

// Gate of the clock network: CE counts where the clock is low, so that no pulse is cut.
module DCCA (input CLKI, input CE, output CLKO);
  reg open = 1;
  always_latch if (!CLKI) open = CE;
  assign CLKO = CLKI & open;
endmodule
