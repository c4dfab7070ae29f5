"""Reads and validates a data-set folder."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from runner.errors import DataError, read_error
from runner.files import rows_of
from runner.fingerprint import canonical_json
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import DatasetInfo


def row_of(sample: Sample, root: Path | None) -> dict[str, Any]:
    """Write a sample as plain data.

    Args:
        sample: Its pictures lie below `root`.
        root: What their paths are relative to; None to write them as they are.
    """
    return {
        "id": sample.id,
        "text": sample.text,
        "image": _name(sample.image, root),
        "summary": sample.summary,
        "entities": [{"label": each.label, "text": each.text} for each in sample.entities],
        "segments": [
            {
                "letter": each.letter,
                "image": _name(each.image, root),
                "entity": each.entity,
                "box": list(each.box),
            }
            for each in sample.segments
        ],
    }


def sample_of(row: Mapping[str, Any], root: Path) -> Sample:
    """Read what `row_of` wrote; nothing is checked.

    Args:
        row: The plain data.
        root: What the paths of pictures are relative to.
    """
    return Sample(
        row["id"],
        row["text"],
        _path(row["image"], root),
        row["summary"],
        tuple(Entity(each["label"], each["text"]) for each in row["entities"]),
        tuple(
            Segment(each["letter"], _path(each["image"], root), each["entity"], tuple(each["box"]))
            for each in row["segments"]
        ),
    )


def _name(path: Path | None, root: Path | None) -> str | None:
    if path is None:
        return None
    return str(path) if root is None else path.relative_to(root).as_posix()


def _path(name: str | None, root: Path) -> Path | None:
    return None if name is None else root / name


class StoredSamples(Sequence[Sample]):
    """Samples of a file of rows, each read when it is asked for; where it begins is all that is kept in memory."""

    def __init__(self, path: Path, root: Path) -> None:
        """Look where the rows begin; `root` as in `sample_of`."""
        self._path, self._root = path, root
        self._places = array("Q")
        end = 0
        with path.open("rb") as file:
            for line in file:
                self._places.append(end)
                end += len(line)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Read a row, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        return sample_of(self.row(index), self._root)

    def __iter__(self) -> Iterator[Sample]:
        """Read the file from its beginning to its end."""
        return (sample_of(row, self._root) for row in rows_of(self._path))

    def row(self, index: int) -> dict[str, Any]:
        """The plain data of a sample."""
        with self._path.open("rb") as file:
            file.seek(self._places[index])
            row: dict[str, Any] = json.loads(file.readline())
            return row


DESCRIPTION = "dataset.json"
PARQUET = "data"
"""The folder of an export's Parquet files; a data-set folder has none of this name."""
_DESCRIBED: Mapping[str, tuple[type, str]] = {
    "name": (str, '"gmner"'),
    "labels": (list, '["person", "location"]'),
    "num_samples": (dict, '{"train": 70, "test": 30}'),
}
"""What must stand in it: its type, and how it may look."""


