"""chi memory and its read-modify-write pipeline: one word of ``lanes`` elements a cycle, in banks of a few lanes.

Contract, per lane, for a word that enters with multiplicand T, the line's sign and the lane's code (U: ``hdl.outer_product``):

    sum = chi + U
    threshold:  p = trunc(sum / eps)  (toward zero);  chi <- sum - p eps;  |p| pulses on G+ (p > 0) or G- (p < 0)
    otherwise:  chi <- sum clipped to +-chi_max, clipped elements counted in ``saturations``
    clear:      chi <- 0
    keep:       chi stays: the word is only read

eps = 2^eps_log2, so with sum = q eps + r, 0 <= r < eps (a shift and a mask): p = q, except that p = q + 1 and chi = r - eps when
sum < 0 and r != 0. After a threshold |chi| < eps, and U == eps p + (chi after - chi before) exactly: nothing is lost. The sum
cannot overflow: |chi| <= chi_max and |U| <= update_max (both proved in ``tests/test_accumulator.py``).

Stages, one cycle each. Nothing holds a word once it is issued: whoever takes the pulses must have room for every word that has
entered.

    address     the word's address is taken into each bank                              ``fetch, address`` (inputs)
    issue       T, the line's sign, the lanes' codes likewise; the memory is addressed     ``valid, ...`` (inputs)
    multiply    U of each lane; the memory output goes into a register
    add         that register + U                            ``sum_valid``; ``word``: part ``word_part`` of the register
    threshold   remainder is written, count is registered        ``write_valid``
    pulse       counts of a due word are shown                   ``pulse_valid``

``fetch`` comes one cycle before ``valid`` or earlier; the word that was fetched last is issued. A block RAM's output is slow, so
it has a stage for itself. A word must not be fetched while it is in a later stage up to "threshold", nor in the cycle after: in a
command every word is visited once, and a command starts when the one before has left the pipeline. This is asserted.

A bank is a column of its own, with its part of the memory and its own registers of everything that all lanes share: a design has
short wires where a placer keeps banks together. A slice is what repeats in a bank: a memory of at most SLICE_BITS, which two
block RAMs of 18 bits hold side by side, and its lanes. LOAD brings ``vector_width`` lanes a cycle: ``load_en`` takes ``load`` for
part ``load_part`` of word ``load_address``. A slice is written a cycle after the part that has its last lane; what other parts
have of it, it keeps until then, so that the parts of a word must come in order.

Timing: latency 3 from issue to write, 4 to ``pulse_valid``; 1 word per cycle.
Source: Nandakumar et al. 2020 [papers.md B2]; truncation as aihwkit's ``truncf(chi/eps)``. Pipeline and formats: design choice.
"""
from functools import reduce
from operator import or_

from amaranth import Assert, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.outer_product import lane_update
from model.params import UnitParams

__all__ = ["BANK_SLICES", "LATENCY", "SLICE_BITS", "Accumulator", "Bank", "Slice"]

SLICE_BITS = 36
"""Widest memory of a slice [bit]: three lanes of 12 bits. Design choice."""
BANK_SLICES = 8
"""Most slices of a bank [1]. Design choice: few enough to lie together."""
LATENCY = 4
"""From the issue of a word to its pulses [cycles]."""


