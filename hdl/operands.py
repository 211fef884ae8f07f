"""Operand fetch of UPDATE: vector memory words to operand codes, lane codes to where they wait, walk words to the walker.

Contract, per element v of a vector with right shift ``shift`` (the line code, then its top bits, rounded):

    mag  = min(|v| >> shift, line_max)
    code = min((mag + (1 << line_bits - outer_bits >> 1)) >> (line_bits - outer_bits), outer_max), with the sign of v

Codes are packed outer_bits + 1 bits each: magnitude below sign. Positions from ``count`` on have code 0.

Order of the words: two walk words and a lane word in turn until a walk word with a non-zero code was seen, then the other lane
words, then the other walk words. So leading empty words and the walker's latency hide behind the lane words. At most 4 = FIFO
depth non-empty walk words come before the last lane word, so lanes never wait for the walker, which waits for them.

``sweep``: nothing is read; every position below ``walk_count`` is walked, with code 0, and no lanes are loaded.

Lane codes wait in registers, or, where a line has several chi words and none begins within a vector word, in a memory with a word
for each. Those lie all over a chip: what goes to them comes from registers that do nothing else.

Stages (``go`` high, walker not blocked): address | data, without its sign | |v|, shift by fours | shift, clip, round | walk word
offered; lane word on its way. The read port holds.

Timing: one word per cycle; walk words are offered 4 moving cycles after their address. ``lanes_loaded`` 4 moving cycles after the
last lane word's address, its codes are there in the cycle after: in time for a chi word that is issued with ``lanes_loaded``.
Source: design choice.
"""
from amaranth import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ports import UpdateCommand, VectorReadSignature
from model.params import UnitParams

__all__ = ["Operands", "WalkWord", "quantise"]


def WalkWord(u: UnitParams):
    """A word of walk codes: ``mask`` marks the elements to walk, ``index`` is its place in the vector."""
    return data.StructLayout({
        "codes": u.vector_width * (u.outer_bits + 1), "mask": u.vector_width, "index": 13 - (u.vector_width.bit_length() - 1)})


def quantise(u: UnitParams, shifted):
    """Operand magnitude of ``shifted`` = |v| >> shift (a Signal), and whether it is not 0."""
    cut = u.line_bits - u.outer_bits
    if cut == 0:
        return Mux(shifted[u.line_bits:].any(), u.line_max, shifted[:u.line_bits]), shifted.any()
    # rounding up overflows where the top bits are all ones and the next one is set; so does every |v| above line_max
    over, top = shifted[u.line_bits:].any() | shifted[cut - 1:u.line_bits].all(), shifted[cut:u.line_bits]
    rounded = Cat(top[k] ^ shifted[cut - 1:cut + k].all() for k in range(u.outer_bits))       # top + 1 as logic: a short path
    return Mux(over, u.outer_max, rounded), shifted[cut - 1:].any()


