"""The registry of claims: what was claimed before results, and what came or changed or went after them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import DataError
from runner.fingerprint_and_provenance import fingerprint
from runner.spec.claims_section import Claim
from runner.spec.load import load_spec
from runner.sweep.claim_registry import (
    CLAIMS_FILE,
    Standing,
    _registry,
    claims_state,
    preview_registry,
    read_registry,
    register_claims,
)

SPEC = """\
name: claimed
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa, tasks: [ner, match]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-4}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4}
generator: {type: transformers}
metrics: [{type: ner_f1}, {type: image_entity_accuracy}]
tracker: {type: mlflow}
sweep: {arms: {joint: {}, ner_alone: {adapter.tasks: [ner]}, match_alone: {adapter.tasks: [match]}}}
"""
HELPS = "claims: {helps: {arm: joint, better_than: ner_alone, metrics: [ner_f1]}}\n"
HELPS_MORE = HELPS.replace("[ner_f1]", "[ner_f1], by: 0.01")
BOTH = HELPS.replace("claims: {", "claims: {other: {arm: joint, better_than: match_alone, metrics: [ner_f1]}, ")
CRITERION = "criterion: {metrics: {ner: ner_f1, match: image_entity_accuracy}}\n"


class Experiment:
    """A folder of an experiment, in which nothing runs."""

    def __init__(self, folder):
        self.folder, self.sweep = folder / "claimed", folder / "claimed" / "sweep"
        self.sweep.mkdir(parents=True)

    def spec(self, claims):
        file = self.folder / "spec.yaml"
        file.write_text(SPEC + claims)
        return load_spec(file).spec

    def register(self, claims):
        return register_claims(self.spec(claims), self.sweep)

    def add_result(self):
        (self.folder / "trial-1").mkdir(exist_ok=True)
        (self.folder / "trial-1" / "metrics.json").write_text("{}")

    def lines(self):
        return [json.loads(line) for line in (self.sweep / CLAIMS_FILE).read_text().splitlines()]

    def changes(self):
        return {name: standing.late_change for name, standing in read_registry(self.sweep).claims.items()}


@pytest.fixture
def experiment(tmp_path):
    return Experiment(tmp_path)


def test_claims_are_registered_once_with_time_and_hash(experiment):
    assert experiment.register(HELPS + CRITERION)
    assert not experiment.register(HELPS + CRITERION)
    [line] = experiment.lines()
    state = claims_state(experiment.spec(HELPS + CRITERION))
    assert line["sha256"] == fingerprint(state)
    assert (line["claims"], line["criterion"], line["results_seen"]) == (state["claims"], state["criterion"], False)
    assert state["criterion"]["single_task_arms"] == {"ner": "ner_alone", "match": "match_alone"}
    registry = read_registry(experiment.sweep)
    assert str(registry.claims["helps"]) == f"before results, {line['time'][:10]} {line['time'][11:16]} UTC"
    assert registry.criterion.late_change is None
    [event] = [json.loads(each) for each in (experiment.sweep / "events.jsonl").read_text().splitlines()]
    assert (event["kind"], event["sha256"]) == ("claims", line["sha256"])


def test_a_spec_without_claims_registers_nothing(experiment):
    assert not experiment.register("")
    assert list(experiment.sweep.iterdir()) == []
    assert read_registry(experiment.sweep).sha256 is None


def test_claims_that_are_unchanged_after_results_were_made_before_them(experiment):
    experiment.register(HELPS)
    experiment.add_result()
    assert experiment.register(HELPS), "that results exist is recorded"
    assert not experiment.register(HELPS)
    assert [line["results_seen"] for line in experiment.lines()] == [False, True]
    assert experiment.changes() == {"helps": None}


def test_what_is_added_changed_or_removed_after_results_is_marked(experiment):
    experiment.register(HELPS)
    experiment.add_result()
    experiment.register(BOTH)
    assert experiment.changes() == {"helps": None, "other": "added"}
    experiment.register(HELPS_MORE)
    assert experiment.changes() == {"helps": "changed", "other": "removed"}
    removed = read_registry(experiment.sweep).claims["other"]
    assert removed.is_removed and Claim.model_validate(removed.content).better_than == "match_alone"
    experiment.register(HELPS)
    assert experiment.changes() == {"helps": "changed", "other": "removed"}, "a change cannot be undone"


def test_before_results_claims_can_change_freely(experiment):
    for claims in (BOTH, HELPS, HELPS_MORE):
        experiment.register(claims)
    assert experiment.changes() == {"helps": None}
    assert len(experiment.lines()) == 3


def test_results_stay_seen_after_they_were_removed(experiment):
    experiment.register(HELPS)
    experiment.add_result()
    experiment.register(HELPS)
    (experiment.folder / "trial-1" / "metrics.json").unlink()
    experiment.register(HELPS_MORE)
    assert experiment.changes() == {"helps": "changed"}


def test_first_claims_after_results_are_late(experiment):
    experiment.add_result()
    experiment.register(HELPS + CRITERION)
    registry = read_registry(experiment.sweep)
    assert (registry.claims["helps"].late_change, registry.criterion.late_change) == ("added", "added")
    assert str(registry.claims["helps"]).startswith("added after results, ")
    experiment.register(HELPS)
    assert read_registry(experiment.sweep).criterion.late_change == "removed"


def test_a_plan_shows_the_standing_without_registering(experiment):
    assert str(preview_registry(experiment.spec(HELPS), experiment.folder).claims["helps"]) == "not registered yet"
    experiment.register(HELPS)
    experiment.add_result()
    preview = preview_registry(experiment.spec(BOTH), experiment.folder).claims
    assert str(preview["helps"]).startswith("before results, ")
    assert str(preview["other"]) == "not registered yet (added after results)"
    assert preview["other"].as_json() == {
        "state": "added_after_results",
        "is_registered": False,
        "time": None,
        "sha256": None,
    }
    assert len(experiment.lines()) == 1
    assert preview_registry(experiment.spec(HELPS), experiment.folder / "nowhere").claims["helps"].time is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ner_alone"', '"match_alone"', "entry 1 was edited"),
        ('"claims": {', '"claim": {', "entry 1 is damaged"),
        ('"results_seen": false', '"results_seen": "no"', "entry 1 was edited"),
        ('"metrics"', '"metric"', "entry 1 is damaged"),
    ],
)
def test_an_edited_registry_is_an_error(experiment, old, new, message):
    experiment.register(HELPS)
    file = experiment.sweep / CLAIMS_FILE
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        read_registry(experiment.sweep)


def test_a_line_that_a_kill_cut_is_not_registered(experiment):
    experiment.register(HELPS)
    file = experiment.sweep / CLAIMS_FILE
    file.write_text(file.read_text()[:-20])
    assert read_registry(experiment.sweep).claims == {}
    assert experiment.register(HELPS)
    assert experiment.changes() == {"helps": None}


contents = st.dictionaries(st.sampled_from("ab"), st.integers(0, 2).map(lambda value: {"by": value}))


@given(st.lists(contents, max_size=6), st.lists(contents, max_size=6))
def test_a_claim_is_late_only_if_it_changed_after_the_last_state_before_results(before, after):
    states = [(claims, False) for claims in before] + [(claims, True) for claims in after]
    lines = [
        {"time": f"{number}", "sha256": "0", "results_seen": seen, "claims": claims, "criterion": None}
        for number, (claims, seen) in enumerate(states)
    ]
    registry = _registry(lines).claims
    last_before, last = before[-1] if before else {}, states[-1][0] if states else {}
    for name in "ab":
        seen_contents = [last_before.get(name), *(claims.get(name) for claims in after)]
        is_unchanged = all(content == seen_contents[0] for content in seen_contents)
        standing: Standing | None = registry.get(name)
        if standing is None:
            assert is_unchanged and name not in last
        else:
            assert (standing.late_change is None) == is_unchanged
            assert standing.is_removed == (name not in last)
            assert standing.is_removed or standing.content == last[name]
