"""chi memory and its read-modify-write pipeline: one word of ``lanes`` elements a cycle.

Contract, per lane, for a word that enters with multiplicand T, the line's sign and the lane's code (U: ``hdl.outer_product``):

    sum = chi + U
    threshold:  p = trunc(sum / eps)  (toward zero);  chi <- sum - p eps;  |p| pulses on G+ (p > 0) or G- (p < 0)
    otherwise:  chi <- sum clipped to +-chi_max, clipped elements counted in ``saturations``
    clear:      chi <- 0

eps = 2^eps_log2, so with sum = q eps + r, 0 <= r < eps (a shift and a mask): p = q, except that p = q + 1 and chi = r - eps when
sum < 0 and r != 0. After a threshold |chi| < eps, and U == eps p + (chi after - chi before) exactly: nothing is lost. The sum
cannot overflow: |chi| <= chi_max and |U| <= update_max (both proved in ``tests/test_accumulator.py``).

Stages, each one cycle in which ``go`` is high (they hold otherwise, memory output included):

    read            memory address and U of each lane            ``valid, address, multiplicand, ...`` (inputs)
    multiply-add    memory output + U                            ``sum_valid``, ``word``
    threshold       remainder is written, count is registered    ``write_valid``
    pulse           counts of a due word are handed over         ``pulse_valid``

A word must not be read while it is in a later stage: within a command every word is visited once, and a command starts when the
one before has left the pipeline. This is asserted.

The memory is split into ``banks`` of vector_width lanes with one write enable each, so that LOAD writes a bank from one stream
word: ``load_en`` writes ``load`` to bank ``load_bank`` of the word in stage "threshold"; ``loading`` bars all other writes.

Timing: latency 2 from read to write, 3 to ``pulse_valid``; 1 word per cycle.
Source: Nandakumar et al. 2020 [papers.md B2]; truncation as aihwkit's ``truncf(chi/eps)``. Pipeline and formats: design choice.
"""
from operator import add, or_

from amaranth import Assert, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.outer_product import lane_update
from model.params import UnitParams

__all__ = ["Accumulator"]


