"""The tutorial notebook runs from top to bottom, with fewer samples than it shows."""

import json
import os

import pytest

from tests.conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_stored_without_outputs():
    assert all(cell["outputs"] == [] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
def test_the_notebook_runs(reader, capsys, monkeypatch):
    monkeypatch.chdir(reader.folder)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    namespace = {}
    for cell in CODE:
        exec(cell.replace("train: 1000, test: 200", "train: 64, test: 12"), namespace)
    printed = capsys.readouterr().out
    assert "did you mean 'global_batch_size'?" in printed
    assert "0 ['finished', 'finished', 'finished', 'finished', 'finished', 'finished']" in printed
    assert "match alone  image_entity_accuracy" in printed