def _sum(values):
    """The sum of ``values``, pairwise, for a short path."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return _sum(values[:half]) + _sum(values[half:])


class Slice(wiring.Component):
    """``n_lanes`` lanes from ``first`` on with their memory: stages "issue" to "pulse" of the module's text.

    Shared registers are the bank's; a lane's own are here: ``held``, ``updates``, ``sums``, ``counts``, ``negative``. ``due``: a
    lane has pulses, in stage "threshold"; ``clips``: lanes beyond +-chi_max, in stage "pulse"; ``word``: the register behind the
    memory.
    ``loads``: which part is on ``load`` (one-hot, 0: none, then ``load`` is 0); ``writes``: the part with which LOAD writes.
    """

    def __init__(self, u: UnitParams, first: int, n_lanes: int):
        self.u, self.first, self.n_lanes = u, first, n_lanes
        # no word is read while it is written (asserted in Bank): synthesis need not order the two
        self.memory = Memory(shape=data.ArrayLayout(u.chi_bits, n_lanes), depth=u.chi_words, init=[], attrs={"no_rw_check": 1})
        # attributes for proofs. multiply: output; add: held, updates; threshold: sums
        update_shape, sum_shape = u.update_max.bit_length() + 2, signed((u.chi_max + u.update_max).bit_length() + 1)
        self.output, self.held = Signal(self.memory.shape), Signal(self.memory.shape, reset_less=True)
        self.updates = [Signal(update_shape, name=f"update{k}", reset_less=True) for k in range(n_lanes)]
        self.sums = [Signal(sum_shape, name=f"sum{k}", reset_less=True) for k in range(n_lanes)]
        self.writes = (first + n_lanes - 1) // u.vector_width
        address, t_bits = range(u.chi_words), u.multiplicand_max.bit_length()
        super().__init__({
            "multiplicand": In(t_bits), "line_negative": In(1),
            "codes": In(n_lanes * (u.outer_bits + 1)), "read_en": In(1), "read_address": In(address), "take": In(1),
            "threshold": In(1), "modify": In(1), "write_en": In(1), "write_address": In(address),
            "loads": In(n_parts(u)), "load": In(u.vector_width * u.chi_bits), "word": Out(n_lanes * u.chi_bits),
            "due": Out(1), "clips": Out(range(n_lanes + 1)), "counts": Out(n_lanes * u.count_bits), "negative": Out(n_lanes),
        })

    def elaborate(self, platform):
        m = Module()
        u, lanes, updates, sums = self.u, range(self.n_lanes), self.updates, self.sums
        m.submodules.memory = self.memory
        read, write = self.memory.read_port(), self.memory.write_port()
        written = Signal(self.memory.shape)
        m.d.comb += [
            read.en.eq(self.read_en), read.addr.eq(self.read_address), self.output.eq(read.data),
            self.word.eq(self.held),
            write.en.eq(self.write_en), write.addr.eq(self.write_address), write.data.eq(written),
        ]
        with m.If(self.take):
            m.d.sync += self.held.eq(self.output)
        # a lane: U beside the memory output | chi + U | quotient and remainder. What is used twice is a Signal: emitted once
        counts = [Signal(u.count_bits, name=f"count{k}") for k in lanes]
        clipped = [Signal(name=f"clipped{k}") for k in lanes]
        for k in lanes:
            code = self.codes.word_select(k, u.outer_bits + 1)
            total = Cat(Const(1, 1), self.held[k]).as_signed() + updates[k].as_signed()
            m.d.sync += [updates[k].eq(lane_update(u, self.multiplicand, self.line_negative, code)),
                         sums[k].eq(total[1:].as_signed())]
            negative, low, fraction = sums[k][-1], sums[k][:u.eps_log2], Signal(name=f"fraction{k}")
            quotient = sums[k][u.eps_log2:u.eps_log2 + u.count_bits]
            n_high = u.chi_bits - u.eps_log2
            high = Mux(self.threshold, fraction.replicate(n_high), sums[k][u.eps_log2:u.chi_bits])
            limit = Mux(negative, Const(-u.chi_max, u.chi_bits), Const(u.chi_max, u.chi_bits))
            over, stays = Signal(name=f"over{k}"), Signal(name=f"stays{k}")
            m.d.comb += [
                fraction.eq(negative & low.any()),       # below 0 and no multiple of eps: p = q + 1
                counts[k].eq((quotient ^ negative.replicate(u.count_bits)) + (negative & ~fraction)),
                clipped[k].eq(counts[k][u.chi_bits - 1 - u.eps_log2:].any()),
                over.eq(self.modify & clipped[k] & ~self.threshold),
                stays.eq(self.modify & ~(clipped[k] & ~self.threshold)),
                # one of three, ORed: four inputs a bit
                written[k].eq(self._loaded(m, k) | (Cat(low, high) & stays.replicate(u.chi_bits))
                              | (limit & over.replicate(u.chi_bits))),
            ]
        m.d.comb += self.due.eq(Cat(counts).any())
        m.d.sync += [self.clips.eq(sum(clipped)), self.counts.eq(Cat(counts)), self.negative.eq(Cat(one[-1] for one in sums))]
        return m

    def _loaded(self, m, k):
        """What LOAD writes into lane ``k``, 0 without a LOAD; kept where it comes with an earlier part than the last lane's."""
        part, place = divmod(self.first + k, self.u.vector_width)
        value = self.load.word_select(place, self.u.chi_bits)
        if part == self.writes:
            return value
        kept = Signal(self.u.chi_bits, name=f"kept{k}", reset_less=True)
        with m.If(self.loads[part]):
            m.d.sync += kept.eq(value)
        return kept & self.loads[self.writes].replicate(self.u.chi_bits)


