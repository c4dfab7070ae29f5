"""Options of the data stage `synthetic`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from runner.stages import AddedLater, FilePath, Options, OutsideFingerprint

Shown = Annotated[int, Field(ge=1, le=3)]
"""How many things a picture can show."""


class SyntheticOptions(Options):
    """Generated M-MRE data: tweets about named things whose emblems stand in the picture.

    Which segment shows which entity can only be seen in the segments. The names come from a closed list, so that
    with `new_names` at 0 a model can find the entities by heart; what it finds of names new to it is then untested.
    """

    path: Annotated[FilePath, OutsideFingerprint()] = Path("data/synthetic")
    """Folder for generated data sets; each set of options has one of its own below it."""
    train: Annotated[int, Field(ge=1)] = 3000
    """Training samples."""
    test: Annotated[int, Field(ge=1)] = 600
    """Test samples; no text of theirs stands in the training split."""
    seed: int = 0
    """Another seed gives other names, emblems, texts and pictures."""
    new_names: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the names in the test split that never stand in the training split."""
    things: Annotated[int, Field(ge=1, le=4), AddedLater()] = 4
    """Things of each label that training tells of; fewer are learnt sooner."""
    shown: Annotated[tuple[Shown, Shown], AddedLater()] = (2, 3)
    """Least and most things that a picture shows. Where it is one, the text names two more: which of the three it is
    can be told from the picture alone, and there is no order to know."""
    relatedness: Annotated[float, Field(ge=0, le=1), AddedLater()] = 1.0
    """How much the summaries tell about the match: of this share of the things they name the emblem, by which a
    segment is known to show a thing. Of the others they say where in the picture they stand, which tells nothing about
    that. Pictures, texts, entities and segments are the same at every value."""
    matched: Annotated[float, Field(gt=0, le=1), AddedLater()] = 1.0
    """Share of the training samples that have segments: the fewer, the less `match` is taught by itself. The
    others show things just so, and nobody has cut them out; their right answer to `match` is empty."""

    @field_validator("shown")
    @classmethod
    def _least_first(cls, shown: tuple[int, int]) -> tuple[int, int]:
        if shown[0] > shown[1]:
            raise ValueError(f"the least comes first: [{shown[1]}, {shown[0]}]")
        return shown

    def smoke(self) -> Mapping[str, Any]:
        """A handful of samples."""
        return {"train": 12, "test": 4}
