"""chi memory and its read-modify-write pipeline: one word of ``lanes`` elements a cycle, in banks of a few lanes.

Contract, per lane, for a word that enters with multiplicand T, the line's sign and the lane's code (U: ``hdl.outer_product``):

    sum = chi + U
    threshold:  p = trunc(sum / eps)  (toward zero);  chi <- sum - p eps;  |p| pulses on G+ (p > 0) or G- (p < 0)
    otherwise:  chi <- sum clipped to +-chi_max, clipped elements counted in ``saturations``
    clear:      chi counts as 0
    keep:       the word is only read
    load:       chi is what was shifted in, not what the memory holds

eps = 2^eps_log2, so with sum = q eps + r, 0 <= r < eps (a shift and a mask): p = q, except that p = q + 1 and chi = r - eps when
sum < 0 and r != 0. After a threshold |chi| < eps, and U == eps p + (chi after - chi before) exactly: nothing is lost. The sum
cannot overflow: |chi| <= chi_max and |U| <= update_max (both proved in ``tests/test_accumulator.py``).

Stages, one cycle each. Nothing holds a word once it is issued: whoever takes the pulses must have room for every word that has
entered.

    address     the word's address is taken into each bank                              ``fetch, address`` (inputs)
    issue       T and the line's sign likewise; the memory is addressed                   ``valid, ...`` (inputs)
    multiply    |U| of each lane; the memory output goes into a register, ``held``         ``codes`` (input)
    add         that register + U                                                        ``sum_valid``
    threshold   remainder is written, count is registered                                ``write_valid``
    pulse       counts of a due word are shown                                           ``pulse_valid``

The sign n of U is applied to chi, where it costs no logic: held = chi ^ n, held + |U| = sum ^ n (as ~(chi - a) = ~chi + a), and
what is written is that ^ n. Magnitudes and the limits are symmetric, so in between nothing else asks for n.

``fetch`` comes one cycle before ``valid`` or earlier; the word that was fetched last is issued. A block RAM's output is slow, so
it has a stage for itself. A word must not be fetched while it is in a later stage up to "threshold", nor in the cycle after: in a
command every word is visited once, and a command starts when the one before has left the pipeline. This is asserted.

DUMP and LOAD pass through ``held``, which is a shift register, from lane to lane - vector_width: with ``shift`` the first
vector_width lanes, ``word``, leave and ``shift_in`` enters behind the last. After n_parts shifts a word has left, or has come
in and is issued with the last of them: with ``load`` it is added to U = 0 and written like any other. So no lane is selected, and
wires are short. ``held`` moves one cycle after ``shift``, in time for stage "add"; ``word`` shows what it will hold then.

A bank is a column of its own, with its part of the memory and its own registers of everything that all lanes share, so also of
``threshold``, ``clear``, ``keep``, ``load`` and ``shift``: a design has short wires where a placer keeps banks together. A slice
is what repeats in a bank: a memory of at most SLICE_BITS, which two block RAMs of 18 bits hold side by side, and its lanes.

Timing: latency 3 from issue to write, 4 to ``pulse_valid``; 1 word per cycle.
Source: Nandakumar et al. 2020 [papers.md B2]; truncation as aihwkit's ``truncf(chi/eps)``. Pipeline and formats: design choice.
"""
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

    Shared registers are the bank's; a lane's own are here: ``held``, ``updates``, ``sums``, ``whole`` (of a sum: it is a multiple
    of eps), ``counts``, ``negative``. ``word``: what ``held`` shows; ``following``: what it takes with ``shift``. ``due``: a lane
    has pulses, in stage "threshold"; ``clips``: lanes beyond +-chi_max, in stage "pulse".
    """

    def __init__(self, u: UnitParams, first: int, n_lanes: int):
        self.u, self.first, self.n_lanes = u, first, n_lanes
        # no word is read while it is written (asserted in Bank): synthesis need not order the two
        self.memory = Memory(shape=data.ArrayLayout(u.chi_bits, n_lanes), depth=u.chi_words, init=[], attrs={"no_rw_check": 1})
        # attributes for proofs. multiply: output; add: held, updates, added (n); threshold: sums, whole, summed (n)
        update_shape, sum_shape = u.update_max.bit_length() + 1, signed((u.chi_max + u.update_max).bit_length() + 1)
        self.output, self.held = Signal(self.memory.shape), Signal(self.memory.shape, reset_less=True)
        self.updates = [Signal(update_shape, name=f"update{k}", reset_less=True) for k in range(n_lanes)]
        self.sums = [Signal(sum_shape, name=f"sum{k}", reset_less=True) for k in range(n_lanes)]
        self.added, self.summed, self.whole = (
            Signal(n_lanes, reset_less=True, name=name) for name in ("added", "summed", "whole"))
        address, t_bits = range(u.chi_words), u.multiplicand_max.bit_length()
        super().__init__({
            "multiplicand": In(t_bits), "codes": In(n_lanes * u.outer_bits), "signs": In(n_lanes),
            "read_en": In(1), "read_address": In(address), "take": In(1), "clear": In(1), "threshold": In(1),
            "write_en": In(1), "write_address": In(address),
            "shift": In(1), "following": In(n_lanes * u.chi_bits), "word": Out(n_lanes * u.chi_bits),
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
        signs = Cat(sign.replicate(u.chi_bits) for sign in self.signs)
        with m.If(self.shift):
            m.d.sync += self.held.eq(self.following)
        with m.Elif(self.take):
            m.d.sync += self.held.eq(self.output.as_value() ^ signs)
        with m.If(self.clear):
            m.d.sync += self.held.eq(0)
        m.d.sync += [self.added.eq(self.signs), self.summed.eq(self.added)]
        # a lane: |U| beside the memory output | chi + U | quotient and remainder. What is used twice is a Signal: emitted once
        counts = [Signal(u.count_bits, name=f"count{k}") for k in lanes]
        clipped = [Signal(name=f"clipped{k}") for k in lanes]
        negatives = Signal(self.n_lanes)
        for k in lanes:
            code = self.codes.word_select(k, u.outer_bits)
            total = Cat(Const(1, 1), self.held[k]).as_signed() + updates[k]
            m.d.sync += [updates[k].eq(lane_update(u, self.multiplicand, code)), sums[k].eq(total[1:]),
                         self.whole[k].eq(total[1:u.eps_log2 + 1] == self.added[k].replicate(u.eps_log2))]
            sign, top, exact = self.summed[k], sums[k][-1], Signal(u.chi_bits, name=f"exact{k}")
            negative, whole, over = negatives[k], self.whole[k], Signal(name=f"over{k}")
            # a bit is one LUT of four inputs: sum, sign, over, top
            limit = Mux(top ^ sign, Const(-u.chi_max, u.chi_bits), Const(u.chi_max, u.chi_bits))
            value = Mux(over, limit, exact)
            # below 0 and no multiple of eps: p = q + 1
            high = Mux(self.threshold, (negative & ~whole).replicate(u.chi_bits - u.eps_log2), value[u.eps_log2:])
            m.d.comb += [
                negative.eq(top ^ sign), exact.eq(sums[k][:u.chi_bits] ^ sign.replicate(u.chi_bits)),
                counts[k].eq((sums[k][u.eps_log2:u.eps_log2 + u.count_bits] ^ top.replicate(u.count_bits))
                             + (negative & whole)),
                clipped[k].eq(counts[k][u.chi_bits - 1 - u.eps_log2:].any()),
                over.eq(clipped[k] & ~self.threshold),
                written[k].eq(Cat(value[:u.eps_log2], high)),
            ]
        clips, shown_counts, shown_negative = (
            Signal.like(port, name=f"shown_{name}", reset_less=True)
            for name, port in (("clips", self.clips), ("counts", self.counts), ("negative", self.negative)))
        m.d.sync += [clips.eq(sum(clipped)), shown_counts.eq(Cat(counts)), shown_negative.eq(negatives)]
        m.d.comb += [self.due.eq(Cat(counts).any()), self.clips.eq(clips), self.counts.eq(shown_counts),
                     self.negative.eq(shown_negative)]
        return m


class Bank(wiring.Component):
    """``n_lanes`` lanes from ``first`` on in slices, with the registers that they share: the pipeline of the module's text.

    Members as of ``Accumulator``; ``word, following``: see ``Slice``, of all lanes here; ``due``: a lane has pulses in stage
    "pulse"; ``clips``: lanes clipped, a cycle later.
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
        self.held_threshold, self.held_clear, self.held_keep, self.held_load = (
            Signal(name=f"held_{name}") for name in ("threshold", "clear", "keep", "load"))
        self.shifting = Signal()
        self.held_negative = Signal(reset_less=True)
        self.signs = Signal(n_lanes)
        super().__init__({
            "fetch": In(1), "address": In(range(u.chi_words)),
            "valid": In(1), "multiplicand": In(len(self.held_multiplicand)),
            "line_negative": In(1), "codes": In(n_lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "keep": In(1), "load": In(1),
            "shift": In(1), "following": In(n_lanes * u.chi_bits), "word": Out(n_lanes * u.chi_bits),
            "due": Out(1), "counts": Out(n_lanes * u.count_bits), "negative": Out(n_lanes), "clips": Out(range(n_lanes + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        u, valid = self.u, self.valid_stages
        codes = [self.codes.word_select(k, u.outer_bits + 1) for k in range(self.n_lanes)]
        with m.If(self.fetch):
            m.d.sync += self.read_address.eq(self.address)
        m.d.sync += [
            self.fetched.eq(self.fetch), valid.eq(Cat(self.valid, valid)), self.multiply_address.eq(self.read_address),
            self.add_address.eq(self.multiply_address), self.write_address.eq(self.add_address),
            self.held_multiplicand.eq(self.multiplicand), self.held_negative.eq(self.line_negative),
            self.held_threshold.eq(self.threshold), self.held_clear.eq(self.clear), self.held_keep.eq(self.keep),
            self.held_load.eq(self.load), self.shifting.eq(self.shift),
        ]
        m.d.comb += self.signs.eq(Cat(code[-1] for code in codes) ^ self.held_negative.replicate(self.n_lanes))
        lanes = 0
        for index, one in enumerate(self.slices):
            m.submodules[f"slice{index}"] = one
            m.d.comb += [
                one.multiplicand.eq(self.held_multiplicand),
                one.codes.eq(Cat(code[:-1] for code in codes[lanes:lanes + one.n_lanes])), one.signs.eq(self.signs[lanes:]),
                one.following.eq(self.following[lanes * u.chi_bits:]),
                one.read_en.eq(self.fetched), one.read_address.eq(self.read_address), one.take.eq(valid[0] & ~self.held_load),
                one.clear.eq(self.held_clear), one.threshold.eq(self.held_threshold), one.shift.eq(self.shifting),
                one.write_en.eq(valid[2] & ~self.held_keep), one.write_address.eq(self.write_address),
            ]
            lanes += one.n_lanes
        m.d.comb += [self.counts.eq(Cat(one.counts for one in self.slices)),
                     self.negative.eq(Cat(one.negative for one in self.slices)),
                     self.word.eq(Cat(one.word for one in self.slices))]
        clipping = Signal()
        m.d.sync += [
            clipping.eq(valid[2] & ~self.held_threshold & ~self.held_keep),
            self.due.eq(valid[2] & self.held_threshold & ~self.held_keep & Cat(one.due for one in self.slices).any()),
            self.clips.eq(Mux(clipping, _sum([one.clips for one in self.slices]), 0)),
            *(Assert(~(self.fetched & there & (self.read_address == address)), f"word read while it is in stage {stage}")
              for there, address, stage in zip(valid, (self.multiply_address, self.add_address, self.write_address),
                                               ("multiply", "add", "threshold"), strict=True)),
            Assert(~(self.shifting & valid[0] & ~self.held_load), "shifted while a word is in stage multiply"),
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
    valid, multiplicand, line_negative : In
        A word in stage "issue".
    codes : In
        Lane codes of the word in stage "multiply", packed, outer_bits + 1 bits a lane, sign on top.
    threshold, clear, keep, load : In(1)
        See the contract; stable for a whole command, from a cycle before its first issue.
    shift, shift_in : In
        ``held`` moves on by ``vector_width`` lanes, ``shift_in`` enters. Not in a cycle before a word is in stage "multiply", but
        for a LOAD's last shift.
    read_valid, sum_valid, write_valid : Out(1)
        A word is in stage "multiply", "add", "threshold".
    word : Out
        The first ``vector_width`` lanes of ``held``, ^ n; chi of an issued word from stage "add" on, until ``shift`` or the next.
        With the shift before this cycle done.
    pulse_valid : Out(1)
        A due word is in stage "pulse", for one cycle; ``counts``, ``negative``: its pulses.
    saturations : Out
        Elements clipped, three cycles after stage "pulse".
    active : Out(1)
        Must be clocked in this cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        per_bank = BANK_SLICES * _per_slice(u)
        self.banks = [Bank(u, first, min(per_bank, u.lanes - first)) for first in range(0, u.lanes, per_bank)]
        super().__init__({
            "fetch": In(1), "address": In(range(u.chi_words)),
            "valid": In(1), "multiplicand": In(u.multiplicand_max.bit_length()),
            "line_negative": In(1), "codes": In(u.lanes * (u.outer_bits + 1)),
            "threshold": In(1), "clear": In(1), "keep": In(1), "load": In(1),
            "shift": In(1), "shift_in": In(u.vector_width * u.chi_bits), "word": Out(u.vector_width * u.chi_bits),
            "read_valid": Out(1), "sum_valid": Out(1), "write_valid": Out(1),
            "pulse_valid": Out(1), "counts": Out(data.ArrayLayout(u.count_bits, u.lanes)), "negative": Out(u.lanes),
            "saturations": Out(range(u.lanes + 1)), "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        u, banks, code_bits = self.u, self.banks, self.u.outer_bits + 1
        # ``held`` of all lanes, places behind the last lane up to whole words, and what comes behind them
        part_bits = u.vector_width * u.chi_bits
        behind = Signal(n_parts(u) * part_bits - u.lanes * u.chi_bits, reset_less=True)
        shifting, entering = Signal(), Signal(part_bits, reset_less=True)
        chain = Cat(*(bank.word for bank in banks), behind, entering)
        m.d.sync += [shifting.eq(self.shift), entering.eq(self.shift_in)]
        with m.If(shifting):
            m.d.sync += behind.eq(chain[part_bits + u.lanes * u.chi_bits:])
        for index, bank in enumerate(banks):
            m.submodules[f"bank{index}"] = bank
            m.d.comb += [getattr(bank, name).eq(getattr(self, name)) for name in (
                "fetch", "address", "valid", "multiplicand", "line_negative", "threshold", "clear", "keep", "load", "shift")]
            m.d.comb += [bank.codes.eq(self.codes[bank.first * code_bits:]),
                         bank.following.eq(chain[part_bits + bank.first * u.chi_bits:])]
        fetched, leaving = Signal(), Signal(4)           # leaving: in stage "pulse", or its clipped elements are added up
        clips = [Signal.like(self.saturations, name=f"clips{first}") for first in range(0, len(banks), 4)]
        m.d.sync += [
            fetched.eq(self.fetch), self.read_valid.eq(self.valid), self.sum_valid.eq(self.read_valid),
            self.write_valid.eq(self.sum_valid),
            leaving.eq(Cat(self.write_valid, leaving)), self.saturations.eq(_sum(clips)),
            *(some.eq(_sum([bank.clips for bank in banks[4 * n:4 * n + 4]])) for n, some in enumerate(clips)),
        ]
        m.d.comb += [
            self.active.eq(self.fetch | fetched | self.valid | self.shift | shifting | self.read_valid | self.sum_valid
                           | self.write_valid | leaving.any()),
            self.pulse_valid.eq(Cat(bank.due for bank in banks).any()),
            Cat(*self.counts).eq(Cat(bank.counts for bank in banks)),
            self.negative.eq(Cat(bank.negative for bank in banks)),
            self.word.eq(Mux(shifting, chain[part_bits:2 * part_bits], chain[:part_bits])),
        ]
        return m
