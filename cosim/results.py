"""Runs that are kept with the project, and the README's table of them.

python -m cosim.results keep RUN NAME    copies result.json, params.json and curve.png of a run to cosim/results/runs/NAME
python -m cosim.results table            rewrites the table between the markers in README.md
"""
import json
import shutil
import sys
from pathlib import Path

from model.command_line import command_line, run_cli
from model.errors import InputError
from model.files import between, write_whole

__all__ = ["FILES", "MARKERS", "README", "RUNS", "main", "markdown", "with_table"]

_ROOT = Path(__file__).resolve().parents[1]
README = _ROOT / "README.md"
RUNS = _ROOT / "cosim" / "results" / "runs"
FILES = ("result.json", "params.json", "curve.png")
"""Files of a run that are kept."""
MARKERS = ("<!-- results: written by python -m cosim.results table -->\n", "<!-- end of results -->\n")

_cli = command_line()


@_cli.command(help="Keep a run's result, parameters and curve under a name.")
def keep(run: Path, name: str) -> None:
    """Copy the files of a run; raises InputError when one is missing."""
    missing = [file for file in FILES if not (run / file).is_file()]
    if missing:
        raise InputError(f"{run}: is not the directory of a finished run ({missing[0]} is missing)")
    (RUNS / name).mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copyfile(run / file, RUNS / name / file)


@_cli.command(help="Rewrite the table of the README from the runs that are kept.")
def table() -> None:
    """Write the README anew."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("*/result.json"))]
    text = with_table(README.read_text(encoding="utf-8"), markdown(results))
    with write_whole(README) as path:
        path.write_text(text, encoding="utf-8")


def markdown(results: list[dict]) -> str:
    """Table of results, most images first, ``model`` below ``rtl``."""
    head = ("command", "test accuracy", "cycles/image", "of which programming", "refresh", "transfer", "SET pulses/image",
            "ms/image", "training took", "on", "digest")
    ordered = sorted(results, key=lambda r: (-r["images_trained"], r["seed"], r["backend"] != "rtl"))
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, ["---"] * len(head), *map(_row, ordered)))


def _row(result):
    return (f"`{_command(result)}`", f"{100 * result['test_accuracy']:.2f} %", f"{result['cycles_per_image']:.0f}",
            *("not counted" if result[name] is None else f"{result[name]:.0f}"
              for name in ("programming_cycles_per_image", "refresh_cycles_per_image")),
            f"{result.get('transfer_cycles_per_image', 0):.0f}",
            "not counted" if result["pulses_per_image"] is None else f"{result['pulses_per_image']:.2f}",
            f"{result['ms_per_image']:.2f}",
            f"{result['training_s'] / 60:.0f} min", result["machine"], f"`{result['digest'][:8]}`")


def with_table(text: str, rows: str) -> str:
    """``text`` of the README with ``rows`` between the markers; raises InputError when a marker is missing."""
    return between(text, MARKERS, rows)


def _command(result):
    layers = "-".join(map(str, result["layers"]))
    images = result["images_trained"] // result["epochs"]
    scheme = f"SCHEME={result['scheme']} " if result.get("scheme", "mixed") != "mixed" else ""
    return (f"make train {scheme}DATASET={result['dataset']} LAYERS={layers} IMAGES={images} EPOCHS={result['epochs']} "
            f"SEED={result['seed']} BACKEND={result['backend']}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_cli(_cli, "python -m cosim.results", argv, "stopped")


if __name__ == "__main__":
    sys.exit(main())
