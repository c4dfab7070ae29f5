"""Source `json_lines`: one's own samples as JSON lines with image, text, entities and boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from plugins.source.source_options import JsonLinesOptions
from runner.dataset.answer_files import refuse
from runner.errors import DataError, SpecPath
from runner.records import Entity, Sample, Segment, segment_letters
from runner.spec.check import problems_of
from runner.spec.dataset_spec import RESERVED
from runner.spec.tree import Mark, Tree
from runner.stages import LeftOut, SourceTweet

Pixels = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entity(_Part):
    label: str
    text: Text


class _Segment(_Part):
    entity: Text
    box: Annotated[list[Pixels], Field(min_length=4, max_length=4)]


class _Line(_Part):
    """A sample as it is written."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    text: Text
    image: Text
    entities: list[_Entity]
    segments: list[_Segment]
    summary: Text | None = None
    size: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=2)] | None = None

    @field_validator("id")
    @classmethod
    def _names_files(cls, name: str) -> str:
        if name.startswith(".") or not name.isprintable() or set(name) & set("/\\"):
            raise ValueError(f"{name!r} cannot name the files of its segments: no slash, and no dot in front")
        return name

    @field_validator("image")
    @classmethod
    def _stays_inside(cls, image: str) -> str:
        if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts or "\0" in image:
            raise ValueError(f"{image!r} leads out of the folder of images; source.images names that folder")
        return image

    @field_validator("text", "summary")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        (text or "").encode()  # Half of a surrogate pair is JSON, but no text: a UnicodeEncodeError is a ValueError.
        return text


class JsonLinesSource:
    """Lines of one's own, in the order of their files; a folder's files in the order of their names.

    A box whose entity is not among the line's entities is left out, and a sample of which no box is left.
    """

    name = "JSON lines"

    def __init__(self, options: JsonLinesOptions) -> None:
        """Take the options; nothing is read yet."""
        self._path, self._images = options.path, options.images
        self.labels: Sequence[str] = tuple(options.labels)

    def read(self) -> Iterator[SourceTweet | LeftOut]:
        """Yield each sample, and each box and sample that is left out.

        Raises:
            DataError: There is no such file, or lines are wrong; after the last line they are named, ten at most.
        """
        checked = _Checked(self.labels)
        for file in self._files():
            images = self._images or file.parent
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    told = checked.line(file, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                    if told is not None and not checked.problems:
                        yield from _entries(told, file.stem, images)
        refuse(checked.problems)

    def _files(self) -> list[Path]:
        if not self._path.exists():
            raise DataError(f"{self._path}: no such file or folder; source.path names JSON lines, or their folder")
        files = [self._path] if self._path.is_file() else sorted(self._path.glob("*.jsonl"))
        if not files:
            raise DataError(f"{self._path}: holds no <split>.jsonl, such as train.jsonl")
        for file in files:
            if file.stem in RESERVED:
                raise DataError(f"{file}: {file.stem!r} is no name for a split; call it otherwise, such as train.jsonl")
        return files


class _Checked:
    """Checks lines, and keeps what is wrong with them, to be told at once."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.problems: list[str] = []
        self._labels = labels
        self._ids: dict[str, str] = {}
        self._pictures: dict[str, str] = {}

    def line(self, file: Path, number: int, line: bytes) -> _Line | None:
        """Read a line; None where it is empty or wrong."""
        if not line.strip():
            return None
        place = f"{file}:{number}"
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{place}: is not JSON: {error}")
            return None
        if not isinstance(row, dict):
            self.problems.append(f'{place}: is no JSON object: {{"id": …, "text": …, "image": …}}')
            return None
        try:
            told = _Line.model_validate(row)
        except ValidationError as error:
            tree = Tree(row, dict.fromkeys(_paths(row), Mark(str(file), number)))
            self.problems += [str(problem) for problem in problems_of(error, _Line, tree, ())]
            return None
        found = [*self._unknown_labels(told), *self._doubles(told, place)]
        self.problems += [f"{place}: {each}" for each in found]
        return None if found else told

    def _unknown_labels(self, told: _Line) -> Iterator[str]:
        for index, entity in enumerate(told.entities):
            if entity.label not in self._labels:
                known = ", ".join(self._labels)
                yield f"entities.{index}.label: {entity.label!r} is none of {known}; source.labels names others"

    def _doubles(self, told: _Line, place: str) -> Iterator[str]:
        """Ids name segments, and the names of pictures, less their folder and suffix, are those in the data set."""
        before = self._ids.setdefault(told.id, place)
        if before != place:
            yield f"the id {told.id!r} stands at {before} too"
        stored = PurePosixPath(told.image).stem
        other = self._pictures.setdefault(stored, told.image)
        if other != told.image:
            yield f"image {told.image!r} would be stored as {stored!r}, and {other!r} too; rename one of them"


def _paths(value: Any, above: SpecPath = ()) -> Iterator[SpecPath]:
    """Yield the place of every value in a line."""
    yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from _paths(each, (*above, key))


def _entries(told: _Line, split: str, images: Path) -> Iterator[SourceTweet | LeftOut]:
    entities = tuple(Entity(each.label, " ".join(each.text.split())) for each in told.entities)
    named = {entity.text for entity in entities}
    boxes = []
    for each in told.segments:
        entity = " ".join(each.entity.split())
        if entity in named:
            left, top, right, bottom = (round(side) for side in each.box)
            boxes.append((entity, (left, top, right, bottom)))
        else:
            yield LeftOut(told.id, f"box of something that the text does not name: {entity}")
    if not boxes:
        yield LeftOut(told.id, "tweet without a box of a tagged entity")
        return
    segments = tuple(
        Segment(letter, None, entity, box) for letter, (entity, box) in zip(segment_letters(), boxes, strict=False)
    )
    size = (told.size[0], told.size[1]) if told.size else None
    sample = Sample(told.id, told.text, images / told.image, told.summary, entities, segments)
    yield SourceTweet(sample, split, size)