class Operands(wiring.Component):
    """See the module.

    Members
    -------
    start : In(1)
        No command runs, or it ends: a command can begin in the next cycle. Its counts are taken, lane codes are cleared.
    i : In(UpdateCommand(u))
        The command, in the last cycle of ``start``; ``sweep``: In, see the module, likewise; ``command``: In, the same, stable
        from the next cycle to its end.
    again : In(1)
        The running command, a sweep, begins anew.
    go : In(1)
        The unit moves.
    vector : Out(VectorReadSignature(u))
        Read port "update" of the vector memory. Counts are at most ``n_lines``.
    o_walk : Out(stream.Signature(WalkWord(u)))
        Walk words; words with an empty mask included.
    group, lane_codes : In, Out
        Codes of the lanes of a chi word of a line, packed, lane 0 first: of the word that ``group`` named a cycle before.
        ``lanes_loaded``: they are complete from the next cycle on; ``lanes_next``: what it will be in the next cycle.
    idle : Out(1)
        Everything is fetched and handed over.
    trace_lane_stb, trace_lane_address, trace_lanes : Out
        For recorders: the codes of lane word ``trace_lane_address``, magnitude below sign, in the cycle they are loaded.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        self.code_bits = u.outer_bits + 1
        self.lane_words = -(-min(u.n_lines, u.groups_max * u.lanes) // u.vector_width)
        super().__init__({
            "start": In(1), "sweep": In(1), "i": In(UpdateCommand(u)), "again": In(1), "command": In(UpdateCommand(u)),
            "go": In(1),
            "vector": Out(VectorReadSignature(u)), "o_walk": Out(stream.Signature(WalkWord(u))),
            "group": In(range(u.groups_max)), "lane_codes": Out(u.lanes * self.code_bits), "lanes_loaded": Out(1),
            "lanes_next": Out(1), "idle": Out(1),
            "trace_lane_stb": Out(1), "trace_lane_address": Out(13),
            "trace_lanes": Out(data.ArrayLayout(self.code_bits, u.vector_width)),
        })

    def elaborate(self, platform):
        m = Module()
        u, width, command, code_bits = self.u, self.u.vector_width, self.command, self.code_bits
        words = range(u.n_lines // width)                # of a vector along a side
        tag = data.StructLayout({"valid": 1, "lane": 1, "index": words, "span": range(width + 1)})

        # address: in turn, lane words, the other walk words
        walk_left, lane_left = Signal(range(u.n_lines + 1)), Signal(range(u.n_lines + 1))
        walk_due, lane_due = Signal(), Signal()          # left != 0
        walk_index, lane_index, index = Signal(words), Signal(words), Signal(words)
        begin, sweep, found, move, take_lane, take_walk = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        turn = Signal(2)                                 # walk words since a lane word, at most 2
        fetched, held, placed = Signal(tag), Signal(tag), Signal(tag)
        left = Mux(take_lane, lane_left, walk_left)
        m.d.comb += [
            begin.eq(self.start | self.again), move.eq(self.go & ~(self.o_walk.valid & ~self.o_walk.ready)),
            take_lane.eq(lane_due & (found | turn[1] | ~walk_due)), take_walk.eq(walk_due & ~take_lane),
            self.vector.en.eq(move & (lane_due | walk_due) & ~(sweep | self.start)),
            index.eq(Mux(take_lane, lane_index, walk_index)),
            self.vector.addr.eq(Mux(take_lane, command.lane_src, command.walk_src) + index),
        ]
        with m.If(move):
            with m.If(take_lane):
                m.d.sync += [lane_index.eq(lane_index + 1), lane_left.eq(lane_left - width), lane_due.eq(lane_left > width),
                             turn.eq(0)]
            with m.If(take_walk):
                m.d.sync += [walk_index.eq(walk_index + 1), walk_left.eq(walk_left - width), walk_due.eq(walk_left > width),
                             turn.eq(turn + ~turn[1])]
            m.d.sync += [
                fetched.valid.eq(lane_due | walk_due), fetched.lane.eq(take_lane),
                fetched.index.eq(index), fetched.span.eq(Mux(left > width, width, left)),
                held.eq(fetched), placed.eq(held),
            ]

        # bits other than the sign's, 0 beyond the vector | |v|, shift by fours | code
        codes, walked = Signal(width * code_bits), Signal(width)
        shift, fine = Signal(5, reset_less=True), Signal(2, reset_less=True)
        with m.If(move):
            m.d.sync += [shift.eq(Mux(fetched.lane, command.lane_shift, command.walk_shift)), fine.eq(shift)]
        for k in range(width):
            value = self.vector.data[k]
            inside = (fetched.span > k) & ~sweep
            below, negative = (Signal(name=f"{name}{k}", reset_less=True) for name in ("below", "negative"))
            distance = Signal(u.element_bits, name=f"distance{k}", reset_less=True)
            magnitude = Signal(u.element_bits, name=f"magnitude{k}")
            # what the fine shift can bring into a line code, and whether there are bits beyond that
            coarse = Signal(u.line_bits + 3, name=f"coarse{k}", reset_less=True)
            beyond = Signal(name=f"beyond{k}", reset_less=True)
            shifted = Signal(u.line_bits + 4, name=f"shifted{k}")
            with m.If(move):
                m.d.sync += [
                    below.eq(value[-1] & inside), distance.eq(Mux(inside, value ^ value[-1].replicate(len(value)), 0)),
                    negative.eq(below), coarse.eq(magnitude), beyond.eq(magnitude[len(coarse):].any()),
                ]
            code, nonzero = quantise(u, shifted)
            m.d.comb += [magnitude.eq((distance + below)[:u.element_bits] >> Cat(Const(0, 2), shift[2:])),
                         shifted.eq(Cat((coarse >> fine)[:len(coarse)], beyond)),
                         codes.word_select(k, code_bits).eq(Cat(code, negative)),
                         walked[k].eq(Mux(sweep, placed.span > k, nonzero))]

        # lane words to where they wait, walk words to the walker
        load_lane, lane_follows, started = Signal(), Signal(), Signal()
        m.d.sync += started.eq(begin)
        m.d.comb += [load_lane.eq(placed.valid & placed.lane),
                     lane_follows.eq(lane_due | (fetched.valid & fetched.lane) | (held.valid & held.lane))]
        lane_word, group = Signal(width * code_bits, reset_less=True), Signal.like(self.group)
        m.d.sync += [lane_word.eq(Mux(started, 0, codes)), group.eq(self.group)]      # group: whose codes are on ``lane_codes``
        if u.groups_max > 1 and u.lanes % width == 0:
            self._store(m, started, load_lane, move, lane_word, group)
        else:
            self._hold(m, started, load_lane, placed.index, lane_word, group)
        m.d.comb += self.lanes_next.eq(self.lanes_loaded | (move & ~lane_follows))
        m.d.sync += self.lanes_loaded.eq(self.lanes_next)
        walk = self.o_walk.payload
        with m.If(move):
            m.d.sync += [self.o_walk.valid.eq(placed.valid & ~placed.lane), walk.codes.eq(codes), walk.mask.eq(walked),
                         walk.index.eq(placed.index)]
            with m.If(self.o_walk.valid & walk.mask.any()):
                m.d.sync += found.eq(1)

        m.d.comb += [
            self.idle.eq(~walk_due & ~fetched.valid & ~held.valid & ~placed.valid & ~self.o_walk.valid & self.lanes_loaded),
            self.trace_lane_stb.eq(move & load_lane), self.trace_lane_address.eq(placed.index), self.trace_lanes.eq(codes),
        ]

        # also while nothing runs, so that ``valid`` of a command, which comes late, reaches none of this
        with m.If(begin):
            m.d.sync += [
                walk_left.eq(Mux(self.again, command.walk_count, self.i.walk_count)), lane_left.eq(self.i.lane_count),
                walk_due.eq(Mux(self.again, command.walk_count, self.i.walk_count) != 0), sweep.eq(self.again | self.sweep),
                lane_due.eq(~self.again & ~self.sweep & (self.i.lane_count != 0)),
                self.lanes_loaded.eq(self.again | self.sweep | (self.i.lane_count == 0)), walk_index.eq(0), lane_index.eq(0),
                found.eq(0), turn.eq(0), fetched.valid.eq(0),
            ]
        with m.If(self.again):
            m.d.sync += [held.valid.eq(0), placed.valid.eq(0), self.o_walk.valid.eq(0)]
        m.d.sync += Assert(~self.start | ~(fetched.valid | held.valid | placed.valid | self.o_walk.valid), "words of no command")
        return m

    def _hold(self, m, started, load, index, word, group):
        """Keep the codes of all lane words in registers. ``load``: a lane word is placed, in every cycle that it is held there;
        ``word`` comes a cycle later, and is 0 where all are cleared.
        """
        u = self.u
        lanes = [Signal(len(word), name=f"lanes{n}", reset_less=True) for n in range(self.lane_words)]
        strobes = Signal(self.lane_words)
        m.d.sync += strobes.eq(Cat(started | (load & (index == n)) for n in range(self.lane_words)))
        for register, strobe in zip(lanes, strobes, strict=True):
            with m.If(strobe):
                m.d.sync += register.eq(word)
        group_bits = u.lanes * self.code_bits
        with m.Switch(group):
            for place in range(u.groups_max):
                with m.Case(place):
                    m.d.comb += self.lane_codes.eq(Cat(lanes)[place * group_bits:(place + 1) * group_bits])

    def _store(self, m, started, load, move, word, group):
        """Keep them in a memory, in order, ``word`` a cycle after ``load & move``. Not written: 0 (``filled``: last group)."""
        u, parts = self.u, self.u.lanes // self.u.vector_width
        m.submodules.lanes = lanes = memory.Memory(shape=data.ArrayLayout(len(word), parts), depth=u.groups_max, init=[])
        write = lanes.write_port(granularity=1)
        read = lanes.read_port(transparent_for=[write])
        place, part, last_group, filled = Signal.like(group), Signal(range(parts)), Signal.like(group), Signal(parts)
        loaded = Signal()
        m.d.sync += loaded.eq(load & move)
        m.d.comb += [write.addr.eq(place), write.en.eq(Mux(loaded, 1 << part, 0)), read.addr.eq(self.group),
                     *(write.data[k].eq(word) for k in range(parts))]
        with m.If(started):
            m.d.sync += [place.eq(0), part.eq(0), last_group.eq(0), filled.eq(0)]
        with m.Elif(loaded):
            m.d.sync += [part.eq(part + 1), last_group.eq(place), filled.eq(Mux(part == 0, 1, filled << 1 | 1))]
            with m.If(part == parts - 1):
                m.d.sync += [part.eq(0), place.eq(place + 1)]
        for k in range(parts):
            there = (group < last_group) | ((group == last_group) & filled[k])
            m.d.comb += self.lane_codes.word_select(k, len(word)).eq(Mux(there, read.data[k], 0))
