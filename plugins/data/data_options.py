"""Options of the data stages `mmre` and `synthetic`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from runner.spec.dataset_spec import NearImages, Ratios
from runner.stages import FilePath, Options, OutsideFingerprint


class MmreOptions(Options):
    """A data-set folder, as `runner build` makes it."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The folder."""
    split: Literal["as_built"] | Ratios = "as_built"
    """The data set's own splits, or a division by ratios."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do where splits share an id, a text or an image."""
    near_images: NearImages = None
    """Images that look alike count as the same: the most bits, of 64, in which their perceptual hashes differ; none:
    only exact copies do. All images are then looked at whenever the data are read."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many samples of each split, the first ones; none: all."""

    def smoke(self) -> Mapping[str, Any]:
        """A handful of the real samples; generated ones where the folder is not there."""
        if (self.path / "dataset.json").is_file():
            return {"limit": 8}
        return {"type": "synthetic", "train": 12, "test": 4}


Shown = Annotated[int, Field(ge=1, le=3)]
"""How many things a picture can show."""


class SyntheticOptions(Options):
    """Generated M-MRE data: tweets about named things whose emblems stand in the picture.

    Which segment shows which entity can only be seen in the segments. The names come from a closed list, so that
    with `unseen_name_ratio` at 0 a model can find the entities by heart; what it finds of names new to it is then
    untested.
    """

    former_names: ClassVar[Mapping[str, str]] = {
        "new_names": "unseen_name_ratio",
        "things": "entities_per_label",
        "shown": "entities_per_image",
        "matched": "segmented_ratio",
    }

    path: Annotated[FilePath, OutsideFingerprint()] = Path("data/synthetic")
    """Folder for generated data sets; each set of options has one of its own below it."""
    train: Annotated[int, Field(ge=1)] = 3000
    """Training samples."""
    test: Annotated[int, Field(ge=1)] = 600
    """Test samples; no text of theirs stands in the training split."""
    seed: int = 0
    """Another seed gives other names, emblems, texts and pictures."""
    unseen_name_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the names in the test split that never stand in the training split."""
    entities_per_label: Annotated[int, Field(ge=1, le=4)] = 4
    """Things of each label that training tells of; fewer are learnt sooner."""
    entities_per_image: tuple[Shown, Shown] = (2, 3)
    """Least and most things that a picture shows. Where it is one, the text names two more: which of the three it is
    can be told from the picture alone, and there is no order to know."""
    relatedness: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much the summaries tell about the match: of this share of the things they name the emblem, by which a
    segment is known to show a thing. Of the others they say where in the picture they stand, which tells nothing about
    that. Pictures, texts, entities and segments are the same at every value."""
    segmented_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training samples that have segments: the fewer, the less `match` is taught by itself. The
    others show things just so, and nobody has cut them out; their right answer to `match` is empty."""

    @field_validator("entities_per_image")
    @classmethod
    def _least_first(cls, shown: tuple[int, int]) -> tuple[int, int]:
        if shown[0] > shown[1]:
            raise ValueError(f"the least comes first: [{shown[1]}, {shown[0]}]")
        return shown

    def smoke(self) -> Mapping[str, Any]:
        """A handful of samples."""
        return {"train": 12, "test": 4}
