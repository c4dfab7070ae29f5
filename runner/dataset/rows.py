"""A sample as a line of JSON, as docs/interface.md has it, and back."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from runner.files import rows_of
from runner.records import Entity, Sample, Segment


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
