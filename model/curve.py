"""The picture of a run over the images trained: accuracy, and what its scheme programs.

Mixed precision: SET pulses per image and filling of the accumulators. Capacitors have neither: cycles per image, which show the
transfers; also where the build counts no pulses.
"""
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw_curve"]


def draw_curve(records: list[dict], result: dict, path: Path):
    """Draw the records of ``model/trainer.py`` into a PNG file, without a display."""
    train = [entry for entry in records if entry["event"] == "train"]
    epochs = [entry for entry in records if entry["event"] == "epoch"]
    chi = [entry for entry in records if entry["event"] == "chi"]
    capacitors = result.get("scheme") == "capacitor"
    figure = Figure(figsize=(8, 6 if capacitors else 9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 if capacitors else 3, 1, sharex=True)
    layers = "-".join(map(str, result["layers"]))
    figure.suptitle(f"{result['dataset']} {layers}, seed {result['seed']}, backend {result['backend']}: "
                    f"test accuracy {100 * result['test_accuracy']:.2f} %")
    _accuracy(panels[0], train, epochs)
    if capacitors or result["pulses_per_image"] is None:
        panels[1].plot(_of(train, "images"), _of(train, "cycles_per_image"), color="tab:red")
        panels[1].set_ylabel(f"cycles per image{' with transfers' if capacitors else ''} [1]")
    else:
        panels[1].plot(_of(train, "images"), _of(train, "pulses_per_image"), color="tab:red")
        panels[1].set_ylabel("SET pulses per image [1]")
    if not capacitors:
        _filling(panels[2], chi)
    panels[1].set_ylim(bottom=0)
    panels[-1].set_xlabel("images trained [1]")
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _accuracy(axes, train, epochs):
    axes.plot(_of(train, "images"), [100 * entry["accuracy"] for entry in train], label="training, last 1000 images")
    axes.plot(_of(epochs, "images"), [100 * entry["test_accuracy"] for entry in epochs], "o", label="test, after each epoch")
    axes.set_ylabel("accuracy [%]")
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right")


def _filling(axes, chi):
    """Shares of the weights by how full their accumulators are."""
    bands = list(zip(*(entry["histogram"] for entry in chi), strict=True))
    if bands:
        axes.stackplot(_of(chi, "images"), [[100 * value for value in band] for band in bands],
                       colors=[str(0.95 - 0.075 * band) for band in range(10)])
    axes.plot([], [], "s", color="0.95", markeredgecolor="0.5", label="|chi| below eps/10")
    axes.plot([], [], "s", color=str(0.95 - 0.075 * 9), label="|chi| above 9 eps/10")
    mean = [100 * entry["occupancy"] for entry in chi]
    axes.plot(_of(chi, "images"), mean, "o-", color="tab:blue", label="mean |chi| / eps")
    axes.set_ylabel("weights by filling of chi [%]")
    axes.set_ylim(0, 100)
    axes.legend(loc="upper right")


def _of(records: list[dict], name: str) -> list:
    return [entry[name] for entry in records]
