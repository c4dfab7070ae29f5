"""Dimensions of a search space: membership, list of values, invalid definitions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.spec.sweep_section import Dimension


def bounds(numbers):
    return st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1]).map(list)


integer_bounds = bounds(st.integers(1, 50))


@given(bounds(st.floats(-1e6, 1e6)), st.floats(-2e6, 2e6))
def test_number_is_inside_exactly_between_the_bounds(low_high, value):
    low, high = low_high
    assert (Dimension(uniform=low_high).to_param_value(value) == value) == (low <= value <= high)


@given(integer_bounds, st.integers(0, 60))
def test_integers_are_listed_once_and_are_inside(low_high, value):
    dimension = Dimension(int=low_high)
    listed = list(dimension.values())
    assert listed == list(range(low_high[0], low_high[1] + 1))
    assert (dimension.to_param_value(value) == value) == (value in listed)


@given(st.integers(-20, 20), st.integers(1, 12), st.sampled_from([0.1, 0.25, 1.0, 3.0]))
def test_quantized_values_are_inside_and_on_the_steps(low, num_steps, step):
    dimension = Dimension(quantized=[low, low + num_steps * step, step])
    listed = list(dimension.values())
    assert len(listed) == num_steps + 1
    assert all(math.isclose(dimension.to_param_value(value), value, abs_tol=1e-9) for value in listed)
    assert dimension.to_param_value(low + step / 2) is None
    assert dimension.to_param_value(listed[-1] + step) is None


def test_choices_have_labels_and_are_found_by_value():
    dimension = Dimension(choice=[4, "four", True, None, {"type": "muon"}])
    assert list(dimension.labelled_values) == ["4", "four", "true", "null", '{"type": "muon"}']
    values = (4, "four", True, None, {"type": "muon"})
    assert [dimension.to_param_value(value) for value in values] == list(dimension.labelled_values)
    assert dimension.to_param_value(1) is None, "true is not a number"
    named = Dimension(choice={"small": {"type": "muon"}, "large": {"type": "adamw"}})
    assert named.to_param_value({"type": "adamw"}) == named.to_param_value("large") == "large"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "needs exactly one of"),
        ({"grid": [1], "choice": [2]}, "not grid and choice"),
        ({"grid": [1, 2, 1]}, "1 is listed more than once"),
        ({"choice": []}, "takes a list of values"),
        ({"uniform": [2, 1]}, "must be less than"),
        ({"loguniform": [0, 1]}, "a lower bound above 0"),
        ({"logint": [0, 8]}, "a lower bound above 0"),
        ({"quantized": [0, 1, 0.3]}, "do not reach"),
        ({"quantized": [0, 1, 0]}, "a step above 0"),
        ({"int": [1.5, 3]}, "integer"),
    ],
)
def test_invalid_dimension_is_an_error_with_the_reason(written, message):
    with pytest.raises(ValidationError, match=message):
        Dimension.model_validate(written)
