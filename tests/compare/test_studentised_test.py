"""The p-value of a difference: small cases by hand, against an enumeration, and on simulated systems."""

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.metric.extraction import ExactMatch, ExactMatchOptions, NerF1, NerF1Options
from plugins.metric.summary import CorpusBleu
from plugins.metric.summary_options import CorpusBleuOptions
from runner.compare.resampling import Resampling, bootstrap, choose_reduction
from runner.compare.studentised_test import (
    SMALLEST_P_VALUE,
    exchange_p_value,
    sample_contributions,
    studentised_p_value,
)
from runner.records import Answer

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from calibration import pair_scenarios, rejection_rate, share_scenarios

FEW = Resampling(num_resamples=300)


def pair_counts(rows):
    return [dict(zip(("predicted", "reference", "matched"), row, strict=True)) for row in rows]


def p_values(runs_a, runs_b, metric=None):
    """Return the p-value of each metric of two groups of runs."""
    metric = metric or NerF1(NerF1Options())
    runs = [*runs_a, *runs_b]
    reduction = choose_reduction(metric, runs)
    groups = (range(len(runs_a)), range(len(runs_a), len(runs)))
    num_samples = len(runs[0])
    values = [reduction.reduce_draws(run, np.ones((1, num_samples))) for run in range(len(runs))]
    return {
        name: studentised_p_value(
            float(np.mean([values[run][name][0] for run in groups[0]]))
            - float(np.mean([values[run][name][0] for run in groups[1]])),
            num_samples,
            contributions,
        )
        for name, contributions in sample_contributions(reduction, groups, FEW).items()
    }


def test_three_errors_against_none_are_no_evidence_however_many_predictions_are_right():
    # Precision 965/968 and 1004/1004. The three errors can be of either system, so a sign test has p = 0.25.
    a = pair_counts([(2, 2, 1)] * 3 + [(2, 2, 2)] * 481)
    b = pair_counts([(2, 2, 2)] * 484)
    b[-36:] = pair_counts([(3, 3, 3)] * 36)
    assert 0.05 < p_values([a], [b])["ner_precision"] <= 0.25
    assert 0.05 < p_values([b], [a])["ner_precision"] <= 0.25


def test_ten_errors_against_none_are_evidence():
    a, b = pair_counts([(2, 2, 1)] * 10 + [(2, 2, 2)] * 474), pair_counts([(2, 2, 2)] * 484)
    assert p_values([a], [b])["ner_precision"] < 0.01


def test_equal_groups_have_the_p_value_1():
    run = pair_counts([(2, 2, 1), (1, 2, 1), (2, 1, 0), (0, 3, 0)])
    assert set(p_values([run], [run, run]).values()) == {1.0}


rows = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 3)).map(lambda row: (row[0], row[1], min(row)))
pairs_of_runs = st.lists(st.tuples(rows, rows), min_size=2, max_size=12)


@settings(deadline=None, max_examples=60)
@given(pairs_of_runs, st.randoms())
def test_a_p_value_depends_neither_on_the_order_of_groups_and_samples_nor_on_repeated_runs(samples, chance):
    a, b = (pair_counts(run) for run in zip(*samples, strict=True))
    found = p_values([a], [b])
    assert all(SMALLEST_P_VALUE <= value <= 1 for value in found.values())
    chance.shuffle(samples)
    shuffled_a, shuffled_b = (pair_counts(run) for run in zip(*samples, strict=True))
    for other in (p_values([b], [a]), p_values([shuffled_a], [shuffled_b]), p_values([a, a, a], [b, b])):
        assert other == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("metric", ["ner_precision", "ner_recall", "ner_f1"])
def test_the_squared_contributions_sum_to_the_variance_of_the_bootstrap(metric):
    chance = np.random.default_rng(1)
    runs = [pair_counts([(2 + extra, 2, hit) for extra, hit in chance.integers(3, size=(300, 2))]) for _ in range(3)]
    reduction = choose_reduction(NerF1(NerF1Options()), runs)
    draws = [draw[metric] for draw in bootstrap(reduction, [0, 1, 2], 300, Resampling(4000))]
    difference = sample_contributions(reduction, ([0, 1], [2]), FEW)[metric].difference
    assert np.sum(difference**2) == pytest.approx(np.var((draws[0] + draws[1]) / 2 - draws[2]), rel=0.1)


def test_the_contribution_to_a_mean_is_the_distance_from_the_mean():
    chance = np.random.default_rng(2)
    values = chance.random((2, 200))
    runs = [[{"exact": value} for value in run] for run in values.tolist()]
    reduction = choose_reduction(ExactMatch(ExactMatchOptions()), runs)
    found = sample_contributions(reduction, ([0], [1]), FEW)["exact_match"]
    distances = values - values.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.difference, (distances[0] - distances[1]) / 200, rtol=1e-3, atol=1e-9)


def every_exchange(differences):
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    observed = abs(sum(differences))
    ties = np.isclose(sums, observed, rtol=1e-9)
    return np.mean((np.array(sums) > observed) & ~ties) + np.mean(ties) / 2


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10).filter(any))
def test_all_exchanges_are_counted_and_ties_as_one_half(differences):
    assert exchange_p_value(np.array(differences, dtype=float)) == pytest.approx(every_exchange(differences))


@pytest.mark.parametrize(
    ("metric", "value", "difference", "lowest", "highest"),
    [
        ("ner_precision", 0.995, "number of predictions, 3 : 1", 0.03, 0.07),
        # About four errors in total: the p-value has few values.
        ("ner_precision", 0.998, "number of predictions, 1.8 : 1", 0.0, 0.07),
        ("ner_f1", 0.98, "precision, 0.999 and 0.97", 0.03, 0.07),
        ("exact_match", 0.98, "nothing", 0.03, 0.07),
    ],
)
def test_about_5_percent_of_equal_systems_are_reported_as_different(metric, value, difference, lowest, highest):
    # A part of bench/calibration.py.
    wanted = (metric, value, difference)
    [scenario] = [
        each for each in (*pair_scenarios(), *share_scenarios()) if (each.metric, each.value, each.difference) == wanted
    ]
    assert lowest <= rejection_rate(scenario, 400, 600) <= highest


def test_corpus_bleu_without_a_right_sequence_of_four_words_is_tested_by_randomisation():
    metric = CorpusBleu(CorpusBleuOptions())
    reference = Answer("a b c d e f", None, None)
    words, other = Answer("a b x c d y", None, None), Answer("a x y c z z", None, None)
    runs = [[metric.score(answer, reference)] * 20 for answer in (words, other)]
    reduction = choose_reduction(metric, runs)
    [contributions] = sample_contributions(reduction, ([0], [1]), FEW).values()
    assert contributions.pooled is None
    assert 1 / 300 <= contributions.randomisation_p_value < 0.02
