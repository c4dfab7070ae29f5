"""A data source: a few samples from a text file, one image for all of them."""

import hashlib
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field

from runner.errors import DataError
from runner.records import Entity, Sample, Segment
from runner.stages import DatasetInfo, FilePath, Options, OutsideFingerprint, Reporter


class EmojiOptions(Options):
    """Options of the data source `emoji`."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """A text file with one name per line."""
    test: Annotated[int, Field(ge=1)] = 2
    """Number of samples at the end of the file that form the test split."""


class EmojiData:
    """Each name is an entity, and one image shows all of them."""

    def __init__(self, options: EmojiOptions) -> None:
        self._options = options

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        if not self._options.path.is_file():
            raise DataError(f"{self._options.path}: no such file of names")
        picture = self._options.path.with_suffix(".png")
        if not picture.exists():
            Image.new("RGB", (32, 32), "orange").save(picture)
        content = self._options.path.read_bytes()
        sizes = {split: len(self.load(split)) for split in ("train", "test")}
        return DatasetInfo("emoji", str(self._options.path), hashlib.sha256(content).hexdigest(), ("person",), sizes)

    def load(self, split: str) -> list[Sample]:
        names = self._options.path.read_text(encoding="utf-8").split("\n")
        samples = [self._sample(index, name) for index, name in enumerate(names) if name]
        return samples[: -self._options.test] if split == "train" else samples[-self._options.test :]

    def _sample(self, index: int, name: str) -> Sample:
        picture: Path = self._options.path.with_suffix(".png")
        segment = Segment("a", picture, name, (0, 0, 32, 32))
        text = f"number {index} is {name}"
        return Sample(str(index), text, picture, "An orange square.", (Entity("person", name),), (segment,))
