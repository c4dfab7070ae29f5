"""The evidence for and against a claim: one-sided tests, the rule that decides, and how much more data would decide.

A claim says that a difference exceeds a threshold. Two one-sided tests are made of it: one rejects "at most the
threshold" and supports the claim, the other rejects "at least the threshold" and refutes it. Only one of the two
hypotheses can be true unless the difference equals the threshold, so that no correction is needed between the two tests
(Goeman, Solari and Stijnen 2010).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import variance
from typing import Literal

import numpy as np
from scipy import stats

from runner.compare.recompute_metrics import RunMetric
from runner.compare.resampling import TIE_TOLERANCE, Resampling
from runner.compare.statistics import GroupPair, PairedTest, holm_correction, paired_tests, welch_test
from runner.compare.variance_components import combined_error
from runner.spec.experiment_spec import NONE

Verdict = Literal["supported", "refuted", "undecided"]

POWER = 0.8
"""The chance of a decision at the observed difference for which numbers of samples and seeds are computed."""
MAX_SEEDS = 1_000
"""Largest number of seeds that is computed."""


@dataclass(frozen=True)
class OneSided:
    """The p-values of the two one-sided tests of a difference against a threshold.

    Attributes:
        greater: The p-value of the hypothesis that the difference is at most the threshold.
        less: The p-value of the hypothesis that the difference is at least the threshold.
    """

    greater: float
    less: float


UNDECIDABLE = OneSided(1.0, 1.0)
"""The p-values without any evidence."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the difference between two groups by one metric, against a threshold.

    Attributes:
        test: The difference with its interval over samples.
        threshold: The difference that it is compared with.
        samples: The tests over samples.
        seeds: The tests over seeds; None if the effect of the seed is unknown.
        joint: The tests over samples and seeds together; None if the effect of the seed is unknown.
        depends_on_seeds: Whether the seed may have an effect on the difference.
        null_error: The standard error of the difference over samples if it equals the threshold.
        seed_variances: The variance over the seeds of each group; None if a group has one run.
    """

    test: PairedTest
    threshold: float
    samples: OneSided
    seeds: OneSided | None
    joint: OneSided | None
    depends_on_seeds: bool
    null_error: float
    seed_variances: tuple[float, float] | None

    @property
    def gap(self) -> float:
        """The difference minus the threshold."""
        return self.test.difference - self.threshold

    @property
    def num_samples(self) -> int:
        """The number of samples to which the metric applies."""
        return self.test.better + self.test.worse + self.test.equal

    @property
    def num_seeds(self) -> int:
        """The number of runs of the group that has fewer."""
        return min(len(self.test.pair.a.runs), len(self.test.pair.b.runs))

    @property
    def combined(self) -> OneSided:
        """The p-values that decide; see `combine_samples_and_seeds`."""
        return combine_samples_and_seeds(self)


def combine_samples_and_seeds(evidence: Evidence) -> OneSided:
    """Combine the tests over samples and over seeds: the rule by which every verdict is made.

    A claim about a training method must hold on other samples and with other seeds together. All three tests must
    reject: over samples, over seeds, and over both. The largest p-value counts. Without the third one, a difference of
    1.65 standard errors of each kind would be enough, although its own standard error is up to 1.4 times as large. If
    the seed has no effect, the samples alone count.
    """
    if not evidence.depends_on_seeds:
        return evidence.samples
    if evidence.seeds is None or evidence.joint is None:
        return UNDECIDABLE
    tests = (evidence.samples, evidence.seeds, evidence.joint)
    return OneSided(max(test.greater for test in tests), max(test.less for test in tests))


def measure_evidence(metric: RunMetric, pair: GroupPair, threshold: float, resampling: Resampling) -> Evidence:
    """Test the difference of a pair by a metric that both groups have against a threshold."""
    [test] = paired_tests([pair], [metric], resampling)
    draws = metric.mean_draws(pair.a.runs) - metric.mean_draws(pair.b.runs)
    error = float(np.nanstd(draws))
    a, b = ([metric.values[run.name] for run in group.runs] for group in (pair.a, pair.b))
    is_trained = any(run.plan.get("trainer", NONE) != NONE for run in (*pair.a.runs, *pair.b.runs))
    varies = any(max(values) - min(values) > TIE_TOLERANCE for values in (a, b))
    null_error = null_standard_error(test, threshold, error)
    return Evidence(
        test=test,
        threshold=threshold,
        samples=sample_p_values(test, threshold, error),
        seeds=seed_p_values(a, b, threshold),
        joint=joint_p_values(test, threshold, null_error),
        depends_on_seeds=is_trained or varies,
        null_error=null_error,
        seed_variances=(variance(a), variance(b)) if min(len(a), len(b)) > 1 else None,
    )


def sample_p_values(test: PairedTest, threshold: float, standard_error: float) -> OneSided:
    """Test a difference over samples against a threshold.

    With the threshold 0, each one-sided p-value is half of the two-sided one, or 1 minus this half. Another threshold
    is tested by the difference minus the threshold, divided by `null_standard_error`.
    """
    if threshold == 0:
        return _split_p_value(test.difference, test.p_value)
    score = (test.difference - threshold) / null_standard_error(test, threshold, standard_error)
    return OneSided(float(stats.norm.sf(score)), float(stats.norm.cdf(score)))


def null_standard_error(test: PairedTest, threshold: float, standard_error: float) -> float:
    """Estimate the standard error over samples if the difference equals the threshold.

    The variance is the second moment around the threshold. If the groups differ by the threshold, at least this share
    of the samples differs, which gives the smallest variance (as in the score test of Tango 1998). Groups with the same
    answers would otherwise have no variance, and any margin would be certain.
    """
    gap, num_samples = test.difference - threshold, max(test.better + test.worse + test.equal, 1)
    least = abs(threshold) * (1 - abs(threshold)) / num_samples
    return math.sqrt(max(standard_error**2, least) + gap**2 / num_samples)


def seed_p_values(a: Sequence[float], b: Sequence[float], threshold: float) -> OneSided | None:
    """Test a difference over seeds against a threshold by Welch's test; None where that has no result."""
    shifted = [value - threshold for value in a]
    difference = welch_test(shifted, b, 0.95)
    return None if difference is None else _split_p_value(float(np.mean(shifted) - np.mean(b)), difference.p_value)


