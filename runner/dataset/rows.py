"""A sample as a line of JSON, as docs/interface.md has it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
