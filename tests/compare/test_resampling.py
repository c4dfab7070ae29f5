"""The bootstrap against scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plugins.metric.extraction import ExactMatch, ExactMatchOptions
from runner.compare import resampling
from runner.compare.resampling import Resampling, bootstrap, choose_reduction, percentile_interval

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


def test_draws_on_which_a_metric_is_undefined_are_ignored():
    assert percentile_interval(np.array([np.nan, 1.0, np.nan, 1.0]), 0.95) == (1.0, 1.0)
    assert percentile_interval(np.array([np.nan]), 0.95) is None


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 5))
def test_the_number_of_draws_does_not_depend_on_the_block_size(number, resamples, seed):
    whole = np.vstack(list(resampling.bootstrap_weights(number, resamples, seed)))
    assert whole.shape == (resamples, number)
    assert (whole.sum(1) == number).all()


def test_blocks_do_not_overlap(monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK_VALUES", 100)
    blocks = list(resampling.bootstrap_weights(30, 10, 0))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert not np.array_equal(blocks[0], blocks[1])