def joint_p_values(test: PairedTest, threshold: float, null_error: float) -> OneSided | None:
    """Test a difference over samples and seeds together against a threshold.

    The standard error is that of the interval over both; see `runner.compare.variance_components`.

    Args:
        test: The difference.
        threshold: The threshold.
        null_error: The standard error over samples if the difference equals the threshold.

    Returns:
        None if nothing is known of the effect of the seed.
    """
    groups = test.components.varying_groups
    if groups is None:
        return None
    error = combined_error(null_error**2, test.components.num_effective, groups)
    score = (test.difference - threshold) / error.value
    return OneSided(float(stats.t.sf(score, error.freedom)), float(stats.t.cdf(score, error.freedom)))


def _split_p_value(difference: float, two_sided: float) -> OneSided:
    half = two_sided / 2
    return OneSided(half, 1 - half) if difference > 0 else OneSided(1 - half, half)


def combine_parts(parts: Sequence[OneSided]) -> OneSided:
    """Combine the parts of a claim, all of which must hold.

    The claim is supported if every part is: the largest p-value counts (intersection-union test, Berger 1982). It is
    refuted if any part is: the smallest p-value counts, multiplied by the number of parts (Bonferroni).
    """
    if not parts:
        return UNDECIDABLE
    smallest = min(part.less for part in parts)
    return OneSided(max(part.greater for part in parts), min(1.0, len(parts) * smallest))


@dataclass(frozen=True)
class Decision:
    """The verdict on a claim.

    Attributes:
        verdict: Supported, refuted or undecided.
        p_values: The p-values of the claim alone.
        corrected: The same, after Holm's correction over all claims.
    """

    verdict: Verdict
    p_values: OneSided
    corrected: OneSided


def decide(p_values: Sequence[OneSided], levels: Sequence[float]) -> list[Decision]:
    """Decide a family of claims, with Holm's correction of the tests that support, and of the tests that refute.

    Args:
        p_values: The p-values of each claim. A claim may not have two p-values of which both are below 0.5.
        levels: The level of each claim, below 0.5.
    """
    greater = holm_correction([each.greater for each in p_values])
    less = holm_correction([each.less for each in p_values])
    decisions = []
    for alone, corrected, level in zip(p_values, map(OneSided, greater, less), levels, strict=True):
        verdict: Verdict = (
            "supported" if corrected.greater <= level else "refuted" if corrected.less <= level else "undecided"
        )
        decisions.append(Decision(verdict, alone, corrected))
    return decisions


def numbers_to_decide(
    gap: float, sample_error: float, now: tuple[int, int], variances: tuple[float, float] | None, level: float
) -> tuple[int, int | None]:
    """Compute how many samples and seeds reject with `POWER`, if the gap is the true one.

    A variance shrinks with the number of samples, or of seeds (Lachin 1981). The result has the fewest seeds with which
    either the samples of now suffice, or the seeds take at most half of the variance that the test over both allows.

    Args:
        gap: The difference minus the threshold; not 0.
        sample_error: The standard error over samples now.
        now: The numbers of samples and of seeds now.
        variances: The variance over the seeds of each group; None if the seed has no effect.
        level: The level of the test.

    Returns:
        The number of samples and the number of seeds, at least those of now; None for more than `MAX_SEEDS`.
    """
    num_samples, num_seeds = now
    over_samples = sample_error**2
    if not variances:
        allowed = (gap / _quantiles(level, math.inf)) ** 2
        return max(num_samples, math.ceil(num_samples * over_samples / allowed)), num_seeds
    for number in range(max(num_seeds, 2), MAX_SEEDS + 1):
        over_seeds, freedom = sum(variances) / number, 2 * (number - 1)
        allowed = _allowed_variance(gap, over_seeds, freedom, level)
        if _quantiles(level, freedom) ** 2 * over_seeds > gap**2:
            continue  # The test over seeds alone does not reject.
        if over_samples + over_seeds <= allowed:
            return num_samples, number
        if over_seeds <= allowed / 2:
            return max(num_samples, math.ceil(num_samples * over_samples / (allowed - over_seeds))), number
    return num_samples, None


