"""Plans: every default is written out, they are repeatable, and their fingerprint covers all that changes results."""

import json
import subprocess
import sys

import pytest

from runner.errors import SpecError
from runner.resolved_plan import (
    describe_changes,
    expand_trials,
    flatten_json,
    plan_json,
    read_plan,
    resolve,
    smoke_spec,
)
from runner.spec.load import load_spec

SPEC = """\
name: small
data: {{type: synthetic, path: {data}, train: 8, test: 2}}
adapter: {{type: pfa}}
model: {{type: qwen2_5_vl, size: smoke}}
optimizer: {{type: adamw, groups: {{vision: {{match: "*visual*", lr: 1e-3}}, rest: {{match: "*", lr: 1e-4}}}}}}
trainer: {{type: sft, epochs: 2, global_batch_size: 4, precision: fp32}}
generator: {{type: transformers, max_new_tokens: 8}}
metrics: [{{type: ner_f1}}, {{type: image_entity_accuracy}}]
tracker: {{type: mlflow}}
"""


class Quiet:
    def metrics(self, step, values): ...

    def progress(self, done, total, **shown): ...

    def warn(self, message):
        raise AssertionError(message)

    def stop_requested(self):
        return False


@pytest.fixture
def plan_of(tmp_path, tmp_path_factory):
    shared = tmp_path_factory.getbasetemp() / "synthetic"

    def plan_of(*overrides, text=SPEC):
        path = tmp_path / "small.yaml"
        path.write_text(text.format(data=shared))
        return resolve(load_spec(path, overrides).spec, Quiet())

    return plan_of


def test_plan_resolves_to_itself(plan_of):
    plan = plan_of()
    again = resolve(read_plan(plan_json(plan.spec)), Quiet())
    assert again == plan
    assert plan_json(again.spec) == plan_json(plan.spec)


def test_plan_of_a_version_that_did_not_record_code_is_described(plan_of):
    pins = plan_of().pins
    earlier = pins.model_dump(exclude={"code"}) | {"data": "d"}
    [data, code] = describe_changes(earlier, pins)
    assert data.startswith("the data set's fingerprint was 'd'")
    assert "does not say by which code" in code


def test_plan_is_resolved_without_importing_training_packages(plan_of, tmp_path):
    plan = plan_of()
    code = "import sys\nfrom pathlib import Path\nfrom runner.resolved_plan import resolve\n"
    code += "from runner.spec.load import load_spec\n"
    code += f"print(resolve(load_spec(Path({str(tmp_path / 'small.yaml')!r})).spec, None).fingerprint)\n"
    code += "print({'torch', 'transformers', 'ray', 'mlflow', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [plan.fingerprint, "set()"]


def test_plan_is_a_spec_with_every_default_written_out(plan_of, tmp_path):
    plan = plan_of()
    (tmp_path / "plan.json").write_text(plan_json(plan.spec))
    assert load_spec(tmp_path / "plan.json").spec == plan.spec
    written = json.loads(plan_json(plan.spec))
    for name in plan.spec.stages():
        written_sections = written[name] if isinstance(written[name], list) else [written[name]]
        value = getattr(plan.spec, name)
        sections = value if isinstance(value, tuple) else [value]
        for written_section, section in zip(written_sections, sections, strict=True):
            assert set(written_section) == {"type", *type(section.options).model_fields}


@pytest.mark.parametrize(
    "override",
    [
        "trainer.epochs=1",
        "trainer.global_batch_size=2",
        "seed=7",
        "adapter.tasks=[ner]",
        "optimizer.groups.vision.lr=2e-3",
        "generator.max_new_tokens=9",
        "data.test=3",
        "metrics=[{type: ner_f1}]",
    ],
)
def test_options_that_change_results_change_the_fingerprint(plan_of, override):
    assert plan_of(override).fingerprint != plan_of().fingerprint


