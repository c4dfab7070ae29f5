"""For every metric, aggregated counts give the same values as its own reduce of the drawn samples."""

from statistics import fmean, median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.compare.resampling import AggregatedReduction, PerSampleReduction, choose_reduction
from runner.records import Answer
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.stages.registry import installed_plugins

WORDS = ("a", "b", "c", "d", "e")
PAIRS = [(label, name) for label in ("person", "other") for name in WORDS[:3]]

sentences = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
answers = st.builds(
    Answer,
    summary=sentences,
    pairs=st.frozensets(st.sampled_from(PAIRS), max_size=4),
    mapping=st.dictionaries(st.sampled_from("xyz"), st.sampled_from(WORDS), max_size=3),
)
corpora = st.lists(st.tuples(answers, answers, answers), min_size=2, max_size=6)


@pytest.mark.parametrize("name", sorted(installed_plugins("metric")))
@settings(max_examples=8, deadline=None)
@given(corpus=corpora, seed=st.integers(0, 9))
def test_every_installed_metric_agrees_with_its_own_reduce(name, corpus, seed):
    metric = create_plugin(make_section("metric", {"type": name}))
    runs = [[metric.score(each[run], each[2]) for each in corpus] for run in (0, 1)]
    number = len(corpus)
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=5).astype(float)
    fast, slow = choose_reduction(metric, runs), PerSampleReduction(metric, runs)
    same(fast.reduce_draws(1, weights), slow.reduce_draws(1, weights))


def same(one, other):
    for name in one.keys() | other.keys():
        gap = np.full(5, np.nan)
        np.testing.assert_allclose(one.get(name, gap), other.get(name, gap), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(installed_plugins("metric")))
def test_the_shipped_metrics_use_aggregated_counts(name):
    metric = create_plugin(make_section("metric", {"type": name}))
    right = Answer("a b c d e", frozenset(PAIRS[:3]), {"x": "a", "y": "b"})
    said = [right, Answer("a b c", frozenset(PAIRS[1:]), {"x": "a"}), Answer("b c d e a", frozenset(PAIRS[:2]), {})]
    assert isinstance(choose_reduction(metric, [[metric.score(each, right) for each in said]]), AggregatedReduction)


class Median:
    metric_names = ("median",)

    def reduce(self, counts):
        return {"median": median(each["value"] for each in counts) if counts else None}


class Lengths:
    """A metric whose counts are not numbers."""

    metric_names = ("length",)

    def reduce(self, counts):
        return {"length": fmean(len(each["text"]) for each in counts) if counts else None}


def test_a_metric_without_aggregation_is_reduced_sample_by_sample():
    run = [{"value": value} for value in (1.0, 2.0, 9.0)]
    reduction = choose_reduction(Median(), [run, run[::-1]])
    assert isinstance(reduction, PerSampleReduction)
    np.testing.assert_array_equal(
        reduction.reduce_draws(0, np.array([[1, 1, 1], [3, 0, 0], [0, 1, 2]]))["median"], [2, 1, 9]
    )


def test_counts_may_be_other_than_numbers():
    assert choose_reduction(Lengths(), [[{"text": "ab"}, {"text": ""}]]).reduce_draws(0, np.ones((1, 2)))["length"] == [
        1.0
    ]


def test_samples_to_which_a_metric_does_not_apply_are_ignored():
    metric = create_plugin(make_section("metric", {"type": "exact_match"}))
    reduction = choose_reduction(metric, [[{"exact": 1.0}, None, {"exact": 0.0}]])
    found = reduction.reduce_draws(0, np.array([[1.0, 5, 1], [0, 3, 0], [2, 0, 0]]))["exact_match"]
    np.testing.assert_array_equal(found, [0.5, np.nan, 1.0])
