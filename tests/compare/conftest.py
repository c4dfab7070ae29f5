"""Finished runs without training: answers to a small generated test split, some of them wrong, scored by the engine."""

import random
from pathlib import Path

import pytest

from runner.dataset.leaks import groups_by_kind
from runner.files import write_json, write_jsonl
from runner.fingerprint_and_provenance import fingerprint
from runner.resolved_plan import create_plugin, resolve, trial_name
from runner.spec.claims_section import Claim, Criterion
from runner.spec.load import load_spec
from runner.sweep.claim_registry import CLAIMS_FILE
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.score import add_groups, all_values, score_modes, score_rows

SPEC = """\
name: tiny
seed: 1
data: {type: synthetic, path: data, train: 2, test: 40}
adapter: {type: pfa, tasks: [summary, ner, match]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: rouge}, {type: bleu}, {type: ner_f1}, {type: image_entity_accuracy}]
tracker: {type: mlflow}
"""


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...

    def metrics(self, step, values): ...

    def stop_requested(self):
        return False


class Storage:
    """A folder of runs, created without training."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, folder / "runs"
        (folder / "spec.yaml").write_text(SPEC)
        self._data = None

    def run(self, *settings, error_rate=0.0, experiment="tiny", status="finished"):
        """Create a run whose answers are wrong with probability `error_rate`, drawn by its seed."""
        spec = load_spec(self.folder / "spec.yaml", [f"name={experiment}", *settings]).spec
        plan = resolve(spec, Silent())
        run = RunDirectory(self.runs / experiment / trial_name(plan))
        run.create(plan, SPEC, settings)
        run.update_record(status=status)
        if status == "finished":
            self._score(run, spec, plan, error_rate)
        return run

    def _score(self, run, spec, plan, error_rate):
        data = create_plugin(spec.data)
        data.prepare(Silent())
        adapter = create_plugin(spec.adapter, plan.dataset.labels)
        samples = list(data.load("test"))
        chance = random.Random(f"{spec.seed}{error_rate}")
        outputs = {each.id: adapter.render_training(each).target for each in samples}
        for each in samples:
            if chance.random() < error_rate:
                outputs[each.id] = outputs[chance.choice(samples).id]
        references = {each.id: adapter.reference(each) for each in samples}
        metrics = {each.type: create_plugin(each) for each in spec.metrics}
        modes = score_modes(
            adapter,
            metrics,
            lambda mode: references,
            lambda key, mode: adapter.parse(outputs[key], mode),
            Silent(),
        )
        write_jsonl(run.predictions, [{"id": name, "output": text, "finished": True} for name, text in outputs.items()])
        write_jsonl(run.scores, add_groups(score_rows(modes), groups_by_kind(samples, spec.max_hash_distance)))
        write_json(run.metrics, all_values(modes))
        log = EventLog(run.events)
        for step in (1, 2, 3):
            log.metrics(step, {"train/loss": 3.0 / step + error_rate, "train/lr/all": 0.1})
        log.metrics(None, all_values(modes))

    def sweep(self, arms, seeds=(1, 2, 3), experiment="swept"):
        """Create a sweep from arms: name to settings and error rate."""
        trials = []
        for arm, (settings, error_rate) in arms.items():
            for seed in seeds:
                run = self.run(*settings, f"seed={seed}", error_rate=error_rate, experiment=experiment)
                trials.append({"name": run.path.name, "group": arm, "arm": arm, "seed": seed, "status": "finished"})
        folder = self.runs / experiment / "sweep"
        folder.mkdir(parents=True)
        write_json(folder / "sweep.json", {"experiment": experiment, "trials": trials})
        write_json(folder / "plan.json", {"sweep": {"arms": {arm: {} for arm in arms}}})
        return self.runs / experiment

    def register(self, claims, criterion=None, *, results_seen=False, experiment="swept"):
        """Append a state of claims to the registry of a sweep."""
        state = {
            "claims": {name: Claim.model_validate(claim).model_dump(mode="json") for name, claim in claims.items()},
            "criterion": criterion and Criterion.model_validate(criterion).model_dump(mode="json"),
        }
        log = EventLog(self.runs / experiment / "sweep" / CLAIMS_FILE)
        log.append("claims", sha256=fingerprint(state), results_seen=results_seen, **state)


@pytest.fixture
def storage(tmp_path):
    """Return an empty folder of runs."""
    return Storage(tmp_path)


REINFORCES = {"rougeL": "summary_alone", "ner_f1": "ner_alone", "image_entity_accuracy": "match_alone"}
CLAIMS = {
    "reinforces": {"arm": "joint", "reinforces": REINFORCES},
    "entities": {"arm": "joint", "better_than": "ner_alone", "metrics": ["ner_f1"]},
    "backwards": {"arm": "without_ner", "better_than": "joint", "metrics": ["rougeL"]},
    "unasked": {"arm": "without_ner", "better_than": "joint", "metrics": ["ner_f1"]},
}
LATE = {"arm": "joint", "better_than": "match_alone", "metrics": ["image_entity_accuracy"]}
CRITERION = {
    "metrics": {"summary": "rougeL", "ner": "ner_f1", "match": "image_entity_accuracy"},
    "single_task_arms": {"summary": "summary_alone", "ner": "ner_alone", "match": "match_alone"},
}


@pytest.fixture(scope="session")
def claimed(tmp_path_factory):
    """Return a sweep with claims and a criterion; one claim was added after results."""
    storage = Storage(tmp_path_factory.mktemp("claimed"))
    arms = {
        "joint": ("summary,ner,match", 0.1),
        "ner_alone": ("ner", 0.6),
        "match_alone": ("match", 0.4),
        "summary_alone": ("summary", 0.12),
        "without_ner": ("summary,match", 0.5),
    }
    storage.sweep({arm: ((f"adapter.tasks=[{tasks}]",), rate) for arm, (tasks, rate) in arms.items()})
    storage.register(CLAIMS, CRITERION)
    storage.register({**CLAIMS, "late": LATE}, CRITERION, results_seen=True)
    return storage


@pytest.fixture(scope="session")
def ablation(tmp_path_factory):
    """Return a sweep over tasks with three seeds, in which the joint runs have fewer errors than those on one task."""
    storage = Storage(tmp_path_factory.mktemp("ablation"))
    tasks = {"joint": "summary,ner,match", "ner_alone": "ner", "match_alone": "match", "without_ner": "summary,match"}
    error_rate = {"joint": 0.1, "ner_alone": 0.6, "match_alone": 0.4, "without_ner": 0.1}
    storage.sweep({arm: ((f"adapter.tasks=[{each}]",), error_rate[arm]) for arm, each in tasks.items()})
    return storage
