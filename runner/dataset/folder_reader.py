"""Reads and validates a data-set folder."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from runner.errors import DataError, data_line_error
from runner.files import HEAD_BYTES, describe_json_error, iter_jsonl, other_format
from runner.fingerprint_and_provenance import canonical_json
from runner.images import read_image_file
from runner.records import Entity, Sample, Segment, find_text_problem, segment_letters
from runner.stages import DatasetInfo


def sample_to_row(sample: Sample, root: Path | None) -> dict[str, Any]:
    """Convert a sample to plain data for JSON.

    Args:
        sample: The sample. Its images lie below `root`.
        root: Image paths are written relative to this folder; None writes them unchanged.
    """
    return {
        "id": sample.id,
        "text": sample.text,
        "image": _path_to_name(sample.image, root),
        "summary": sample.summary,
        "entities": [{"label": entity.label, "text": entity.text} for entity in sample.entities],
        "segments": [
            {
                "letter": segment.letter,
                "image": _path_to_name(segment.image, root),
                "entity": segment.entity,
                "box": list(segment.box),
            }
            for segment in sample.segments
        ],
    }


def sample_from_row(row: Mapping[str, Any], root: Path) -> Sample:
    """Convert the output of `sample_to_row` back to a sample, without validation.

    Args:
        row: The plain data.
        root: The folder that image paths are relative to.
    """
    return Sample(
        row["id"],
        row["text"],
        _name_to_path(row["image"], root),
        row["summary"],
        tuple(Entity(entity["label"], entity["text"]) for entity in row["entities"]),
        tuple(
            Segment(segment["letter"], _name_to_path(segment["image"], root), segment["entity"], tuple(segment["box"]))
            for segment in row["segments"]
        ),
    )


def _path_to_name(path: Path | None, root: Path | None) -> str | None:
    if path is None:
        return None
    return str(path) if root is None else path.relative_to(root).as_posix()


def _name_to_path(name: str | None, root: Path) -> Path | None:
    return None if name is None else root / name


class JsonlSamples(Sequence[Sample]):
    """The samples of a JSON-lines file, each read on access; only line offsets are held in memory."""

    def __init__(self, path: Path, root: Path) -> None:
        """Index the lines of the file.

        Args:
            path: The file, written from rows of `sample_to_row`.
            root: The folder that image paths are relative to.
        """
        self._path, self._root = path, root
        self._offsets = array("Q")
        end = 0
        with path.open("rb") as file:
            for line in file:
                self._offsets.append(end)
                end += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Read one sample, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        return sample_from_row(self.row(index), self._root)

    def __iter__(self) -> Iterator[Sample]:
        """Read the file sequentially."""
        return (sample_from_row(row, self._root) for row in iter_jsonl(self._path))

    def row(self, index: int) -> dict[str, Any]:
        """Read the plain data of one sample."""
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            row: dict[str, Any] = json.loads(file.readline())
            return row


DESCRIPTION_FILE = "dataset.json"
PARQUET_FOLDER = "data"
"""The folder of an export's Parquet files; a data-set folder has none of this name."""
_REQUIRED_KEYS: Mapping[str, tuple[type, str]] = {
    "name": (str, '"gmner"'),
    "labels": (list, '["person", "location"]'),
    "num_samples": (dict, '{"train": 70, "test": 30}'),
}
"""Keys that `dataset.json` must have: the type of the value and an example for the error message."""

_OPTIONAL_KEYS: Mapping[str, type] = {"provenance": dict, "statistics": dict, "license": str, "fingerprint": str}
"""Keys that `dataset.json` may have, and the type of the value unless it is null."""
MAX_DEPTH = 50
"""Levels of nested objects and lists in `dataset.json`."""


