"""Docstrings under fields are found as pydantic finds them, and stand in the JSON Schema."""

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from runner.spec.experiment_spec import ComputeOptions
from runner.stages import Described, Options, descriptions
from runner.stages.registry import STAGES, installed


class Above(Options):
    """A class above."""

    kept: int = 1
    """Kept
    over two lines."""
    changed: int = 2
    """Told above."""


class Below(Above):
    """A class below."""

    changed: int = 3
    """Told below."""
    silent: int = 4
    inner: Annotated[tuple[Above, ...], Field(max_length=2)] = ()
    """Others."""


class AsPydanticDoes(BaseModel):
    """The fields of the class below, with pydantic's own reading."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    kept: int = 1
    """Kept
    over two lines."""
    changed: int = 3
    """Told below."""
    silent: int = 4
    inner: Annotated[tuple[Above, ...], Field(max_length=2)] = ()
    """Others."""


def test_they_are_those_that_pydantic_reads():
    theirs = {name: field.description for name, field in AsPydanticDoes.model_fields.items() if field.description}
    assert descriptions(Below) == theirs
    assert descriptions(AsPydanticDoes) == theirs


def test_the_schema_tells_them_of_inner_models_too():
    told = Below.model_json_schema()
    assert told["properties"]["changed"]["description"] == "Told below."
    assert "description" not in told["properties"]["silent"]
    assert told["$defs"]["Above"]["properties"]["changed"]["description"] == "Told above."


def test_a_class_without_source_has_none():
    made = type("Made", (Described,), {"__annotations__": {"name": str}, "__module__": "nowhere"})
    assert descriptions(made) == {}
    assert made.model_json_schema()["properties"] == {"name": {"title": "Name", "type": "string"}}


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_the_project_has_one(stage):
    models = [plugin.options_class() for plugin in installed(stage).values()] + [ComputeOptions]
    for model in models:
        assert set(descriptions(model)) == set(model.model_fields), model
