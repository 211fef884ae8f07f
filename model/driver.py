"""The driver: what a host does with the unit, whatever executes it. One text for the backends ``model``, ``rtl`` and ``board``.

A backend is a ``Driver`` with these primitives: ``_load`` (program, descriptors), ``_execute`` (a program from an entry to HALT),
``_resume``, ``_stopped``, ``_counters``, and the analogue side's state (``_digest_parts``, ``_check_conservation``,
``_side_state`` ...).
"""
import resource
import time

import numpy as np

from model.analog.side import digest_of
from model.commands import MatrixDescriptor
from model.digital import host_stream, shift_register
from model.events import EVENTS, INDEX
from model.isa import ERRORS, Error, Opcode, Walk, encode
from model.params import Params
from model.program import Program

__all__ = ["Driver", "UnitError"]


class UnitError(RuntimeError):
    """The unit stopped with an error code; the message names it and the program counter."""


class Driver:
    """Host side of one unit; see ``model.backend.Backend`` for the contract of the public methods."""

    name = "driver"

    def __init__(self, params: Params):
        self.params, self.u = params, params.unit
        self._program: Program | None = None
        self._ramp_cycles = round(params.capacitor.ramp_used_s / params.tile.cycle_s) - params.capacitor.ramp_steps_used
        self._counted_before = dict.fromkeys((event.name for event in EVENTS), 0)
        self.training_cycles = 0
        """Unit time of training, refresh and transfers so far: the time base of drift and decay [cycles]."""
        self.polarity = 0
        """Polarity of the capacitors' part since the last transfer; 0 where there are none."""
        self._transfers, self._windows_cleared = 0, [0, 0]       # since the ledger was cleared; FIREs and TRIMs until then
        self.stopped: str | None = None
        """Entry of the program that is stopped and can be resumed."""
        self.transferring = False
        """A transfer was begun and has not ended: its weights are in two polarities, and there is no state to be kept."""

    # ---- primitives ---------------------------------------------------------------------------------------------------

    def _load(self, program: Program) -> None:
        """Write instructions and descriptors."""
        raise NotImplementedError

    def _execute(self, entry: int, loop_count: int, packets: np.ndarray, n_outputs: int, *, evaluating: bool, time: int,
                 stop_after: int | None = None):
        """Run from ``entry`` to HALT or a stop, feeding packets (n, bytes) in order; returns (output packets, error code, pc).

        An output packet is an int16 array and may be padded to whole beats. stop_after: ask the unit to stop after about so many
        cycles, None: do not. A backend that cannot be asked raises UnitError, and needs neither ``_resume`` nor ``_stopped``.
        """
        raise NotImplementedError

    def _resume(self, stop_after: int | None = None):
        """Go on with the program that is stopped, with its packets; returns what ``_execute`` does, the new output packets."""
        raise NotImplementedError

    def _stopped(self) -> bool:
        """Whether a program is stopped and can be resumed."""
        return False

    def _counters(self, names: tuple[str, ...]) -> list[int]:
        """Values of the counters named."""
        raise NotImplementedError

    def _digest_parts(self) -> list[tuple[str, bytes]]:
        raise NotImplementedError

    def _clear_ledger(self, matrices) -> None:
        raise NotImplementedError

    def _check_conservation(self, chi: list[np.ndarray]) -> tuple[bool, int]:
        raise NotImplementedError

    def _dirty_lines(self):
        """Pairs of an index of the dirty map and the line (tile, walk, line of the tile) behind it."""
        for d in self.program.matrices:
            first, count = (d.row0, d.rows) if d.walk == Walk.ROWS else (d.col0, d.cols)
            yield from ((d.chi_base + k, (d.tile, int(d.walk), first + k)) for k in range(count))

    def _dirty_map(self, programmed: set[tuple[int, int, int]]) -> np.ndarray:
        """The dirty map, uint8 (chi_words,), of a backend that only knows which lines were programmed."""
        dirty = np.zeros(self.u.chi_words, np.uint8)
        for place, line in self._dirty_lines():
            dirty[place] = line in programmed
        return dirty

    def _programmed(self, dirty: np.ndarray) -> set[tuple[int, int, int]]:
        """The lines that a dirty map marks."""
        return {line for place, line in self._dirty_lines() if dirty[place]}

    def _check_transfers(self, transfers: int, trains: int, trims: int) -> tuple[bool, int]:
        """``AnalogSide.check_transfers``."""
        raise NotImplementedError

    def _dirty(self) -> np.ndarray:
        """The dirty map of the refresh unit, uint8 (chi_words,)."""
        raise NotImplementedError

    def _side_state(self) -> dict[str, np.ndarray]:
        """``AnalogSide.state``."""
        raise NotImplementedError

    def _restore_side(self, state: dict[str, np.ndarray], dirty: np.ndarray) -> None:
        """``AnalogSide.restore``; the unit's dirty map is ``dirty`` now."""
        raise NotImplementedError

    # ---- Backend ------------------------------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """The program loaded last; raises RuntimeError before the first ``configure``."""
        if self._program is None:
            raise RuntimeError("no program is loaded: call configure() first")
        return self._program

    def configure(self, program: Program) -> None:
        """Load a program, and its tables where they changed."""
        old, self._program = self._program, program
        self._load(program)
        known = old.luts if old else []
        if program.luts and not (len(known) == len(program.luts) and all(map(np.array_equal, known, program.luts))):
            self._run_entry("setup", np.stack([program.lut_packet(lut) for lut in range(len(program.luts))]))

    def execute(self, entry: str, stop_after: int | None = None) -> None:
        """Run an entry without samples: ``clear``, or one of ``Program.upkeep``.

        stop_after: ask the unit to stop after about so many cycles. If it does before its end, ``stopped`` is the entry, and
        ``resume`` goes on; any other program gives it up.
        """
        if entry == "clear":
            self._clear_ledger(self.program.matrices)
            self._transfers, self._windows_cleared = 0, self._windows()
        self._run_entry(entry, _no_packets(), stop_after=stop_after)

    def resume(self, stop_after: int | None = None) -> list[np.ndarray]:
        """Go on with the program that is stopped, to its end or the next stop, as if it had never been stopped.

        Returns the output packets since the stop. Raises UnitError if no program is stopped, or another was loaded since.
        """
        entry, before = self.stopped, self._time()
        outputs, error, pc = self._resume(stop_after)
        if error == Error.NOT_STOPPED or entry is None:
            raise UnitError(f"nothing to go on with: {ERRORS[Error.NOT_STOPPED]}")
        return self._after(entry, before, outputs, error, pc)

    def run(self, entry: str, packets: np.ndarray) -> np.ndarray:
        """Run ``train`` or ``evaluate`` over packets (n, bytes); returns outputs (n, n_outputs) int16."""
        pairs, outputs = len(packets) // 2, []
        if pairs:
            outputs += self._run_entry(entry, packets[:2 * pairs], pairs)
        if len(packets) % 2:
            outputs += self._run_entry(f"{entry}_one", packets[-1:])
        if len(outputs) != len(packets):
            raise UnitError(f"{len(outputs)} output packets for {len(packets)} images")
        return np.array([output[:self.program.n_outputs] for output in outputs], np.int16).reshape(len(packets), -1)

    def chi(self, matrix: int) -> np.ndarray:
        """Accumulator of a matrix by DUMP, (rows, cols) int32."""
        d = self.program.matrices[matrix]
        packet, = self._run_entry(f"dump_{matrix}", _no_packets())
        lines, lane_axis = (d.rows, d.cols) if d.walk == Walk.ROWS else (d.cols, d.rows)
        words = host_stream.unpack_dump(self.u.constants, np.asarray(packet, np.int16).astype("<i2").view(np.uint8))
        chi = words.reshape(lines, d.words_per_line * self.u.lanes)[:, :lane_axis].astype(np.int32)
        return chi if d.walk == Walk.ROWS else np.ascontiguousarray(chi.T)

    def load_chi(self, matrix: int, chi: np.ndarray) -> None:
        """Write the accumulator of a matrix by LOAD; chi (rows, cols). Its lines count as programmed since their last scan."""
        d = self.program.matrices[matrix]
        packet = host_stream.dump_packet(self.u.constants, self._chi_words(d, chi))
        self._run_entry(f"load_{matrix}", packet[None])

    def counters(self) -> dict[str, int]:
        """Every counter by name, since the start of the run; 0 where the build has none."""
        names = tuple(event.name for event in EVENTS)
        return {name: (value if self.u.event_counters or name == "time" else 0) + self._counted_before[name]
                for name, value in zip(names, self._counters(names), strict=True)}

    def state(self) -> dict[str, np.ndarray]:
        """What a run has changed, for ``restore`` on any backend; training goes on as if it had not been asked for.

        chi.<matrix> (rows, cols); dirty: lines programmed since their last scan, by chi word index; counters, in the order of
        ``model/events.py``; training_cycles; polarity; side.<name> of ``AnalogSide.state``. The rest of the unit is written anew
        for every image, or by the entries ``setup`` and ``clear``. Raises UnitError within a transfer.
        """
        if self.transferring:
            raise UnitError("a transfer was begun and has not ended, so there is no state to keep: resume it first")
        return {
            **{f"chi.{k}": chi for k, chi in enumerate(self._all_chi())}, "dirty": self._dirty(),
            "counters": np.array(list(self.counters().values())), "training_cycles": np.array(self.training_cycles),
            "polarity": np.array(self.polarity), **{f"side.{name}": array for name, array in self._side_state().items()},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go back to a ``state``, after ``configure``, with parameters and seed of the run it is of.

        LOAD marks every line of its matrix as programmed, and a scan unmarks it. What the scan does to the devices does not
        matter: their state comes after it.
        """
        self.execute("clear")
        memory = np.zeros((self.u.chi_words, self.u.lanes), np.int64)
        for k, d in enumerate(self.program.matrices if self.program.accumulates else ()):
            chi = state[f"chi.{k}"]
            self.load_chi(k, chi)
            words = self._chi_words(d, chi)
            memory[d.chi_base:d.chi_base + len(words)] = words
        if "scan" in self.program.entries:
            self.execute("scan")
            self._mark(state["dirty"], memory)
        elif not self.program.accumulates:
            self.polarity = int(state["polarity"])
            self.execute(f"polarity_{self.polarity}")
            slots = int(state["counters"][INDEX["fires"]]) * self.u.slots
            seed = [encode(Opcode.SEED, state=shift_register.after(slots)), encode(Opcode.HALT)]
            self._load(Program(self.params, self.program.layers, seed, {"seed": 0}))
            self._execute(0, 0, _no_packets(), 0, evaluating=False, time=0)
            self._load(self.program)
        self._restore_side({name[5:]: array for name, array in state.items() if name.startswith("side.")}, state["dirty"])
        self.training_cycles, self.transferring = int(state["training_cycles"]), False
        now = self.counters()
        for name, value in zip(now, state["counters"], strict=True):
            self._counted_before[name] += int(value) - now[name]

    def memory(self) -> dict[str, int]:
        """Peak resident memory by process [MiB]."""
        return {"trainer": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}

    def cpu_seconds(self) -> float:
        """CPU time of all processes of the backend so far [s]."""
        return time.process_time()

    def digest(self) -> str:
        """The sha256 over the state of training; layout in ``model.analog.side``."""
        return digest_of(self._digest_parts(), self._all_chi())

    def conservation(self) -> tuple[bool, int]:
        """Check the ledger; returns (holds, weights checked).

        With accumulators: against chi and the pulses. Without: against the transfers; while one is under way it does not hold.
        """
        if not self.program.accumulates:
            return self._check_transfers(self._transfers, *(now - then for now, then in zip(
                self._windows(), self._windows_cleared, strict=True)))
        return self._check_conservation(self._all_chi())

    def close(self) -> None:
        """Nothing to end."""

    def _chi_words(self, d, chi):
        """Words (n, lanes) of a matrix in the chi memory."""
        lines = chi if d.walk == Walk.ROWS else chi.T
        words = np.zeros((len(lines), d.words_per_line * self.u.lanes), np.int64)
        words[:, :lines.shape[1]] = lines
        return words.reshape(-1, self.u.lanes)

    def _mark(self, dirty, memory):
        """Set bits of the dirty map: LOAD the chi words of the same index with what they hold, as matrices of one word a line.

        They lie along the longer side of a tile, so that every lane in use is written.
        """
        u = self.u
        walk = Walk.COLS if u.n_rows >= u.n_cols else Walk.ROWS
        most, lanes = min(u.n_rows, u.n_cols), min(u.lanes, max(u.n_rows, u.n_cols))
        edges = np.flatnonzero(np.diff(dirty.astype(bool), prepend=False, append=False)).tolist()
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            for base in range(start, stop, most):
                lines = min(most, stop - base)
                rows, cols = (lanes, lines) if walk == Walk.COLS else (lines, lanes)
                patch = MatrixDescriptor(tile=0, row0=0, col0=0, rows=rows, cols=cols, walk=int(walk), chi_base=base,
                                         words_per_line=1)
                self._load(Program(self.params, self.program.layers, [encode(Opcode.LOAD, matrix=0), encode(Opcode.HALT)],
                                   {"load_0": 0}, [patch]))
                packet = host_stream.dump_packet(u.constants, memory[base:base + lines])
                self._execute(0, 0, packet[None], 1, evaluating=False, time=0)
        self._load(self.program)

    def _all_chi(self):
        return [self.chi(matrix) for matrix in range(self.program.n_matrices if self.program.accumulates else 0)]

    def _run_entry(self, entry, packets, loop_count=0, stop_after=None):
        before = self._time() if entry.startswith(_TRAINING) else 0
        if entry.startswith("transfer_"):
            if self.transferring:
                raise UnitError(f"{entry}: a transfer was begun and has not ended: resume it, or restore a state of before")
            self.transferring = True
        outputs, error, pc = self._execute(
            self.program.entries[entry], loop_count, packets, self.program.n_outputs, evaluating=entry.startswith("evaluate"),
            time=self.training_cycles, stop_after=stop_after)
        return self._after(entry, before, outputs, error, pc)

    def _after(self, entry, before, outputs, error, pc):
        """What follows from a program's end or stop; ``before``: time at which it was started or resumed."""
        self.stopped = None
        if error:
            raise UnitError(f"the unit stopped at instruction {pc} of {entry} with error {error}: {ERRORS[Error(error)]}")
        if entry.startswith(_TRAINING):
            self.training_cycles += self._time() - before
        if self._stopped():
            self.stopped = entry
        elif entry.startswith("transfer_"):
            self.polarity, self.transferring = int(entry.removeprefix("transfer_")), False
            self._transfers += 1
        return outputs

    def _windows(self):
        """FIREs and TRIMs so far."""
        return self._counters(("fires", "trims"))

    def _time(self):
        """Cycles of unit time so far; a ramp's steps follow a slower clock and count as long as they are."""
        if not self.u.capacitor:
            return self._counters(("time",))[0]
        time, ramps = self._counters(("time", "ramps"))
        return time + ramps * self._ramp_cycles


_TRAINING = ("train", "scan", "transfer")
"""Beginnings of the entries whose time is training time."""


def _no_packets():
    return np.zeros((0, 1), np.uint8)
