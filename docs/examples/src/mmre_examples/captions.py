"""A data source: a folder of pictures, each with its caption in a text file beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from runner.errors import DataError
from runner.records import Sample
from runner.stages import DatasetInfo, FilePath, Options, OutsideFingerprint, Reporter


class CaptionsOptions(Options):
    """A folder of pictures `NAME.png` with captions `NAME.txt`."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The folder. Its content is in the fingerprint, so the path need not be."""
    test_every: Annotated[int, Field(ge=2)] = 4
    """Every so many pictures, in the order of their names, one is for testing."""


class CaptionsData:
    """The plugin `captions` of the stage `data`."""

    def __init__(self, options: CaptionsOptions) -> None:
        """Take the section's options."""
        self._options = options

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Check that each picture has its caption, and hash both.

        Raises:
            DataError: There is no picture, or one without a caption.
        """
        pictures = self._pictures()
        if not pictures:
            raise DataError(f"{self._options.path}: no pictures here; data.path names a folder of PNG files")
        digest = hashlib.sha256()
        for picture in pictures:
            caption = picture.with_suffix(".txt")
            if not caption.is_file():
                raise DataError(f"{picture}: has no caption; write it into {caption.name} beside it")
            for file in (picture, caption):
                digest.update(hashlib.sha256(file.name.encode() + b"\0" + file.read_bytes()).digest())
        sizes = {split: len(self.load(split)) for split in ("train", "test")}
        return DatasetInfo("captions", str(self._options.path), digest.hexdigest(), (), sizes)

    def load(self, split: str) -> list[Sample]:
        """The samples of a split, in the order of their names."""
        pictures = enumerate(self._pictures())
        return [
            Sample(picture.stem, "", picture, picture.with_suffix(".txt").read_text(encoding="utf-8").strip(), (), ())
            for number, picture in pictures
            if (number % self._options.test_every == 0) == (split == "test")
        ]

    def _pictures(self) -> list[Path]:
        return sorted(self._options.path.glob("*.png"))
