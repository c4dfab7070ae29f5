"""Cache keys change with every input of a step, and with nothing else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.resolved_plan import read_plan
from runner.spec.load import load_spec
from runner.trial.cache_entry import generation_key, training_key

SPEC = """\
name: small
data: {type: synthetic, path: data, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-4}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4, precision: fp32, validation_ratio: 0.25}
generator: {type: transformers, max_new_tokens: 8}
metrics: [{type: ner_f1}, {type: rouge}]
tracker: {type: mlflow}
"""

TRAINS = {
    "seed": st.integers(50, 90),
    "adapter.tasks": st.sampled_from([["ner"], ["summary"]]),
    "model.max_pixels": st.integers(5000, 9000),
    "optimizer.groups.vision.lr": st.floats(1e-6, 1e-4),
    "optimizer.weight_decay": st.floats(0.2, 0.9),
    "trainer.epochs": st.integers(3, 9),
    "trainer.target_suffix": st.text(st.characters(codec="ascii", categories=["L"]), min_size=1),
    "generator.num_few_shot": st.integers(1, 3),
}
GENERATES = {"generator.max_new_tokens": st.integers(9, 99), "generator.continuous_batching": st.just(False)}
CHANGES_NOTHING = {
    "name": st.sampled_from(["other", "another"]),
    "metrics": st.sampled_from([[{"type": "bleu"}], [{"type": "rouge"}, {"type": "exact_match"}]]),
    "tracker.uri": st.just("sqlite:///elsewhere.db"),
    "compute.workers": st.integers(2, 4),
    "compute.cache": st.just("elsewhere"),
    "compute.cache_limit": st.sampled_from(["0kB", "200GB"]),
    "trainer.micro_batch_size": st.integers(1, 2),
    "trainer.save_steps": st.integers(1, 9),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A plan as plain data. Its pins are set by hand, because resolving it would import torch."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "small.yaml").write_text(SPEC)
    spec = load_spec(folder / "small.yaml").spec
    plugins = {f"{each.stage}.{each.type}": "mmre-runner 1" for each in spec.sections()}
    units = [*plugins, "adapter.pfa.parse", "engine.train", "engine.generate", "engine.score"]
    code = {unit: {"some.module": "c" * 16} for unit in units}
    pinned = {"fingerprint": "f" * 64, "data": "d" * 64, "model": "random:smoke", "plugins": plugins, "code": code}
    return {**spec.as_json(), "pinned": pinned}


def keys(plan, changes):
    """The cache keys of the training and of the answers."""
    told = json.loads(json.dumps(plan))
    for path, value in changes.items():
        *above, last = path.split(".")
        place = told
        for part in above:
            place = place[part]
        place[last] = value
    # What a plan with these metrics would be pinned to; the version is the same for all of them.
    version = plan["pinned"]["plugins"]["metric.rouge"]
    told["pinned"]["plugins"] |= {f"metric.{each['type']}": version for each in told["metrics"]}
    told["pinned"]["code"] |= {f"metric.{each['type']}": {"some.module": "c" * 16} for each in told["metrics"]}
    spec = read_plan(json.dumps(told))
    return training_key(spec), generation_key(spec)


def some_of(changes):
    def values(paths):
        return st.fixed_dictionaries({path: changes[path] for path in paths})

    return st.sets(st.sampled_from(sorted(changes)), min_size=1).flatmap(values)


quickly = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@quickly
@given(changes=some_of(TRAINS), more=some_of(CHANGES_NOTHING | GENERATES))
def test_training_inputs_change_both_keys(plan, changes, more):
    before, after = keys(plan, {}), keys(plan, changes | more)
    assert before[0] != after[0]
    assert before[1] != after[1]


@quickly
@given(changes=some_of(GENERATES), more=some_of(CHANGES_NOTHING))
def test_generator_options_change_only_the_answers_key(plan, changes, more):
    before, after = keys(plan, {}), keys(plan, changes | more)
    assert before[0] == after[0]
    assert before[1] != after[1]


@quickly
@given(changes=some_of(CHANGES_NOTHING))
def test_metrics_names_paths_and_workers_change_neither_key(plan, changes):
    assert keys(plan, changes) == keys(plan, {})


@pytest.mark.parametrize(
    ("pinned", "same"),
    [
        ({"data": "0" * 64}, (False, False)),
        ({"model": "another revision"}, (False, False)),
        ({"plugins": {"trainer.sft": "mmre-runner 9"}}, (False, False)),
        ({"plugins": {"generator.transformers": "mmre-runner 9"}}, (True, False)),
        ({"plugins": {"metric.rouge": "mmre-runner 9"}}, (True, True)),
    ],
    ids=str,
)
def test_hashes_of_inputs_and_plugin_versions_change_the_keys(plan, pinned, same):
    changed = {f"pinned.{name}": value for name, value in pinned.items() if name != "plugins"}
    if "plugins" in pinned:
        changed["pinned.plugins"] = {**plan["pinned"]["plugins"], **pinned["plugins"]}
    before, after = keys(plan, {}), keys(plan, changed)
    told = tuple(one == other for one, other in zip(before, after, strict=True))
    # `keys` itself pins the metrics' version.
    assert told == same


EXAMINED = {"trainer.eval_generate_steps": 2}


def test_validation_answers_make_the_generator_a_training_input(plan):
    before = keys(plan, EXAMINED)
    assert keys(plan, EXAMINED | {"generator.max_new_tokens": 9})[0] != before[0]
    assert keys(plan, EXAMINED | {"metrics": [{"type": "ner_f1"}]}) == before


def test_only_the_selection_metric_is_a_training_input(plan):
    chosen = {
        "trainer.load_best_model_at_end": True,
        "trainer.metric_for_best_model": {"metric": "validation/rouge1", "mode": "max"},
    }
    before = keys(plan, EXAMINED | chosen)
    assert before[0] != keys(plan, EXAMINED)[0]
    assert keys(plan, EXAMINED | chosen | {"metrics": [{"type": "rouge"}, {"type": "bleu"}]}) == before
    version = {**plan["pinned"]["plugins"], "metric.ner_f1": "mmre-runner 9"}
    assert keys(plan, EXAMINED | chosen | {"pinned.plugins": version}) == before
