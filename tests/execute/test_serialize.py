"""A spec that is sent to a cluster means the same there, and gives no password away."""

import json

import pytest

from runner.errors import SpecError
from runner.execute.submitted_spec import serialize_spec
from runner.spec.load import load_spec

BASE = """\
name: far
data: {type: synthetic, path: "${env:DATA_FOLDER}", train: 8, test: 4}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 1, global_batch_size: 2}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path / "data"))
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "far.yaml").write_text("extends: base.yaml\ncompute: {storage: shared}\n")
    return tmp_path / "far.yaml"


def test_a_serialized_spec_needs_neither_files_nor_environment(spec, tmp_path, monkeypatch):
    loaded = load_spec(spec, ["trainer.epochs=3"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.json").write_text(serialize_spec(loaded))
    monkeypatch.delenv("DATA_FOLDER")
    monkeypatch.chdir(elsewhere)
    there = load_spec(elsewhere / "far.json").spec
    assert there == loaded.spec
    assert there.compute.storage == tmp_path / "shared"
    assert json.loads((elsewhere / "far.json").read_text())["trainer"]["epochs"] == 3


@pytest.mark.parametrize(
    "name", ["tiny_mmre", "qwen_mmre", "gpt4o_baseline", "tiny_sweep", "qwen_mmre_sweep", "mre_ablation"]
)
def test_shipped_specs_can_be_serialized(project, tmp_path, name):
    loaded = load_spec(project.folder / "specs" / f"{name}.yaml", [f"compute.storage={tmp_path}"])
    (tmp_path / "there.json").write_text(serialize_spec(loaded))
    assert load_spec(tmp_path / "there.json").spec == loaded.spec


def test_a_spec_without_storage_is_refused(spec):
    spec.write_text("extends: base.yaml\n")
    with pytest.raises(SpecError, match=r"compute.storage: .*--set compute.storage=/shared/runs"):
        serialize_spec(load_spec(spec))


def test_a_password_is_refused_with_its_line(spec):
    spec.write_text("extends: base.yaml\ncompute: {storage: s}\ntracker:\n  type: mlflow\n  uri: http://me:pw@host:1\n")
    with pytest.raises(SpecError, match=r"far.yaml:5:3: tracker.uri: holds a password") as caught:
        serialize_spec(load_spec(spec))
    assert "pw@" not in str(caught.value)
