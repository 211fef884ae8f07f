"""AXI4-Lite slave: the register map of ``hdl/registers.rdl`` as hardware.

Contract: 32-bit data, 16-bit byte address (the two low bits are ignored). A read or write of an address without a register, a
write to a read-only register and a read of the program window answer SLVERR and change nothing. Byte strobes select the bytes
that are written; words of the program are written as a whole (else SLVERR). A write's address and data are taken together, once
both are there. One write and one read are in flight at a time. No combinational path leads from an AXI input to an AXI output.

CONTROL's bits are pulses of one cycle. Reading ``COUNTER.x.LO`` latches the upper half, which any ``HI`` returns. Of a field of a
descriptor as many bits are kept as a right one needs (``hdl.decoder.RightMatrix``), and above them, where they are checked
(``operand_checks``), one bit: the OR of all others.

Timing: write: response 2 cycles after the later of address and data came. Read: data 5 cycles after the address was taken.
Source: design choice; AMBA AXI protocol specification (ARM IHI 0022), chapters A3 and B1.
"""
from itertools import groupby

from amaranth import Cat, Const, Module, Mux, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.decoder import RightMatrix
from hdl.ports import MatrixDescriptor, ProgramWriteSignature
from model.events import EVENTS, N_EVENTS
from model.params import UnitParams
from model.regmap import ADDRESS_BITS, register_map

__all__ = ["OKAY", "SLVERR", "Registers", "kept"]

OKAY, SLVERR = 0, 2
PAGE_BITS = 6
"""log2 of the words of a page; registers fill a page from its start on [bit]."""


