"""chi memory and its read-modify-write pipeline: one word of ``lanes`` elements a cycle, in banks of ``vector_width`` lanes.

Contract, per lane, for a word that enters with multiplicand T, the line's sign and the lane's code (U: ``hdl.outer_product``):

    sum = chi + U
    threshold:  p = trunc(sum / eps)  (toward zero);  chi <- sum - p eps;  |p| pulses on G+ (p > 0) or G- (p < 0)
    otherwise:  chi <- sum clipped to +-chi_max, clipped elements counted in ``saturations``
    clear:      chi <- 0
    keep:       chi stays: the word is only read

eps = 2^eps_log2, so with sum = q eps + r, 0 <= r < eps (a shift and a mask): p = q, except that p = q + 1 and chi = r - eps when
sum < 0 and r != 0. After a threshold |chi| < eps, and U == eps p + (chi after - chi before) exactly: nothing is lost. The sum
cannot overflow: |chi| <= chi_max and |U| <= update_max (both proved in ``tests/test_accumulator.py``).

Stages, one cycle each. Nothing ever holds them: whoever takes the pulses must have room for every word that has entered.

    issue           T, the line's sign and the lanes' codes are taken into each bank    ``valid, address, ...`` (inputs)
    multiply        U of each lane; the memory is addressed
    add             memory output + U                            ``sum_valid``; ``word``: bank ``word_bank`` of the output, held
    threshold       remainder is written, count is registered    ``write_valid``
    pulse           counts of a due word are shown               ``pulse_valid``

A word must not be issued one or two cycles after itself: within a command every word is visited once, and a command starts when
the one before has left the pipeline. This is asserted.

A bank is a column of its own, with its part of the memory and its own registers of everything that all lanes share: a design has
short wires where a placer keeps banks together (``constraints/``). A slice is what repeats in a bank: a memory of at most
SLICE_BITS, which two block RAMs of 18 bits hold side by side, and its lanes. LOAD writes a bank at a time: ``load_en`` takes
``load`` for word ``load_address`` of bank ``load_bank``, which is written a cycle later.

Timing: latency 3 from issue to write, 4 to ``pulse_valid``; 1 word per cycle.
Source: Nandakumar et al. 2020 [papers.md B2]; truncation as aihwkit's ``truncf(chi/eps)``. Pipeline and formats: design choice.
"""
from amaranth import Assert, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.outer_product import lane_update
from model.params import UnitParams

__all__ = ["LATENCY", "SLICE_BITS", "Accumulator", "Bank", "Slice"]

SLICE_BITS = 36
"""Widest memory of a bank [bit]: three lanes of 12 bits. Design choice."""
LATENCY = 4
"""From the issue of a word to its pulses [cycles]."""


