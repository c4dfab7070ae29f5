"""The resampling against scipy, and against an enumeration of all exchanges."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plugins.metric.extraction import ExactMatch, ExactMatchOptions, NerF1, NerF1Options
from runner.compare import resampling
from runner.compare.resampling import (
    Resampling,
    approximate_randomisation,
    bootstrap,
    choose_reduction,
    p_value,
    percentile_interval,
    swap_masks,
)

HOW = Resampling(num_resamples=4000, seed=3)


def means(*runs):
    return choose_reduction(ExactMatch(ExactMatchOptions()), [[{"exact": float(each)} for each in run] for run in runs])


def test_the_bootstrap_interval_agrees_with_scipy():
    random = np.random.default_rng(1)
    one, other = random.random(200), random.random(200) * 0.9
    ours, theirs = (each["exact_match"] for each in bootstrap(means(one, other), [0, 1], 200, HOW))
    low, high = percentile_interval(ours - theirs, 0.95)
    right = stats.bootstrap((one - other,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx((right.low, right.high), abs=0.004)


def test_the_randomisation_agrees_with_scipys_permutation_test():
    random = np.random.default_rng(2)
    one, other = random.random(60), random.random(60) + 0.06
    right = stats.permutation_test(
        (one, other), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=1
    )
    found = p_value(
        approximate_randomisation(means(one, other), ([0], [1]), 60, HOW)["exact_match"], np.mean(one - other)
    )
    assert found == pytest.approx(right.pvalue, abs=0.02)


def test_the_p_value_of_corpus_f1_agrees_with_all_exchanges():
    one = [{"predicted": 2, "reference": 2, "matched": hit} for hit in (2, 2, 1, 2, 0, 2)]
    other = [{"predicted": 1, "reference": 2, "matched": hit} for hit in (1, 0, 1, 0, 0, 0)]

    def f1(rows):
        total = {key: sum(row[key] for row in rows) for key in rows[0]}
        return 2 * total["matched"] / (total["predicted"] + total["reference"])

    observed = f1(one) - f1(other)
    every = [
        f1([b if swap else a for a, b, swap in zip(one, other, swaps, strict=True)])
        - f1([a if swap else b for a, b, swap in zip(one, other, swaps, strict=True)])
        for swaps in product((0, 1), repeat=6)
    ]
    exact = np.mean(np.abs(every) >= abs(observed) - 1e-12)
    reduction = choose_reduction(NerF1(NerF1Options()), [one, other])
    found = p_value(approximate_randomisation(reduction, ([0], [1]), 6, HOW)["ner_f1"], observed)
    assert found == pytest.approx(exact, abs=0.02)


def test_unequal_numbers_of_seeds_keep_the_observed_difference():
    runs = np.random.default_rng(4).integers(2, size=(5, 30))
    reduction = means(*runs)
    found = approximate_randomisation(reduction, ([0, 1, 2], [3, 4]), 30, Resampling(num_resamples=50))["exact_match"]
    swaps = next(swap_masks(30, 50, 0))
    observed = runs[:3].mean() - runs[3:].mean()
    by_sample = runs[:3].mean(0) - runs[3:].mean(0)
    np.testing.assert_allclose(found, ((1 - 2 * swaps) * by_sample).mean(1), atol=1e-12)
    assert by_sample.mean() == pytest.approx(observed)


def test_runs_with_equal_answers_do_not_differ():
    run = np.random.default_rng(5).integers(2, size=40)
    reduction = means(run, run)
    assert p_value(approximate_randomisation(reduction, ([0], [1]), 40, HOW)["exact_match"], 0.0) == 1.0
    one, other = bootstrap(reduction, [0, 1], 40, HOW)
    assert percentile_interval(one["exact_match"] - other["exact_match"], 0.95) == (0.0, 0.0)


def test_a_p_value_is_never_zero_and_counts_the_observed_one():
    assert p_value(np.array([0.0, 0.1, -0.5]), 0.5) == pytest.approx(2 / 4)
    assert p_value(np.zeros(99), 0.5) == pytest.approx(1 / 100)
    assert p_value(np.array([np.nan, 0.0]), 1.0) == pytest.approx(1 / 2)


def test_draws_on_which_a_metric_is_undefined_are_ignored():
    assert percentile_interval(np.array([np.nan, 1.0, np.nan, 1.0]), 0.95) == (1.0, 1.0)
    assert percentile_interval(np.array([np.nan]), 0.95) is None


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 5))
def test_the_number_of_draws_does_not_depend_on_the_block_size(number, resamples, seed):
    whole = np.vstack(list(resampling.bootstrap_weights(number, resamples, seed)))
    assert whole.shape == (resamples, number)
    assert (whole.sum(1) == number).all()
    swaps = np.vstack(list(swap_masks(number, resamples, seed)))
    assert swaps.shape == (resamples, number)
    assert set(np.unique(swaps)) <= {0.0, 1.0}


def test_blocks_do_not_overlap(monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK_VALUES", 100)
    blocks = list(resampling.bootstrap_weights(30, 10, 0))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert not np.array_equal(blocks[0], blocks[1])
    found = approximate_randomisation(
        means(np.arange(30) % 2, np.ones(30)), ([0], [1]), 30, Resampling(num_resamples=10)
    )
    assert len(found["exact_match"]) == 10