class DatasetFolder:
    """A data set on disk: `dataset.json`, a `<split>.jsonl` a split, `images/`, `segments/`."""

    def __init__(self, path: Path, *, with_images: bool = True) -> None:
        """Name the folder; nothing is read yet. Without images, none need be there: texts alone are read."""
        self.path = path
        self._with_images = with_images
        self._folders: dict[Path, Path] = {}

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """What `dataset.json` says.

        Raises:
            DataError: There is no such folder, or the file is broken or lacks something.
        """
        file = self.path / DESCRIPTION
        if not file.is_file():
            raise DataError(
                f"{self.path}: no data set here (it would hold {DESCRIPTION}); make it with "
                "`runner build DATASET_SPEC`, such as specs/gmner_dataset.yaml, or correct data.path"
            )
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file}: is not JSON: {error}") from error
        for key, (kind, example) in _DESCRIBED.items():
            if not isinstance(told, dict) or not isinstance(told.get(key), kind):
                raise DataError(f"{file}: needs {key!r}, such as {example}")
        return told  # type: ignore[no-any-return]

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity labels, in their order."""
        return tuple(self.description["labels"])

    def splits(self) -> dict[str, list[Sample]]:
        """Read every split.

        Raises:
            DataError: A line is broken, or a split does not hold as many samples as `dataset.json` says.
        """
        return {split: self.load(split) for split in self.description["num_samples"]}

    def load(self, split: str) -> list[Sample]:
        """Read one split, images as absolute paths; see `splits`."""
        expected = self.description["num_samples"]
        if split not in expected:
            raise DataError(f"{self.path}: no split {split!r}; there are: {', '.join(expected)}")
        file = self.path / f"{split}.jsonl"
        if not file.is_file():
            parquet = f"; this is an export: `runner import {self.path} FOLDER` makes a data set of it"
            exported = any((self.path / PARQUET).glob("*.parquet"))
            raise DataError(f"{file}: missing, although {DESCRIPTION} names this split{parquet if exported else ''}")
        samples: dict[str, Sample] = {}
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            sample = self._sample(file, number, line)
            if sample.id in samples:
                raise read_error(file, number, f"the id {sample.id!r} stands in an earlier line too")
            samples[sample.id] = sample
        if len(samples) != expected[split]:
            raise DataError(f"{file}: holds {len(samples)} samples, and {DESCRIPTION} says {expected[split]}")
        return list(samples.values())

    def _sample(self, file: Path, number: int, line: bytes) -> Sample:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise read_error(file, number, f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise read_error(file, number, 'is no JSON object: {"id": …, "text": …}')
        try:
            return Sample(
                id=_text(row["id"]),
                text=_text(row["text"]),
                image=self._file(row.get("image")),
                summary=None if row.get("summary") is None else _text(row["summary"]),
                entities=tuple(self._entity(each) for each in row["entities"]),
                segments=self._segments(row["segments"]),
            )
        except KeyError as error:
            raise read_error(file, number, f"lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise read_error(file, number, str(error)) from error

    def _entity(self, row: Mapping[str, Any]) -> Entity:
        if row["label"] not in self.labels:
            raise ValueError(f"the label {row['label']!r} is none of {', '.join(self.labels)}")
        return Entity(row["label"], _text(row["text"]))

    def _segments(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Segment, ...]:
        segments = []
        for row, letter in zip(rows, segment_letters(), strict=False):
            if row["letter"] != letter:
                raise ValueError(f"segment {row['letter']!r} stands where {letter!r} should (a … z, aa, ab …)")
            segments.append(Segment(letter, self._file(row["image"]), _text(row["entity"]), _box(row["box"])))
        return tuple(segments)

    def _file(self, name: str | None) -> Path | None:
        if name is None:
            return None
        named = self.path / _text(name)
        # Thousands of pictures lie in a folder or two, and few of them, if any, are links.
        path = self._resolved(named.parent) / named.name
        if named.name == ".." or path.is_symlink():
            path = path.resolve()
        if not path.is_relative_to(self._resolved(self.path)):
            raise ValueError(f"the path {name!r} leads out of the data set")
        if self._with_images and not path.is_file():
            raise ValueError(f"the image {name!r} is missing")
        return path

    def _resolved(self, folder: Path) -> Path:
        if folder not in self._folders:
            self._folders[folder] = folder.resolve()
        return self._folders[folder]

    def info(self, splits: Mapping[str, Sequence[Sample]]) -> DatasetInfo:
        """Describe the data set with a fingerprint over what `splits` hold now."""
        num_samples = {split: len(samples) for split, samples in splits.items()}
        content = content_fingerprint(self.labels, splits)
        return DatasetInfo(self.description["name"], str(self.path), content, self.labels, num_samples)


def content_fingerprint(labels: Iterable[str], splits: Mapping[str, Sequence[Sample]]) -> str:
    """Hash all that is read of a data set: samples, their order, and the bytes of their images; no name, no path."""
    content = hashlib.sha256(f'{{"labels":{canonical_json(list(labels))},"splits":{{'.encode())
    # Written sample by sample, as `fingerprint` would write all of it: a data set need not fit into memory.
    for place, (split, samples) in enumerate(sorted(splits.items())):
        content.update(f"{',' if place else ''}{canonical_json(split)}:[".encode())
        for number, sample in enumerate(samples):
            content.update(f"{',' if number else ''}{canonical_json(_content(sample))}".encode())
        content.update(b"]")
    content.update(b"}}")
    return content.hexdigest()


def _content(sample: Sample) -> list[Any]:
    return [
        sample.id,
        sample.text,
        image_digest(sample.image),
        sample.summary,
        [[each.label, each.text] for each in sample.entities],
        [[each.letter, image_digest(each.image), each.entity, list(each.box)] for each in sample.segments],
    ]


def image_digest(path: Path | None) -> str | None:
    """Hash the bytes of an image: SHA-256 in hexadecimal."""
    if path is None:
        return None
    state = path.stat()
    # By the file's own number: a picture under two names is one, and thousands of paths need not be remembered.
    key = state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size
    if key not in _digests:
        _digests[key] = hashlib.sha256(path.read_bytes()).digest()
    return _digests[key].hex()


_digests: dict[tuple[int, int, int, int], bytes] = {}
"""A file is hashed once for as long as it is not touched: splits are hashed for their leaks and for their content."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} should be text")
    value.encode()  # Half of a surrogate pair is JSON, but no text: a UnicodeEncodeError is a ValueError.
    return value


def _box(value: Any) -> tuple[int, int, int, int]:
    match value:
        case [int(left), int(top), int(right), int(bottom)] if 0 <= left < right and 0 <= top < bottom:
            return left, top, right, bottom
    raise ValueError(f"the box {value!r} is not left, top, right, bottom in pixels")
