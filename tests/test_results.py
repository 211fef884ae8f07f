"""Kept runs and the README's table of them."""
import json

import pytest

from cosim import results
from model.errors import InputError


def result(**fields):
    return {"dataset": "mnist", "layers": [784, 250, 10], "images_trained": 60000, "epochs": 1, "seed": 1, "backend": "model",
            "test_accuracy": 0.9526, "cycles_per_image": 950.4, "programming_cycles_per_image": 130.0,
            "refresh_cycles_per_image": 120.6, "pulses_per_image": 5.004, "ms_per_image": 0.1,
            "training_s": 120.0, "machine": "a CPU, 2 CPUs", "digest": "0123456789", **fields}


def test_table():
    lines = results.markdown([result(), result(images_trained=120000, epochs=2), result(backend="rtl")]).splitlines()
    command = "make train DATASET=mnist LAYERS=784-250-10 IMAGES=60000 EPOCHS=2 SEED=1 BACKEND=model"
    assert lines[2].startswith(f"| `{command}` | 95.26 % | 950 |")
    assert "BACKEND=rtl" in lines[3]
    assert lines[4].endswith("| 130 | 121 | 0 | 5.00 | 0.10 | 2 min | a CPU, 2 CPUs | `01234567` |")


def test_only_the_table_changes():
    start, end = results.MARKERS
    assert results.with_table(f"a\n{start}old\n{end}b\n", "new\n") == f"a\n{start}new\n{end}b\n"
    with pytest.raises(InputError, match="markers"):
        results.with_table("no table", "new\n")


def test_readme_is_up_to_date():
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in results.RUNS.glob("*/result.json")]
    assert kept
    text = results.README.read_text(encoding="utf-8")
    assert results.with_table(text, results.markdown(kept)) == text


def test_an_unfinished_run_is_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["results", "keep", str(tmp_path), "x"])
    assert results.main() == 2
    assert "is not the directory of a finished run (result.json is missing)" in capsys.readouterr().err