def _allowed_variance(gap: float, over_seeds: float, freedom: int, level: float) -> float:
    """Return the variance at which the test over samples and seeds rejects with `POWER`.

    Its degrees of freedom depend on the variance in turn, so that the two are computed by turns.
    """
    allowed = (gap / _quantiles(level, math.inf)) ** 2
    for _ in range(5):
        joint = math.inf if not over_seeds else freedom * max(allowed / over_seeds, 1.0) ** 2
        allowed = (gap / _quantiles(level, joint)) ** 2
    return allowed


def _quantiles(level: float, freedom: float) -> float:
    """Return the sum of the quantiles of the level and of the power."""
    return float(stats.t.isf(level, freedom) + stats.t.isf(1 - POWER, freedom))


@dataclass(frozen=True)
class Needed:
    """What would decide an undecided claim, at the observed differences.

    Attributes:
        verdict: The verdict that the observed differences point to; None if there is no direction.
        samples: The number of test samples; None if the samples suffice, or if the number is unknown.
        seeds: The number of seeds; None likewise.
        text: The same in words, with the numbers of today, or why nothing is known.
    """

    verdict: Verdict | None
    samples: int | None
    seeds: int | None
    text: str


def what_would_decide(parts: Sequence[Evidence], level: float) -> Needed:
    """Compute how many test samples and how many seeds would decide a claim.

    If every observed difference exceeds its threshold, all parts must be supported; otherwise, the part that is
    furthest below its threshold, by its p-value, must be refuted.

    Args:
        parts: The evidence of every part.
        level: The level of the claim divided by the number of claims: the first step of Holm's correction.
    """
    if all(part.gap > TIE_TOLERANCE for part in parts):
        return _needed("supported", parts, level)
    weakest = min(parts, key=lambda part: (part.combined.less, part.samples.less))
    if weakest.gap >= -TIE_TOLERANCE:
        return Needed(None, None, None, "an observed difference equals its threshold, so no number is known")
    return _needed("refuted", [weakest], level / len(parts))


def _p_value(verdict: Verdict, test: OneSided) -> float:
    return test.greater if verdict == "supported" else test.less


def _undecided_source(verdict: Verdict, parts: Sequence[Evidence], level: float) -> str:
    """Name what there is too little of: test samples, seeds, or either, if only both together do not decide."""

    def decides(test: OneSided | None) -> bool:
        return test is None or _p_value(verdict, test) <= level

    lacking = {
        "test samples": not all(decides(part.samples) for part in parts),
        "seeds": not all(decides(part.seeds) for part in parts if part.depends_on_seeds),
    }
    return " or ".join(source for source, lacks in lacking.items() if lacks) or "test samples or seeds"


def _needed(verdict: Verdict, parts: Sequence[Evidence], level: float) -> Needed:
    samples, seeds, problems = [0], [0], []
    for part in parts:
        if _p_value(verdict, part.combined) <= level:
            continue
        if part.depends_on_seeds and part.seed_variances is None:
            problems.append("two or more seeds of each arm, because the effect of the seed is unknown")
        elif part.depends_on_seeds and part.seeds is None:
            problems.append("seeds with different results, because those of each arm are equal")
        variances = part.seed_variances if part.depends_on_seeds and part.seeds is not None else None
        now = (part.num_samples, part.num_seeds)
        num_samples, num_seeds = numbers_to_decide(part.gap, part.null_error, now, variances, level)
        samples.append(num_samples)
        if num_seeds is None:
            problems.append(f"more than {MAX_SEEDS:,} seeds")
        else:
            seeds.append(num_seeds)
    # A test that is not the formula's can ask for no more than there are, although it has not decided.
    now = max(part.num_samples for part in parts), min(part.num_seeds for part in parts)
    more_samples = max(samples) if max(samples) > now[0] else None
    more_seeds = max(seeds) if max(seeds) > now[1] else None
    texts = [f"about {more_samples:,} test samples (now {now[0]:,})"] if more_samples else []
    texts += [f"about {more_seeds:,} seeds (now {now[1]:,})"] if more_seeds else []
    text = " and ".join([*texts, *dict.fromkeys(problems)]) or f"a few more {_undecided_source(verdict, parts, level)}"
    ending = f"{text}, to be {verdict} with {POWER:.0%} power at the observed difference"
    return Needed(verdict, more_samples, more_seeds, ending)
