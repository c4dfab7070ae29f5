import math

from hypothesis import given
from hypothesis import strategies as st

from plugins.trainer.validation import ValidationLosses

LOSSES = st.dictionaries(st.integers(1, 500), st.floats(allow_nan=True, allow_infinity=True), max_size=20)


@given(LOSSES)
def test_the_best_is_a_number_that_none_is_below_and_the_earliest_such(by_step):
    losses = ValidationLosses(dict(sorted(by_step.items())))
    best = losses.best()
    numbers = {step: loss for step, loss in by_step.items() if math.isfinite(loss)}
    assert (best is None) == (not numbers)
    if best is not None:
        assert numbers[best] == min(numbers.values())
        assert all(loss > numbers[best] for step, loss in numbers.items() if step < best)


@given(LOSSES)
def test_evaluations_are_counted_from_the_best_on(by_step):
    losses = ValidationLosses(by_step)
    best = losses.best()
    after = [step for step in by_step if best is None or step > best]
    assert losses.since_best() == len(after)


def test_an_equal_loss_is_no_better():
    assert ValidationLosses({5: 1.0, 10: 1.0}).since_best() == 1
