"""The bench of arms launches valid specs of arms that the shipped spec has."""

from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from runner.spec.load import load_spec

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.fixture
def arms(monkeypatch):
    """Return the module of the bench."""
    monkeypatch.syspath_prepend(BENCH)
    import arms

    return arms


def test_the_study_has_the_arms_of_the_shipped_spec(arms, tmp_path):
    shipped = yaml.safe_load((arms.SPECS / "mre_regimes.yaml").read_text())["sweep"]["arms"]
    selected = {arm: shipped[arm] for arm in arms.SELECTED}
    arms.write_spec(tmp_path / "study.yaml", selected, Namespace(train=20, test=4), tmp_path / "runs")
    spec = load_spec(tmp_path / "study.yaml").spec
    assert list(spec.sweep.arms) == list(arms.SELECTED)
    assert (spec.regime.prompts, spec.compute.storage, spec.sweep.seeds) == ("per_task", tmp_path / "runs", (1,))


def test_different_predictions_are_an_error(arms, monkeypatch, tmp_path):
    answers = iter([(3.0, ["a", "b"]), (2.0, ["a"]), (2.0, ["b"]), (3.0, ["a", "b"]), (2.0, ["a"]), (2.0, ["c"])])
    monkeypatch.setattr(arms, "launch", lambda *arguments: next(answers))
    study = {"one": {}, "two": {}}
    assert arms.measure(study, Namespace(), tmp_path, 0) == (3.0, 4.0)
    with pytest.raises(SystemExit, match="predictions of the study differ"):
        arms.measure(study, Namespace(), tmp_path, 1)
