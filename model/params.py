"""Every shared number of crosstrain: frozen, validated dataclasses with unit and source of each field.

``UnitParams`` are capacities of a build of the digital unit: one build runs every network that fits.
``TileParams`` are the analogue side: devices, converters, ranges; ``CapacitorParams`` what the capacitor scheme adds to it.
``Params`` holds all of them.
Networks, learning rates and schedules are not here: they are data of a run (``model/train.py``).

A TOML file overrides fields by table: ``[unit] lanes = 64``, ``[tile] adc_bits = 9``.
"""
import dataclasses
import json
import tomllib
import typing
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import InputError

__all__ = ["CAPACITOR", "MNIST", "SMALL", "CapacitorParams", "Params", "ParamsError", "TileParams", "UnitConstants", "UnitParams"]


class ParamsError(InputError):
    """A parameter out of its range; the message names value, range and remedy."""


def _check(owner, name, low, high):
    value = getattr(owner, name)
    if isinstance(value, bool) or not low <= value <= high:
        raise ParamsError(f"{name} = {value}: allowed is {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class UnitParams:
    """Capacities and formats of a build of the digital unit (hdl)."""

    lanes: int = 256
    """chi words updated per cycle [1], 1 to 1024. Design choice: 251 rows of layer 2 fit one word."""
    vector_width: int = 32
    """Elements per vector memory word [1], a power of two, 1 to 64. Design choice (design budget: 723 cycles/image)."""
    n_tiles: int = 4
    """Crossbar tiles behind the tile port [1], 1 to 16."""
    n_rows: int = 800
    """Rows of a tile [1], a multiple of vector_width; 785 (784 pixels and bias) rounded up."""
    n_cols: int = 256
    """Columns of a tile [1], a multiple of vector_width; 250 rounded up."""
    n_matrices: int = 8
    """Matrix descriptors [1], 1 to 16."""
    line_bits: int = 7
    """Magnitude bits of a line code [bit]; a read window is 2^line_bits - 1 PWM steps. Nandakumar 2020: 8 bit DAC with sign."""
    adc_bits: int = 8
    """Bits of a signed converter code [bit], 4 to 12. Nandakumar 2020: 8 bit."""
    element_bits: int = 16
    """Bits of a signed vector element [bit], fixed by the instruction formats."""
    outer_bits: int = 4
    """Magnitude bits of x and delta in the outer product [bit], 2 to line_bits. Prototype: 4 bits lose nothing."""
    eps_log2: int = 11
    """eps, one device step, is 2^eps_log2 chi LSB [bit]."""
    chi_bits: int = 12
    """Bits of a signed chi word [bit], at least eps_log2 + 1."""
    update_max_steps: int = 7
    """Largest single update U_max in units of eps [1], 1 to 15; larger ones are clipped and counted."""
    rate_bits: int = 8
    """Bits of the integer part (mantissa) of the learning rate [bit]."""
    chi_words: int = 1024
    """Depth of the chi memory [words of ``lanes``], a power of two."""
    vector_words: int = 256
    """Depth of the vector memory [words of ``vector_width``], a power of two up to 4096."""
    n_luts: int = 4
    """Look-up tables of the vector unit [1], 1 to 8."""
    lut_bits: int = 9
    """Index bits of a look-up table [bit], signed index; at least adc_bits."""
    program_words: int = 256
    """Depth of the program memory [instructions], a power of two up to 2048: what the program window of the registers holds."""
    loop_depth: int = 4
    """Nested LOOPs [1]."""
    set_cycles: int = 50
    """SET pulse width [cycles of the nominal 1 ns]. Nandakumar 2020: 50 ns [papers.md B3]."""
    set_gap_cycles: int = 10
    """Idle cycles after each SET pulse [cycles]. Design choice (no published value)."""
    reset_cycles: int = 30
    """RESET pulse width [cycles]. Design choice (no published value)."""
    reset_gap_cycles: int = 20
    """Idle cycles after a RESET pulse, for the cell to cool [cycles]. Design choice (no published value)."""
    counter_bits: int = 48
    """Width of event and cycle counters [bit]."""
    capacitor: int = 0
    """1: the build has the instructions of the capacitor scheme and its part of the tile port; 0: it has not [1]."""
    slot_bits: int = 5
    """log2 of the slots of a coincidence train, 2^slot_bits: 2 to line_bits [bit]. Design choice; a train is bounded by 32."""
    line_words: int = 0
    """Most chi words of a line of a matrix [1], so that its lane axis is at most line_words * lanes; 0: any axis of a tile."""
    refresh: int = 1
    """1: the build has the refresh unit and its instruction SCAN; 0: it has not [1]."""
    n_exponents: int = 8
    """Exponent registers E [1], a power of two from 4 to 8; instructions count them modulo n_exponents."""
    gather: int = 1
    """1: the build has the instruction GATHER; 0: it has not [1]."""
    operand_checks: int = 1
    """1: descriptors and operands are checked before an instruction leaves; 0: they are trusted, wrong ones do anything [1]."""
    event_counters: int = 1
    """1: every event of ``model/events.py`` has a counter; 0: only ``time`` has, the others read as 0 [1]."""

    def __post_init__(self):
        for name, low, high in (
            ("lanes", 1, 1024), ("vector_width", 1, 64), ("n_tiles", 1, 16), ("n_rows", 4, 4096),
            ("n_cols", 4, 4096), ("n_matrices", 1, 16), ("line_bits", 3, 8), ("adc_bits", 4, 12),
            ("element_bits", 16, 16), ("outer_bits", 2, self.line_bits), ("eps_log2", 3, 15),
            ("chi_bits", self.eps_log2 + 1, self.element_bits), ("update_max_steps", 1, 15), ("rate_bits", 1, 12),
            ("chi_words", 16, 65536), ("vector_words", 16, 4096), ("n_luts", 1, 8), ("lut_bits", self.adc_bits, 12),
            ("program_words", 16, 2048), ("loop_depth", 1, 8), ("set_cycles", 1, 4095), ("set_gap_cycles", 1, 4095),
            ("reset_cycles", 1, 4095), ("reset_gap_cycles", 1, 4095), ("counter_bits", 16, 64), ("capacitor", 0, 1),
            ("slot_bits", 2, 5), ("line_words", 0, 4096), ("refresh", 0, 1), ("n_exponents", 4, 8), ("gather", 0, 1),
            ("operand_checks", 0, 1), ("event_counters", 0, 1),
        ):
            _check(self, name, low, high)
        for name in ("vector_width", "chi_words", "vector_words", "program_words", "n_exponents"):
            if getattr(self, name) & (getattr(self, name) - 1):
                raise ParamsError(f"{name} = {getattr(self, name)}: must be a power of two")
        for name in ("n_rows", "n_cols"):
            if getattr(self, name) % self.vector_width:
                raise ParamsError(f"{name} = {getattr(self, name)}: must be a multiple of vector_width = {self.vector_width}")

        if self.capacitor and self.slot_bits >= self.line_bits:
            raise ParamsError(f"slot_bits = {self.slot_bits}: must be below line_bits = {self.line_bits}")
        if self.capacitor and not self.event_counters:
            raise ParamsError("event_counters = 0: the capacitor scheme counts its trains and ramps, it must be 1")

    def with_lanes(self, lanes: int) -> "UnitParams":
        """The same build with another number of lanes and at least the same chi capacity (up to the largest depth)."""
        words = -(-self.lanes * self.chi_words // max(lanes, 1))
        return dataclasses.replace(self, lanes=lanes, chi_words=min(1 << (words - 1).bit_length(), 65536))

    @property
    def n_lines(self) -> int:
        """Line drivers [1]: one bank serves rows (forward) and columns (transpose)."""
        return max(self.n_rows, self.n_cols)

    @property
    def groups_max(self) -> int:
        """Most chi words of a line of a matrix that this build can hold [1]: ``line_words``, but no more than its tiles need."""
        return min(self.line_words or self.n_lines, -(-self.n_lines // self.lanes))

    @property
    def line_max(self) -> int:
        """Largest line code magnitude, and steps of a full read window [PWM steps]."""
        return (1 << self.line_bits) - 1

    @property
    def slots(self) -> int:
        """Slots of a coincidence train [1]."""
        return 1 << self.slot_bits

    @property
    def outer_max(self) -> int:
        """Largest operand magnitude of the outer product [1]."""
        return (1 << self.outer_bits) - 1

    @property
    def adc_max(self) -> int:
        """Largest converter code; codes are symmetric, -adc_max to adc_max."""
        return (1 << (self.adc_bits - 1)) - 1

    @property
    def eps(self) -> int:
        """One device step [chi LSB]."""
        return 1 << self.eps_log2

    @property
    def update_max(self) -> int:
        """U_max: magnitude bound of one update [chi LSB]."""
        return self.update_max_steps * self.eps

    @property
    def multiplicand_max(self) -> int:
        """Largest aligned multiplicand T [2^-outer_bits chi LSB]; T * outer_max rounds to at most update_max."""
        return (self.update_max << self.outer_bits) // self.outer_max

    @property
    def chi_max(self) -> int:
        """Largest |chi| that is ever stored [chi LSB]: chi is symmetric."""
        return (1 << (self.chi_bits - 1)) - 1

    @property
    def count_max(self) -> int:
        """Most pulses one threshold can command [1]."""
        return (self.chi_max + self.update_max) >> self.eps_log2

    @property
    def count_bits(self) -> int:
        """Bits of a pulse count [bit]."""
        return self.count_max.bit_length()

    @property
    def constants(self) -> "UnitConstants":
        """Every integer above as a named tuple, the form in which compiled twins take it."""
        return UnitConstants(*(getattr(self, name) for name in UnitConstants._fields))


UnitConstants = namedtuple("UnitConstants", [item.name for item in dataclasses.fields(UnitParams)] + [
    name for name, value in vars(UnitParams).items() if isinstance(value, property) and name != "constants"])


@dataclass(frozen=True, kw_only=True)
class TileParams:
    """The analogue side: PCM devices, read, converters, time base (model/analog)."""

    g_lsb_log2: int = -12
    """Conductances are integers of 2^g_lsb_log2 uS [log2 uS]. Design choice."""
    g_max_us: float = 12.0
    """Upper end of the conductance window [uS]. JAP 124, 152135 as coded in srnn-pcm; 20 reproduces the paper's figure."""
    g_min_us: float = 0.1
    """Lower end of the conductance window after a pulse [uS]. Same source."""
    weight_range_us: float = 16.0
    """Conductance difference of weight 1.0 [uS]. Nandakumar 2020: 8 [papers.md B3, M+]; with 16 fewer weights reach the end of
    the devices' range (cosim/results/study.md)."""
    step_us: float = 0.77
    """Mean conductance change of one SET pulse, eps [uS]. Nandakumar 2020 [M+]; 0.766 from the 2018 model [D]."""
    set_decay: float = 2.6
    """a of Pmem *= exp(-1/a) [pulses]. JAP 2018."""
    set_mean: tuple[float, float, float] = (-0.084, 0.880, 1.40)
    """m1 [1], c1 [uS], A1 [uS] of mean step m1 G + c1 + A1 Pmem. JAP 2018."""
    set_sigma: tuple[float, float, float] = (0.091, 0.260, 2.15)
    """m2 [1], c2 [uS], A2 [uS] of step deviation m2 G + c2 + A2 Pmem. JAP 2018."""
    reset_us: tuple[float, float] = (0.1, 0.01)
    """Mean and deviation of G after RESET [uS]. JAP 2018."""
    read_sigma: tuple[float, float] = (0.03, 0.13)
    """Read noise deviation a G + b: a [1], b [uS]. JAP 2018."""
    init_us: tuple[float, float] = (1.6, 0.83)
    """Mean and deviation of the initial conductances [uS]. Nandakumar 2020 [papers.md B3, M?]; a parameter."""
    device_spread: float = 0.0
    """Device-to-device relative deviation of the mean step [1], 0 to 0.5. Option; JAP 2018 reports cycle-to-cycle only."""
    drift_nu: float = 0.04
    """Drift exponent [1]. JAP 2018."""
    drift_t0_s: float = 38.6
    """Drift reference time T0 [s]. JAP 2018; G (1 + t/T0)^-nu, see papers.md B6."""
    drift_tick_log2: int = 24
    """Drift is applied on a grid of 2^drift_tick_log2 cycles [log2 cycles] (16.8 ms at 1 ns). Design choice."""
    cycle_s: float = 1e-9
    """Nominal cycle of the unit for the analogue time base [s]. Design choice: 1 GHz, PWM step 1 ns."""
    noise: bool = True
    """Programming and read noise as a whole; False makes every step the rounded mean."""
    convert_cycles: int = 3
    """Cycles from convert strobe to the first code word [cycles].
    Design choice; HERMES-Core's CCO ADC converts within its window."""
    adc_range: tuple[float, float, float, float] = (8.0, 6.0, 1.0, 1.0)
    """Full scale per range select: forward hidden, forward output, transpose [weight units x full-scale line];
    the fourth (scan of a half) is [g_max x full window of that read]. Chosen by sweep."""

    def __post_init__(self):
        for name, low, high in (
            ("g_lsb_log2", -16, -6), ("g_max_us", 1.0, 100.0), ("g_min_us", 0.0, 1.0), ("weight_range_us", 0.5, 1000.0),
            ("step_us", 0.01, 10.0), ("set_decay", 0.1, 1000.0), ("device_spread", 0.0, 0.5), ("drift_nu", 0.0, 0.2),
            ("drift_t0_s", 1e-6, 1e6), ("drift_tick_log2", 16, 40), ("cycle_s", 1e-12, 1e-3), ("convert_cycles", 1, 4095),
        ):
            _check(self, name, low, high)
        for value in self.adc_range:
            if not 0.01 <= value <= 1000.0:
                raise ParamsError(f"adc_range = {value}: allowed is 0.01 to 1000.0")


@dataclass(frozen=True, kw_only=True)
class CapacitorParams:
    """The capacitor of a cell, its read transistor and its programming transistors; the SET ramp of its PCM pair.

    Only for builds with ``unit.capacitor``. W = gain (G+ - G-) +- (g - g_ref) in uS, weight 1.0 = tile.weight_range_us; with
    ``present`` 0, W = G+ - G-, and only the fields of the ramp matter. Papers leave most of it open [papers.md A2 to A6]: what is
    marked design choice is from a prototype, not from a publication.
    """

    present: int = 1
    """1: cells have a capacitor; 0: PCM pairs alone, a step is a SET pulse on G+ or G- and W = G+ - G- [1]."""
    gain: float = 3.0
    """F: weight of the PCM pair against the capacitor [1]. Ambrogio 2018 has the symbol; the value is unsure [A2, M?]."""
    v_init: float = 0.5
    """Voltage after a recharge [V]. Ambrogio 2018, Extended Data Fig. 9 [S]."""
    v_decay: float = 0.8
    """Voltage towards which the capacitor decays [V]. Same source [S]."""
    v_symmetric: float = 0.555
    """Voltage at which the steps up and down are equal [V]. Design choice: the mean of the voltages that the decay takes a cell
    through in an interval of 8,000 images. At v_init, the random ups and downs of training would pull all weights to one side."""
    v_window: tuple[float, float] = (0.2, 1.1)
    """Lowest and highest voltage [V]. Design choice."""
    decay_s: float = 20e-3
    """Time constant of the decay [s]. Design choice: 5.16 ms [papers.md A2, M?] scaled with the time per image, so that an
    interval of 8,000 images lasts about the same share of it as in the paper (240 ns an image [A3, M?], here about 1 us)."""
    decay_tick_log2: int = 16
    """The decay is applied on a grid of 2^decay_tick_log2 cycles [log2 cycles] (66 us at 1 ns). Design choice."""
    threshold: tuple[float, float] = (0.3, 0.01)
    """V_T of the read transistor: mean and device-to-device deviation [V]. Design choice: papers.md A4 has no sigma."""
    slope: tuple[float, float] = (60.0, 18.0)
    """k [uS/V], q [uS/V^2] of g = (k - q u) u, u = max(V - V_T, 0). Design choice: a mildly saturating transistor."""
    step_us: float = 0.1
    """Mean change of g by one slot of overlap, at v_symmetric [uS]. Design choice."""
    step_shift: int = 7
    """The charge of a slot can be divided by up to 2^step_shift, for all cells of a train alike: 0 to 7 [bit]. Design choice."""
    step_spread: tuple[float, float] = (0.1, 0.1)
    """Device-to-device relative deviation of the step up (PMOS) and down (NMOS) [1]. Design choice [papers.md A4: unknown]."""
    step_slope: tuple[float, float] = (0.4, 0.4)
    """The step up is 1 - a (V - v_symmetric), the step down 1 + b (V - v_symmetric) times its size there: a, b [1/V]. Design
    choice."""
    read_sigma_us: float = 0.05
    """Read noise deviation of g - g_ref [uS]. Design choice."""
    ramp_us: tuple[float, float] = (0.1, 25.0)
    """Conductance after RESET and a ramp of the shortest and of the longest duration [uS]. Extended Data Fig. 7 [S]: control is
    poor above 20 uS."""
    ramp_steps: int = 31
    """Longest ramp [steps of the ramp clock]. Design choice. The durations of n steps are a geometric series, see ramp_s."""
    ramp_power: float = 1.2
    """Conductance over steps: lowest + (highest - lowest) (n / ramp_steps)^ramp_power. Design choice."""
    ramp_sigma: tuple[float, float] = (0.05, 0.3)
    """Programming noise of a ramp, a G + b: a [1], b [uS]. Design choice."""
    ramp_spread: float = 0.1
    """Device-to-device relative deviation of the conductance after a ramp [1]. Design choice."""
    ramp_limit_us: float = 20.0
    """Above it a ramp's result is no more under control: its excess is drawn at random [uS]. Extended Data Fig. 7 [S]."""
    ramp_s: tuple[float, float] = (13.6e-9, 4.4e-6)
    """Duration of the shortest and the longest ramp [s], steps in between in a geometric series. Extended Data Fig. 7 [S]."""

    @property
    def pair_gain(self) -> float:
        """Weight of the PCM pair [1]."""
        return self.gain if self.present else 1.0

    @property
    def ramp_steps_used(self) -> int:
        """Steps of the longest ramp whose result is under control [1]."""
        return round(self.ramp_steps * min(1.0, self.ramp_limit_us / self.ramp_us[1]) ** (1 / self.ramp_power))

    @property
    def ramp_used_s(self) -> float:
        """Duration of a ramp of ``ramp_steps_used`` steps [s]."""
        return self.ramp_s[0] * (self.ramp_s[1] / self.ramp_s[0]) ** ((self.ramp_steps_used - 1) / (self.ramp_steps - 1))

    def __post_init__(self):
        for name, low, high in (
            ("present", 0, 1), ("gain", 0.25, 16.0), ("v_init", 0.0, 2.0), ("v_decay", 0.0, 2.0), ("v_symmetric", 0.0, 2.0),
            ("decay_s", 1e-9, 1e6), ("decay_tick_log2", 8, 40), ("step_us", 1e-4, 1.0), ("step_shift", 0, 7),
            ("read_sigma_us", 0.0, 10.0), ("ramp_steps", 2, 127), ("ramp_power", 0.1, 10.0), ("ramp_spread", 0.0, 0.5),
            ("ramp_limit_us", 1.0, 100.0),
        ):
            _check(self, name, low, high)
        for name, low, high in (
            ("v_window", 0.0, 2.0), ("threshold", 0.0, 2.0), ("slope", 0.0, 1000.0), ("step_spread", 0.0, 0.5),
            ("step_slope", 0.0, 4.0), ("ramp_us", 0.01, 100.0), ("ramp_sigma", 0.0, 10.0), ("ramp_s", 1e-10, 1.0),
        ):
            for value in getattr(self, name):
                if not low <= value <= high:
                    raise ParamsError(f"{name} = {getattr(self, name)}: allowed is {low} to {high}")
        if not self.v_window[0] < self.v_init < self.v_window[1]:
            raise ParamsError(f"v_init = {self.v_init}: must lie within v_window = {self.v_window}")


@dataclass(frozen=True, kw_only=True)
class Params:
    """One object for a build and its analogue side; prints to and from JSON."""

    unit: UnitParams = field(default_factory=UnitParams)
    tile: TileParams = field(default_factory=TileParams)
    capacitor: CapacitorParams = field(default_factory=CapacitorParams)

    def to_json(self) -> str:
        """Sorted, indented JSON of every field."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, tables: dict, base: "Params | None" = None) -> "Params":
        """Override fields of ``base`` (default: the defaults); raises ParamsError for unknown keys, types and ranges."""
        base = base or cls()
        parts = {}
        for table, values in tables.items():
            if table not in _TABLES:
                raise ParamsError(f"unknown table [{table}]: allowed are {', '.join(f'[{name}]' for name in _TABLES)}")
            if not isinstance(values, dict):
                raise ParamsError(f"{table} = {values!r}: must be a table, write [{table}] and its keys below")
            parts[table] = _override(getattr(base, table), table, values)
        return dataclasses.replace(base, **parts)

    @classmethod
    def from_json(cls, text: str) -> "Params":
        """Inverse of ``to_json``."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_toml(cls, path: Path, base: "Params | None" = None) -> "Params":
        """Read overrides from a TOML file; raises ParamsError that names the file."""
        try:
            tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ParamsError(f"{path}: cannot be read ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path}: not valid TOML ({error})") from None
        try:
            return cls.from_dict(tables, base)
        except ParamsError as error:
            raise ParamsError(f"{path}: {error}") from None


_TABLES = tuple(item.name for item in dataclasses.fields(Params))


def _override(part, table, values):
    hints = typing.get_type_hints(type(part))
    checked = {}
    for key, value in values.items():
        if key not in hints:
            raise ParamsError(f"unknown key {table}.{key}: allowed are {', '.join(hints)}")
        checked[key] = _coerce(f"{table}.{key}", value, hints[key])
    try:
        return dataclasses.replace(part, **checked)
    except ParamsError as error:
        raise ParamsError(f"{table}.{error}") from None


def _coerce(name, value, hint):
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise ParamsError(f"{name} = {value!r}: must be a list of {len(parts)} numbers")
        return tuple(_coerce(name, item, part) for item, part in zip(value, parts, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ParamsError(f"{name} = {value!r}: must be of type {hint.__name__}")
    return value


MNIST = Params()
"""784-250-10 and everything smaller; the default build."""

SMALL = Params(unit=UnitParams(
    lanes=8, vector_width=4, n_tiles=2, n_rows=32, n_cols=16, n_matrices=4, chi_words=64, vector_words=64, program_words=256,
    set_cycles=5, set_gap_cycles=2, reset_cycles=3, reset_gap_cycles=4,
))
"""A few lines, lanes and words: block tests and proofs."""

CAPACITOR = Params(
    unit=UnitParams(capacitor=1, lanes=32, n_luts=8, program_words=1024, vector_words=512),
    tile=TileParams(g_max_us=25.0, weight_range_us=128.0, adc_range=(4.0, 2.0, 1.0, 2.64)))
"""The capacitor scheme for 528-250-125-10. 128 uS for a weight of 1: so a write error of the devices is small beside a weight."""
