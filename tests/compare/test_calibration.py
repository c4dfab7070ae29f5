"""Where nothing differs, the test finds a difference as often as it says; and intervals hold what is true as often."""

import numpy as np
import pytest

from plugins.metric.ner_f1 import NerF1, NerF1Options
from runner.compare.resampling import Resampling, bootstrap, interval, p_value, randomisation
from runner.compare.tally import Pooled

NUM_COMPARISONS, NUM_SAMPLES, NUM_RESAMPLES = 1000, 1660, 500


def corpus(random, num_samples):
    """Two systems of the same quality, over samples of which some are hard for both: counts of label-entity pairs."""
    reference = random.integers(0, 5, size=num_samples)
    ease = random.beta(4, 1, size=num_samples)
    runs = []
    for _ in range(2):
        matched = random.binomial(reference, ease)
        predicted = matched + random.binomial(2, 0.2, size=num_samples)
        runs.append((predicted, reference, matched))
    return runs


def rows(run):
    keys = ("predicted", "reference", "matched")
    return [dict(zip(keys, each, strict=True)) for each in zip(*(column.tolist() for column in run), strict=True)]


def true_f1():
    """The F1 that a corpus without end would have."""
    predicted, reference, matched = corpus(np.random.default_rng(0), 2_000_000)[0]
    return 2 * matched.sum() / (predicted.sum() + reference.sum())


@pytest.mark.slow
def test_of_1000_comparisons_of_equals_one_in_twenty_is_found_different_and_95_of_100_intervals_hold_the_truth():
    truth = true_f1()
    rejected = holds_difference = holds_figure = 0
    for number in range(NUM_COMPARISONS):
        runs = [rows(run) for run in corpus(np.random.default_rng([7, number]), NUM_SAMPLES)]
        reducing = Pooled(NerF1(NerF1Options()), runs, mean=False)  # proven for this metric in test_tally.py
        how = Resampling(NUM_RESAMPLES, seed=number)
        one, other = (each["ner_f1"] for each in bootstrap(reducing, [0, 1], NUM_SAMPLES, how))
        observed = np.diff([reducing.drawn(run, np.ones((1, NUM_SAMPLES)))["ner_f1"][0] for run in (1, 0)])[0]
        exchanged = randomisation(reducing, ([0], [1]), NUM_SAMPLES, how)["ner_f1"]
        rejected += p_value(exchanged, observed) <= 0.05
        low, high = interval(one - other, 0.95)
        holds_difference += low <= 0 <= high
        low, high = interval(one, 0.95)
        holds_figure += low <= truth <= high
    print(f"rejected {rejected}, difference covered {holds_difference}, figure covered {holds_figure}")
    assert 30 <= rejected <= 70
    assert 930 <= holds_difference <= 970
    assert 930 <= holds_figure <= 970
