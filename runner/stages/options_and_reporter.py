"""What every plugin uses: validated options, types of fields, and a reporter of progress."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from runner.files import resolve_path


@cache
def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field of a model and its base classes; fields without one are omitted."""
    docstrings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            docstrings |= _own_field_docstrings(base)
    return {name: text for name, text in docstrings.items() if name in model.model_fields}


def _own_field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Read the docstrings of the fields that a class defines; none if its source is not available."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):
        return {}
    [definition] = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    for field, following in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(following, ast.Expr):
            match following.value:
                case ast.Constant(value=str(text)):
                    docstrings[field.target.id] = inspect.cleandoc(text)
    return docstrings


def _refuse_boolean(value: object) -> object:
    """Refuse `true` and `false` where a number is expected; in Python they count as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("boolean_as_number", "Input should be a number")
    return value


def _with_strict_numbers(schema: Any) -> Any:
    """Return a pydantic schema in which every number, in whatever container, refuses booleans."""
    if isinstance(schema, list | tuple):
        return type(schema)(_with_strict_numbers(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    if not isinstance(schema.get("type"), str):  # schemas by name, such as those of fields
        return {name: _with_strict_numbers(value) for name, value in schema.items()}
    if schema.get("function") == NUMBER_CHECK:
        return schema
    if schema["type"] in NUMBER_TYPES:
        return {"type": "function-before", "function": NUMBER_CHECK, "schema": schema}
    return {key: value if key in OPAQUE_KEYS else _with_strict_numbers(value) for key, value in schema.items()}


NUMBER_CHECK: Mapping[str, Any] = {"type": "no-info", "function": _refuse_boolean}
"""The validator that `_with_strict_numbers` adds before every number."""
NUMBER_TYPES = frozenset({"int", "float", "decimal"})
"""Types of pydantic schemas that accept booleans as numbers."""
OPAQUE_KEYS = frozenset({"cls", "config", "default", "metadata", "ref", "schema_ref", "serialization"})
"""Entries of a pydantic schema that hold no schema of a value."""


class DescribedModel(BaseModel):
    """The base class of models whose JSON Schema contains the docstrings under their fields.

    `true` and `false` are not valid for a number.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """Make the numbers of the schema that pydantic generates refuse booleans."""
        return cast("CoreSchema", _with_strict_numbers(handler(source)))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        """Add the docstrings to the schema that pydantic generates."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_descriptions(cls).items():
            properties[name]["description"] = text
        return schema


Stage = Literal[
    "data", "adapter", "model", "optimizer", "trainer", "generator", "metric", "tracker", "source", "annotator"
]


class LocatedStr(str):
    """A string of a spec with the folder of the file that it was written in.

    Attributes:
        folder: The folder.
        variables: The environment variables whose values are a part of the string.
    """

    folder: Path
    variables: tuple[str, ...]

    def __new__(cls, text: str, folder: Path, variables: Sequence[str] = ()) -> LocatedStr:
        """Attach the folder and the variables to the text."""
        located = super().__new__(cls, text)
        located.folder, located.variables = folder, tuple(variables)
        return located


def base_folder(value: object) -> Path:
    """Return the folder that a relative path in an option refers to: that of its spec, or the current one."""
    return value.folder if isinstance(value, LocatedStr) else Path.cwd()


def _resolve_path(value: object) -> object:
    return resolve_path(value, base_folder(value)) if isinstance(value, str | Path) else value


FilePath = Annotated[Path, BeforeValidator(_resolve_path)]
"""A path in a spec, relative to the file that it is written in. With `--set`, relative to the current folder."""


def _resolve_path_or_uri(value: object) -> object:
    if isinstance(value, str) and "://" not in value:
        return str(_resolve_path(value))
    return str(value) if isinstance(value, str | Path) else value


PathOrUri = Annotated[str, BeforeValidator(_resolve_path_or_uri)]
"""A URI, or a path as in `FilePath`."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
"""A name that is also used as a folder name: letters, digits, `_`, `-` and `.`."""


@dataclass(frozen=True)
class OutsideFingerprint:
    """Marks an option that cannot change a result, such as a path or a micro-batch size.

    Usage: `Annotated[int, OutsideFingerprint()]`. Such options are not part of the plan's fingerprint.
    """


class Options(DescribedModel):
    """The base class of the options of all plugins: a section of the spec without its `type`.

    Unknown keys are errors, instances are frozen, and the docstring under a field is its description.
    """

    model_config = ConfigDict(
        # pydantic builds a class when it is first used, because most commands use few of them.
        defer_build=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    former_names: ClassVar[Mapping[str, str]] = {}
    """Renamed fields: the old name, mapped to what to write instead. An old name in a spec is an error."""

    former_types: ClassVar[Sequence[str]] = ()
    """Earlier names of the plugin, for the error message of a spec that uses one."""

    @property
    def remote_address(self) -> str | None:
        """The address of the server to which the plugin sends data; None if it sends none."""
        return None

    @property
    def key_variables(self) -> Sequence[str]:
        """The environment variables whose values the plugin sends to `remote_address`.

        A worker gets variables that look like API keys only if a plugin of one of its steps names them here.
        """
        return ()

    def smoke(self) -> Mapping[str, Any]:
        """Return what replaces this section in a smoke run.

        Returns:
            Options to change, by name. With a `type`: the complete section of another plugin of the same stage.
        """
        return {}

    def with_less_memory(self, workers: int) -> Mapping[str, Any]:
        """Return options that need less memory and change results at most by rounding.

        Args:
            workers: Number of workers that share the batch.

        Returns:
            Options to change, by name; empty if the memory cannot be reduced further.
        """
        return {}


class StopRequestedError(Exception):
    """Raised by a step after `Reporter.stop_requested` returned True and the step has saved its state."""


class Reporter(Protocol):
    """Receives reports from a running step; the engine turns them into events, progress bars and tracked metrics."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step; a value that is infinite or not a number is recorded as null."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Report how many units of the running step are done; `shown` are values to display next to the bar."""

    def warn(self, message: str) -> None:
        """Show a warning to the user; the step continues."""

    def stop_requested(self) -> bool:
        """Return whether the user asked to stop. If so, save the state and raise `StopRequestedError`."""
