"""Options of the data stage `mmre`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from runner.stages import FilePath, Options, OutsideFingerprint


class Ratios(Options):
    """A division of all samples at random, whatever splits the data set was built with."""

    ratios: dict[str, Annotated[float, Field(gt=0)]] = Field(default={"train": 0.7, "test": 0.3})
    """Share of each split (the paper's 7/3); `train` and `test` are needed."""
    seed: int = 42
    """Another seed is another division."""
    group_by: Literal["content", "none"] = "content"
    """`content` keeps samples that share an image or a text in one split."""

    @field_validator("ratios")
    @classmethod
    def _train_and_test(cls, ratios: dict[str, float]) -> dict[str, float]:
        if not {"train", "test"} <= set(ratios):
            raise ValueError("name at least train and test, such as {train: 0.7, test: 0.3}")
        return ratios


class MmreOptions(Options):
    """A data-set folder, as `runner build` makes it."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The folder."""
    split: Literal["as_built"] | Ratios = "as_built"
    """The data set's own splits, or a division by ratios."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do where splits share an id, a text or an image."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many samples of each split, the first ones; none: all."""

    def smoke(self) -> Mapping[str, Any]:
        """A handful of the real samples; generated ones where the folder is not there."""
        if (self.path / "dataset.json").is_file():
            return {"limit": 8}
        return {"type": "synthetic", "train": 12, "test": 4}
