"""The example plugins of the documentation can be installed by pip, and an experiment with them runs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from runner.stages.registry import STAGES
from tests.conftest import ROOT, RUNNER, Workplace

EXAMPLES = ROOT / "docs" / "examples"
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip installs the examples."""
    target = tmp_path_factory.mktemp("examples")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", target, EXAMPLES], check=True)
    return target


@pytest.fixture(scope="module")
def captions(installed, tmp_path_factory):
    """A folder with the spec of the examples and images with captions."""
    folder = tmp_path_factory.mktemp("captions")
    shutil.copy(EXAMPLES / "captions.yaml", folder)
    (folder / "pictures").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (40, 30), colour).save(folder / "pictures" / f"{colour}.png")
        (folder / "pictures" / f"{colour}.txt").write_text(f"A {colour} square.\n")
    return Workplace(folder, {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"})


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def declared_plugins():
    """Return stage and name of each plugin in the pyproject.toml of the examples."""
    groups = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]["entry-points"]
    plain = {group.removeprefix("runner."): names for group, names in groups.items() if not group.endswith(".options")}
    return {(stage, name) for stage, names in plain.items() for name in names}


def test_each_stage_has_an_example_and_all_are_listed(captions):
    assert {stage for stage, _ in declared_plugins()} == set(STAGES)
    listed = json.loads(captions.run("plugins", "--json").stdout)
    plugins = {(row["stage"], row["name"]) for row in listed if row["distribution"] == "mmre-examples 1.0.0"}
    assert plugins == declared_plugins()


def test_an_experiment_with_them_runs_from_data_to_metrics(captions):
    checked = captions.run("validate", "captions.yaml")
    assert checked.returncode == 0, checked.stdout
    planned = captions.run("plan", "captions.yaml", "--json")
    assert planned.returncode == 0, planned.stderr
    done = captions.run("launch", "captions.yaml", "--local", "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    assert 0 <= trial["metrics"]["word_overlap"] <= 1
    run_dir = Path(trial["run_dir"])
    assert {row["lr"] for row in read_lines(run_dir / "parameters.jsonl")} == {0.05}
    assert [row["id"] for row in read_lines(run_dir / "predictions.jsonl")] == sorted(COLOURS)[::4]
    with (run_dir / "metrics.csv").open() as file:
        metrics = {(name, step): value for name, step, value, _ in csv.reader(file)}
    assert sum(name == "train/loss" for name, _ in metrics) == json.loads(planned.stdout)["steps_per_trial"] == 12
    assert float(metrics["word_overlap", ""]) == trial["metrics"]["word_overlap"]


def test_their_mistakes_are_reported_like_those_of_built_in_plugins(captions, tmp_path):
    (tmp_path / "captions.yaml").write_text((EXAMPLES / "captions.yaml").read_text())
    unknown_option = captions.run("validate", tmp_path / "captions.yaml", "--set", "generator.beam=3")
    assert unknown_option.returncode == 2
    assert "did you mean 'beams'?" in unknown_option.stdout
    no_data = captions.run("launch", tmp_path / "captions.yaml", "--local")
    assert no_data.returncode == 2
    assert "no PNG files here; set data.path to a folder of PNG files" in no_data.stderr


BOXES = """\
id,text,image,label,entity,left,top,right,bottom
1,Ada meets Bob,red.png,person,Ada,0,0,20,20
1,Ada meets Bob,red.png,person,Bob,20,0,40,20
2,Cleo is in Rome,green.png,person,Cleo,0,0,20,20
3,What a dog,blue.png,animal,dog,0,0,20,20
"""


def test_source_and_annotator_build_a_data_set(captions):
    shutil.copy(EXAMPLES / "boxes.yaml", captions.folder)
    (captions.folder / "boxes.csv").write_text(BOXES)
    for picture in (captions.folder / "pictures").glob("*.png"):
        shutil.copy(picture, captions.folder)
    done = captions.run("build", "boxes.yaml", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_samples"] == {"train": 1, "test": 1}
    assert result["left_out"] == {"unknown label": 1}
    rows = [row for split in ("train", "test") for row in read_lines(captions.folder / "built" / f"{split}.jsonl")]
    assert {row["id"]: row["summary"] for row in rows} == {"1": "A red square.", "2": "A green square."}
    broken = BOXES.replace("20,0,40,20", "20,0,wide,20")
    (captions.folder / "boxes.csv").write_text(broken)
    invalid = captions.run("build", "boxes.yaml")
    assert invalid.returncode == 2
    assert "boxes.csv:3: a corner of the box is not an integer" in invalid.stderr


@pytest.mark.slow
def test_the_metric_of_the_plugin_page_installs_and_scores(tmp_path):
    page = (ROOT / "docs" / "plugins" / "index.md").read_text()
    python, toml = re.findall(r"^```(?:python|toml)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)[:2]
    project, installed = tmp_path / "project", tmp_path / "installed"
    project.mkdir()
    (project / "empty_rate.py").write_text(python)
    (project / "pyproject.toml").write_text(toml)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        installed,
    ]
    subprocess.run([*pip, project], check=True, capture_output=True)
    (tmp_path / "answers.jsonl").write_text(
        '{"id": "1", "output": "NER:\\n:person;Ada"}\n{"id": "2", "output": "NER:"}\n'
    )
    (tmp_path / "right.jsonl").write_text("".join(f'{{"id": "{n}", "target": "NER:\\n:person;Ada"}}\n' for n in (1, 2)))
    command = [RUNNER, "evaluate", "--predictions", "answers.jsonl", "--references", "right.jsonl", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [*command, "--metrics", "empty_rate"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["metrics"]["empty_rate"] == 0.5
