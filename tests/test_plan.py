"""Plans: every default written out, repeatable, and known by what can change a number."""

import json
import subprocess
import sys

import pytest

from runner.errors import SpecError
from runner.plan import expand, flatten, plan_json, read_plan, resolve, smoke
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


def test_a_plan_resolves_to_itself(plan_of):
    plan = plan_of()
    again = resolve(read_plan(plan_json(plan)), Quiet())
    assert again == plan
    assert plan_json(again) == plan_json(plan)


def test_a_plan_is_made_without_importing_what_trains(plan_of, tmp_path):
    plan = plan_of()
    code = "import sys\nfrom pathlib import Path\nfrom runner.plan import resolve\n"
    code += "from runner.spec.load import load_spec\n"
    code += f"print(resolve(load_spec(Path({str(tmp_path / 'small.yaml')!r})).spec, None).fingerprint)\n"
    code += "print({'torch', 'transformers', 'ray', 'mlflow', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [plan.fingerprint, "set()"]


def test_a_plan_is_a_spec_with_every_default_written_out(plan_of, tmp_path):
    plan = plan_of()
    (tmp_path / "plan.json").write_text(plan_json(plan))
    assert load_spec(tmp_path / "plan.json").spec == plan.spec
    told = json.loads(plan_json(plan))
    for name in plan.spec.stages():
        sections = told[name] if isinstance(told[name], list) else [told[name]]
        parts = getattr(plan.spec, name)
        for section, part in zip(sections, parts if isinstance(parts, tuple) else [parts], strict=True):
            assert set(section) == {"type", *type(part.options).model_fields}


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
def test_what_can_change_a_number_changes_the_fingerprint(plan_of, override):
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
def test_what_cannot_does_not(plan_of, override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_of(override).fingerprint == plan_of().fingerprint


def test_the_order_of_optimizer_groups_is_part_of_the_fingerprint(plan_of):
    turned = SPEC.replace(
        'vision: {{match: "*visual*", lr: 1e-3}}, rest: {{match: "*", lr: 1e-4}}',
        'rest: {{match: "*", lr: 1e-4}}, vision: {{match: "*visual*", lr: 1e-3}}',
    )
    assert plan_of(text=turned).fingerprint != plan_of().fingerprint


def test_a_plan_whose_pins_no_longer_hold_says_what_changed(plan_of):
    told = json.loads(plan_json(plan_of()))
    told["pinned"]["data"] = "0" * 64
    told["pinned"]["plugins"]["trainer.sft"] = "mmre-runner 0.0.1"
    with pytest.raises(SpecError) as caught:
        resolve(read_plan(json.dumps(told)), Quiet())
    assert "data set's fingerprint" in str(caught.value)
    assert "plugin trainer.sft" in str(caught.value)


def test_a_trials_folder_carries_its_fingerprint(plan_of):
    plan = plan_of()
    [trial] = expand(plan)
    assert trial.name == f"trial-{plan.fingerprint[:8]}"


def test_a_smoke_run_keeps_adapter_groups_and_metrics(plan_of):
    spec = plan_of("adapter.images=lettered").spec
    small = smoke(spec)
    assert small.name == "small_smoke"
    assert small.pinned is None
    assert (small.adapter, small.optimizer, small.metrics) == (spec.adapter, spec.optimizer, spec.metrics)
    assert small.trainer.options.max_steps == 2


def test_parameters_are_flat_and_lossless(plan_of):
    told = dict(flatten(plan_of().spec.as_json()))
    assert told["optimizer.groups.vision.lr"] == 1e-3
    assert told["metrics.1.type"] == "image_entity_accuracy"
    assert told["adapter.tasks"] == ["summary", "ner", "match"]
