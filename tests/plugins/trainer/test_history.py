import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.trainer.training_history_and_warnings import TrainingHistory
from runner.stages import SelectionMetric

LOSSES = st.dictionaries(st.integers(1, 500), st.floats(allow_nan=True, allow_infinity=True), max_size=20)
FALLING = SelectionMetric(metric="validation/loss", mode="min")
RISING = SelectionMetric(metric="validation/ner_f1", mode="max")
MEASURES = pytest.mark.parametrize("measure", [FALLING, RISING], ids=lambda measure: measure.mode)


def history(measure, by_step):
    return TrainingHistory(measure, {measure.metric: dict(sorted(by_step.items())), "validation/other": {1: 0.0}})


@MEASURES
@given(by_step=LOSSES)
def test_best_step_has_the_earliest_best_finite_value(measure, by_step):
    best = history(measure, by_step).best_step()
    numbers = {step: value for step, value in by_step.items() if math.isfinite(value)}
    assert (best is None) == (not numbers)
    if best is not None:
        assert numbers[best] == (min if measure is FALLING else max)(numbers.values())
        assert all(value != numbers[best] for step, value in numbers.items() if step < best)


@MEASURES
@given(by_step=LOSSES)
def test_evaluations_are_counted_since_the_best_step(measure, by_step):
    told = history(measure, by_step)
    best = told.best_step()
    assert told.evaluations_since_best() == len([step for step in by_step if best is None or step > best])


def test_equal_value_is_no_improvement():
    assert history(FALLING, {5: 1.0, 10: 1.0}).evaluations_since_best() == 1
    assert history(RISING, {5: 1.0, 10: 1.0}).evaluations_since_best() == 1


@given(st.dictionaries(st.sampled_from("abc"), LOSSES), st.integers(0, 9))
def test_restored_history_is_an_independent_copy(figures, skipped):
    before, after = TrainingHistory(RISING, figures, skipped), TrainingHistory(RISING)
    after.restore(before.state())
    assert repr(after.state()) == repr(before.state())
    after.add(1000, {"a": 1.0})
    assert after.measured_at(1000) == {"a"}
    assert not before.measured_at(1000)
