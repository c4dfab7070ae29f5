"""The plugins that the documentation shows are installed as anybody's are, and an experiment of them runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.conftest import ROOT, Workplace

EXAMPLES = ROOT / "docs" / "examples"
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the examples are installed into, by pip."""
    target = tmp_path_factory.mktemp("examples")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", target, EXAMPLES], check=True)
    return target


@pytest.fixture(scope="module")
def captions(installed, tmp_path_factory):
    """A folder with the examples' spec and pictures with captions."""
    folder = tmp_path_factory.mktemp("captions")
    shutil.copy(EXAMPLES / "captions.yaml", folder)
    (folder / "pictures").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (40, 30), colour).save(folder / "pictures" / f"{colour}.png")
        (folder / "pictures" / f"{colour}.txt").write_text(f"A {colour} square.\n")
    return Workplace(folder, {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"})


def declared():
    """Stage and name of each plugin in the examples' pyproject.toml."""
    import tomllib

    groups = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]["entry-points"]
    plain = {group.removeprefix("runner."): names for group, names in groups.items() if not group.endswith(".options")}
    return {(stage, name) for stage, names in plain.items() for name in names}


def test_there_is_one_of_each_stage_and_all_are_listed(captions):
    from runner.registry import STAGES

    assert {stage for stage, _ in declared()} == set(STAGES)
    listed = json.loads(captions.run("plugins", "--json").stdout)
    found = {(row["stage"], row["name"]) for row in listed if row["distribution"] == "mmre-examples 1.0.0"}
    assert found == declared()


def test_an_experiment_of_them_runs_from_data_to_figures(captions):
    checked = captions.run("validate", "captions.yaml")
    assert checked.returncode == 0, checked.stdout
    done = captions.run("launch", "captions.yaml", "--local", "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    assert 0 <= trial["metrics"]["word_overlap"] <= 1
    rows = [json.loads(line) for line in open(f"{trial['run_dir']}/parameters.jsonl")]
    assert {row["lr"] for row in rows} == {0.05}
    answers = [json.loads(line) for line in open(f"{trial['run_dir']}/predictions.jsonl")]
    assert [row["id"] for row in answers] == sorted(COLOURS)[::4]


def test_their_mistakes_are_told_as_ours_are(captions, tmp_path):
    (tmp_path / "captions.yaml").write_text((EXAMPLES / "captions.yaml").read_text())
    wrong = captions.run("validate", tmp_path / "captions.yaml", "--set", "generator.beam=3")
    assert wrong.returncode == 2
    assert "did you mean 'beams'?" in wrong.stdout
    nowhere = captions.run("launch", tmp_path / "captions.yaml", "--local")
    assert nowhere.returncode == 2
    assert "no pictures here; data.path names a folder of PNG files" in nowhere.stderr
