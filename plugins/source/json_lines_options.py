"""Options of the source `json_lines`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from runner.stages import FilePath, Options, OutsideFingerprint

LABELS = ("person", "location", "organization", "other")
LABEL_FORM = r"^[^\s:;]+(?: [^\s:;]+)*$"
"""Words with one space between them, no colon and no semicolon: what an answer can hold."""


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