def _sum(values):
    """The sum of ``values``, pairwise, for a short path."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return _sum(values[:half]) + _sum(values[half:])


class Slice(wiring.Component):
    """``n_lanes`` lanes with their memory: stages "multiply", "add", "threshold" and "pulse" of the module's text.

    Shared registers are the bank's; a lane's own are here: ``updates``, ``sums``, ``counts``, ``negative``. ``due``: a lane has
    pulses, in stage "threshold"; ``clips``: lanes beyond +-chi_max, in stage "pulse"; ``word``: the memory output.
    """

    def __init__(self, u: UnitParams, n_lanes: int):
        self.u, self.n_lanes = u, n_lanes
        # no word is read while it is written (asserted in Bank): synthesis need not order the two
        self.memory = Memory(shape=data.ArrayLayout(u.chi_bits, n_lanes), depth=u.chi_words, init=[], attrs={"no_rw_check": 1})
        # attributes for proofs. add: updates; threshold: sums
        update_shape, sum_shape = u.update_max.bit_length() + 2, signed((u.chi_max + u.update_max).bit_length() + 1)
        self.updates = [Signal(update_shape, name=f"update{k}", reset_less=True) for k in range(n_lanes)]
        self.sums = [Signal(sum_shape, name=f"sum{k}", reset_less=True) for k in range(n_lanes)]
        address = range(u.chi_words)
        super().__init__({
            "multiplicand": In(u.multiplicand_max.bit_length()), "line_negative": In(1),
            "codes": In(n_lanes * (u.outer_bits + 1)), "read_en": In(1), "read_address": In(address),
            "threshold": In(1), "clear": In(1), "write_en": In(1), "write_address": In(address),
            "load_en": In(1), "load": In(n_lanes * u.chi_bits), "word": Out(n_lanes * u.chi_bits),
            "due": Out(1), "clips": Out(range(n_lanes + 1)), "counts": Out(n_lanes * u.count_bits), "negative": Out(n_lanes),
        })

    def elaborate(self, platform):
        m = Module()
        u, lanes, updates, sums = self.u, range(self.n_lanes), self.updates, self.sums
        m.submodules.memory = self.memory
        read, write = self.memory.read_port(), self.memory.write_port()
        written = Signal(self.memory.shape)
        m.d.comb += [
            read.en.eq(self.read_en), read.addr.eq(self.read_address), self.word.eq(read.data),
            write.en.eq(self.write_en), write.addr.eq(self.write_address),
            write.data.eq(Mux(self.load_en, self.load, Mux(self.clear, 0, written))),
        ]
        # a lane: U beside the memory access | chi + U | quotient and remainder. What is used twice is a Signal: emitted once
        counts = [Signal(u.count_bits, name=f"count{k}") for k in lanes]
        clipped = [Signal(name=f"clipped{k}") for k in lanes]
        for k in lanes:
            code = self.codes.word_select(k, u.outer_bits + 1)
            total = Cat(Const(1, 1), read.data[k]).as_signed() + updates[k].as_signed()
            m.d.sync += [updates[k].eq(lane_update(u, self.multiplicand, self.line_negative, code)),
                         sums[k].eq(total[1:].as_signed())]
            negative, low, fraction = sums[k][-1], sums[k][:u.eps_log2], Signal(name=f"fraction{k}")
            quotient = sums[k][u.eps_log2:u.eps_log2 + u.count_bits]
            limit = Mux(negative, Const(-u.chi_max, u.chi_bits), Const(u.chi_max, u.chi_bits))
            m.d.comb += [
                fraction.eq(negative & low.any()),       # below 0 and no multiple of eps: p = q + 1
                counts[k].eq((quotient ^ negative.replicate(u.count_bits)) + (negative & ~fraction)),
                clipped[k].eq(counts[k][u.chi_bits - 1 - u.eps_log2:].any()),
                written[k].eq(Mux(self.threshold, Cat(low, fraction.replicate(u.chi_bits - u.eps_log2)),
                                  Mux(clipped[k], limit, sums[k][:u.chi_bits]))),
            ]
        m.d.comb += self.due.eq(Cat(counts).any())
        m.d.sync += [self.clips.eq(sum(clipped)), self.counts.eq(Cat(counts)), self.negative.eq(Cat(one[-1] for one in sums))]
        return m


class Bank(wiring.Component):
    """``n_lanes`` lanes in slices, with the registers that they share: the pipeline of the module's text.

    Members as of ``Accumulator``; ``due``: a lane has pulses in stage "pulse"; ``clips``: lanes clipped, a cycle later.
    """

    def __init__(self, u: UnitParams, n_lanes: int):
        self.u, self.n_lanes = u, n_lanes
        per_slice = SLICE_BITS // u.chi_bits
        self.slices = [Slice(u, min(per_slice, n_lanes - first)) for first in range(0, n_lanes, per_slice)]
        # registers by stage; attributes for proofs. All stages: a word is there
        self.valid_stages = Signal(3)
        self.read_address, self.add_address, self.write_address = (
            Signal(range(u.chi_words), reset_less=True, name=f"{stage}_address") for stage in ("read", "add", "write"))
        self.held_multiplicand = Signal(u.multiplicand_max.bit_length(), reset_less=True)
        self.held_negative, self.held_codes = Signal(reset_less=True), Signal(n_lanes * (u.outer_bits + 1), reset_less=True)
        super().__init__({
            "valid": In(1), "address": In(range(u.chi_words)), "multiplicand": In(u.multiplicand_max.bit_length()),
            "line_negative": In(1), "codes": In(n_lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "keep": In(1),
            "load_en": In(1), "load_address": In(range(u.chi_words)), "load": In(n_lanes * u.chi_bits),
            "word": Out(n_lanes * u.chi_bits), "due": Out(1), "counts": Out(n_lanes * u.count_bits),
            "negative": Out(n_lanes), "clips": Out(range(n_lanes + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        u, valid = self.u, self.valid_stages
        m.d.sync += [
            valid.eq(Cat(self.valid, valid)), self.read_address.eq(self.address), self.add_address.eq(self.read_address),
            self.write_address.eq(self.add_address), self.held_multiplicand.eq(self.multiplicand),
            self.held_negative.eq(self.line_negative), self.held_codes.eq(self.codes),
        ]
        write_en, write_address = Signal(), Signal.like(self.write_address)
        m.d.comb += [write_en.eq((valid[2] & ~self.keep) | self.load_en),
                     write_address.eq(Mux(self.load_en, self.load_address, self.write_address))]
        first = 0
        for index, one in enumerate(self.slices):
            m.submodules[f"slice{index}"] = one
            m.d.comb += [
                one.multiplicand.eq(self.held_multiplicand), one.line_negative.eq(self.held_negative),
                one.codes.eq(self.held_codes[first * (u.outer_bits + 1):]),
                one.read_en.eq(valid[0]), one.read_address.eq(self.read_address),
                one.threshold.eq(self.threshold), one.clear.eq(self.clear), one.load_en.eq(self.load_en),
                one.write_en.eq(write_en), one.write_address.eq(write_address), one.load.eq(self.load[first * u.chi_bits:]),
            ]
            first += one.n_lanes
        m.d.comb += [self.word.eq(Cat(one.word for one in self.slices)), self.counts.eq(Cat(one.counts for one in self.slices)),
                     self.negative.eq(Cat(one.negative for one in self.slices))]
        clipping = Signal()
        m.d.sync += [
            clipping.eq(valid[2] & ~self.threshold & ~self.clear & ~self.keep),
            self.due.eq(valid[2] & self.threshold & ~self.keep & Cat(one.due for one in self.slices).any()),
            self.clips.eq(Mux(clipping, _sum([one.clips for one in self.slices]), 0)),
            Assert(~(valid[0] & valid[1] & (self.read_address == self.add_address)), "word read twice in a row"),
            Assert(~(valid[0] & valid[2] & (self.read_address == self.write_address)), "word read while it is written"),
            Assert(~(self.load_en & valid[2]), "host write beside a word in the pipeline"),
        ]
        return m


class Accumulator(wiring.Component):
    """See the module.

    Members
    -------
    valid, address, multiplicand, line_negative, codes : In
        A word in stage "issue". ``codes``: lane codes, packed, outer_bits + 1 bits a lane, sign on top.
    threshold, clear, keep : In(1)
        What is done in stage "threshold"; stable for a whole command.
    load_en, load_bank, load_address, load : In
        Host write, while no word is in the pipeline.
    read_valid, sum_valid, write_valid : Out(1)
        A word is in stage "multiply", "add", "threshold". ``word``: bank ``word_bank`` of the memory output; it holds until the
        next word is read.
    pulse_valid : Out(1)
        A due word is in stage "pulse", for one cycle; ``counts``, ``negative``: its pulses.
    saturations : Out
        Elements clipped, two cycles after stage "pulse".
    active : Out(1)
        Must be clocked in this cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        sizes = [min(u.vector_width, u.lanes - first) for first in range(0, u.lanes, u.vector_width)]
        self.banks = [Bank(u, size) for size in sizes]
        n_banks = len(self.banks)
        super().__init__({
            "valid": In(1), "address": In(range(u.chi_words)), "multiplicand": In(u.multiplicand_max.bit_length()),
            "line_negative": In(1), "codes": In(u.lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "keep": In(1),
            "load_en": In(1), "load_bank": In(range(max(2, n_banks))), "load_address": In(range(u.chi_words)),
            "load": In(u.vector_width * u.chi_bits),
            "read_valid": Out(1), "sum_valid": Out(1), "write_valid": Out(1),
            "word_bank": In(range(max(2, n_banks))), "word": Out(u.vector_width * u.chi_bits),
            "pulse_valid": Out(1), "counts": Out(data.ArrayLayout(u.count_bits, u.lanes)), "negative": Out(u.lanes),
            "saturations": Out(range(u.lanes + 1)), "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u, banks, code_bits = self.u, self.banks, self.u.outer_bits + 1
        loads, load_address, load = Signal(len(banks)), Signal.like(self.load_address), Signal.like(self.load, reset_less=True)
        m.d.sync += loads.eq(self.load_en << self.load_bank)
        with m.If(self.load_en):
            m.d.sync += [load_address.eq(self.load_address), load.eq(self.load)]
        for index, bank in enumerate(banks):
            m.submodules[f"bank{index}"] = bank
            first = index * u.vector_width
            m.d.comb += [getattr(bank, name).eq(getattr(self, name)) for name in (
                "valid", "address", "multiplicand", "line_negative", "threshold", "clear", "keep")]
            m.d.comb += [bank.codes.eq(self.codes[first * code_bits:]), bank.load_en.eq(loads[index]),
                         bank.load_address.eq(load_address), bank.load.eq(load)]
            with m.If(self.word_bank == index):
                m.d.comb += self.word.eq(bank.word)
        leaving = Signal(3)                              # a word is in stage "pulse", or its clipped elements are added up
        m.d.sync += [
            self.read_valid.eq(self.valid), self.sum_valid.eq(self.read_valid), self.write_valid.eq(self.sum_valid),
            leaving.eq(Cat(self.write_valid, leaving)), self.saturations.eq(_sum([bank.clips for bank in banks])),
        ]
        m.d.comb += [
            self.active.eq(self.valid | self.load_en | self.read_valid | self.sum_valid | self.write_valid | leaving.any()
                           | loads.any()),
            self.pulse_valid.eq(Cat(bank.due for bank in banks).any()),
            Cat(*self.counts).eq(Cat(bank.counts for bank in banks)),
            self.negative.eq(Cat(bank.negative for bank in banks)),
        ]
        return m
