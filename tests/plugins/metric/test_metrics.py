import math
import subprocess
import sys
from statistics import fmean
from unicodedata import normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from rouge_score import rouge_scorer

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
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
from plugins.metric.summary import Bleu, CorpusBleu, Rouge, lcs_length
from plugins.metric.summary_options import BleuOptions, CorpusBleuOptions, RougeOptions
from runner.records import Answer, Entity, Sample

METRICS = {
    "rouge": Rouge(RougeOptions()),
    "bleu": Bleu(BleuOptions()),
    "ner_f1": NerF1(NerF1Options()),
    "image_entity_accuracy": ImageEntityAccuracy(ImageEntityAccuracyOptions()),
    "ner_f1_by_label": NerF1ByLabel(NerF1ByLabelOptions()),
    "entity_f1": EntityF1(EntityF1Options()),
    "triple_f1": TripleF1(TripleF1Options()),
    "exact_match": ExactMatch(ExactMatchOptions()),
    "corpus_bleu": CorpusBleu(CorpusBleuOptions()),
}
NOTHING = Answer(None, None, None)
NINE = {"rel": 0, "abs": 1e-9}


def summary(text):
    return Answer(text, None, None)


def pairs(*named):
    return Answer(None, frozenset(named), None)


def mapping(**named):
    return Answer(None, None, named)


def compute_metrics(name, *answers):
    """Score (prediction, reference) answers and reduce."""
    metric = METRICS[name]
    return metric.reduce([metric.score(prediction, reference) for prediction, reference in answers])


@pytest.mark.parametrize("name", METRICS)
def test_a_task_that_was_not_asked_for_has_no_counts_and_no_metrics(name):
    metric = METRICS[name]
    assert metric.score(Answer("text", frozenset(), {}), NOTHING) is None
    assert metric.reduce([]) == dict.fromkeys(metric.metric_names)


@pytest.mark.parametrize("name", METRICS)
def test_missing_prediction_counts_as_an_empty_one(name):
    reference = Answer("a cat", frozenset({("person", "Ann")}), {"a": "Ann"})
    assert set(compute_metrics(name, (NOTHING, reference)).values()) == {0.0}


def test_rouge_by_hand():
    # "dogs" and "running" have the stems of "dog" and "run": 3 of 4 words and 2 of 3 bigrams agree.
    got = compute_metrics("rouge", (summary("two dogs running fast"), summary("two dog run slowly")))
    assert got == pytest.approx({"rouge1": 3 / 4, "rouge2": 2 / 3, "rougeL": 3 / 4}, **NINE)
    # 4 of 4 words of the answer and of 6; the longest common subsequence is "the cat the", or any other 3.
    got = compute_metrics("rouge", (summary("the cat on the"), summary("on the mat the cat sat")))
    assert got["rouge1"] == pytest.approx(2 * 1 * (4 / 6) / (1 + 4 / 6), **NINE)
    assert got["rouge2"] == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5), **NINE)


def test_bleu_by_hand():
    # Modified precisions 5/6, 3/5, 1/4 and, without a match, 0.1/3; equal lengths, so no brevity penalty.
    got = compute_metrics("bleu", (summary("the cat sat on a mat"), summary("the cat is on a mat")))
    assert got["bleu"] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 0.1 / 3) ** 0.25, **NINE)
    # All right but 4 words for 6: the penalty alone is left.
    got = compute_metrics("bleu", (summary("the cat is on"), summary("the cat is on a mat")))
    assert got["bleu"] == pytest.approx(math.exp(1 - 6 / 4), **NINE)


def test_bleu_of_an_empty_summary_is_zero_and_tokens_are_split_at_white_space_only():
    assert compute_metrics("bleu", (summary(" "), summary("a cat")))["bleu"] == 0.0
    assert compute_metrics("bleu", (summary("a  cat\non it"), summary("a cat on it")))["bleu"] == pytest.approx(1.0)
    assert compute_metrics("bleu", (summary("a cat on it ."), summary("a cat on it.")))["bleu"] < 0.7


words = st.sampled_from(["the", "a", "cat", "cats", "dog", "runs", "running", "on", "mat", ".", "It's"])
sentences = st.lists(words, max_size=12)


