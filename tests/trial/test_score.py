"""The score step writes its files, and `runner evaluate` returns the same values."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.dataset.folder_reader import DatasetFolder
from runner.evaluate_answer_file import EvaluateOptions, evaluate
from runner.files import read_jsonl
from runner.regime import Regime
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.spec.regime_section import RegimeOptions
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.score import describe_mistake, describe_total_failure, score

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
        self.logged, self.warnings = {}, []

    def metrics(self, step, values):
        self.logged |= values

    def artifact(self, name, path):
        self.logged[name] = path

    def progress(self, done, total, **shown):
        pass

    def warn(self, message):
        self.warnings.append(message)


def scored(folder):
    log, adapter = Log(), PromptFormatAdapter(PfaOptions(), LABELS)
    regime, folder_of_data = Regime(RegimeOptions(), adapter, 0), DatasetFolder(folder, with_images=False)
    context = SimpleNamespace(
        adapter=adapter,
        regime=regime,
        test_prompts=regime.prompts(folder_of_data.load("test"), (), 0),
        metrics={name: create_plugin(make_section("metric", {"type": name})) for name in METRICS},
        samples=folder_of_data.load,
        spec=SimpleNamespace(max_hash_distance=None),
        run=RunDirectory(folder),
        log=log,
        reporter=lambda stage: log,
    )
    score(context)
    return context


def test_values_of_both_parse_modes_and_one_row_per_sample_are_written(folder):
    context = scored(folder)
    figures = context.run.read_metrics()
    [short, _] = context.log.warnings
    assert short.startswith("bleu is at most")
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
    groups = {"image": 0, "text": 0, "content": 0}
    rows = read_jsonl(context.run.scores)
    assert [row.pop("groups") for row in rows] == [groups, dict.fromkeys(groups, 1)]
    assert json.loads(json.dumps(found.rows)) == rows


def test_metrics_that_are_undefined_on_the_references_are_null_in_both_parse_modes(folder):
    text = (folder / "test.jsonl").read_text()
    (folder / "test.jsonl").write_text(text.replace("A singer stands on a stage.", "一位歌手").replace("A dog.", "狗"))
    context = scored(folder)
    values = context.run.read_metrics()
    for name in ("rouge1", "rouge2", "rougeL", "bleu", "corpus_bleu"):
        assert values[name] is values[f"published/{name}"] is None
    assert values["ner_f1"] == pytest.approx(4 / 5)
    assert [warning.split(":")[0] for warning in context.log.warnings] == [
        "ROUGE is null",
        "BLEU is null",
        "corpus BLEU is null",
    ]
    assert all(not {"rouge", "bleu"} & row["counts"].keys() for row in read_jsonl(context.run.scores))


values = st.dictionaries(
    st.sampled_from(("ner_f1", "ner_f1/parse", "published/ner_f1", "bleu")),
    st.none() | st.sampled_from((0, 0.0, 0.00004, 0.00006, 0.5)),
)


@given(values, *(st.integers(0, 2),) * 3)
def test_failure_is_described_if_all_metrics_are_0_or_all_answers_malformed(metrics, clean, repaired, malformed):
    counts = {"parse/clean": clean, "parse/repaired": repaired, "parse/malformed": malformed}
    counts |= {f"published/{name}": 1 for name in counts}
    known = [f"{value:.4f}" for value in metrics.values() if value is not None]
    expected = "all metrics are 0" if set(known) == {"0.0000"} else None
    if malformed and not clean + repaired:
        expected = f"all {malformed} answers are malformed"
    assert describe_total_failure({**metrics, **counts}) == expected
    assert describe_total_failure(metrics) == ("all metrics are 0" if set(known) == {"0.0000"} else None)


@given(st.text() | st.text("\n \u2028a", min_size=1).map(lambda text: text * 300))
def test_mistake_is_described_in_one_short_line(output):
    line = describe_mistake("7", output, "")
    assert line.isprintable() and len(line) <= 50 + len(repr(output[:200]))
    assert (line == "For example, the answer to sample 7 is empty.") == (not output.strip())
    assert describe_mistake("7", output, "why") == line[:-1] + " (parser: why)."
