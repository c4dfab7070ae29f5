"""Options of the data stage `mmre`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

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