@pytest.mark.parametrize(
    "override",
    [
        "name=another",
        "compute.workers=2",
        "compute.storage=elsewhere",
        "trainer.micro_batch_size=1",
        "tracker.uri=http://127.0.0.1:1",
        "data.path=elsewhere",
    ],
)
def test_options_that_do_not_change_results_keep_the_fingerprint(plan_of, override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_of(override).fingerprint == plan_of().fingerprint


def test_the_order_of_optimizer_groups_is_part_of_the_fingerprint(plan_of):
    reordered = SPEC.replace(
        'vision: {{match: "*visual*", lr: 1e-3}}, rest: {{match: "*", lr: 1e-4}}',
        'rest: {{match: "*", lr: 1e-4}}, vision: {{match: "*visual*", lr: 1e-3}}',
    )
    assert plan_of(text=reordered).fingerprint != plan_of().fingerprint


def test_plan_with_changed_pins_is_an_error_that_names_the_changes(plan_of):
    plan = json.loads(plan_json(plan_of().spec))
    plan["pinned"]["data"] = "0" * 64
    plan["pinned"]["plugins"]["trainer.sft"] = "mmre-runner 0.0.1"
    with pytest.raises(SpecError) as caught:
        resolve(read_plan(json.dumps(plan)), Quiet())
    assert "data set's fingerprint" in str(caught.value)
    assert "plugin trainer.sft" in str(caught.value)


def test_trial_folder_name_contains_the_fingerprint(plan_of):
    plan = plan_of()
    [trial] = expand_trials(plan)
    assert trial.name == f"trial-{plan.fingerprint[:8]}"


def test_smoke_run_keeps_adapter_optimizer_and_metrics(plan_of):
    spec = plan_of("adapter.images=lettered").spec
    small = smoke_spec(spec)
    assert small.name == "small_smoke"
    assert small.pinned is None
    assert (small.adapter, small.optimizer, small.metrics) == (spec.adapter, spec.optimizer, spec.metrics)
    assert small.trainer.options.max_steps == 2


def test_parameters_are_flattened_without_loss(plan_of):
    parameters = dict(flatten_json(plan_of().spec.as_json()))
    assert parameters["optimizer.groups.vision.lr"] == 1e-3
    assert parameters["metrics.1.type"] == "image_entity_accuracy"
    assert parameters["adapter.tasks"] == ["summary", "ner", "match"]


@pytest.mark.parametrize("command", [["plan"], ["launch", "--local"]])
def test_validation_ratio_of_no_sample_is_refused_before_anything_runs(workplace, tmp_path, command):
    (tmp_path / "small.yaml").write_text(SPEC.format(data="data").replace("fp32", "fp32, validation_ratio: 0.05"))
    done = workplace.run(command[0], "small.yaml", *command[1:])
    assert done.returncode == 2
    assert "small.yaml:6:72: trainer.validation_ratio: 0.05 of 8 training sample(s) rounds to no" in done.stderr
    assert "use at least 0.12, or 0 for no validation" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_smoke_run_has_validation_samples(plan_of):
    plan = plan_of("trainer.validation_ratio=0.1", "data.train=100")
    small = smoke_spec(plan.spec)
    assert small.trainer.options.validation_ratio == 0.5
    assert resolve(small, Quiet()).dataset.num_samples["train"] == 12
    assert smoke_spec(plan_of().spec).trainer.options.validation_ratio == 0


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        ("test", "the test split has no samples, so no metric could be measured"),
        ("train", "the training split has no samples to train on"),
    ],
)
def test_empty_split_is_refused(workplace, tmp_path, empty, message):
    row = {"id": "1", "text": "Ann", "image": None, "summary": None, "entities": [], "segments": []}
    other = "test" if empty == "train" else "train"
    description = {"name": "x", "labels": ["person"], "num_samples": {empty: 0, other: 1}}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "set" / f"{other}.jsonl").write_text(json.dumps(row))
    (tmp_path / "set" / f"{empty}.jsonl").write_text("")
    text = SPEC.format(data="set").replace("synthetic, path: set, train: 8, test: 2", "mmre, path: set")
    (tmp_path / "small.yaml").write_text(text)
    done = workplace.run("launch", "small.yaml", "--local")
    assert done.returncode == 2
    assert message in done.stderr