def _depth(value: Any, limit: int) -> int:
    """Count the levels of nested objects and lists, up to one more than a limit."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if items is None or limit < 0:
        return 0
    return 1 + max((_depth(item, limit - 1) for item in items), default=0)


class DatasetFolder:
    """A data set on disk: `dataset.json`, one `<split>.jsonl` per split, `images/` and `segments/`."""

    def __init__(self, path: Path, *, with_images: bool = True) -> None:
        """Store the path; nothing is read yet.

        Args:
            path: The folder.
            with_images: Whether image files must exist. False reads the texts alone.
        """
        self.path = path
        self._with_images = with_images
        self._resolved_folders: dict[Path, Path] = {}

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """The content of `dataset.json`.

        Raises:
            DataError: The folder or the file is missing, the file is not valid JSON, a required key is missing, or a
                number of samples is not a number.
        """
        file = self.path / DESCRIPTION_FILE
        if not file.is_file():
            raise DataError(
                f"{self.path}: no data set here ({DESCRIPTION_FILE} is missing). Build it with "
                "`runner build DATASET_SPEC`, for example specs/gmner_dataset.yaml, or correct data.path"
            )
        try:
            description = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: {describe_json_error(error)}") from error
        if _depth(description, MAX_DEPTH) > MAX_DEPTH:
            raise DataError(f"{file}: is nested more than {MAX_DEPTH} levels deep")
        for key, (value_type, example) in _REQUIRED_KEYS.items():
            if not isinstance(description, dict) or not isinstance(description.get(key), value_type):
                raise DataError(f"{file}: the key {key!r} is missing or has the wrong type. Example: {example}")
        for key, value_type in _OPTIONAL_KEYS.items():
            if description.get(key) is not None and not isinstance(description[key], value_type):
                expected = "a text" if value_type is str else "a JSON object"
                raise DataError(f"{file}: the key {key!r} is {ascii(description[key])[:80]}; {expected} is expected")
        if not all(isinstance(label, str) for label in description["labels"]):
            raise DataError(f"{file}: labels: each label must be a text. Example: {_REQUIRED_KEYS['labels'][1]}")
        for split, number in description["num_samples"].items():
            if not isinstance(number, int) or isinstance(number, bool):
                example = _REQUIRED_KEYS["num_samples"][1]
                raise DataError(f"{file}: num_samples: {split}: {number!r} is not a number. Example: {example}")
        return description  # type: ignore[no-any-return]

    @property
    def labels(self) -> tuple[str, ...]:
        """The entity labels in the order of `dataset.json`."""
        return tuple(self.description["labels"])

    def load_splits(self) -> dict[str, list[Sample]]:
        """Read all splits.

        Raises:
            DataError: A line is invalid, or the number of samples differs from `dataset.json`.
        """
        return {split: self.load(split) for split in self.description["num_samples"]}

    def load(self, split: str) -> list[Sample]:
        """Read one split, with absolute image paths; raises like `load_splits`."""
        num_samples = self.description["num_samples"]
        if split not in num_samples:
            raise DataError(f"{self.path}: there is no split {split!r}. Available splits: {', '.join(num_samples)}")
        file = self.path / f"{split}.jsonl"
        if not file.is_file():
            is_export = any((self.path / PARQUET_FOLDER).glob("*.parquet"))
            remedy = f". This is an export: convert it with `runner import {self.path} FOLDER`" if is_export else ""
            for other in sorted(self.path.iterdir()):
                if other.stem == split and other.suffix.lower() in {".json", ".jsonl"}:
                    remedy = f", and there is {other.name}. Rename {other.name} if it contains JSON lines"
            raise DataError(f"{file}: is missing, but {DESCRIPTION_FILE} lists this split{remedy}")
        samples: dict[str, Sample] = {}
        content = file.read_bytes()
        if problem := other_format(content[:HEAD_BYTES]):
            raise data_line_error(file, 1, problem)
        for number, line in enumerate(content.split(b"\n"), start=1):
            if not line.strip():
                continue
            sample = self._parse_line(file, number, line)
            if sample.id in samples:
                raise data_line_error(file, number, f"the id {sample.id!r} occurs in an earlier line")
            samples[sample.id] = sample
        if len(samples) != num_samples[split]:
            raise DataError(
                f"{file}: contains {len(samples)} samples, but {DESCRIPTION_FILE} says {num_samples[split]}"
            )
        return list(samples.values())

    def _parse_line(self, file: Path, number: int, line: bytes) -> Sample:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise data_line_error(file, number, describe_json_error(error)) from error
        if not isinstance(row, dict):
            raise data_line_error(file, number, 'is not a JSON object such as {"id": …, "text": …}')
        try:
            sample = Sample(
                id=_check_text(row["id"]),
                text=_check_text(row["text"]),
                image=self._resolve_image(row.get("image")),
                summary=None if row.get("summary") is None else _check_text(row["summary"]),
                entities=tuple(self._parse_entity(entity) for entity in _list_of_objects(row, "entities")),
                segments=self._parse_segments(_list_of_objects(row, "segments")),
            )
        except KeyError as error:
            raise data_line_error(file, number, f"the key {error} is missing") from error
        # A path can be too long for the system, or a loop of links (RuntimeError in Python 3.11).
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise data_line_error(file, number, str(error)) from error
        if problem := find_text_problem(sample):
            raise data_line_error(file, number, problem)
        return sample

    def _parse_entity(self, row: Mapping[str, Any]) -> Entity:
        if row["label"] not in self.labels:
            raise ValueError(f"the label {row['label']!r} is unknown. Known labels: {', '.join(self.labels)}")
        return Entity(row["label"], _check_text(row["text"]))

    def _parse_segments(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Segment, ...]:
        segments = []
        for row, letter in zip(rows, segment_letters(), strict=False):
            if row["letter"] != letter:
                raise ValueError(f"segment {row['letter']!r} should be {letter!r} (a … z, aa, ab …)")
            entity = _check_text(row["entity"])
            segments.append(Segment(letter, self._resolve_image(row["image"]), entity, _parse_box(row["box"])))
        return tuple(segments)

    def _resolve_image(self, name: str | None) -> Path | None:
        if name is None:
            return None
        joined = self.path / _check_text(name)
        # Thousands of images share one or two folders, and few images are links: each folder is resolved once.
        path = self._resolve_folder(joined.parent) / joined.name
        if joined.name == ".." or path.is_symlink():
            path = path.resolve()
        if not path.is_relative_to(self._resolve_folder(self.path)):
            raise ValueError(f"the path {name!r} is outside the data set")
        if self._with_images and not path.is_file():
            raise ValueError(f"the image {name!r} is missing")
        return path

    def _resolve_folder(self, folder: Path) -> Path:
        if folder not in self._resolved_folders:
            self._resolved_folders[folder] = folder.resolve()
        return self._resolved_folders[folder]

    def info(self, splits: Mapping[str, Sequence[Sample]]) -> DatasetInfo:
        """Describe the data set, with a fingerprint over the current content of `splits`."""
        num_samples = {split: len(samples) for split, samples in splits.items()}
        content = content_fingerprint(self.labels, splits)
        return DatasetInfo(self.description["name"], str(self.path), content, self.labels, num_samples)


def content_fingerprint(labels: Iterable[str], splits: Mapping[str, Sequence[Sample]]) -> str:
    """Hash the content of a data set: samples in order, with the bytes of their images, but no name and no path."""
    content = hashlib.sha256(f'{{"labels":{canonical_json(list(labels))},"splits":{{'.encode())
    # The hash equals that of `fingerprint` over the whole content. It is computed sample by sample because a data
    # set need not fit into memory.
    for index, (split, samples) in enumerate(sorted(splits.items())):
        content.update(f"{',' if index else ''}{canonical_json(split)}:[".encode())
        for number, sample in enumerate(samples):
            content.update(f"{',' if number else ''}{canonical_json(_sample_content(sample))}".encode())
        content.update(b"]")
    content.update(b"}}")
    return content.hexdigest()


def _sample_content(sample: Sample) -> list[Any]:
    return [
        sample.id,
        sample.text,
        image_digest(sample.image),
        sample.summary,
        [[entity.label, entity.text] for entity in sample.entities],
        [
            [segment.letter, image_digest(segment.image), segment.entity, list(segment.box)]
            for segment in sample.segments
        ],
    ]


def image_digest(path: Path | None) -> str | None:
    """Hash the bytes of an image: SHA-256 in hexadecimal."""
    if path is None:
        return None
    stat = path.stat()
    # The key is the inode: two names of one image share an entry, and thousands of paths need no memory.
    key = stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
    if key not in _digests:
        _digests[key] = hashlib.sha256(read_image_file(path)).digest()
    return _digests[key].hex()


_digests: dict[tuple[int, int, int, int], bytes] = {}
"""Digests by file state. Each unchanged file is hashed once, although leak search and fingerprint both need it."""


def _list_of_objects(row: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = row[key]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TypeError(f"{key!r} is {ascii(value)[:80]}; a list of objects is expected")
    return value


def _check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} should be text")
    value.encode()  # JSON can hold an unpaired surrogate, which is not valid text: UnicodeEncodeError is a ValueError.
    return value


def _parse_box(value: Any) -> tuple[int, int, int, int]:
    match value:
        case [int(left), int(top), int(right), int(bottom)] if 0 <= left < right and 0 <= top < bottom:
            if not any(isinstance(side, bool) for side in value):  # `true` is 1 in Python
                return left, top, right, bottom
    raise ValueError(f"the box {value!r} should be [left, top, right, bottom] in pixels")
