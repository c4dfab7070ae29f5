"""Identity by content: stable, sensitive to what can change a number, blind to what cannot."""

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import PluginError
from runner.fingerprint import canonical_json, fingerprint, identity
from runner.stages import Options, OutsideFingerprint


class Inner(Options):
    lr: float = 1.0


class Some(Options):
    epochs: int = 3
    micro: Annotated[int | None, OutsideFingerprint()] = None
    groups: dict[str, Inner] = {}  # noqa: RUF012 - pydantic copies it


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_canonical_json_is_json_and_the_same_whatever_the_order(value):
    def reordered(each):
        if isinstance(each, dict):
            return {key: reordered(each[key]) for key in reversed(list(each))}
        return [reordered(item) for item in each] if isinstance(each, list) else each

    assert json.loads(canonical_json(value)) == value
    assert fingerprint(reordered(value)) == fingerprint(value)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), float("inf"), object(), {1: 2}, [b"x"]])
def test_what_has_no_stable_serialisation_is_refused(value):
    with pytest.raises(PluginError, match="no stable serialisation"):
        fingerprint({"deep": [value]})


def test_only_options_that_can_change_a_number_count():
    assert identity(Some(micro=4)) == identity(Some(micro=8))
    assert identity(Some(epochs=4)) != identity(Some(epochs=3))


def test_the_order_of_groups_counts():
    one = Some(groups={"a": Inner(), "b": Inner(lr=2)})
    other = Some(groups={"b": Inner(lr=2), "a": Inner()})
    assert fingerprint(identity(one)) != fingerprint(identity(other))
