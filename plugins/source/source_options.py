"""Options of the sources `gmner` and `json_lines`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from runner.stages import FilePath, Options, OutsideFingerprint

LABELS = ("person", "location", "organization", "other")
LABEL_FORM = r"^[^\s:;]+(?: [^\s:;]+)*$"
"""Words separated by one space, without colon or semicolon: what an answer can hold."""


class GmnerOptions(Options):
    """Twitter GMNER, version 1 or 2, as its authors publish it (the repository NUSTM/GMNER), with its pictures."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The folder that holds `txt/` (train.txt, dev.txt, test.txt) and `xml/`."""
    images: Annotated[FilePath | None, OutsideFingerprint()] = None
    """The folder of pictures, named by IMGID; none: `images` in `path`."""


class JsonLinesOptions(Options):
    """Pictures, texts, entities and boxes of one's own, a line of JSON a sample (docs/datasets.md)."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """A file, or a folder of `<split>.jsonl`; `split: official` calls each split as its file."""
    images: Annotated[FilePath | None, OutsideFingerprint()] = None
    """The folder that the lines' `image` starts from; none: that of the file."""
    labels: list[Annotated[str, Field(pattern=LABEL_FORM)]] = Field(default=list(LABELS), min_length=1)
    """What entities may be called, in their order; those of the paper unless told otherwise."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) < len(labels):
            raise ValueError("a label stands twice; name each once")
        return labels
