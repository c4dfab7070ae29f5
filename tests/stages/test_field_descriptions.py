"""Field docstrings are read as pydantic reads them, and are part of the JSON Schema."""

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from runner.spec.experiment_spec import ComputeOptions
from runner.stages import DescribedModel, Options, field_descriptions
from runner.stages.registry import STAGES, installed_plugins


class Base(Options):
    """A base class."""

    inherited: int = 1
    """Inherited,
    over two lines."""
    overridden: int = 2
    """Base text."""


class Derived(Base):
    """A derived class."""

    overridden: int = 3
    """Derived text."""
    undocumented: int = 4
    inner: Annotated[tuple[Base, ...], Field(max_length=2)] = ()
    """Others."""


class ReadByPydantic(BaseModel):
    """The fields of `Derived`, read by pydantic itself."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    inherited: int = 1
    """Inherited,
    over two lines."""
    overridden: int = 3
    """Derived text."""
    undocumented: int = 4
    inner: Annotated[tuple[Base, ...], Field(max_length=2)] = ()
    """Others."""


def test_descriptions_are_the_same_as_pydantics():
    expected = {name: field.description for name, field in ReadByPydantic.model_fields.items() if field.description}
    assert field_descriptions(Derived) == expected
    assert field_descriptions(ReadByPydantic) == expected


def test_schema_has_descriptions_of_nested_models():
    schema = Derived.model_json_schema()
    assert schema["properties"]["overridden"]["description"] == "Derived text."
    assert "description" not in schema["properties"]["undocumented"]
    assert schema["$defs"]["Base"]["properties"]["overridden"]["description"] == "Base text."


def test_class_without_source_has_no_descriptions():
    model = type("Dynamic", (DescribedModel,), {"__annotations__": {"name": str}, "__module__": "nowhere"})
    assert field_descriptions(model) == {}
    assert model.model_json_schema()["properties"] == {"name": {"title": "Name", "type": "string"}}


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_the_project_has_a_description(stage):
    models = [plugin.options_class() for plugin in installed_plugins(stage).values()] + [ComputeOptions]
    for model in models:
        assert set(field_descriptions(model)) == set(model.model_fields), model
