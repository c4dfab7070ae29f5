"""Finished runs without a training: answers to a small generated test split, spoilt by chance, scored by the steps."""

import random
from pathlib import Path

import pytest

from runner.files import write_json, write_lines
from runner.plan import implement, resolve, trial_name
from runner.spec.load import load_spec
from runner.trial.events import EventLog
from runner.trial.run_directory import RunDirectory
from runner.trial.score import all_figures, score_modes, score_rows

SPEC = """\
name: told
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
    """A folder of runs, made without training anything."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, folder / "runs"
        (folder / "spec.yaml").write_text(SPEC)
        self._data = None

    def run(self, *settings, spoilt=0.0, experiment="told", status="finished"):
        """Leave a run whose answers are wrong with a chance of `spoilt`, drawn by its seed."""
        spec = load_spec(self.folder / "spec.yaml", [f"name={experiment}", *settings]).spec
        plan = resolve(spec, Silent())
        run = RunDirectory(self.runs / experiment / trial_name(plan))
        run.begin(plan, SPEC, settings)
        run.update_record(status=status)
        if status == "finished":
            self._score(run, spec, plan, spoilt)
        return run

    def _score(self, run, spec, plan, spoilt):
        data = implement(spec.data)
        data.prepare(Silent())
        adapter = implement(spec.adapter, plan.dataset.labels)
        samples = list(data.load("test"))
        chance = random.Random(f"{spec.seed}{spoilt}")
        outputs = {each.id: adapter.render_training(each).target for each in samples}
        for each in samples:
            if chance.random() < spoilt:
                outputs[each.id] = outputs[chance.choice(samples).id]
        references = {each.id: adapter.reference(each) for each in samples}
        metrics = {each.type: implement(each) for each in spec.metrics}
        modes = score_modes(adapter, metrics, lambda mode: references, outputs, Silent())
        write_lines(run.predictions, [{"id": name, "output": text, "finished": True} for name, text in outputs.items()])
        write_lines(run.scores, score_rows(modes, references))
        write_json(run.metrics, all_figures(modes))
        log = EventLog(run.events)
        for step in (1, 2, 3):
            log.metrics(step, {"train/loss": 3.0 / step + spoilt, "train/lr/all": 0.1})
        log.metrics(None, all_figures(modes))

    def sweep(self, arms, seeds=(1, 2, 3), experiment="swept"):
        """Leave a sweep: an arm's name to its settings and the share of its answers that is wrong."""
        trials = []
        for arm, (settings, spoilt) in arms.items():
            for seed in seeds:
                run = self.run(*settings, f"seed={seed}", spoilt=spoilt, experiment=experiment)
                trials.append({"name": run.path.name, "group": arm, "arm": arm, "seed": seed, "status": "finished"})
        folder = self.runs / experiment / "sweep"
        folder.mkdir(parents=True)
        write_json(folder / "sweep.json", {"experiment": experiment, "trials": trials})
        return self.runs / experiment


@pytest.fixture
def storage(tmp_path):
    """An empty folder of runs."""
    return Storage(tmp_path)


@pytest.fixture(scope="session")
def ablation(tmp_path_factory):
    """A sweep over tasks: together they are answered better than alone; three seeds."""
    made = Storage(tmp_path_factory.mktemp("ablation"))
    tasks = {"joint": "summary,ner,match", "ner_alone": "ner", "match_alone": "match", "without_ner": "summary,match"}
    spoilt = {"joint": 0.1, "ner_alone": 0.6, "match_alone": 0.4, "without_ner": 0.1}
    made.sweep({arm: ((f"adapter.tasks=[{each}]",), spoilt[arm]) for arm, each in tasks.items()})
    return made