def _tree(function, values):
    """All ``values`` combined, pairwise, for a short path."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return function(_tree(function, values[:half]), _tree(function, values[half:]))


class Accumulator(wiring.Component):
    """See the module.

    Members
    -------
    go : In(1)
        The pipeline moves.
    valid, address, multiplicand, treble, line_negative : In
        A word in stage "read". ``codes``: lane codes, packed, outer_bits + 1 bits a lane, sign on top.
    threshold, clear, loading : In(1)
        What is done in stage "threshold"; stable for a whole command.
    load_en, load_bank, load : In
        Host write, in cycles with ``write_valid``.
    sum_valid, write_valid : Out(1)
        A word is in stage "multiply-add", "threshold". ``word``: bank ``word_bank`` of the memory output in "multiply-add".
    pulse_valid : Out(1)
        A due word is in stage "pulse"; ``counts``, ``negative``: its pulses, held until the pipeline moves.
    saturations : Out
        Elements clipped, one cycle after stage "threshold"; ``saturations_stb``: may be non-zero, clock this cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        self.banks = -(-u.lanes // u.vector_width)
        # registers of the stages "multiply-add" (address, updates) and "threshold" (address, sums); attributes for proofs
        self.sum_address, self.write_address = (Signal(range(u.chi_words), reset_less=True) for _ in range(2))
        update_shape, sum_shape = u.update_max.bit_length() + 2, signed((u.chi_max + u.update_max).bit_length() + 1)
        self.updates = [Signal(update_shape, name=f"update{k}", reset_less=True) for k in range(u.lanes)]
        self.sums = [Signal(sum_shape, name=f"sum{k}", reset_less=True) for k in range(u.lanes)]
        super().__init__({
            "go": In(1), "valid": In(1), "address": In(range(u.chi_words)),
            "multiplicand": In(u.multiplicand_max.bit_length()), "treble": In(u.multiplicand_max.bit_length() + 2),
            "line_negative": In(1), "codes": In(u.lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "loading": In(1),
            "load_en": In(1), "load_bank": In(range(max(2, self.banks))), "load": In(u.vector_width * u.chi_bits),
            "sum_valid": Out(1), "write_valid": Out(1), "word_bank": In(range(max(2, self.banks))),
            "word": Out(u.vector_width * u.chi_bits),
            "pulse_valid": Out(1), "counts": Out(data.ArrayLayout(u.count_bits, u.lanes)), "negative": Out(u.lanes),
            "saturations": Out(range(u.lanes + 1)), "saturations_stb": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u, go, updates, sums = self.u, self.go, self.updates, self.sums
        code_bits, bank_bits = u.outer_bits + 1, u.vector_width * u.chi_bits

        sum_address, write_address = self.sum_address, self.write_address
        with m.If(go):
            m.d.sync += [
                self.sum_valid.eq(self.valid), self.write_valid.eq(self.sum_valid),
                sum_address.eq(self.address), write_address.eq(sum_address),
            ]

        # memory: banks of vector_width lanes
        reads, writes = [], []
        for bank in range(self.banks):
            m.submodules[f"bank{bank}"] = memory = Memory(shape=bank_bits, depth=u.chi_words, init=[])
            reads.append(memory.read_port())
            writes.append(memory.write_port())
            m.d.comb += [reads[bank].en.eq(go), reads[bank].addr.eq(self.address), writes[bank].addr.eq(write_address)]
            with m.If(self.word_bank == bank):
                m.d.comb += self.word.eq(reads[bank].data)

        # a lane: U beside the memory access | chi + U | quotient and remainder. What is used twice is a Signal: emitted once
        counts = [Signal(u.count_bits, name=f"count{k}") for k in range(u.lanes)]
        clipped = [Signal(name=f"clipped{k}") for k in range(u.lanes)]
        results = [Signal(u.chi_bits, name=f"result{k}") for k in range(u.lanes)]
        for k in range(u.lanes):
            bank, lane = divmod(k, u.vector_width)
            code, chi = self.codes.word_select(k, code_bits), reads[bank].data.word_select(lane, u.chi_bits)
            total = Cat(Const(1, 1), chi).as_signed() + updates[k].as_signed()
            with m.If(go):
                m.d.sync += [updates[k].eq(lane_update(u, self.multiplicand, self.treble, self.line_negative, code)),
                             sums[k].eq(total[1:].as_signed())]
            negative, low, fraction = sums[k][-1], sums[k][:u.eps_log2], Signal(name=f"fraction{k}")
            quotient = sums[k][u.eps_log2:u.eps_log2 + u.count_bits]
            limit = Mux(negative, Const(-u.chi_max, u.chi_bits), Const(u.chi_max, u.chi_bits))
            m.d.comb += [
                fraction.eq(negative & low.any()),       # below 0 and no multiple of eps: p = q + 1
                counts[k].eq((quotient ^ negative.replicate(u.count_bits)) + (negative & ~fraction)),
                clipped[k].eq(counts[k][u.chi_bits - 1 - u.eps_log2:].any()),
                results[k].eq(Mux(self.threshold, Cat(low, fraction.replicate(u.chi_bits - u.eps_log2)),
                                  Mux(clipped[k], limit, sums[k][:u.chi_bits]))),
            ]

        # write, pulses, clips
        due = Signal(self.banks)
        bank_clips = Signal(data.ArrayLayout(range(u.vector_width + 1), self.banks), reset_less=True)
        m.d.sync += self.saturations_stb.eq(go & self.write_valid & ~self.threshold & ~self.clear & ~self.loading)
        m.d.comb += [
            self.pulse_valid.eq(due.any()),
            self.saturations.eq(Mux(self.saturations_stb, sum(bank_clips), 0)),
        ]
        pulse_counts, pulse_negative = Signal(u.lanes * u.count_bits, reset_less=True), Signal(u.lanes, reset_less=True)
        m.d.comb += [self.counts.eq(pulse_counts), self.negative.eq(pulse_negative)]
        with m.If(go):
            m.d.sync += [pulse_counts.eq(Cat(counts)), pulse_negative.eq(Cat(one[-1] for one in sums))]
        for bank in range(self.banks):
            lanes = slice(bank * u.vector_width, (bank + 1) * u.vector_width)
            m.d.comb += [
                writes[bank].en.eq((go & self.write_valid & ~self.loading) | (self.load_en & (self.load_bank == bank))),
                writes[bank].data.eq(Mux(self.loading, self.load, Mux(self.clear, 0, Cat(results[lanes])))),
            ]
            with m.If(go):
                m.d.sync += [
                    due[bank].eq(self.write_valid & self.threshold & _tree(or_, counts[lanes]).any()),
                    bank_clips[bank].eq(_tree(add, clipped[lanes])),
                ]

        m.d.sync += [
            Assert(~(go & self.valid & self.sum_valid & (self.address == sum_address)), "word read twice in a row"),
            Assert(~(go & self.valid & self.write_valid & (self.address == write_address)), "word read while it is written"),
            Assert(~self.load_en | (self.write_valid & self.loading), "host write without a word"),
        ]
        return m
