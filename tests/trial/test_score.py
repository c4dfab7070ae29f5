"""The score step writes its files, and `runner evaluate` returns the same values."""

import json
from types import SimpleNamespace

import pytest

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.dataset.folder_reader import DatasetFolder
from runner.evaluate_answer_file import EvaluateOptions, evaluate
from runner.files import read_jsonl
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.score import score

METRICS = (
    "rouge",
    "bleu",
    "ner_f1",
    "image_entity_accuracy",
    "ner_f1_by_label",
    "triple_f1",
    "exact_match",
    "corpus_bleu",
)
LABELS = ("person", "event")
ROWS = [
    {
        "id": "1",
        "text": "Ann at The Ball : Live",
        "image": "images/1.jpg",
        "summary": "A singer stands on a stage.",
        "entities": [{"label": "person", "text": "Ann"}, {"label": "event", "text": "The Ball : Live"}],
        "segments": [{"letter": "a", "image": "segments/1-a.jpg", "entity": "Ann", "box": [0, 0, 1, 1]}],
    },
    {"id": "2", "text": "Bo", "image": "images/2.jpg", "summary": "A dog.", "entities": [], "segments": []},
]
OUTPUTS = {
    "1": "Task 1 Answer: A singer on a stage.\nTask 2 Answer:\nNER:\n:person;Ann:event;The Ball : Live\n"
    "image entities pair{'a': 'Ann'}",
    "2": "Task 1 Answer: A dog.\nTask 2 Answer:\nNER:\n:person;Bo",
}


@pytest.fixture
def folder(tmp_path):
    """A data set without its pictures, and a run with predictions in the same folder."""
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "x", "labels": LABELS, "num_samples": {"test": 2}}))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = [{"id": key, "output": output, "finished": True} for key, output in OUTPUTS.items()]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


class Log:
    """Records the metrics and artifacts that the step logs."""

    def __init__(self):
        self.logged = {}

    def metrics(self, step, values):
        self.logged |= values

    def artifact(self, name, path):
        self.logged[name] = path

    def progress(self, done, total, **shown):
        pass


def scored(folder):
    context = SimpleNamespace(
        adapter=PromptFormatAdapter(PfaOptions(), LABELS),
        metrics={name: create_plugin(make_section("metric", {"type": name})) for name in METRICS},
        samples=DatasetFolder(folder, with_images=False).load,
        run=RunDirectory(folder),
        log=Log(),
        reporter=lambda stage: Log(),
    )
    score(context)
    return context


def test_values_of_both_parse_modes_and_one_row_per_sample_are_written(folder):
    context = scored(folder)
    figures = context.run.read_metrics()
    assert context.log.logged == {**figures, "scores": context.run.scores}
    assert figures["ner_f1"] == pytest.approx(4 / 5)
    assert figures["ner_f1/event"] == 1 and figures["published/ner_f1/event"] == 0
    assert figures["exact_match"] == 1 / 2 and figures["published/exact_match"] == 0
    assert (figures["parse/clean"], figures["parse/malformed"]) == (1, 1)
    assert (figures["published/parse/repaired"], figures["published/parse/malformed"]) == (1, 1)
    first, second = read_jsonl(context.run.scores)
    assert first["reference"]["pairs"] == [["event", "The Ball : Live"], ["person", "Ann"]]
    assert first["counts"]["triple_f1"] == {"predicted": 2, "reference": 2, "matched": 2}
    assert first["published"]["counts"]["triple_f1"]["matched"] == 1
    assert second["counts"]["ner_f1_by_label"]["person/predicted"] == 1
    assert second["notes"] == ["no 'image entities pair'"]


def test_evaluate_returns_the_values_of_the_launch(folder):
    context = scored(folder)
    request = EvaluateOptions(predictions=context.run.predictions, references=folder, metrics=METRICS)
    found = evaluate(request, Log())
    assert found.metrics == context.run.read_metrics()
    assert json.loads(json.dumps(found.rows)) == read_jsonl(context.run.scores)
