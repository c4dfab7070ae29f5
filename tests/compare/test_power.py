"""Numbers of samples and seeds that find a difference: by hand, against scipy, and the command `runner power`."""

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.compare.power import (
    MAX_SAMPLES,
    AssumedRates,
    ErrorModel,
    PowerGoal,
    StudyPower,
    planned_t_test,
    power_to_find,
    samples_needed,
    seeds_needed,
    smallest_difference,
)
from runner.compare.variance_components import SeedVariance, VarianceComponents, combined_error
from tests.command import run_in_process


def test_the_number_of_samples_by_hand():
    # (1.95996 + 0.84162)² = 7.8489; a standard error of 1 point on 1,000 samples, and a difference of 3 points.
    assert samples_needed(0.03, 0.01, 1000, 0.05, 0.8) == math.ceil(1000 * 7.84888 / 9)
    # Two accuracies near the middle have the variance 0.25 + 0.2491 - 0.24955 = 0.2496: 7.8489 · 0.2496 / 0.0009.
    rates = AssumedRates(0.5, 0.47, correlation=0.5)
    error = math.sqrt(rates.model(1).samples)
    assert samples_needed(0.03, error, 1, 0.05, 0.8) == pytest.approx(2176, abs=3)


def test_the_number_of_seeds_is_the_smallest_that_scipy_confirms():
    number = seeds_needed(0.02, 0.01, 3, 0.05, 0.8)
    for seeds, is_enough in ((number, True), (number - 1, False)):
        freedom, shift = 2 * (seeds - 1), 2 * math.sqrt(seeds / 3)
        critical = stats.t.ppf(0.975, freedom)
        found = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
        assert (found >= 0.8) == is_enough


@pytest.mark.parametrize("needed", [samples_needed, seeds_needed])
def test_numbers_that_are_impossible_certain_or_invalid(needed):
    assert needed(0.0, 0.01, 10, 0.05, 0.8) is None
    assert needed(1e-9, 0.01, 10, 0.05, 0.8) is None
    assert needed(0.1, 0.0, 10, 0.05, 0.8) in {1, 2}
    assert needed(-0.1, 0.05, 10, 0.05, 0.8) == needed(0.1, 0.05, 10, 0.05, 0.8)
    for invalid in ((-0.1, 10, 0.05, 0.8), (0.1, 0, 0.05, 0.8), (0.1, 10, 0.0, 0.8), (0.1, 10, 0.05, 1.0)):
        with pytest.raises(ValueError, match="invalid"):
            needed(0.1, *invalid)


sizes = st.floats(1e-3, 1)


@given(sizes, sizes, st.integers(1, 500), st.floats(0.01, 0.2), st.floats(0.5, 0.95))
def test_a_larger_difference_needs_no_more_samples_or_seeds(difference, error, number, level, power):
    for needed in (samples_needed, seeds_needed):
        small, large = (needed(each, error, number, level, power) for each in (difference, 2 * difference))
        assert small is None or large <= small
        stricter = needed(difference, error, number, level / 2, power)
        assert stricter is None or small <= stricter


@given(st.floats(0.2, 6), st.floats(1, 300), st.floats(0.01, 0.2))
def test_the_power_is_that_of_the_noncentral_t_distribution(shift, freedom, level):
    critical = stats.t.ppf(1 - level / 2, freedom)
    right = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
    assert power_to_find(-0.1 * shift, planned_t_test(0.1, freedom, level)) == pytest.approx(right, abs=0.003)


@given(st.floats(1e-3, 1), st.floats(1, 1e6), st.floats(0.01, 0.2), st.floats(0.3, 0.99))
def test_the_smallest_difference_is_found_with_the_power(value, freedom, level, power):
    test = planned_t_test(value, freedom, level)
    assert power_to_find(smallest_difference(test, power), test) == pytest.approx(power, abs=1e-3)


GROUPS = (SeedVariance(3, 0.8, 6e-4, 2e-4), SeedVariance(3, 0.7, 4e-4, 3e-4))
PILOT = VarianceComponents(5e-4, 700.0, GROUPS)


def test_the_model_repeats_the_pilot_at_its_own_size():
    test = ErrorModel.from_components(PILOT, 1000).test(1000, 3, 0.05)
    expected = combined_error(5e-4, 700.0, GROUPS)
    assert test.standard_error == pytest.approx(expected.value)
    # Where the study estimates the true variances, its critical difference is that of the pilot.
    assert test.critical.min() < stats.t.ppf(0.975, expected.freedom) * expected.value < test.critical.max()


def test_more_samples_reduce_the_interaction_and_more_seeds_do_not_reduce_the_samples():
    model = ErrorModel.from_components(PILOT, 1000)

    def variance(num_samples, num_seeds):
        return model.test(num_samples, num_seeds, 0.05).standard_error ** 2

    # Samples 5e-4 - (2e-4 + 3e-4)/3; seeds (4e-4 + 1e-4)/3.
    assert variance(10**9, 3) == pytest.approx(5e-4 / 3, rel=1e-3)
    assert variance(1000, 10**6) == pytest.approx(5e-4 - 5e-4 / 3, rel=1e-3)
    # Four seeds on twice the samples.
    assert variance(2000, 4) == pytest.approx((5e-4 - 5e-4 / 3) / 2 + 5e-4 / 4 / 2 + 5e-4 / 4)


