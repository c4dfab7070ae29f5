"""An example data plugin: a folder of images, each with its caption in a text file next to it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from runner.errors import DataError
from runner.records import Sample
from runner.stages import DatasetInfo, FilePath, Options, OutsideFingerprint, Reporter


class CaptionsOptions(Options):
    """A folder of images `NAME.png` with captions `NAME.txt`."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Path of the folder. The fingerprint includes its content instead of the path."""
    test_every: Annotated[int, Field(ge=2)] = 4
    """One of this many images, sorted by name, is a test sample."""


class CaptionsData:
    """The plugin `captions` of the stage `data`."""

    def __init__(self, options: CaptionsOptions) -> None:
        """Store the options of the section."""
        self._options = options

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Check that each image has a caption, and hash both.

        Raises:
            DataError: There is no image, or an image has no caption.
        """
        images = self._images()
        if not images:
            raise DataError(f"{self._options.path}: no PNG files here; set data.path to a folder of PNG files")
        digest = hashlib.sha256()
        for image in images:
            caption = image.with_suffix(".txt")
            if not caption.is_file():
                raise DataError(f"{image}: has no caption; write it to {caption.name} in the same folder")
            for file in (image, caption):
                digest.update(hashlib.sha256(file.name.encode() + b"\0" + file.read_bytes()).digest())
        sizes = {split: len(self.load(split)) for split in ("train", "test")}
        return DatasetInfo("captions", str(self._options.path), digest.hexdigest(), (), sizes)

    def load(self, split: str) -> list[Sample]:
        """Return the samples of a split, sorted by name."""
        return [
            Sample(image.stem, "", image, image.with_suffix(".txt").read_text(encoding="utf-8").strip(), (), ())
            for index, image in enumerate(self._images())
            if (index % self._options.test_every == 0) == (split == "test")
        ]

    def _images(self) -> list[Path]:
        return sorted(self._options.path.glob("*.png"))
