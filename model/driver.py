"""The driver: what a host does with the unit, whatever executes it. One text for the backends ``model``, ``rtl`` and ``board``.

A backend is a ``Driver`` with four primitives: ``_load`` (program, descriptors), ``_execute`` (a program from an entry to HALT),
``_counters`` and the analogue side's state (``_digest_parts``, ``_check_conservation``).
"""
import numpy as np

from model.analog.side import digest_of
from model.digital import host_stream
from model.events import EVENTS
from model.isa import ERRORS, Error, Walk
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
        self.training_cycles = 0
        """Unit time of training and refresh so far: the time base of drift [cycles]."""

    # ---- primitives ---------------------------------------------------------------------------------------------------

    def _load(self, program: Program) -> None:
        """Write instructions and descriptors."""
        raise NotImplementedError

    def _execute(self, entry: int, loop_count: int, packets: np.ndarray, n_outputs: int, *, evaluating: bool, tick: int):
        """Run from ``entry`` to HALT, feeding packets (n, bytes) in order; returns (output packets, error code, pc).

        An output packet is an int16 array and may be padded to whole beats.
        """
        raise NotImplementedError

    def _counters(self, names: tuple[str, ...]) -> list[int]:
        """Values of the counters named."""
        raise NotImplementedError

    def _digest_parts(self) -> list[tuple[str, bytes]]:
        raise NotImplementedError

    def _clear_ledger(self, matrices) -> None:
        raise NotImplementedError

    def _check_conservation(self, chi: list[np.ndarray]) -> tuple[bool, int]:
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

    def execute(self, entry: str) -> None:
        """Run an entry without samples: ``clear`` or ``scan``."""
        if entry == "clear":
            self._clear_ledger(self.program.matrices)
        self._run_entry(entry, _no_packets())

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
        lines = chi if d.walk == Walk.ROWS else chi.T
        words = np.zeros((len(lines), d.words_per_line * self.u.lanes), np.int64)
        words[:, :lines.shape[1]] = lines
        packet = host_stream.dump_packet(self.u.constants, words.reshape(-1, self.u.lanes))
        self._run_entry(f"load_{matrix}", packet[None])

    def counters(self) -> dict[str, int]:
        """Every counter by name."""
        names = tuple(event.name for event in EVENTS)
        return dict(zip(names, self._counters(names), strict=True))

    def digest(self) -> str:
        """The sha256 over the state of training; layout in ``model.analog.side``."""
        return digest_of(self._digest_parts(), self._all_chi())

    def conservation(self) -> tuple[bool, int]:
        """Check the ledger against chi and the pulses; returns (holds, weights checked)."""
        return self._check_conservation(self._all_chi())

    def close(self) -> None:
        """Nothing to end."""

    def _all_chi(self):
        return [self.chi(matrix) for matrix in range(self.program.n_matrices)]

    def _run_entry(self, entry, packets, loop_count=0):
        trains = entry.startswith(("train", "scan"))
        before = self._time() if trains else 0
        tick = self.training_cycles >> self.params.tile.drift_tick_log2
        outputs, error, pc = self._execute(self.program.entries[entry], loop_count, packets, self.program.n_outputs,
                                           evaluating=entry.startswith("evaluate"), tick=tick)
        if error:
            raise UnitError(f"the unit stopped at instruction {pc} of {entry} with error {error}: {ERRORS[Error(error)]}")
        if trains:
            self.training_cycles += self._time() - before
        return outputs

    def _time(self):
        return self._counters(("time",))[0]


def _no_packets():
    return np.zeros((0, 1), np.uint8)
