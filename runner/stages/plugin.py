"""What every plugin builds on: validated options, and a reporter of progress."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler
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


Stage = Literal[
    "data", "adapter", "model", "optimizer", "trainer", "generator", "metric", "tracker", "source", "annotator"
]


class LocatedStr(str):
    """A string of a spec that knows the folder of the file it was written in."""

    folder: Path

    def __new__(cls, text: str, folder: Path) -> LocatedStr:
        """Attach the folder to the text."""
        made = super().__new__(cls, text)
        made.folder = folder
        return made


def _beside_its_file(value: object) -> object:
    if isinstance(value, LocatedStr):
        return (value.folder / Path(value).expanduser()).resolve()
    return Path(value).expanduser().resolve() if isinstance(value, str | Path) else value


FilePath = Annotated[Path, BeforeValidator(_beside_its_file)]
"""A path of a spec: relative to the file it is written in; from `--set` or a default, to the current folder."""


def _place(value: object) -> object:
    if isinstance(value, str) and "://" not in value:
        return str(_beside_its_file(value))
    return str(value) if isinstance(value, str | Path) else value


Place = Annotated[str, BeforeValidator(_place)]
"""A URI, or a path as in `FilePath`."""


@dataclass(frozen=True)
class OutsideFingerprint:
    """Marks an option that cannot change a number, such as a path or a micro-batch.

    Used as `Annotated[int, OutsideFingerprint()]`; such options are left out of the plan's fingerprint.
    """


class Options(Described):
    """The base of every plugin's options: a section of the spec less its `type`.

    Unknown keys are errors, instances are frozen, and the docstring under a field is its description.
    """

    model_config = ConfigDict(
        # A class is made ready when it is first used: most commands use few of those that are there.
        defer_build=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    former_names: ClassVar[Mapping[str, str]] = {}
    """Fields that had another name: the old name, and what to write instead. An old name in a spec is an error."""

    former_types: ClassVar[Sequence[str]] = ()
    """Names that the plugin had before, for the error message of a spec that uses one."""

    def smoke(self) -> Mapping[str, Any]:
        """Say what stands in for this section in a smoke run.

        Returns:
            Options to change, by name; with a `type`, the whole section of that other plugin of the same stage.
        """
        return {}

    def with_less_memory(self, workers: int) -> Mapping[str, Any]:
        """Say what would need less memory and change no number.

        Args:
            workers: Who share the work.

        Returns:
            Options to change, by name; none where nothing is left to change.
        """
        return {}


class StopRequestedError(Exception):
    """Raised by a step at a safe point after `Reporter.stop_requested` said yes and its state was saved."""


class Reporter(Protocol):
    """Where a running step tells what happens; the engine turns it into events, bars and tracked metrics."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell how many units of the running step are done; `shown` are figures to print beside the bar."""

    def warn(self, message: str) -> None:
        """Tell the user something that they should know and that stops nothing."""

    def stop_requested(self) -> bool:
        """Whether the user asked to stop: save, then raise `StopRequestedError`."""
