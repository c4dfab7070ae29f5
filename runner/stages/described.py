"""The docstrings under the fields of a model, read when somebody asks for them.

Pydantic reads them while a class is made, which costs `runner validate` a sixth of its time: it hardly needs any.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic_core import CoreSchema


@cache
def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field that has one, those of the classes above included; of a class without source none."""
    told: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            told |= _own(each)
    return {name: text for name, text in told.items() if name in model.model_fields}


def _own(model: type[BaseModel]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):
        return {}
    [defined] = ast.parse(source).body
    assert isinstance(defined, ast.ClassDef)
    told = {}
    for field, after in zip(defined.body, defined.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            match after.value:
                case ast.Constant(value=str(text)):
                    told[field.target.id] = inspect.cleandoc(text)
    return told


class Described(BaseModel):
    """The base of models whose JSON Schema tells the docstrings under their fields."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        """Add the docstrings to what pydantic makes."""
        made = handler(core_schema)
        properties = handler.resolve_ref_schema(made).get("properties", {})
        for name, text in descriptions(cls).items():
            properties[name]["description"] = text
        return made
