"""Verdicts from p-values: consistent for any p-values; tests against scipy and by hand; numbers that decide."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.compare.claim_evidence import (
    MAX_SEEDS,
    Evidence,
    OneSided,
    combine_parts,
    combine_samples_and_seeds,
    decide,
    joint_p_values,
    numbers_to_decide,
    sample_p_values,
    seed_p_values,
    what_would_decide,
)
from runner.compare.statistics import GroupPair
from runner.compare.variance_components import SeedVariance, VarianceComponents, both_sources


def test_result(difference, p_value=0.5, num_samples=100):
    pair = GroupPair(SimpleNamespace(runs=[None] * 3), SimpleNamespace(runs=[None] * 4))
    return SimpleNamespace(
        difference=difference, p_value=p_value, better=num_samples, worse=0, equal=0, pair=pair, metric="ner_f1"
    )


test_result.__test__ = False


def evidence(gap, samples, seeds, **values):
    defaults = {"joint": seeds, "depends_on_seeds": True, "null_error": 0.02, "seed_variances": (1e-4, 1e-4)}
    return Evidence(test_result(gap), 0.0, samples, seeds, **{**defaults, **values})


# The two one-sided p-values of one test add up to 1, or to more where the larger of two tests counts.
one_sided = st.tuples(st.floats(0, 1), st.floats(0, 0.5)).map(
    lambda pair: OneSided(pair[0], min(1.0, 1 - pair[0] + pair[1]))
)
family = st.lists(st.tuples(st.lists(one_sided, min_size=1, max_size=4), st.floats(0.001, 0.49)), max_size=6)


@given(family)
def test_no_claim_is_both_supported_and_refuted(claims):
    combined = [combine_parts(parts) for parts, _ in claims]
    for decision, (_, level) in zip(decide(combined, [level for _, level in claims]), claims, strict=True):
        supports, refutes = decision.corrected.greater <= level, decision.corrected.less <= level
        assert not (supports and refutes)
        assert decision.verdict == ("supported" if supports else "refuted" if refutes else "undecided")


@given(family)
def test_holm_is_no_smaller_than_the_p_value_and_keeps_the_order(claims):
    combined = [combine_parts(parts) for parts, _ in claims]
    decisions = decide(combined, [level for _, level in claims])
    for side in ("greater", "less"):
        pairs = [(getattr(each.p_values, side), getattr(each.corrected, side)) for each in decisions]
        assert all(before <= after <= min(1.0, len(pairs) * before) + 1e-12 for before, after in pairs)
        assert [after for _, after in sorted(pairs)] == sorted(after for _, after in pairs)


@given(family, one_sided)
def test_another_claim_decides_nothing_that_was_undecided(claims, other):
    combined, levels = [combine_parts(parts) for parts, _ in claims], [level for _, level in claims]
    alone, larger = decide(combined, levels), decide([*combined, other], [*levels, 0.05])
    for one, two in zip(alone, larger, strict=False):
        assert two.verdict in {one.verdict, "undecided"}


@given(st.lists(one_sided, min_size=1, max_size=5), one_sided)
def test_a_claim_with_a_further_part_is_harder_to_support(parts, other):
    assert combine_parts([*parts, other]).greater >= combine_parts(parts).greater


def test_a_claim_is_supported_by_its_weakest_part_and_refuted_by_its_strongest():
    parts = [OneSided(0.01, 0.99), OneSided(0.03, 0.97), OneSided(0.999, 0.001)]
    assert combine_parts(parts) == OneSided(0.999, pytest.approx(0.003))
    assert combine_parts([]) == OneSided(1.0, 1.0)
    [decision] = decide([combine_parts(parts)], [0.05])
    assert decision.verdict == "refuted"


@given(one_sided, st.none() | one_sided, one_sided, st.booleans())
def test_samples_and_seeds_must_both_reject_alone_and_together(samples, seeds, joint, depends):
    joint = joint if seeds else None
    combined = combine_samples_and_seeds(evidence(0.1, samples, seeds, joint=joint, depends_on_seeds=depends))
    if not depends:
        assert combined == samples
    elif seeds is None:
        assert combined == OneSided(1.0, 1.0), "without a test over seeds, nothing is decided"
    else:
        assert combined.greater == max(samples.greater, seeds.greater, joint.greater)
        assert combined.less == max(samples.less, seeds.less, joint.less)


def test_over_samples_the_threshold_zero_splits_the_two_sided_p_value():
    assert sample_p_values(test_result(0.1, 0.04), 0.0, 0.05) == OneSided(0.02, 0.98)
    assert sample_p_values(test_result(-0.1, 0.04), 0.0, 0.05) == OneSided(0.98, 0.02)
    assert sample_p_values(test_result(0.0, 1.0), 0.0, 0.0) == OneSided(0.5, 0.5)


def test_over_samples_another_threshold_by_hand():
    # The gap is 0.1; the variance is 0.05² + 0.1² / 100 = 0.0026; the floor 0.1 · 0.9 / 100 = 0.0009 is smaller.
    found = sample_p_values(test_result(0.2), 0.1, 0.05)
    assert found.greater == pytest.approx(stats.norm.sf(0.1 / math.sqrt(0.0026)))
    assert found.greater + found.less == pytest.approx(1)


@pytest.mark.parametrize(("num_samples", "is_certain"), [(40, False), (1000, True)])
def test_equal_answers_to_few_samples_prove_no_small_margin(num_samples, is_certain):
    """With the score test, at least 2.7 / margin samples are needed for p = 0.05, if no sample differs."""
    found = sample_p_values(test_result(0.0, 1.0, num_samples), -0.01, 0.0)
    assert (found.greater <= 0.05) == is_certain
    assert found.less > 0.5


@given(st.floats(-0.5, 0.5), st.floats(-0.3, 0.3), st.floats(0, 0.2), st.floats(0.001, 0.2))
def test_over_samples_a_higher_threshold_is_harder_to_exceed(difference, threshold, error, step):
    if threshold == 0 or threshold + step == 0:
        return
    low, high = (sample_p_values(test_result(difference), each, error) for each in (threshold, threshold + step))
    exceeded = difference > threshold + step
    assert not exceeded or (low.greater < 0.5 and high.greater < 0.5)
    assert (low.greater < 0.5) == (difference > threshold) or math.isclose(difference, threshold, abs_tol=1e-12)


values = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda each: max(each) - min(each) > 1e-3)


@given(values, values, st.floats(-0.3, 0.3))
def test_over_seeds_the_test_is_scipys(a, b, threshold):
    ours = seed_p_values(a, b, threshold)
    shifted = [value - threshold for value in a]
    for side in ("greater", "less"):
        expected = stats.ttest_ind(shifted, b, equal_var=False, alternative=side).pvalue
        assert getattr(ours, side) == pytest.approx(expected, abs=1e-6)


def test_over_seeds_one_run_or_equal_values_have_no_test():
    assert seed_p_values([0.5], [0.4, 0.6], 0.0) is None
    assert seed_p_values([0.5, 0.5], [0.4, 0.4], 0.0) is None


def joint(a, b, threshold, error, num_samples, interaction=0.0):
    """Test the difference of the runs' means, with a standard error over samples."""
    groups = tuple(
        SeedVariance(len(each), np.mean(each), np.var(each, ddof=1), interaction) if len(each) > 1 else None
        for each in (a, b)
    )
    components = VarianceComponents(error**2, num_samples, groups)
    test = SimpleNamespace(difference=np.mean(a) - np.mean(b), components=components)
    return joint_p_values(test, threshold, error), both_sources(test.difference, components, 0.95)