@given(st.floats(0.02, 0.2), st.integers(2, 10))
def test_the_numbers_needed_are_the_smallest_that_reach_the_power(difference, seeds):
    model = ErrorModel.from_components(PILOT, 1000)
    number = model.samples_for(difference, seeds, 0.05, 0.8)
    if number is None:
        assert power_to_find(difference, model.test(MAX_SAMPLES, seeds, 0.05)) < 0.8
    else:
        assert power_to_find(difference, model.test(number, seeds, 0.05)) >= 0.8
        assert number == 2 or power_to_find(difference, model.test(number - 1, seeds, 0.05)) < 0.8


def test_without_seeds_only_samples_count():
    single = VarianceComponents(5e-4, 1000.0, (None, None))
    plan = StudyPower("m", "a", "b", ErrorModel.from_components(single, 1000), 1000, 1, PowerGoal(0.05))
    assert not plan.counts_seeds and plan.seeds_needed is None and plan.plans == []
    assert plan.samples_needed == pytest.approx(samples_needed(0.05, math.sqrt(5e-4), 1000, 0.05, 0.8), rel=0.02)


def test_rates_by_hand():
    # 0.8·0.2 + 0.5·0.5 - 2·0.25·sqrt(0.04) = 0.31; clusters of three samples with a correlation of 0.5 double it.
    assert AssumedRates(0.8, 0.5, correlation=0.25).model(1).samples == pytest.approx(0.31)
    clustered = AssumedRates(0.8, 0.5, correlation=0.25, cluster_size=3, cluster_correlation=0.5).model(1)
    assert clustered.samples == pytest.approx(0.62)
    assert clustered.effective_share == pytest.approx(1 / 3)
    seeds = AssumedRates(0.8, 0.5, 0.25, seed_deviation=0.01).model(3)
    assert seeds.test(10**9, 3, 0.05).standard_error == pytest.approx(0.01 * math.sqrt(2 / 3), rel=1e-3)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_correlation_in_its_bounds_is_possible(a, b):
    for correlation in AssumedRates(a, b).correlation_bounds():
        both = a * b + correlation * math.sqrt(a * (1 - a) * b * (1 - b))
        assert -1e-9 <= both <= min(a, b) + 1e-9
        assert 1 - a - b + both >= -1e-9


def run(folder, *arguments):
    return run_in_process(["power", *arguments], folder, os.environ)


def test_pilot_runs_give_a_plan(ablation):
    pilots = ["swept", "--by", "arm", "--baseline", "joint", "--metric", "ner_f1"]
    done = run(ablation.folder, *pilots, "--difference", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["difference"], document["power"], document["level"]) == (0.1, 0.8, 0.05)
    assert document["cluster"]["num_clusters"] == 40
    assert any("only 3 seeds" in warning for warning in document["warnings"])
    [study] = document["studies"]
    assert (study["a"], study["b"], study["num_samples"], study["num_seeds"]) == ("ner_alone", "joint", 40, 3)
    assert study["counts_seeds"] and study["power"] < 0.8 and study["samples_needed"] > 40
    assert [plan["seeds"] for plan in study["plans"]] == [2, 3, 5, 10]
    assert study["smallest_difference"] > 0.1
    larger = json.loads(run(ablation.folder, *pilots, "--samples", "4000", "--seeds", "9", "--json").stdout)["studies"][
        0
    ]
    assert larger["smallest_difference"] < study["smallest_difference"] / 2
    assert larger["power"] is larger["samples_needed"] is None
    shown = run(ablation.folder, *pilots, "--difference", "0.1").stdout
    assert f"{study['samples_needed']:,}" in shown and "10 seeds" in shown


def test_assumed_rates_give_a_plan_without_runs(tmp_path):
    done = run(tmp_path, "--rates", "0.83", "0.80", "--correlation", "0.5", "--samples", "1660", "--json")
    [study] = json.loads(done.stdout)["studies"]
    variance = 0.83 * 0.17 + 0.8 * 0.2 - math.sqrt(0.83 * 0.17 * 0.8 * 0.2)
    assert study["standard_error"] == pytest.approx(math.sqrt(variance / 1660))
    assert study["samples_needed"] == pytest.approx(samples_needed(0.03, math.sqrt(variance), 1, 0.05, 0.8), rel=0.01)
    assert not study["counts_seeds"]
    with_seeds = run(tmp_path, "--rates", "0.83", "0.80", "--seed-deviation", "0.01", "--samples", "1660")
    assert "> 1,000,000" in with_seeds.stdout
    assert "trained models" not in with_seeds.stdout
    assert "trained models" in run(tmp_path, "--rates", "0.83", "0.80").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name pilot runs"),
        (["swept", "--rates", "0.8", "0.7"], "not both"),
        (["swept", "--correlation", "0.3"], "has no effect without --rates"),
        (["swept", "--correlation", "0"], "has no effect without --rates"),
        (["swept", "--seed-deviation", "0"], "has no effect without --rates"),
        (["--rates", "0.8", "0.7", "--by", "arm"], "has no effect with --rates"),
        (["--rates", "0.8", "1.7"], "between 0 and 1"),
        (["--rates", "0.9", "0.5", "--correlation", "0.9"], "it is between -0.33 and 0.33"),
        (["--rates", "0.9", "0.5", "--cluster-correlation", "0.9"], "no effect without"),
        (["--rates", "0.9", "0.5", "--seeds", "4"], "has no effect without --seed-deviation"),
        (["swept", "--difference", "0"], "cannot be found"),
        (["swept", "--by", "experiment"], "two groups of runs"),
        (["swept", "--by", "arm", "--metric", "ner_f2"], "did you mean 'ner_f1'"),
    ],
)
def test_a_user_error_has_exit_status_2(ablation, arguments, message):
    done = run(ablation.folder, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