class Registers(wiring.Component):
    """Register file between the host's AXI4-Lite port and the unit.

    Members
    -------
    s_axil_* : In, Out
        The five channels of AXI4-Lite; ``s_axil_awprot`` and ``s_axil_arprot`` are ignored.
    start, stop, clear, resume : Out(1)
        Pulses of CONTROL.
    entry, loop_count, matrices : Out
        ENTRY (its low bits), LOOP_COUNT, and the descriptors MATRIX[k].
    program_write : Out(ProgramWriteSignature)
        Write port of the sequencer's program memory.
    busy, done, accepting, stopped, error, error_pc, pc : In
        What STATUS, ERROR_PC and PC show.
    read_en, read_index, read_value : Out(1), Out(range(N_EVENTS)), In(counter_bits)
        Read port of the counters: ``read_en`` at most once in 4 cycles (proved), with every read, of a counter or not; the value
        is valid in the third cycle after it.
    active : Out(1)
        Must be clocked in this cycle.
    """

    def __init__(self, u: UnitParams):
        self.u = u
        self.map = register_map(u)
        axi = {
            "awaddr": In(ADDRESS_BITS), "awprot": In(3), "awvalid": In(1), "awready": Out(1),
            "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
            "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
            "araddr": In(ADDRESS_BITS), "arprot": In(3), "arvalid": In(1), "arready": Out(1),
            "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
        }
        super().__init__({
            **{f"s_axil_{name}": member for name, member in axi.items()},
            "start": Out(1), "stop": Out(1), "clear": Out(1), "resume": Out(1), "entry": Out(range(u.program_words)),
            "loop_count": Out(32),
            "matrices": Out(data.ArrayLayout(MatrixDescriptor(u), u.n_matrices)),
            "program_write": Out(ProgramWriteSignature(u)),
            "busy": In(1), "done": In(1), "accepting": In(1), "stopped": In(1), "error": In(4), "error_pc": In(16), "pc": In(16),
            "read_en": Out(1), "read_index": Out(range(N_EVENTS)), "read_value": In(u.counter_bits), "active": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        storage = self._storage(m)
        writing = self._write(m, storage)
        reading = self._read(m, storage)
        m.d.comb += self.active.eq(writing | reading)
        return m

    def _storage(self, m):
        """(register, field) -> signal of every field that the host writes and hardware only reads."""
        right = _right_bits(self.u)
        storage = {}
        for register in self.map.registers.values():
            for field in register.fields.values():
                if field.writable and not field.pulse:
                    bits = field.bits
                    if register.name.startswith("MATRIX["):
                        bits = min(bits, right[field.name] + self.u.operand_checks)
                    storage[register.name, field.name] = Signal(bits, init=field.reset, name=f"{register.name}_{field.name}")
        m.d.comb += [self.entry.eq(storage["ENTRY", "value"]), self.loop_count.eq(storage["LOOP_COUNT", "value"])]
        for (register, field), signal in storage.items():
            if register.startswith("MATRIX["):
                m.d.comb += self.matrices[int(register[7:register.index("]")])][field].eq(signal)
        return storage

    def _pages(self, address):
        """Of every page but the counters': its number, whether ``address`` is a register of it, which one it is, and all."""
        pages = []
        for page, registers in groupby(self.map.registers.values(), lambda register: register.address // 4 >> PAGE_BITS):
            registers = [register for register in registers if not register.name.startswith("COUNTER.")]
            if registers:
                assert [register.address // 4 % (1 << PAGE_BITS) for register in registers] == [*range(len(registers))]
                here = (address[PAGE_BITS:] == page) & (address[:PAGE_BITS] < len(registers))
                pages.append((page, here, address[:(len(registers) - 1).bit_length()], registers))
        return pages

    def _write(self, m, storage):
        """The channels AW, W and B; returns when they must be clocked."""
        address, word, strobe = self.s_axil_awaddr[2:], self.s_axil_wdata, self.s_axil_wstrb
        pages = self._pages(address)
        in_program, in_page = Signal(), Signal(len(pages))
        commit, there = Signal(), self.s_axil_awvalid & self.s_axil_wvalid      # commit: both are taken
        m.d.comb += [self.s_axil_awready.eq(commit), self.s_axil_wready.eq(commit)]
        m.d.sync += commit.eq(there & ~commit & ~self.s_axil_bvalid)
        with m.If(self.s_axil_bvalid & self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)

        def written(signal, low, bits):
            """``signal``, at bit ``low`` of its register, with the strobed bytes of ``word``; its last bit: OR of the rest."""
            bits = bits if self.u.operand_checks else len(signal)
            new = [Mux(strobe[bit // 8], word[bit], signal[min(bit - low, len(signal) - 1)]) for bit in range(low, low + bits)]
            return Cat(*new[:len(signal) - 1], Cat(new[len(signal) - 1:]).any())

        pulses = {"start": self.start, "stop": self.stop, "clear": self.clear, "resume": self.resume}
        program, write = self.map.program, self.program_write
        m.d.sync += [pulse.eq(0) for pulse in pulses.values()]
        # looked up in the cycle before ``commit``: the address stands still
        m.d.sync += [in_program.eq(_inside(address, program)), in_page.eq(Cat(here for _, here, *_ in pages))]
        m.d.comb += [write.stb.eq(commit & in_program & strobe.all()), write.data.eq(word),
                     write.part.eq(address), write.address.eq(address[2:])]
        with m.If(commit):
            m.d.sync += [self.s_axil_bvalid.eq(1), self.s_axil_bresp.eq(Mux(write.stb, OKAY, SLVERR))]
            for here, (*_, place, registers) in zip(in_page, pages, strict=True):
                for index, register in enumerate(registers):
                    if register.writable:
                        with m.If(here & (place == index)):
                            m.d.sync += self.s_axil_bresp.eq(OKAY)
                            for field in register.fields.values():
                                if field.pulse:
                                    m.d.sync += pulses[field.name].eq(word[field.low] & strobe[field.low // 8])
                                else:
                                    signal = storage[register.name, field.name]
                                    m.d.sync += signal.eq(written(signal, field.low, field.bits))
        return there | commit | self.s_axil_bvalid | Cat(pulses.values()).any()

    def _read(self, m, storage):
        """The channels AR and R; returns when they must be clocked."""
        address, upper = Signal(ADDRESS_BITS - 2), Signal(32)
        have_address, age, is_counter = Signal(), Signal(3), Signal()           # age: bit k: taken more than k + 1 cycles ago
        counters, bits = self.map.address(f"COUNTER.{EVENTS[0].name.upper()}.LO") // 4, (2 * N_EVENTS - 1).bit_length()
        assert counters % (1 << bits) == 0
        pages = self._pages(address)
        in_page, known, is_upper = Signal(len(pages)), Signal(), address[0]     # is_upper: of a counter's halves
        m.d.comb += self.s_axil_arready.eq(~have_address & ~self.s_axil_rvalid)
        m.d.sync += [self.read_en.eq(0), in_page.eq(Cat(here for _, here, *_ in pages)),
                     is_counter.eq((address[bits:] == counters >> bits) & (address[:bits] < 2 * N_EVENTS))]
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += [have_address.eq(1), address.eq(self.s_axil_araddr[2:]), age.eq(0), self.read_en.eq(1)]
        with m.If(self.s_axil_rvalid & self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)

        m.d.comb += [self.read_index.eq(address[1:bits]), known.eq(in_page.any())]
        values = {
            ("STATUS", "busy"): self.busy, ("STATUS", "done"): self.done, ("STATUS", "accepting"): self.accepting,
            ("STATUS", "stopped"): self.stopped, ("STATUS", "error"): self.error,
            ("ERROR_PC", "value"): self.error_pc, ("PC", "value"): self.pc, **storage,
        }
        word = Signal(32)
        with m.Switch(address[PAGE_BITS:PAGE_BITS + pages[-1][0].bit_length()]):        # where there is none: any word
            for page, _, place, registers in pages:
                with m.Case(page) if page != pages[-1][0] else m.Default():
                    with m.Switch(place):
                        for index, register in enumerate(registers):
                            with m.Case(index):
                                m.d.comb += word.eq(_word(register, values))
        with m.If(have_address & ~age[-1]):
            m.d.sync += [age.eq(Cat(1, age)), self.s_axil_rdata.eq(word)]
        with m.Elif(have_address):
            m.d.sync += [have_address.eq(0), self.s_axil_rvalid.eq(1),
                         self.s_axil_rresp.eq(Mux(known | is_counter, OKAY, SLVERR))]
            with m.If(~known):
                m.d.sync += self.s_axil_rdata.eq(0)
            with m.If(is_counter & is_upper):
                m.d.sync += self.s_axil_rdata.eq(upper)
            with m.Elif(is_counter):
                m.d.sync += [self.s_axil_rdata.eq(self.read_value), upper.eq(self.read_value >> 32)]
        return have_address | self.s_axil_rvalid | self.s_axil_arvalid


def _right_bits(u):
    """Bits that a right descriptor needs, by field."""
    return {name: Shape.cast(shape).width for name, shape in RightMatrix(u).members.items()}


def kept(u: UnitParams, name: str, word: int) -> int:
    """What the register ``name`` of a descriptor reads as after ``word`` was written."""
    registers, right = register_map(u), _right_bits(u)
    fields = {field: (value, right[field]) for field, value in registers.unpack(name, word).items()}
    return registers.pack(name, **{field: value & (1 << bits) - 1 | (u.operand_checks and value >> bits != 0) << bits
                                   for field, (value, bits) in fields.items()})


def _inside(address, window):
    """Whether a word address lies in ``window``, whose base and size are powers of two."""
    size = window.words
    assert size & (size - 1) == 0
    assert window.address % (4 * size) == 0
    return address[size.bit_length() - 1:] == window.address // 4 // size


def _word(register, values):
    """The 32 bits that a read of ``register`` returns."""
    bits, place = [], 0
    for field in sorted(register.fields.values(), key=lambda field: field.low):
        value = values.get((register.name, field.name), Const(field.reset or 0, field.bits))
        assert len(value) <= field.bits
        bits += [Const(0, field.low - place), value, Const(0, field.bits - len(value))]
        place = field.low + field.bits
    return Cat(bits)