def test_over_both_by_hand():
    # Variances 0.0001 / 2 over the seeds of each arm, with 1 degree of freedom each, and 0.0002 over samples with 100.
    runs = [0.51, 0.51 + 0.02**0.5 / 10], [0.4, 0.4 + 0.02**0.5 / 10]
    found, _ = joint(*runs, 0.01, 0.0002**0.5, 101)
    uncertainty = 2 * 0.00005**2 + 0.0002**2 / 100
    assert found.greater == pytest.approx(stats.t.sf(0.1 / 0.0003**0.5, 0.0003**2 / uncertainty))
    assert found.greater + found.less == pytest.approx(1)
    assert joint([0.5], [0.4, 0.5], 0.0, 0.01, 100)[0] is None
    # What the test samples explain of the variance over seeds counts once.
    once, _ = joint(*runs, 0.01, 0.0002**0.5, 101, interaction=0.00004)
    assert once.greater == pytest.approx(stats.t.sf(0.1 / 0.00026**0.5, 0.00026**2 / uncertainty))


@given(values, values, st.floats(0.001, 0.2))
def test_over_both_the_p_value_is_that_of_the_interval(a, b, error):
    found, interval = joint(a, b, 0.0, error, 200)
    assert (found is None) == (interval is None)
    if found is not None:
        assert 2 * min(found.greater, found.less) == pytest.approx(interval.p_value)


