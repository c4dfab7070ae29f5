import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score import rouge_scorer

from plugins.metric.bleu import Bleu
from plugins.metric.bleu_options import BleuOptions
from plugins.metric.image_entity_accuracy import ImageEntityAccuracy, ImageEntityAccuracyOptions
from plugins.metric.ner_f1 import NerF1, NerF1Options
from plugins.metric.rouge import Rouge
from plugins.metric.rouge_options import RougeOptions
from runner.records import Answer

METRICS = {
    "rouge": Rouge(RougeOptions()),
    "bleu": Bleu(BleuOptions()),
    "ner_f1": NerF1(NerF1Options()),
    "image_entity_accuracy": ImageEntityAccuracy(ImageEntityAccuracyOptions()),
}
NOTHING = Answer(None, None, None)
NINE = {"rel": 0, "abs": 1e-9}


def summary(text):
    return Answer(text, None, None)


def pairs(*named):
    return Answer(None, frozenset(named), None)


def mapping(**named):
    return Answer(None, None, named)


def figures(name, *answers):
    """Score (prediction, reference) answers and reduce."""
    metric = METRICS[name]
    return metric.reduce([metric.score(prediction, reference) for prediction, reference in answers])


@pytest.mark.parametrize("name", METRICS)
def test_task_not_asked_for_has_no_counts_and_no_figures(name):
    metric = METRICS[name]
    assert metric.score(Answer("text", frozenset(), {}), NOTHING) is None
    assert metric.reduce([]) == dict.fromkeys(metric.names)


@pytest.mark.parametrize("name", METRICS)
def test_missing_prediction_counts_as_an_empty_one(name):
    reference = Answer("a cat", frozenset({("person", "Ann")}), {"a": "Ann"})
    assert set(figures(name, (NOTHING, reference)).values()) == {0.0}


def test_rouge_by_hand():
    # "dogs" and "running" have the stems of "dog" and "run": 3 of 4 words and 2 of 3 bigrams agree.
    got = figures("rouge", (summary("two dogs running fast"), summary("two dog run slowly")))
    assert got == pytest.approx({"rouge1": 3 / 4, "rouge2": 2 / 3, "rougeL": 3 / 4}, **NINE)
    # 4 of 4 words of the answer and of 6; the longest common subsequence is "the cat the", or any other 3.
    got = figures("rouge", (summary("the cat on the"), summary("on the mat the cat sat")))
    assert got["rouge1"] == pytest.approx(2 * 1 * (4 / 6) / (1 + 4 / 6), **NINE)
    assert got["rouge2"] == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5), **NINE)


def test_bleu_by_hand():
    # Modified precisions 5/6, 3/5, 1/4 and, without a match, 0.1/3; equal lengths, so no brevity penalty.
    got = figures("bleu", (summary("the cat sat on a mat"), summary("the cat is on a mat")))
    assert got["bleu"] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 0.1 / 3) ** 0.25, **NINE)
    # All right but 4 words for 6: the penalty alone is left.
    got = figures("bleu", (summary("the cat is on"), summary("the cat is on a mat")))
    assert got["bleu"] == pytest.approx(math.exp(1 - 6 / 4), **NINE)


def test_bleu_of_an_empty_summary_is_zero_and_white_space_alone_parts_tokens():
    assert figures("bleu", (summary(" "), summary("a cat")))["bleu"] == 0.0
    assert figures("bleu", (summary("a  cat\non it"), summary("a cat on it")))["bleu"] == pytest.approx(1.0)
    assert figures("bleu", (summary("a cat on it ."), summary("a cat on it.")))["bleu"] < 0.7


words = st.sampled_from(["the", "a", "cat", "cats", "dog", "runs", "running", "on", "mat", ".", "It's"])
sentences = st.lists(words, max_size=12)


@given(st.lists(st.tuples(sentences.map(" ".join), sentences.map(" ".join)), min_size=1, max_size=4))
def test_summary_metrics_equal_direct_calls_of_the_libraries(corpus):
    answers = [(summary(predicted), summary(right)) for predicted, right in corpus]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name, value in figures("rouge", *answers).items():
        direct = [scorer.score(target=right, prediction=got)[name].fmeasure for got, right in corpus]
        assert value == pytest.approx(sum(direct) / len(direct), **NINE)
    method = SmoothingFunction().method1
    direct = [
        sentence_bleu([right.split()], got.split(), smoothing_function=method) if got else 0.0 for got, right in corpus
    ]
    assert figures("bleu", *answers)["bleu"] == pytest.approx(sum(direct) / len(direct), **NINE)


def test_ner_is_micro_over_the_corpus():
    ann, rome, acme = ("person", "Ann"), ("location", "Rome"), ("organization", "Acme")
    got = figures(
        "ner_f1",
        (pairs(ann, rome, acme), pairs(ann)),
        (pairs(), pairs(rome, acme)),
        (pairs(("person", "Rome")), pairs(rome)),
    )
    # 4 predicted, 4 right, 1 both. A macro mean would have been another number.
    assert got == pytest.approx({"ner_precision": 1 / 4, "ner_recall": 1 / 4, "ner_f1": 1 / 4}, **NINE)
    got = figures("ner_f1", (pairs(ann, rome, acme), pairs(ann, rome)))
    assert got == pytest.approx({"ner_precision": 2 / 3, "ner_recall": 1.0, "ner_f1": 0.8}, **NINE)


def test_ner_where_nothing_is_named():
    ann = ("person", "Ann")
    assert set(figures("ner_f1", (pairs(), pairs())).values()) == {1.0}
    assert set(figures("ner_f1", (pairs(ann), pairs())).values()) == {0.0}
    assert set(figures("ner_f1", (pairs(), pairs(ann))).values()) == {0.0}
    assert set(figures("ner_f1", (pairs(ann), pairs(("person", "ann")))).values()) == {0.0}


def test_image_entity_accuracy_is_over_reference_segments():
    got = figures(
        "image_entity_accuracy",
        (mapping(a="Ann", b="Rome", z="Acme"), mapping(a="Ann", b="Ann")),
        (mapping(), mapping(a="Acme")),
    )
    assert got == {"image_entity_accuracy": pytest.approx(1 / 3, **NINE)}
    assert figures("image_entity_accuracy", (mapping(a="Ann"), mapping())) == {"image_entity_accuracy": None}


def test_no_metric_imports_torch():
    modules = ", ".join(f"plugins.metric.{name}" for name in METRICS)
    command = f"import sys, {modules}; print({{'torch', 'transformers'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
