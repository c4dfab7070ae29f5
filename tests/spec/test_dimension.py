"""Dimensions: what lies in them, how many values they have, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.spec.sweep_section import Dimension


def bounds(numbers):
    return st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1]).map(list)


wholes = bounds(st.integers(1, 50))


@given(bounds(st.floats(-1e6, 1e6)), st.floats(-2e6, 2e6))
def test_a_number_is_in_it_just_between_its_bounds(low_high, value):
    low, high = low_high
    assert (Dimension(uniform=low_high).drawn(value) == value) == (low <= value <= high)


@given(wholes, st.integers(0, 60))
def test_whole_numbers_are_listed_once_each_and_are_in_it(low_high, value):
    dimension = Dimension(int=low_high)
    listed = list(dimension.values())
    assert listed == list(range(low_high[0], low_high[1] + 1))
    assert (dimension.drawn(value) == value) == (value in listed)


@given(st.integers(-20, 20), st.integers(1, 12), st.sampled_from([0.1, 0.25, 1.0, 3.0]))
def test_quantized_values_lie_in_the_dimension_and_on_its_steps(low, num_steps, step):
    dimension = Dimension(quantized=[low, low + num_steps * step, step])
    listed = list(dimension.values())
    assert len(listed) == num_steps + 1
    assert all(math.isclose(dimension.drawn(each), each, abs_tol=1e-9) for each in listed)
    assert dimension.drawn(low + step / 2) is None
    assert dimension.drawn(listed[-1] + step) is None


def test_choices_go_by_labels_and_are_found_by_value():
    dimension = Dimension(choice=[4, "four", True, None, {"type": "muon"}])
    assert list(dimension.labelled) == ["4", "four", "true", "null", '{"type": "muon"}']
    assert [dimension.drawn(each) for each in (4, "four", True, None, {"type": "muon"})] == list(dimension.labelled)
    assert dimension.drawn(1) is None, "true is no number"
    named = Dimension(choice={"small": {"type": "muon"}, "large": {"type": "adamw"}})
    assert named.drawn({"type": "adamw"}) == named.drawn("large") == "large"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "needs just one of"),
        ({"grid": [1], "choice": [2]}, "not grid and choice"),
        ({"grid": [1, 2, 1]}, "1 stands here twice"),
        ({"choice": []}, "takes a list of values"),
        ({"uniform": [2, 1]}, "must lie below"),
        ({"loguniform": [0, 1]}, "begins above 0"),
        ({"logint": [0, 8]}, "begins above 0"),
        ({"quantized": [0, 1, 0.3]}, "do not meet"),
        ({"quantized": [0, 1, 0]}, "a step above 0"),
        ({"int": [1.5, 3]}, "integer"),
    ],
)
def test_what_is_no_dimension_is_refused_with_the_reason(written, message):
    with pytest.raises(ValidationError, match=message):
        Dimension.model_validate(written)
