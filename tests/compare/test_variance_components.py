"""The interval over samples and seeds together: by hand, against Welch's test, and its properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.compare.statistics import welch_test
from runner.compare.variance_components import (
    SeedVariance,
    VarianceComponents,
    both_sources,
    combined_error,
    seed_variance,
)

NO_DRAWS = np.zeros((3, 0))


def test_both_variances_are_added_and_the_interaction_is_subtracted_once():
    # Over samples 4; over seeds 9/3 + 3/3 = 4, of which (3 + 1.5)/3 = 1.5 is interaction: 4 + 4 - 1.5 = 6.5.
    groups = (SeedVariance(3, 0.5, 9.0, 3.0), SeedVariance(3, 0.4, 3.0, 1.5))
    error = combined_error(4.0, 101.0, groups)
    assert error.value == pytest.approx(math.sqrt(6.5))
    # Satterthwaite: 6.5² / (4²/100 + 3²/2 + 1²/2).
    assert error.freedom == pytest.approx(42.25 / (0.16 + 4.5 + 0.5))
    both = both_sources(2.0, VarianceComponents(4.0, 101.0, groups), 0.95)
    assert both.p_value == pytest.approx(2 * stats.t.sf(2 / math.sqrt(6.5), error.freedom))
    assert (both.low + both.high) / 2 == pytest.approx(2.0)


def test_the_interaction_is_what_a_draw_changes_in_one_run_but_not_in_all():
    random = np.random.default_rng(0)
    shared, own = random.normal(0, 5, size=20_000), random.normal(0, 2, size=(3, 20_000))
    found = seed_variance([0.1, 0.2, 0.6], shared + own)
    assert found.total == pytest.approx(0.07)
    assert found.interaction == pytest.approx(4, rel=0.05)
    undefined = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 5.0]])
    assert seed_variance([0.1, 0.2], undefined).interaction == pytest.approx(0.5)


def test_without_interaction_and_samples_it_is_welchs_test():
    a, b = [0.70, 0.74, 0.69, 0.75], [0.6, 0.66, 0.7]
    groups = (seed_variance(a, np.zeros((4, 0))), seed_variance(b, NO_DRAWS))
    both, welch = (
        both_sources(np.mean(a) - np.mean(b), VarianceComponents(0.0, 100, groups), 0.95),
        welch_test(a, b, 0.95),
    )
    assert (both.low, both.high, both.p_value) == pytest.approx((welch.low, welch.high, welch.p_value))


@pytest.mark.parametrize(("a", "b"), [([0.5], [0.4, 0.6]), ([0.4, 0.6], [0.5]), ([0.1 + 0.2, 0.3], [0.4, 0.4])])
def test_nothing_is_known_of_seeds_without_variation_or_with_one_run(a, b):
    groups = (seed_variance(a, np.zeros((len(a), 0))), seed_variance(b, np.zeros((len(b), 0))))
    assert both_sources(0.1, VarianceComponents(0.01, 100, groups), 0.95) is None
    assert welch_test(a, b, 0.95) is None


def test_a_group_whose_seeds_change_nothing_adds_nothing():
    fixed, varying = seed_variance([0.5, 0.5], np.zeros((2, 0))), SeedVariance(3, 0.6, 0.03, 0.0)
    error = combined_error(0.02, 1e9, (fixed, varying))
    assert error.value == pytest.approx(math.sqrt(0.02 + 0.01))


variances = st.floats(1e-6, 1)


@given(variances, variances, variances, st.floats(0, 1), st.integers(2, 8), st.floats(0, 2), st.floats(2, 2000))
def test_the_error_is_between_that_of_samples_and_that_of_both_added(sample, a, b, share, runs, difference, number):
    groups = (SeedVariance(runs, 0.5, a, share * a), SeedVariance(runs, 0.5, b, share * b))
    error = combined_error(sample, number, groups)
    assert math.sqrt(sample) - 1e-12 <= error.value <= math.sqrt(sample + (a + b) / runs) + 1e-12
    both = both_sources(difference, VarianceComponents(sample, number, groups), 0.95)
    assert (both.p_value < 0.05) == (both.low > 0 or both.high < 0)
