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
from runner.trial.train import encoded_folder, encoded_images_folder
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
PER_TASK = "regime.prompts=per_task"
SHUFFLED = "regime.context_content=shuffled"


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
    def folder_of(*overrides, name="small", find=encoded_folder):
        run = RunDirectory(tmp_path / "runs" / name / "trial-1")
        return find(TrialContext(plan_of(*overrides).spec, run, EventLog(run.events)))

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
        folder_of(PER_TASK),
        folder_of(PER_TASK, "regime.context={ner: [summary]}"),
        *(folder_of(PER_TASK, "regime.context={ner: [summary]}", SHUFFLED, f"seed={seed}") for seed in (1, 2)),
    ]
    monkeypatch.setattr(code_identity, "_version", lambda name: "1" if name == "pillow" else "0")
    folders.append(folder_of())
    assert len(set(folders)) == len(folders)


def test_prompts_do_not_change_the_folder_of_images(folder_of):
    folder = folder_of(find=encoded_images_folder)
    assert folder != folder_of()
    for override in ("adapter.tasks=[ner]", PER_TASK, "seed=3"):
        assert folder_of(override, find=encoded_images_folder) == folder
    for override in ("model.max_pixels=2304", "data.seed=5"):
        assert folder_of(override, find=encoded_images_folder) != folder


@pytest.fixture
def train(plan_of, tmp_path):
    """A function that trains, and returns the time of each file of encoded samples, by folder."""

    def train(name, *overrides):
        plan = plan_of(*overrides)
        run = RunDirectory(tmp_path / "runs" / "small" / name)
        run.create(plan, "", ())
        run_trial(plan.spec, run.path, ["train"])
        folders = (tmp_path / "runs" / ".cache" / "encoded").iterdir()
        return {folder: {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} for folder in folders}

    return train


def test_a_trial_reuses_encoded_samples_of_another(train):
    files = train("one", "optimizer.groups.rest.lr=1e-3")
    assert [len(each) for each in files.values()] == [8, 8]
    assert train("two", "optimizer.groups.rest.lr=1e-4") == files


@pytest.mark.parametrize("frozen", [True, False], ids=["features", "pixels"])
def test_prompts_with_the_same_images_share_what_is_encoded_of_them(train, folder_of, frozen):
    vision = (f"optimizer.groups.vision={{match: '*visual*', {'frozen: true' if frozen else 'lr: 1e-4'}}}",)
    files = train("joint", *vision)
    images = folder_of(find=encoded_images_folder)
    per_task = train("per_task", *vision, PER_TASK, "regime.context={ner: [summary]}", "trainer.validation_ratio=0.3")
    # `summary` and `ner` show the main image alone, `match` the segments too, as the joint prompt does.
    assert len(files[images]) == 8
    assert len(per_task[images]) == 16
    assert files[images].items() <= per_task[images].items()
    [others] = per_task.keys() - files.keys()
    assert len(per_task[others]) <= 8 * 3 + 3
    assert (
        train("neutral", *vision, PER_TASK, "regime.context={ner: [summary]}", "regime.context_content=neutral")[images]
        == per_task[images]
    )


def test_trials_record_their_use_of_encoded_samples(plan_of, tmp_path):
    storage, names = tmp_path / "runs", []
    cache = Cache(storage / ".cache")
    for name, seed in (("one", 1), ("two", 2)):
        run, plan = RunDirectory(storage / name / "trial-1"), plan_of(f"seed={seed}")
        run.create(plan, "", ())
        run_trial(plan.spec, run.path, ["train"])
        names.append(f"{name}/trial-1")
        items = [item for item in list_items(cache, storage, pytest.fail) if item.kind == "encoded"]
        assert len(items) == 2, "samples and images"
        for item in items:
            assert item.used_by == tuple(names)
            assert item.last_used.year > 2000, "a training that only reads the samples uses them as well"
            folder = cache.entry(item.kind, item.key).folder
            for path in (*folder.iterdir(), folder):
                os.utime(path, (0, 0))
