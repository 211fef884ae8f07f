"""The study of the capacitor scheme: its settings, and that table and results in the tree are of them."""
import json

import numpy as np

from cosim import capacitor_study as study
from model.params import CapacitorParams


def test_settings_change_what_they_say():
    names = [setting.name for setting in study.SETTINGS]
    assert len(set(names)) == len(names)
    experiments = {setting.name: setting.experiment(2) for setting in study.SETTINGS}
    default = experiments["inversion"]
    assert default.params.unit.capacitor == 1
    assert default.params.capacitor == CapacitorParams()
    assert (default.inversion, default.seed, default.upkeep) == (True, 2, 8000)
    assert not experiments["no-inversion"].inversion
    assert experiments["no-inversion"].params == default.params
    for prefix, dataset in (("", "mnist-22x24"), ("backrand-", "mnist-backrand")):
        for name in ("alike", "alike-no-inversion"):
            assert experiments[prefix + name].params.capacitor.step_spread == (0.0, 0.0)
            assert experiments[prefix + name].params.capacitor.threshold[1] == 0.0
        assert not experiments[prefix + "pairs"].params.capacitor.present
        assert {experiments[name].dataset for name in names if name.startswith("backrand-") == bool(prefix)} == {dataset}


def test_results_in_the_tree_are_of_the_settings():
    settings = {setting.name: setting for setting in study.SETTINGS}
    found = sorted(study.RESULTS.glob("*.json"))
    assert found
    for path in found:
        result = json.loads(path.read_text(encoding="utf-8"))
        assert path.name == f"{result['setting']}-seed{result['seed']}.json"
        assert study.kept(path, settings[result["setting"]].experiment(result["seed"])) == result, path.name
        assert len(result["test_accuracies"]) == settings[result["setting"]].experiment(1).epochs
        if not result["float"]:
            most = 0.1 if result["experiment"]["transfer"] == 8000 else 0.5
            assert 0 < result["transfer_cycles_per_image"] <= most * result["cycles_per_image"]
    assert study.TABLE.read_text(encoding="utf-8") == study.markdown()


def test_inversion_is_worth_more_than_the_spread_over_seeds():
    """The scheme's point, in the results there are."""
    accuracies = {name: [json.loads(path.read_text(encoding="utf-8"))["test_accuracy"]
                         for path in study.RESULTS.glob(f"{name}-seed*.json")] for name in ("inversion", "no-inversion")}
    assert min(accuracies["inversion"]) > max(accuracies["no-inversion"])


def test_the_picture_is_a_picture(tmp_path):
    study.draw(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert np.all([setting.label in study.markdown() for setting in study.SETTINGS])
