"""What the user sees of a run: a live bar on a terminal, a plain line now and then elsewhere, a table at the end."""
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Display", "print_summary"]

PLAIN_LINES = 10
"""Lines per run where there is no terminal [1]; more when it is long."""
PLAIN_PERIOD_S = 15.0
"""Longest time between two such lines [s]."""


class Display:
    """Shows the records of ``model/trainer.py``; a context manager. The bar counts training and test images alike."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=12), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True), console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("preparing", total=None, note="")
        self.total = self.tested = self.trained = 0
        self.next_line = 1
        self.shown_s = time.monotonic()

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def record(self, entry: dict):
        """Show a record."""
        if entry["event"] == "start":
            self.total = entry["total"]
            self.bar.update(self.task, total=entry["total"] + entry["epochs"] * entry["tests"])
        elif entry["event"] == "resume":
            self.total, self.trained, self.tested = entry["total"], entry["trained"], entry["tested"]
            self.next_line = self.trained * PLAIN_LINES // self.total + 1
            self.bar.update(self.task, total=entry["total"] + entry["epochs"] * entry["tests"],
                            completed=self.trained + entry["epoch"] * entry["tests"] + self.tested)
        elif entry["event"] == "train":
            self.bar.advance(self.task, entry["images"] - self.trained)
            self.trained = entry["images"]
            self._train(entry)
        elif entry["event"] == "test":
            self.bar.advance(self.task, entry["tested"] - self.tested)
            self.tested = entry["tested"]
            self.bar.update(self.task, description="test", note=f"{entry['tested']}/{entry['tests']} images")
        elif entry["event"] == "epoch":
            self.tested = 0
            self._line(f"epoch {entry['epoch'] + 1}: {entry['images']} images trained, rate {entry['rate']:.4g}, "
                       f"test accuracy {100 * entry['test_accuracy']:.2f} %")

    def _train(self, entry):
        note = (f"{entry['images']}/{self.total}, {1e3 / max(entry['ms_per_image'], 1e-9):.0f} images/s, "
                f"accuracy {100 * entry['accuracy']:.1f} %")
        if entry["pulses_per_image"] is not None:
            note += f", {entry['pulses_per_image']:.1f} pulses/image"
        name = f"epoch {entry['epoch'] + 1}"
        self.bar.update(self.task, description=name, note=note)
        now = time.monotonic()
        due = entry["images"] * PLAIN_LINES >= self.next_line * self.total or now - self.shown_s >= PLAIN_PERIOD_S
        if not self.console.is_terminal and due:
            left_s = self.bar.tasks[0].time_remaining
            self._line(f"{name}: {note}" + (f", {left_s:.0f} s left" if left_s is not None else ""))
            self.shown_s = now
            self.next_line = entry["images"] * PLAIN_LINES // self.total + 1

    def _line(self, text):
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_summary(console: Console, result: dict, out: str):
    """Print the figures of a run as a table."""
    table = Table(title=f"{result['dataset']} {'-'.join(map(str, result['layers']))}, seed {result['seed']}, "
                        f"backend {result['backend']}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    per_image = result["cycles_per_image"]
    counted = result["pulses_per_image"] is not None
    apart = {"programming": "", "refresh": f"{result['refreshes']} cells rewritten"} if counted else {}
    if result.get("transfers"):
        apart = {"transfer": f"{result['transfers']} transfers"}
    other = per_image - sum(result[f"{name}_cycles_per_image"] for name in apart)
    for name, value, note in (
        ("test accuracy", f"{100 * result['test_accuracy']:.2f} %", f"{result['test_images']} images, same backend"),
        ("training accuracy", f"{100 * result['train_accuracy']:.2f} %", "last epoch, each image before its update"),
        ("images trained", f"{result['images_trained']}", f"{result['epochs']} epoch{'s' if result['epochs'] > 1 else ''}"),
        ("cycles per image", f"{per_image:.1f}", "1 cycle = 1 ns nominal"),
        *((("  compute", f"{other:.1f}", ""),) if apart else ()),
        *((f"  {name}", f"{result[f'{name}_cycles_per_image']:.1f}", note) for name, note in apart.items()),
        *((("SET pulses per image", f"{result['pulses_per_image']:.2f}", "without refresh"),
           ("saturations", f"{result['saturations']}", "lines, elements, chi, updates")) if counted else (
               ("other events", "not counted", "event_counters = 0"),)),
        ("run time per image", f"{result['ms_per_image']:.3f} ms", ""),
        ("conservation", "holds" if result["conservation_ok"] else "BROKEN", f"{result['weights_checked']} weights checked"),
        ("digest", result["digest"][:16], ""),
    ):
        table.add_row(name, value, note)
    console.print(table)
    console.print(f"{out}: params.json log.jsonl curve.png result.json", highlight=False, markup=False, soft_wrap=True)
