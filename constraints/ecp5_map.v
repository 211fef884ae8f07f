// How Yosys maps a multiplication by 4 bits on an ECP5 (techmap), that of a lane of hdl/accumulator.py: two rows of CCU2C, each for
// two bits of B, whose LUTs take both partial products at once, and their sum: A_WIDTH + 2 LUTs a row. Yosys' own way takes LUTs
// for the partial products beside the carry chains. Source: design choice; CCU2C as in Yosys' ecp5/cells_sim.v.

(* techmap_celltype = "$mul" *)
module lane_multiplication(A, B, Y);
    parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
    localparam ROW = A_WIDTH + 2 + A_WIDTH % 2;
    (* force_downto *) input [A_WIDTH-1:0] A;
    (* force_downto *) input [B_WIDTH-1:0] B;
    (* force_downto *) output [Y_WIDTH-1:0] Y;
    wire _TECHMAP_FAIL_ = A_SIGNED || B_SIGNED || B_WIDTH != 4 || A_WIDTH < 8;

    wire [ROW+1:0] above = {A, 1'b0};              // bit i + 1: A[i]
    wire [3:0] b = B;
    wire [2*ROW-1:0] row;
    genvar digit, i;
    generate
        for (digit = 0; digit < 2; digit = digit + 1) begin : rows
            wire [ROW/2:0] carry;
            assign carry[0] = 1'b0;
            for (i = 0; i < ROW; i = i + 2) begin : bits
                // propagate: (A & B) ^ (C & D); generate, where it is 0: A & B
                CCU2C #(.INIT0(16'h7888), .INIT1(16'h7888), .INJECT1_0("NO"), .INJECT1_1("NO")) ccu (
                    .CIN(carry[i/2]), .COUT(carry[i/2+1]),
                    .A0(above[i+1]), .B0(b[2*digit]), .C0(above[i]), .D0(b[2*digit+1]), .S0(row[digit*ROW+i]),
                    .A1(above[i+2]), .B1(b[2*digit]), .C1(above[i+1]), .D1(b[2*digit+1]), .S1(row[digit*ROW+i+1]));
            end
        end
    endgenerate
    wire [ROW-1:0] low = row[ROW-1:0], high = row[2*ROW-1:ROW];
    assign Y = {high + low[ROW-1:2], low[1:0]};
endmodule
