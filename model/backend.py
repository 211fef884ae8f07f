"""The seam between the trainer and what executes the program: `model` (twins), `rtl` (cosimulation), later `board`.

The trainer knows only ``Program`` and ``Backend``. Both backends of one experiment give equal outputs, counters and digests.
Source: design choice.
"""
from typing import Protocol, TypeVar

import numpy as np

__all__ = ["Backend", "CompileProgram", "P", "Program"]


class Program(Protocol):
    """A compiled network (``model/program.py``): instructions, matrix descriptors, look-up tables, entry points."""

    @property
    def n_matrices(self) -> int:
        """Matrix descriptors in use [1]: ``Backend.chi`` takes 0 to n_matrices - 1."""
        ...

    @property
    def accumulates(self) -> bool:
        """Whether the matrices have accumulators: else ``Backend.chi`` is not to be called."""
        ...

    def upkeep(self, n: int) -> str:
        """Entry of upkeep number ``n`` = 1, 2, ...: refresh or transfer."""
        ...

    def packets(self, entry: str, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """One packet per image of entry ``train`` or ``evaluate``.

        ``images``: (n, features) uint8, 0 to 255. ``labels``: (n,) uint8, class numbers; ``evaluate`` ignores them.
        Returns (n, packet_bytes) uint8, what the unit takes by its ACCEPT instructions.
        """
        ...


P = TypeVar("P", bound=Program)
"""The program that a compiler makes and a backend takes; backends may need more of it than the trainer does."""
P_co = TypeVar("P_co", bound=Program, covariant=True)
P_contra = TypeVar("P_contra", bound=Program, contravariant=True)


class CompileProgram(Protocol[P_co]):
    """``(experiment, rate) -> Program``; raises ``model.program.CapacityError`` when the build is too small."""

    def __call__(self, experiment, rate: float) -> P_co:
        """Compile the network of ``experiment`` with learning rate ``rate`` [1]."""
        ...


class Backend(Protocol[P_contra]):
    """One unit with its tiles, alive from ``configure`` to ``close``.

    Order of calls: ``configure``, ``execute("clear")`` or ``restore``, then any of the others. Another ``configure`` (another
    learning rate) replaces program, descriptors and tables only: conductances, chi, counters and generator states stay.
    """

    name: str

    def configure(self, program: P_contra) -> None:
        """Load a program. The first call may build and compile: its duration is not part of ``ms_per_image``."""
        ...

    def run(self, entry: str, packets: np.ndarray) -> np.ndarray:
        """Run ``train`` or ``evaluate`` once per packet; returns the emitted vectors, (n, n_out) int16."""
        ...

    def execute(self, entry: str) -> None:
        """Run an entry that takes no sample: ``clear`` (all matrices), or one of ``Program.upkeep``."""
        ...

    def chi(self, matrix: int) -> np.ndarray:
        """Accumulator of a matrix by DUMP, (rows, cols) int32 [chi LSB]; changes no training state."""
        ...

    def counters(self) -> dict[str, int]:
        """Every counter since the start, by the names of ``model/events.py``."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything a run has changed, as integer arrays by name: equal on all backends, but for the counter ``host_wait``."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """In place of ``execute("clear")``: go back to a ``state``, whichever backend it is of."""
        ...

    def memory(self) -> dict[str, int]:
        """Peak resident memory so far, by process [MiB]."""
        ...

    def digest(self) -> str:
        """Return the sha256, in hexadecimal, over conductances, chi, pulse totals and generator states."""
        ...

    def conservation(self) -> tuple[bool, int]:
        """See ``model.ledger``: nothing was lost on the way to a weight; returns (holds, weights checked)."""
        ...

    def close(self) -> None:
        """End simulators and remove temporary files; harmless when called twice or after Ctrl-C."""
        ...
