"""Means over seeds and corrected p-values, against scipy and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.compare.statistics import holm_correction, summarise_seeds, welch_test


def test_the_interval_over_seeds_is_scipys():
    values = [0.70, 0.74, 0.69, 0.75]
    summary = summarise_seeds(values, 0.95)
    right = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (summary.low, summary.high) == pytest.approx((right.low, right.high))
    assert summary.std == pytest.approx(stats.tstd(values))


def test_the_interval_of_three_seeds_by_hand():
    # Mean 2, deviation 1, t with two degrees of freedom at 97.5 %: 4.3027 / sqrt(3) = 2.4841.
    summary = summarise_seeds([1.0, 2.0, 3.0], 0.95)
    assert (summary.mean, summary.std) == (2.0, 1.0)
    assert (summary.low, summary.high) == pytest.approx((-0.4841, 4.4841), abs=1e-4)


def test_one_seed_has_no_deviation():
    summary = summarise_seeds([0.5], 0.95)
    assert (summary.mean, summary.std, summary.low, summary.high) == (0.5, None, None, None)


def test_welch_by_hand():
    # 3 and 1 apart, each deviation 1 over three seeds: t = 2 / sqrt(2/3) = 2.4495 with four degrees of freedom.
    difference = welch_test([2.0, 3.0, 4.0], [0.0, 1.0, 2.0], 0.95)
    assert difference.p_value == pytest.approx(0.0705, abs=1e-4)
    assert (difference.low, difference.high) == pytest.approx((2 - 2.7764 * 0.8165, 2 + 2.7764 * 0.8165), abs=1e-3)


@pytest.mark.filterwarnings("error")
def test_a_group_whose_values_are_equal_is_compared_without_a_warning():
    # Only b varies, so the degrees of freedom are those of b: 1. The mean of b is 0.85, its standard error 0.05.
    difference = welch_test([1.0, 1.0], [0.8, 0.9], 0.95)
    assert (difference.low, difference.high) == pytest.approx((0.15 - 12.7062 * 0.05, 0.15 + 12.7062 * 0.05), abs=1e-4)


EQUAL_BUT_FOR_ROUNDING = [0.3, 0.1 + 0.2, 0.3]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0], [1.0, 2.0]),
        ([1.0, 2.0], [1.0]),
        ([1.0, 1.0], [2.0, 2.0]),
        (EQUAL_BUT_FOR_ROUNDING, EQUAL_BUT_FOR_ROUNDING),
        (EQUAL_BUT_FOR_ROUNDING, [0.7, 0.7]),
    ],
)
def test_seeds_that_do_not_vary_have_no_test(a, b):
    assert welch_test(a, b, 0.95) is None


seed_values = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda values: max(values) - min(values) > 1e-3)


@given(seed_values, seed_values)
def test_welch_is_scipys_where_both_groups_vary(a, b):
    ours, theirs = welch_test(a, b, 0.95), stats.ttest_ind(a, b, equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-9)
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_holm_by_hand():
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.6, 0.5]) == [1.0, 1.0]
    assert holm_correction([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_between_the_p_value_and_bonferroni_and_keeps_the_order(values):
    corrected = holm_correction(values)
    for before, after in zip(values, corrected, strict=True):
        assert before <= after <= min(1.0, before * len(values)) + 1e-12
    order = sorted(range(len(values)), key=lambda index: values[index])
    assert [corrected[index] for index in order] == sorted(corrected)
