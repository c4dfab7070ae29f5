"""Options of the sources `gmner` and `json_lines`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from runner.stages import FilePath, Options, OutsideFingerprint

LABELS = ("person", "location", "organization", "other")
LABEL_PATTERN = r"^[^\s:;]+(?: [^\s:;]+)*$"
"""Words separated by one space, without colon or semicolon, which delimit labels in an answer."""


class GmnerOptions(Options):
    """Twitter GMNER, version 1 or 2, as published by its authors (the repository NUSTM/GMNER), with its images."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Folder that contains `txt/` (train.txt, dev.txt, test.txt) and `xml/`."""
    images: Annotated[FilePath | None, OutsideFingerprint()] = None
    """Folder of the images, named by IMGID. Default: `images` in `path`."""


class JsonLinesOptions(Options):
    """Your own images, texts, entities and boxes, one JSON line per sample (docs/datasets.md)."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """A file, or a folder of `<split>.jsonl` files; with `split: official`, each file is one split."""
    images: Annotated[FilePath | None, OutsideFingerprint()] = None
    """Folder that the `image` paths are relative to. Default: the folder of the file."""
    labels: list[Annotated[str, Field(pattern=LABEL_PATTERN)]] = Field(default=list(LABELS), min_length=1)
    """Allowed entity labels, in order. Default: the labels of the paper."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) < len(labels):
            raise ValueError("a label occurs twice; list each label once")
        return labels
