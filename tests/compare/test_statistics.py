"""Means over seeds and corrected p-values, against scipy and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.compare.statistics import holm, over_seeds, seed_difference


def test_the_interval_over_seeds_is_scipys():
    values = [0.70, 0.74, 0.69, 0.75]
    found = over_seeds(values, 0.95)
    right = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((right.low, right.high))
    assert found.std == pytest.approx(stats.tstd(values))


def test_the_interval_of_three_seeds_by_hand():
    # Mean 2, deviation 1, t with two degrees of freedom at 97.5 %: 4.3027 / sqrt(3) = 2.4841.
    found = over_seeds([1.0, 2.0, 3.0], 0.95)
    assert (found.mean, found.std) == (2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((-0.4841, 4.4841), abs=1e-4)


def test_one_seed_has_no_deviation():
    found = over_seeds([0.5], 0.95)
    assert (found.mean, found.std, found.low, found.high) == (0.5, None, None, None)


def test_welch_by_hand():
    # 3 and 1 apart, each deviation 1 over three seeds: t = 2 / sqrt(2/3) = 2.4495 with four degrees of freedom.
    found = seed_difference([2.0, 3.0, 4.0], [0.0, 1.0, 2.0], 0.95)
    assert found.p_value == pytest.approx(0.0705, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((2 - 2.7764 * 0.8165, 2 + 2.7764 * 0.8165), abs=1e-3)


@pytest.mark.parametrize(("one", "other"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_nothing_is_said_of_seeds_that_do_not_vary(one, other):
    assert seed_difference(one, other, 0.95) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(values):
    corrected = holm(values)
    for before, after in zip(values, corrected, strict=True):
        assert before <= after <= min(1.0, before * len(values)) + 1e-12
    order = sorted(range(len(values)), key=lambda place: values[place])
    assert [corrected[place] for place in order] == sorted(corrected)