@given(st.lists(st.tuples(sentences.map(" ".join), sentences.map(" ".join)), min_size=1, max_size=4))
def test_summary_metrics_equal_direct_calls_of_the_libraries(corpus):
    answers = [(summary(predicted), summary(right)) for predicted, right in corpus]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name, value in compute_metrics("rouge", *answers).items():
        direct = [scorer.score(target=right, prediction=got)[name].fmeasure for got, right in corpus]
        assert value == fmean(direct)
    method = SmoothingFunction().method1
    direct = [
        sentence_bleu([right.split()], got.split(), smoothing_function=method) if got else 0.0 for got, right in corpus
    ]
    assert compute_metrics("bleu", *answers)["bleu"] == pytest.approx(sum(direct) / len(direct), **NINE)
    right, got = [[each[1].split()] for each in corpus], [each[0].split() for each in corpus]
    direct = corpus_bleu(right, got, smoothing_function=method)
    assert compute_metrics("corpus_bleu", *answers)["corpus_bleu"] == pytest.approx(direct, **NINE)


@given(st.lists(words, max_size=70), st.lists(words, max_size=70))
def test_the_lcs_length_equals_that_of_the_table(one, other):
    row = [0] * (len(other) + 1)
    for token in one:
        above, row = row, [0]
        for at, each in enumerate(other):
            row.append(above[at] + 1 if token == each else max(above[at + 1], row[at]))
    assert lcs_length(one, other) == row[-1]


def test_corpus_bleu_by_hand():
    corpus = [("the cat sat on a mat", "the cat is on a mat"), ("a dog runs here", "a dog runs here today")]
    # 5 + 4 of 6 + 4 words, 3 + 3 of 5 + 3 bigrams, 1 + 2 of 4 + 2, 0 + 1 of 3 + 1; 10 words for 11.
    expected = math.exp(1 - 11 / 10) * (9 / 10 * 6 / 8 * 3 / 6 * 1 / 4) ** 0.25
    got = compute_metrics("corpus_bleu", *((summary(predicted), summary(right)) for predicted, right in corpus))
    assert got["corpus_bleu"] == pytest.approx(expected, **NINE)
    right, predicted = [[each[1].split()] for each in corpus], [each[0].split() for each in corpus]
    assert got["corpus_bleu"] == pytest.approx(corpus_bleu(right, predicted), **NINE)


def test_ner_is_micro_over_the_corpus():
    ann, rome, acme = ("person", "Ann"), ("location", "Rome"), ("organization", "Acme")
    got = compute_metrics(
        "ner_f1",
        (pairs(ann, rome, acme), pairs(ann)),
        (pairs(), pairs(rome, acme)),
        (pairs(("person", "Rome")), pairs(rome)),
    )
    # 4 predicted, 4 right, 1 both. A macro mean would have been another number.
    assert got == pytest.approx({"ner_precision": 1 / 4, "ner_recall": 1 / 4, "ner_f1": 1 / 4}, **NINE)
    got = compute_metrics("ner_f1", (pairs(ann, rome, acme), pairs(ann, rome)))
    assert got == pytest.approx({"ner_precision": 2 / 3, "ner_recall": 1.0, "ner_f1": 0.8}, **NINE)


def test_ner_without_pairs():
    ann = ("person", "Ann")
    assert set(compute_metrics("ner_f1", (pairs(), pairs())).values()) == {1.0}
    assert set(compute_metrics("ner_f1", (pairs(ann), pairs())).values()) == {0.0}
    assert set(compute_metrics("ner_f1", (pairs(), pairs(ann))).values()) == {0.0}
    assert set(compute_metrics("ner_f1", (pairs(ann), pairs(("person", "ann")))).values()) == {0.0}


def test_f1_by_label_and_its_mean():
    ann, bo, rome, acme = ("person", "Ann"), ("person", "Bo"), ("location", "Rome"), ("organization", "Acme")
    got = compute_metrics(
        "ner_f1_by_label",
        (pairs(ann, rome), pairs(ann, bo)),
        (pairs(("event", "Acme")), pairs(acme)),
        (pairs(("location", "Oslo")), pairs(rome)),
    )
    # person: 1 predicted, 2 right, 1 both. No reference holds an event, so it has no figure.
    expected = {"person": 2 / 3, "organization": 0, "location": 0}
    named = {f"ner_f1/{label}": value for label, value in expected.items()}
    assert got == pytest.approx({**named, "ner_f1_macro": 2 / 9}, **NINE)


def test_labels_may_contain_a_slash():
    got = compute_metrics("ner_f1_by_label", (pairs(("a/b", "x")), pairs(("a/b", "x"), ("a", "y"))))
    assert got == pytest.approx({"ner_f1/a/b": 1, "ner_f1/a": 0, "ner_f1_macro": 0.5}, **NINE)


def test_f1_by_label_is_none_without_a_reference():
    assert compute_metrics("ner_f1_by_label", (pairs(("person", "Ann")), pairs())) == {"ner_f1_macro": None}


