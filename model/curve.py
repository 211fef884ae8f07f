"""The picture of a run: accuracy, pulses per image and filling of the accumulators over the images trained."""
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw_curve"]


def draw_curve(records: list[dict], result: dict, path: Path):
    """Draw the records of ``model/trainer.py`` into a PNG file, without a display."""
    train = [entry for entry in records if entry["event"] == "train"]
    epochs = [entry for entry in records if entry["event"] == "epoch"]
    chi = [entry for entry in records if entry["event"] == "chi"]
    figure = Figure(figsize=(8, 9), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, pulses, filling = figure.subplots(3, 1, sharex=True)
    layers = "-".join(map(str, result["layers"]))
    figure.suptitle(f"{result['dataset']} {layers}, seed {result['seed']}, backend {result['backend']}: "
                    f"test accuracy {100 * result['test_accuracy']:.2f} %")

    accuracy.plot(_of(train, "images"), [100 * entry["accuracy"] for entry in train], label="training, last 1000 images")
    accuracy.plot(_of(epochs, "images"), [100 * entry["test_accuracy"] for entry in epochs], "o", label="test, after each epoch")
    accuracy.set_ylabel("accuracy [%]")
    accuracy.set_ylim(0, 100)
    accuracy.legend(loc="lower right")

    pulses.plot(_of(train, "images"), _of(train, "pulses_per_image"), color="tab:red")
    pulses.set_ylabel("SET pulses per image [1]")
    pulses.set_ylim(bottom=0)

    bands = list(zip(*(entry["histogram"] for entry in chi), strict=True))
    if bands:
        filling.stackplot(_of(chi, "images"), [[100 * value for value in band] for band in bands],
                          colors=[str(0.95 - 0.075 * band) for band in range(10)])
    filling.plot([], [], "s", color="0.95", markeredgecolor="0.5", label="|chi| below eps/10")
    filling.plot([], [], "s", color=str(0.95 - 0.075 * 9), label="|chi| above 9 eps/10")
    mean = [100 * entry["occupancy"] for entry in chi]
    filling.plot(_of(chi, "images"), mean, "o-", color="tab:blue", label="mean |chi| / eps")
    filling.set_ylabel("weights by filling of chi [%]")
    filling.set_ylim(0, 100)
    filling.legend(loc="lower right")
    filling.set_xlabel("images trained [1]")
    for axes in (accuracy, pulses, filling):
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _of(records: list[dict], name: str) -> list:
    return [entry[name] for entry in records]