class Bank(wiring.Component):
    """``n_lanes`` lanes from ``first`` on in slices, with the registers that they share: the pipeline of the module's text.

    Members as of ``Accumulator``; ``loads``: see ``Slice``; ``word``: what of part ``word_part`` lies here, 0 elsewhere; ``due``:
    a lane has pulses in stage "pulse"; ``clips``: lanes clipped, a cycle later.
    """

    def __init__(self, u: UnitParams, first: int, n_lanes: int):
        self.u, self.first, self.n_lanes = u, first, n_lanes
        per_slice, end = _per_slice(u), first + n_lanes
        self.slices = [Slice(u, lane, min(per_slice, end - lane)) for lane in range(first, end, per_slice)]
        # registers by stage; attributes for proofs. All stages: a word is there
        self.fetched, self.valid_stages = Signal(), Signal(3)
        stages = ("read", "multiply", "add", "write")
        self.read_address, self.multiply_address, self.add_address, self.write_address = (
            Signal(range(u.chi_words), reset_less=True, name=f"{stage}_address") for stage in stages)
        self.held_multiplicand = Signal(u.multiplicand_max.bit_length(), reset_less=True)
        self.held_negative, self.held_codes = Signal(reset_less=True), Signal(n_lanes * (u.outer_bits + 1), reset_less=True)
        super().__init__({
            "fetch": In(1), "address": In(range(u.chi_words)),
            "valid": In(1), "multiplicand": In(len(self.held_multiplicand)),
            "line_negative": In(1), "codes": In(n_lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "keep": In(1),
            "loads": In(n_parts(u)), "load_address": In(range(u.chi_words)), "load": In(u.vector_width * u.chi_bits),
            "word_part": In(range(max(2, n_parts(u)))), "word": Out(u.vector_width * u.chi_bits),
            "due": Out(1), "counts": Out(n_lanes * u.count_bits), "negative": Out(n_lanes), "clips": Out(range(n_lanes + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        u, valid = self.u, self.valid_stages
        with m.If(self.fetch):
            m.d.sync += self.read_address.eq(self.address)
        m.d.sync += [
            self.fetched.eq(self.fetch), valid.eq(Cat(self.valid, valid)), self.multiply_address.eq(self.read_address),
            self.add_address.eq(self.multiply_address), self.write_address.eq(self.add_address),
            self.held_multiplicand.eq(self.multiplicand), self.held_negative.eq(self.line_negative),
            self.held_codes.eq(self.codes),
        ]
        loading, modify, write_en, write_address = Signal(), Signal(), Signal(), Signal.like(self.write_address)
        m.d.comb += [loading.eq(self.loads.any()), modify.eq(~self.clear & ~loading), write_en.eq(valid[2] & ~self.keep),
                     write_address.eq(Mux(loading, self.load_address, self.write_address))]
        place = 0
        for index, one in enumerate(self.slices):
            m.submodules[f"slice{index}"] = one
            m.d.comb += [
                one.multiplicand.eq(self.held_multiplicand), one.line_negative.eq(self.held_negative),
                one.codes.eq(self.held_codes[place * (u.outer_bits + 1):]),
                one.read_en.eq(self.fetched), one.read_address.eq(self.read_address), one.take.eq(valid[0]),
                one.threshold.eq(self.threshold), one.modify.eq(modify), one.loads.eq(self.loads), one.load.eq(self.load),
                one.write_en.eq(write_en | self.loads[one.writes]), one.write_address.eq(write_address),
            ]
            place += one.n_lanes
        m.d.comb += [self.counts.eq(Cat(one.counts for one in self.slices)),
                     self.negative.eq(Cat(one.negative for one in self.slices))]
        # here and not for all banks at once: only one part's bits leave a bank
        words, end = Cat(one.word for one in self.slices), self.first + self.n_lanes
        with m.Switch(self.word_part):
            for part in range(self.first // u.vector_width, -(-end // u.vector_width)):
                with m.Case(part):
                    lanes = range(part * u.vector_width, (part + 1) * u.vector_width)
                    m.d.comb += self.word.eq(Cat(
                        words.word_select(lane - self.first, u.chi_bits) if self.first <= lane < end else Const(0, u.chi_bits)
                        for lane in lanes))
        clipping = Signal()
        m.d.sync += [
            clipping.eq(valid[2] & ~self.threshold & ~self.clear & ~self.keep),
            self.due.eq(valid[2] & self.threshold & ~self.keep & Cat(one.due for one in self.slices).any()),
            self.clips.eq(Mux(clipping, _sum([one.clips for one in self.slices]), 0)),
            *(Assert(~(self.fetched & there & (self.read_address == address)), f"word read while it is in stage {stage}")
              for there, address, stage in zip(valid, (self.multiply_address, self.add_address, self.write_address),
                                               ("multiply", "add", "threshold"), strict=True)),
            Assert(~(loading & valid[2]), "host write beside a word in the pipeline"),
        ]
        return m


def n_parts(u: UnitParams) -> int:
    """Vector words that hold a chi word [1]."""
    return -(-u.lanes // u.vector_width)


def _per_slice(u: UnitParams) -> int:
    """Lanes of a slice [1]."""
    return SLICE_BITS // u.chi_bits


class Accumulator(wiring.Component):
    """See the module.

    Members
    -------
    fetch, address : In
        A word in stage "address".
    valid, multiplicand, line_negative, codes : In
        A word in stage "issue". ``codes``: lane codes, packed, outer_bits + 1 bits a lane, sign on top.
    threshold, clear, keep : In(1)
        What is done in stage "threshold"; stable for a whole command.
    load_en, load_part, load_address, load : In
        Host write, while no word is in the pipeline.
    read_valid, sum_valid, write_valid : Out(1)
        A word is in stage "multiply", "add", "threshold". ``word``: part ``word_part`` of the memory output; from stage "add" on
        until the next word is issued.
    pulse_valid : Out(1)
        A due word is in stage "pulse", for one cycle; ``counts``, ``negative``: its pulses.
    saturations : Out
        Elements clipped, two cycles after stage "pulse".
    active : Out(1)
        Must be clocked in this cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        per_bank = BANK_SLICES * _per_slice(u)
        self.banks = [Bank(u, first, min(per_bank, u.lanes - first)) for first in range(0, u.lanes, per_bank)]
        parts = range(max(2, n_parts(u)))
        super().__init__({
            "fetch": In(1), "address": In(range(u.chi_words)),
            "valid": In(1), "multiplicand": In(u.multiplicand_max.bit_length()),
            "line_negative": In(1), "codes": In(u.lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "keep": In(1),
            "load_en": In(1), "load_part": In(parts), "load_address": In(range(u.chi_words)),
            "load": In(u.vector_width * u.chi_bits),
            "read_valid": Out(1), "sum_valid": Out(1), "write_valid": Out(1),
            "word_part": In(parts), "word": Out(u.vector_width * u.chi_bits),
            "pulse_valid": Out(1), "counts": Out(data.ArrayLayout(u.count_bits, u.lanes)), "negative": Out(u.lanes),
            "saturations": Out(range(u.lanes + 1)), "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u, banks, code_bits = self.u, self.banks, self.u.outer_bits + 1
        loads, load_address, load = Signal(n_parts(u)), Signal.like(self.load_address), Signal.like(self.load)
        m.d.sync += [loads.eq(self.load_en << self.load_part), load.eq(Mux(self.load_en, self.load, 0))]
        with m.If(self.load_en):
            m.d.sync += load_address.eq(self.load_address)
        for index, bank in enumerate(banks):
            m.submodules[f"bank{index}"] = bank
            m.d.comb += [getattr(bank, name).eq(getattr(self, name)) for name in (
                "fetch", "address", "valid", "multiplicand", "line_negative", "threshold", "clear", "keep",
                "word_part")]
            m.d.comb += [bank.codes.eq(self.codes[bank.first * code_bits:]), bank.loads.eq(loads),
                         bank.load_address.eq(load_address), bank.load.eq(load)]
        fetched, leaving = Signal(), Signal(3)           # leaving: in stage "pulse", or its clipped elements are added up
        m.d.sync += [
            fetched.eq(self.fetch), self.read_valid.eq(self.valid), self.sum_valid.eq(self.read_valid),
            self.write_valid.eq(self.sum_valid),
            leaving.eq(Cat(self.write_valid, leaving)), self.saturations.eq(_sum([bank.clips for bank in banks])),
        ]
        m.d.comb += [
            self.active.eq(self.fetch | fetched | self.valid | self.load_en | self.read_valid | self.sum_valid | self.write_valid
                           | leaving.any() | loads.any()),
            self.pulse_valid.eq(Cat(bank.due for bank in banks).any()),
            Cat(*self.counts).eq(Cat(bank.counts for bank in banks)),
            self.negative.eq(Cat(bank.negative for bank in banks)), self.word.eq(reduce(or_, [bank.word for bank in banks])),
        ]
        return m
