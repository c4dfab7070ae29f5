import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.metric.extraction import (
    EntityF1,
    EntityF1Options,
    ExactMatch,
    ExactMatchOptions,
    ImageEntityAccuracy,
    ImageEntityAccuracyOptions,
    NerF1,
    NerF1ByLabel,
    NerF1ByLabelOptions,
    NerF1Options,
    TripleF1,
    TripleF1Options,
)
from plugins.metric.summary import Bleu, CorpusBleu, Rouge
from plugins.metric.summary_options import BleuOptions, CorpusBleuOptions, RougeOptions
from runner.records import Answer

METRICS = [
    Rouge(RougeOptions()),
    Bleu(BleuOptions()),
    NerF1(NerF1Options()),
    ImageEntityAccuracy(ImageEntityAccuracyOptions()),
    NerF1ByLabel(NerF1ByLabelOptions()),
    EntityF1(EntityF1Options()),
    TripleF1(TripleF1Options()),
    ExactMatch(ExactMatchOptions()),
    CorpusBleu(CorpusBleuOptions()),
]
names = st.sampled_from(["Ann", "Ann Lee", "Rome", "ann", "é"])
words = st.text(max_size=20) | st.lists(st.sampled_from(["the", "cat", "Cat's", "ran", "running", "é"])).map(" ".join)


def answers(summaries):
    pairs = st.frozensets(st.tuples(st.sampled_from(["person", "other"]), names), max_size=4)
    return st.builds(Answer, summaries, pairs, st.dictionaries(st.sampled_from("abc"), names))


predictions = answers(words)
# BLEU-4 of fewer than four tokens is below 1 even of a copy, and ROUGE knows only a-z and 0-9.
copied = answers(words.map(lambda text: f"{text} a cat sat there"))


def compute_metrics(metric, corpus):
    return metric.reduce([metric.score(predicted, right) for predicted, right in corpus])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.metric_names[-1])
@given(st.lists(st.tuples(predictions, predictions), min_size=1, max_size=4))
def test_metrics_have_the_declared_names_and_are_between_0_and_1(metric, corpus):
    got = compute_metrics(metric, corpus)
    labels = sorted({label for _, right in corpus for label, _ in right.pairs})
    by_label = [f"ner_f1/{label}" for label in labels] if metric.metric_names == ("ner_f1_macro",) else []
    assert list(got) == [*metric.metric_names, *by_label]
    without_reference = {
        "image_entity_accuracy": not any(right.mapping for _, right in corpus),
        "ner_f1_macro": not labels,
    }
    for name, value in got.items():
        if without_reference.get(name):
            assert value is None
        else:
            assert 0 <= value <= 1


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.metric_names[-1])
@given(st.lists(copied.filter(lambda answer: answer.mapping and answer.pairs), min_size=1, max_size=4))
def test_a_copy_of_the_reference_scores_1(metric, corpus):
    got = compute_metrics(metric, [(right, right) for right in corpus])
    assert got == pytest.approx(dict.fromkeys(got, 1.0), rel=0, abs=1e-9)
    assert set(metric.metric_names) <= got.keys()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.metric_names[-1])
@given(predictions, predictions)
def test_the_counts_of_a_sample_are_json(metric, predicted, right):
    counts = metric.score(predicted, right)
    assert json.loads(json.dumps(counts)) == counts
    assert metric.reduce([json.loads(json.dumps(counts))]) == metric.reduce([counts])


@given(predictions, copied)
def test_extra_letters_and_pairs_lower_precision_only(predicted, right):
    more = Answer("", predicted.pairs | right.pairs, {**predicted.mapping, **right.mapping})
    assert compute_metrics(METRICS[2], [(more, right)])["ner_recall"] == (
        1.0 if right.pairs or not predicted.pairs else 0.0
    )
    assert compute_metrics(METRICS[3], [(more, right)])["image_entity_accuracy"] == (1.0 if right.mapping else None)
