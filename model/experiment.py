"""Everything that defines a run: data, network, loss, schedule, seed, parameters of unit and tiles.

Two runs of equal experiments give equal digests, on any machine and on every backend.
"""
import dataclasses
import re
from dataclasses import dataclass, field

from model.datasets import Dataset
from model.errors import InputError
from model.params import CAPACITOR, MNIST, Params

__all__ = ["ACTIVATIONS", "DEFAULTS", "LOSSES", "SCHEMES", "TRAINS", "Defaults", "Experiment", "Scheme", "default_rate",
           "parse_layers"]

LOSSES = {"mse": 0.4, "sigmoid-ce": 0.07, "softmax-ce": 0.07}
"""Losses and their default learning rates [1]: squared error with sigmoid outputs; cross-entropy with sigmoid or softmax."""

TRAINS = ("spread", "random")
"""How rows and columns of a coincidence update fire, see ``model.isa.Sequence``."""

ACTIVATIONS = ("sigmoid", "tanh", "relu")
"""Activations of the hidden layers: look-up tables of the vector unit."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a run on a data set does when nothing else is said."""

    layers: str
    images: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How weights are trained, and what a run of it does when nothing else is said."""

    params: Params
    """The build and its analogue side."""
    auto: str
    """The data set that ``auto`` takes where MNIST is to be had."""
    activation: str
    rate_factor: float
    """Learning rate over that of LOSSES [1]."""
    rate_decay: float
    output_scale: float


SCHEMES = {
    "mixed": Scheme(params=MNIST, auto="mnist", activation="sigmoid", rate_factor=1.0, rate_decay=0.9, output_scale=2.0),
    "capacitor": Scheme(params=CAPACITOR, auto="mnist-22x24", activation="relu", rate_factor=1 / 7, rate_decay=0.88,
                        output_scale=4.0),
}
"""Mixed precision (Nandakumar 2020), and capacitors with transfer to PCM pairs (Ambrogio 2018)."""

DEFAULTS = {
    "mnist": Defaults(layers="784-250-10", images=4_000, epochs=1),
    "mnist-22x24": Defaults(layers="528-250-125-10", images=8_000, epochs=1),
    "mnist-backrand": Defaults(layers="528-250-125-10", images=8_000, epochs=1),
    "digits": Defaults(layers="64-32-10", images=1_498, epochs=10),
}
"""By name of the data set."""


def default_rate(loss: str, scheme: str = "mixed") -> float:
    """Learning rate for ``loss`` [1]; raises InputError for an unknown loss or scheme."""
    for name, value, allowed in (("loss", loss, LOSSES), ("scheme", scheme, SCHEMES)):
        if value not in allowed:
            raise InputError(f"unknown {name} {value!r}: allowed are {', '.join(allowed)}")
    return LOSSES[loss] * SCHEMES[scheme].rate_factor


def parse_layers(text: str) -> tuple[int, ...]:
    """``784-250-10`` as (784, 250, 10); raises InputError for anything that is not two or more positive sizes."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})+", text):
        raise InputError(f"layers {text!r}: must be two or more sizes from 1 to 99999 joined by '-', for example 784-250-10")
    return tuple(int(size) for size in text.split("-"))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run, validated; raises InputError where a value is out of range."""

    dataset: str
    """``mnist`` or ``digits``."""
    layers: tuple[int, ...]
    """Sizes of input, hidden layers and output [1]."""
    images: int
    """Training images per epoch [1]; at most all there are are used. The same images in every epoch, in another order."""
    epochs: int
    """Passes over these images [1]."""
    seed: int = 1
    """Root of every generator: order of samples, initial devices, programming and read noise."""
    loss: str = "softmax-ce"
    """One of LOSSES."""
    activation: str = "sigmoid"
    """One of ACTIVATIONS."""
    rate: float = LOSSES["softmax-ce"]
    """Learning rate of the first epoch [1]."""
    rate_decay: float = 0.9
    """Factor on the learning rate after each epoch [1]."""
    refresh: int = 1000
    """Images between two refresh scans [1]; 0: never. Prototype: 500 to 1,000 cost no accuracy, 2,000 cost 0.4 points."""
    output_scale: float = 2.0
    """Weights of the last layer are this times (G+ - G-) / weight_range_us [1]: tables and rate of the program, no hardware."""
    test_images: int = 0
    """Test images evaluated [1]; 0: all."""
    scheme: str = "mixed"
    """One of SCHEMES; ``capacitor`` needs a build with ``unit.capacitor``."""
    transfer: int = 8000
    """Images between two transfers of the capacitor scheme [1]; 0: never. Ambrogio 2018, Extended Data Fig. 2 [S]."""
    inversion: bool = True
    """Whether a transfer inverts the polarity of the capacitors' part."""
    trains: str = "random"
    """One of TRAINS. Design choice: the deterministic trains lose small products. See cosim/results/capacitor_exploration.md."""
    params: Params = field(default_factory=Params)
    """Build of the unit, and the analogue side."""

    def __post_init__(self):
        for name, low, high in (
            ("images", 1, 10_000_000), ("epochs", 1, 10_000), ("seed", 0, 2**32 - 1), ("rate", 1e-6, 16.0),
            ("rate_decay", 1e-3, 1.0), ("refresh", 0, 10_000_000), ("output_scale", 1e-3, 1e3), ("test_images", 0, 10_000_000),
            ("transfer", 0, 10_000_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} = {value}: allowed is {low:g} to {high:g}")
        for name, allowed in (("loss", LOSSES), ("activation", ACTIVATIONS), ("scheme", SCHEMES), ("trains", TRAINS)):
            if (value := getattr(self, name)) not in allowed:
                raise InputError(f"unknown {name} {value!r}: allowed are {', '.join(allowed)}")
        if self.scheme == "capacitor" and not self.params.unit.capacitor:
            raise InputError("scheme capacitor: the build has unit.capacitor = 0; it must be 1")
        if self.scheme == "mixed" and self.refresh and not self.params.unit.refresh:
            raise InputError(f"refresh = {self.refresh}: the build has no refresh unit (unit.refresh = 0); it must be 0")
        if len(self.layers) < 2 or min(self.layers) < 1:
            raise InputError(f"layers {self.layers_text}: two or more sizes from 1 up")

    @property
    def layers_text(self) -> str:
        """Layers as the user writes them."""
        return "-".join(map(str, self.layers))

    @property
    def upkeep(self) -> int:
        """Images between two scans or transfers [1]; 0: none."""
        return self.transfer if self.scheme == "capacitor" else self.refresh

    def rate_of(self, epoch: int) -> float:
        """Learning rate of epoch 0, 1, ... [1]."""
        return self.rate * self.rate_decay**epoch

    def check_data(self, data: Dataset):
        """Raise InputError unless the first layer has a line per pixel and the last one per class."""
        if self.layers[0] != data.n_features:
            raise InputError(f"layers {self.layers_text}: the first layer has {self.layers[0]} inputs, "
                             f"but an image of {data.name} has {data.n_features} pixels")
        if self.layers[-1] != data.n_classes:
            raise InputError(f"layers {self.layers_text}: the last layer has {self.layers[-1]} outputs, "
                             f"but {data.name} has {data.n_classes} classes")

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return dataclasses.asdict(self)