def test_entities_count_once_for_any_label():
    got = compute_metrics(
        "entity_f1", (pairs(("other", "Ann"), ("person", "Ann")), pairs(("person", "Ann"), ("other", "X")))
    )
    assert got == pytest.approx({"entity_precision": 1, "entity_recall": 1 / 2, "entity_f1": 2 / 3}, **NINE)


def fine(*named, **shown):
    return Answer(None, frozenset(named), shown)


def test_triples_need_entity_label_and_segment():
    ann, rome = ("person", "Ann"), ("location", "Rome")
    reference = fine(ann, rome, a="Ann", c="Ann")  # Ann in a, Ann in c, Rome nowhere.
    assert compute_metrics("triple_f1", (reference, reference))["triple_f1"] == 1
    got = compute_metrics("triple_f1", (fine(ann, rome, a="Ann", b="Rome"), reference))
    assert got == pytest.approx({"triple_precision": 1 / 2, "triple_recall": 1 / 3, "triple_f1": 2 / 5}, **NINE)
    # Another label makes all its triples wrong; a segment of an entity that is not named makes none.
    got = compute_metrics("triple_f1", (fine(("other", "Ann"), rome, a="Ann", b="Bo"), reference))
    assert got == pytest.approx({"triple_precision": 1 / 2, "triple_recall": 1 / 3, "triple_f1": 2 / 5}, **NINE)
    assert METRICS["triple_f1"].score(reference, pairs(ann)) is None
    assert METRICS["triple_f1"].score(reference, mapping(a="Ann")) is None


def test_a_sample_is_exact_if_all_requested_parts_are():
    ann, rome = ("person", "Ann"), ("location", "Rome")
    right = Answer("a cat", frozenset({ann, rome}), {"a": "Ann"})
    cases = [
        (Answer("a dog", frozenset({rome, ann}), {"a": "Ann"}), 1),
        (Answer("a cat", frozenset({ann}), {"a": "Ann"}), 0),
        (Answer("a cat", frozenset({ann, rome}), {"a": "Ann", "b": "Rome"}), 0),
    ]
    for predicted, worth in cases:
        assert compute_metrics("exact_match", (predicted, right)) == {"exact_match": worth}
    assert compute_metrics("exact_match", *((predicted, right) for predicted, _ in cases))[
        "exact_match"
    ] == pytest.approx(1 / 3, **NINE)
    assert compute_metrics("exact_match", (pairs(ann), pairs(ann)), (mapping(), mapping(a="x"))) == {"exact_match": 0.5}


def test_image_entity_accuracy_is_over_reference_segments():
    got = compute_metrics(
        "image_entity_accuracy",
        (mapping(a="Ann", b="Rome", z="Acme"), mapping(a="Ann", b="Ann")),
        (mapping(), mapping(a="Acme")),
    )
    assert got == {"image_entity_accuracy": pytest.approx(1 / 3, **NINE)}
    assert compute_metrics("image_entity_accuracy", (mapping(a="Ann"), mapping())) == {"image_entity_accuracy": None}


def test_no_metric_imports_what_it_does_not_use():
    modules = ", ".join(f"plugins.metric.{name}" for name in ("extraction", "summary"))
    heavy = {"torch", "transformers", "sklearn", "scipy", "pandas"}
    # Whoever wants one of them afterwards has it.
    command = f"import sys, {modules}; print({heavy} & sys.modules.keys()); import scipy.stats, sklearn.svm, pandas"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


FORMS = ("NFC", "NFD")
letters = st.characters(exclude_categories=["Cs"])


@given(st.text(letters, max_size=8), st.sampled_from(FORMS), st.sampled_from(FORMS))
@example("Zoë Á", "NFD", "NFC")
def test_unicode_forms_of_one_answer_are_equal(text, one, other):
    """Models and tokenizers compose characters (é), data sets may hold them decomposed (e and an accent)."""

    def answer(form):
        name = normalize(form, text)
        return Answer(f"{name} stands on a mat here", frozenset({(f"x{name}", f"{name} Ann")}), {"a": f"{name} Ann"})

    assert answer(one) == answer(other)
    for name in METRICS:
        first, second = (compute_metrics(name, (answer(form), answer(other))) for form in (one, other))
        assert first == second, name
        if name not in {"rouge", "bleu", "corpus_bleu"}:
            assert set(first.values()) == {1.0}


