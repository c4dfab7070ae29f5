"""The source plugin `json_lines`: your own samples, as JSON lines with image, text, entities and boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from plugins.source.boxes import convert_box, upright_size
from plugins.source.image_folders import ImageFolders, image_folders
from plugins.source.sample_ids import MAX_LENGTH, id_problem
from plugins.source.source_options import JsonLinesOptions
from runner.dataset.answer_files import raise_problems
from runner.errors import DataError, SpecPath, data_line_error
from runner.files import HEAD_BYTES, describe_json_error, other_format
from runner.records import Entity, Sample, Segment, is_blank, nfc, segment_letters
from runner.spec.check import validation_problems
from runner.spec.yaml_layers import Mark, Tree
from runner.stages import SkippedEntry, SourceTweet
from runner.stages.data_and_annotator import RESERVED_NAMES

Pixels = Annotated[float, Field(allow_inf_nan=False)]


def _check_not_blank(text: str) -> str:
    if text and is_blank(text):
        raise ValueError("holds only white space; write a text, or remove the value")
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_check_not_blank)]


class _LinePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entity(_LinePart):
    label: str
    text: Text


class _Segment(_LinePart):
    entity: Text
    box: Annotated[list[Pixels], Field(min_length=4, max_length=4)]


class _Line(_LinePart):
    """A line of the file: one sample."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]
    text: Text
    image: Text
    entities: list[_Entity]
    segments: list[_Segment]
    summary: Text | None = None
    size: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=2)] | None = None

    @field_validator("id")
    @classmethod
    def _names_files(cls, name: str) -> str:
        if problem := id_problem(name):
            raise ValueError(problem)
        return name

    @field_validator("image")
    @classmethod
    def _stays_inside(cls, image: str) -> str:
        if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts or "\0" in image:
            raise ValueError(f"{image!r} is outside the image folder; source.images sets that folder")
        return image

    @field_validator("text", "summary")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        (text or "").encode()  # Raises UnicodeEncodeError, a ValueError, for a lone surrogate, which JSON allows.
        return text


class JsonLinesSource:
    """Your own samples, in the order of the lines; files of a folder are sorted by name.

    A box whose entity is not one of the line's entities is skipped.
    """

    name = "JSON lines"

    def __init__(self, options: JsonLinesOptions) -> None:
        """Store the options; `read` opens the files."""
        self._options, self._path = options, options.path
        self.labels: Sequence[str] = tuple(options.labels)

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each sample, and an entry for each skipped box.

        Raises:
            DataError: The file does not exist, or lines are invalid. Up to ten invalid lines are reported after the
                last line.
        """
        checker = _LineChecker(self.labels)
        images = ImageFolders(image_folders(self._options.images, _parent(self._path)))
        if self._options.images is not None:
            images.check()
        for file in self._files():
            with file.open("rb") as lines:
                if problem := other_format(lines.read(HEAD_BYTES)):
                    raise data_line_error(file, 1, problem)
                lines.seek(0)
                for number, line in enumerate(lines, start=1):
                    sample = checker.check(file, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                    if sample is not None:
                        entries = list(self._entries(sample, file, number, images, checker.problems))
                        if not checker.problems:
                            yield from entries
        raise_problems(checker.problems)

    def _entries(
        self, line: _Line, file: Path, number: int, images: ImageFolders, problems: list[str]
    ) -> Iterator[SourceTweet | SkippedEntry]:
        location = f"{file}:{number}"
        try:
            image = images.find(line.image)
        except DataError as error:
            problems.append(f"{location}: image: {error} (sample {line.id})")
            return
        entities = tuple(Entity(entity.label, " ".join(entity.text.split())) for entity in line.entities)
        mentions = {nfc(entity.text) for entity in entities}
        size = (line.size[0], line.size[1]) if line.size else None
        boxes = []
        for index, segment in enumerate(line.segments):
            name = " ".join(segment.entity.split())
            if nfc(name) not in mentions:
                yield SkippedEntry(line.id, f"box of something that is not an entity of the text: {name}")
                continue
            try:
                image_size = None if self._options.box_unit == "pixels" else size or upright_size(image)
                boxes.append((name, convert_box(segment.box, self._options, image_size)))
            except DataError as error:
                problems.append(f"{location}: segments.{index}.box: {error} (sample {line.id})")
        segments = tuple(
            Segment(letter, None, name, box) for letter, (name, box) in zip(segment_letters(), boxes, strict=False)
        )
        yield SourceTweet(
            Sample(line.id, line.text, image, line.summary, entities, segments), file.stem, size, location
        )

    def _files(self) -> list[Path]:
        if not self._path.exists():
            raise DataError(
                f"{self._path}: no such file or folder; source.path is a file of JSON lines, or a folder of such files"
            )
        if self._path.is_file():
            files = [self._path]
        else:
            content = sorted(self._path.iterdir())
            files = [file for file in content if file.suffix.lower() == ".jsonl"]
            if not files:
                others = ", ".join(file.name for file in content[:5])
                found = f"; the folder contains {others}" if others else ""
                raise DataError(f"{self._path}: contains no <split>.jsonl, such as train.jsonl{found}")
        for file in files:
            if file.stem in RESERVED_NAMES:
                raise DataError(
                    f"{file}: {file.stem!r} cannot be the name of a split; rename the file, for example to train.jsonl"
                )
        return files


class _LineChecker:
    """Checks lines and collects their problems, to report them together."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.problems: list[str] = []
        self._labels = labels
        self._ids: dict[str, str] = {}
        self._images: dict[str, str] = {}

    def check(self, file: Path, number: int, line: bytes) -> _Line | None:
        """Parse and check a line; return None if it is empty or invalid."""
        if not line.strip():
            return None
        location = f"{file}:{number}"
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{location}: {describe_json_error(error)}")
            return None
        if not isinstance(row, dict):
            self.problems.append(f'{location}: is not a JSON object: {{"id": …, "text": …, "image": …}}')
            return None
        try:
            sample = _Line.model_validate(row)
        except ValidationError as error:
            tree = Tree(row, dict.fromkeys(_paths(row), Mark(str(file), number)))
            self.problems += [str(problem) for problem in validation_problems(error, _Line, tree, ())]
            return None
        problems = [*self._unknown_labels(sample), *self._duplicates(sample, location)]
        self.problems += [f"{location}: {problem}" for problem in problems]
        return None if problems else sample

    def _unknown_labels(self, sample: _Line) -> Iterator[str]:
        for index, entity in enumerate(sample.entities):
            if entity.label not in self._labels:
                known = ", ".join(self._labels)
                yield f"entities.{index}.label: {entity.label!r} is not one of {known}; source.labels sets them"

    def _duplicates(self, sample: _Line, location: str) -> Iterator[str]:
        """Find ids and image names that occur twice: both become file names in the data set."""
        first = self._ids.setdefault(sample.id, location)
        if first != location:
            yield f"the id {sample.id!r} is already used at {first}"
        stored = PurePosixPath(sample.image).stem
        other = self._images.setdefault(stored, sample.image)
        if other != sample.image:
            yield f"image {sample.image!r} would be stored as {stored!r}, like {other!r}; rename one of them"


def _paths(value: Any, path: SpecPath = ()) -> Iterator[SpecPath]:
    """Yield the path of every value in a line."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _parent(path: Path) -> Path:
    """Return the folder that contains the lines: the path itself, or that of the file."""
    return path if path.is_dir() else path.parent