@given(values, values, st.floats(0, 0.2))
def test_over_both_more_variance_over_samples_is_less_certain(a, b, error):
    (less, _), (more, _) = (joint(a, b, 0.0, each, 10**9) for each in (error, error + 0.5))
    if less is not None and np.mean(a) > np.mean(b):
        assert less.greater <= 0.5
        # The statistic shrinks; the degrees of freedom can grow, so that only the normal quantile is a bound.
        assert more.greater >= stats.norm.sf((np.mean(a) - np.mean(b)) / (error + 0.5)) - 1e-9


def test_the_number_of_samples_by_hand():
    # (1.645 + 0.842)² = 6.18; a standard error of half the gap with 100 samples needs 6.18 / 4 times as many.
    expected = math.ceil(100 * 6.1826 / 4)
    assert numbers_to_decide(0.1, 0.05, (100, 3), None, 0.05) == (expected, 3)
    assert numbers_to_decide(-0.1, 0.05, (100, 3), None, 0.05) == (expected, 3)
    assert numbers_to_decide(0.1, 0.001, (100, 3), None, 0.05) == (100, 3), "there are enough"


@pytest.mark.parametrize(
    ("sample_error", "deviation"), [(0.0005, 0.02), (0.05, 0.0005), (0.02, 0.02), (0.05, 0.04), (0.012, 0.01)]
)
def test_the_numbers_of_samples_and_seeds_reach_the_power(sample_error, deviation):
    gap, (num_samples, num_seeds) = 0.03, (200, 3)
    samples, seeds = numbers_to_decide(gap, sample_error, (num_samples, num_seeds), (deviation**2,) * 2, 0.05)
    random, error = np.random.default_rng(0), sample_error * math.sqrt(num_samples / samples)
    rejected = []
    for _ in range(1000):
        shared = random.normal(0, error)
        a, b = random.normal(gap + shared, deviation, seeds), random.normal(0, deviation, seeds)
        rejected.append(joint(a, b, 0.0, error, samples)[0].greater <= 0.05)
    assert np.mean(rejected) > 0.77
    assert samples >= num_samples and seeds >= num_seeds


def test_no_number_of_seeds_below_the_limit_is_none():
    assert numbers_to_decide(1e-6, 1e-9, (100, 3), (4e-4, 4e-4), 0.05)[1] is None


STRONG, WEAK, AGAINST = OneSided(1e-6, 1.0), OneSided(0.2, 0.8), OneSided(0.8, 0.2)


def test_what_is_needed_names_only_what_is_too_few():
    tiny = (1e-12, 2e-12)
    samples = what_would_decide([evidence(0.02, WEAK, STRONG, seed_variances=tiny)], 0.05)
    assert (samples.verdict, samples.seeds) == ("supported", None)
    assert samples.samples == 619 and samples.text.startswith("about 619 test samples (now 100), to be supported")
    seeds = what_would_decide([evidence(0.005, STRONG, WEAK, null_error=1e-6)], 0.05)
    assert seeds.samples is None and seeds.seeds > 3
    both = what_would_decide([evidence(0.005, WEAK, WEAK), evidence(0.02, WEAK, STRONG, seed_variances=tiny)], 0.05)
    assert "test samples (now 100) and about" in both.text
    assert both.samples > 619, "the weakest part counts"


def test_a_claim_against_the_observed_differences_needs_enough_to_be_refuted():
    parts = [evidence(0.02, STRONG, STRONG), evidence(-0.02, AGAINST, AGAINST)]
    needed = what_would_decide(parts, 0.05)
    assert needed.verdict == "refuted"
    assert (needed.samples, needed.seeds) == numbers_to_decide(-0.02, 0.02, (100, 3), (1e-4, 1e-4), 0.025)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (evidence(0.2, STRONG, None, seed_variances=None), "two or more seeds of each arm"),
        (evidence(0.2, STRONG, None, seed_variances=(0.0, 0.0)), "seeds with different results"),
        (evidence(1e-6, STRONG, WEAK, null_error=1e-9), f"more than {MAX_SEEDS:,} seeds"),
        (evidence(0.0, WEAK, WEAK), "equals its threshold"),
        (evidence(0.5, WEAK, WEAK, null_error=0.001), "a few more test samples or seeds, to be"),
        (evidence(0.5, STRONG, WEAK, null_error=0.001), "a few more seeds, to be"),
        (evidence(0.5, WEAK, STRONG, null_error=0.001), "a few more test samples, to be"),
        (evidence(-0.5, AGAINST, AGAINST, null_error=0.001), "a few more test samples or seeds, to be refuted"),
    ],
)
def test_what_cannot_be_computed_is_said(part, text):
    needed = what_would_decide([part], 0.05)
    assert text in needed.text
    assert (needed.samples, needed.seeds) == (None, None)