@pytest.mark.parametrize("mode", ["lossless", "published"])
def test_labels_and_entities_of_an_answer_may_have_another_unicode_form(mode):
    adapter = PromptFormatAdapter(PfaOptions(), (normalize("NFD", "café"), "person"))
    sample = Sample("1", "Zoë", None, normalize("NFD", "Zoë."), (Entity("caf\u00e9", normalize("NFD", "Zoë")),), ())
    output = "Task 1 Answer: Zo\u00eb.\nTask 2 Answer:\nNER:\n:caf\u00e9;Zo\u00eb\nimage entities pair{}"
    for form in FORMS:
        assert adapter.parse(normalize(form, output), mode).answer == adapter.reference(sample)
        assert adapter.parse(normalize(form, output), mode).ending == "clean"


CHINESE, THAI, RUSSIAN, HINDI = (
    "一只猫坐在垫子上。",
    "แมวนั่งบนเสื่อ",
    "Кот спокойно сидит на ковре.",
    "बिल्ली चटाई पर शांत बैठी है।",
)
JAPANESE = "日本語の要約です。 二つ目の文。 三つ目。 四つ目。"
OTHERS_WITHOUT_SPACES = ("ｱｲｳｴｵｶｷｸｹｺ", "ငါတို့သည်ကြောင်", "ខ្ញុំឃើញឆ្មា", "ບົດສະຫຼຸບ", "བོད་ཡིག", "々〆一二三四五六七")
SEGMENTED = ("一只 猫 坐 在 垫子 上 。", "แมว นั่ง บน เสื่อ")
LATIN = ("A cat sits on a mat.", "Café déjà vu à côté.", "Ein Käfer läuft über die Straße.", "2024: 3 : 1 !")


@pytest.mark.parametrize(
    ("name", "undefined", "defined"),
    [
        ("rouge", [CHINESE, THAI, RUSSIAN, HINDI, JAPANESE, *SEGMENTED, "😀 😀 😀 😀", "! ? ..."], LATIN),
        ("bleu", [CHINESE, THAI, JAPANESE, *OTHERS_WITHOUT_SPACES], [*LATIN, RUSSIAN, HINDI, *SEGMENTED]),
        ("corpus_bleu", [CHINESE, THAI, JAPANESE, *OTHERS_WITHOUT_SPACES], [*LATIN, RUSSIAN, HINDI, *SEGMENTED]),
    ],
)
def test_summary_metrics_say_which_scripts_they_cannot_measure(name, undefined, defined):
    metric = METRICS[name]
    assert metric.check_references([summary(text) for text in defined]) == []
    for text in undefined:
        [warning] = metric.check_references([summary(text)] * 3)
        assert warning.is_undefined
        assert "is null: it has no meaning for any of the 3 reference summaries, because it" in warning.message
        warning = metric.check_references([summary(LATIN[0]), summary(text), NOTHING, summary("")])[0]
        assert not warning.is_undefined
        assert "has no meaning for 1 of 2 reference summaries, because it" in warning.message
    assert metric.check_references([]) == metric.check_references([NOTHING, summary("")]) == []


@pytest.mark.parametrize("name", ["bleu", "corpus_bleu"])
def test_bleu_says_what_short_summaries_can_reach(name):
    references = [summary(text) for text in ("cat", "a cat", "a cat sits", "a cat sits here", CHINESE)]
    highest = compute_metrics(name, *zip(references, references, strict=True))[name]
    script, short = (warning.message for warning in METRICS[name].check_references(references))
    assert "has no meaning for 1 of 5 reference summaries" in script
    assert short == (
        f"{name} is at most {highest:.4f} on these references, because 4 of 5 reference summaries have fewer than "
        "4 words"
    )
    assert highest < 1


def test_rouge_says_that_single_words_have_no_pair_of_words():
    references = [summary(text) for text in ("cat", "a cat", "cat 猫", "2024!")]
    assert compute_metrics("rouge", *zip(references, references, strict=True))["rouge2"] == 1 / 4
    [warning] = METRICS["rouge"].check_references(references)
    assert warning.message.startswith("rouge2 is 0 for 3 of 4 reference summaries, whatever the answer is")
    assert not warning.is_undefined


anything = st.lists(st.text("ab 1.é猫แมКот\n", max_size=14), max_size=5)


@given(anything)
def test_every_summary_metric_is_1_for_equal_summaries_or_warns(texts):
    references = [summary(text) for text in texts if text.strip()]
    for name in ("rouge", "bleu", "corpus_bleu"):
        if references and not METRICS[name].check_references(references):
            values = compute_metrics(name, *zip(references, references, strict=True))
            assert values == pytest.approx(dict.fromkeys(values, 1))
