"""Fingerprints: stable, and sensitive to exactly the options that can change a result."""

import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import PluginError
from runner.fingerprint_and_provenance import canonical_json, fingerprint, fingerprinted_options
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
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    def reordered(value):
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in reversed(list(value))}
        return [reordered(item) for item in value] if isinstance(value, list) else value

    assert json.loads(canonical_json(value)) == value
    assert fingerprint(reordered(value)) == fingerprint(value)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), float("inf"), object(), {1: 2}, [b"x"]])
def test_value_without_stable_serialisation_is_an_error(value):
    with pytest.raises(PluginError, match="no stable serialisation"):
        fingerprint({"deep": [value]})


def test_only_options_that_change_results_count():
    assert fingerprinted_options(Some(micro=4)) == fingerprinted_options(Some(micro=8))
    assert fingerprinted_options(Some(epochs=4)) != fingerprinted_options(Some(epochs=3))


def test_order_of_groups_counts():
    one = Some(groups={"a": Inner(), "b": Inner(lr=2)})
    other = Some(groups={"b": Inner(lr=2), "a": Inner()})
    assert fingerprint(fingerprinted_options(one)) != fingerprint(fingerprinted_options(other))
