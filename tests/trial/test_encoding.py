"""The folder of encoded samples is shared by trials that encode alike, and only by them."""

import os

import pytest

from runner import code_identity
from runner.resolved_plan import resolve
from runner.spec.load import load_spec
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_contents import list_items
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.run_trial import run_trial
from runner.trial.train import encoded_folder
from runner.trial.trial_components import TrialContext

SPEC = """\
name: small
data: {{type: synthetic, path: {data}, train: 8, test: 2}}
adapter: {{type: pfa}}
model: {{type: qwen2_5_vl, size: smoke}}
optimizer: {{type: adamw, groups: {{vision: {{match: "*visual*", frozen: true}}, rest: {{match: "*", lr: 1e-4}}}}}}
trainer: {{type: sft, epochs: 1, global_batch_size: 4, precision: fp32}}
generator: {{type: transformers, max_new_tokens: 8}}
metrics: [{{type: ner_f1}}]
tracker: {{type: mlflow}}
"""


class Quiet:
    def progress(self, done, total, **shown): ...

    def warn(self, message):
        raise AssertionError(message)


@pytest.fixture
def plan_of(tmp_path, tmp_path_factory):
    shared = tmp_path_factory.getbasetemp() / "synthetic"

    def plan_of(*overrides):
        path = tmp_path / "small.yaml"
        path.write_text(SPEC.format(data=shared))
        return resolve(load_spec(path, overrides).spec, Quiet())

    return plan_of


@pytest.fixture
def folder_of(plan_of, tmp_path):
    def folder_of(*overrides, name="small"):
        run = RunDirectory(tmp_path / "runs" / name / "trial-1")
        return encoded_folder(TrialContext(plan_of(*overrides).spec, run, EventLog(run.events)))

    return folder_of


def test_options_that_do_not_affect_the_encoding_share_the_folder(folder_of, tmp_path):
    folder = folder_of()
    assert folder.parent == tmp_path / "runs" / ".cache" / "encoded"
    for override in (
        "seed=3",
        "optimizer.groups.rest.lr=1e-5",
        "optimizer.groups.vision.frozen=false",
        "trainer.global_batch_size=8",
        "trainer.target_suffix=x",  # the trainer names its files by what it adds
        "generator.max_new_tokens=9",
        "metrics=[{type: bleu}]",
        "compute.workers=2",
    ):
        told = [override]
        if "frozen" in override:
            told.append("optimizer.groups.vision.lr=1e-5")
        assert folder_of(*told, name="other") == folder, override


def test_inputs_of_the_encoding_change_the_folder(folder_of, monkeypatch):
    folders = [
        folder_of(),
        folder_of("model.max_pixels=2304"),
        folder_of("model.min_pixels=144"),
        folder_of("model.type=qwen2_vl"),
        folder_of("adapter.tasks=[ner]"),
        folder_of("data.seed=5"),
    ]
    monkeypatch.setattr(code_identity, "_version", lambda name: "1" if name == "pillow" else "0")
    folders.append(folder_of())
    assert len(set(folders)) == len(folders)


def test_a_trial_reuses_encoded_samples_of_another(plan_of, tmp_path):
    files = []
    for name, rate in (("one", "1e-3"), ("two", "1e-4")):
        plan = plan_of(f"optimizer.groups.rest.lr={rate}")
        run = RunDirectory(tmp_path / "runs" / "small" / name)
        run.create(plan, "", ())
        run_trial(plan.spec, run.path, ["train"])
        [folder] = (tmp_path / "runs" / ".cache" / "encoded").iterdir()
        files.append({file.name: file.stat().st_mtime_ns for file in folder.iterdir()})
    assert len(files[0]) == 8
    assert files[0] == files[1]


def test_trials_record_their_use_of_encoded_samples(plan_of, tmp_path):
    storage, names = tmp_path / "runs", []
    cache = Cache(storage / ".cache")
    for name, seed in (("one", 1), ("two", 2)):
        run, plan = RunDirectory(storage / name / "trial-1"), plan_of(f"seed={seed}")
        run.create(plan, "", ())
        run_trial(plan.spec, run.path, ["train"])
        names.append(f"{name}/trial-1")
        [item] = [item for item in list_items(cache, storage, pytest.fail) if item.kind == "encoded"]
        assert item.used_by == tuple(names)
        assert item.last_used.year > 2000, "a training that only reads the samples uses them as well"
        folder = cache.entry(item.kind, item.key).folder
        for path in (*folder.iterdir(), folder):
            os.utime(path, (0, 0))
