"""What a plugin's options are made of: a section of the spec, checked by pydantic alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict

from runner.stages.described import Described

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


@dataclass(frozen=True)
class AddedLater:
    """Marks an option that came when runs had been made without it.

    Its default is what was done before, and is left out of the fingerprint, so that those runs keep theirs.
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
