"""A data set in figures: what was counted and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.dataset.statistics import spread


@dataclass(frozen=True)
class Figures:
    """A data set in figures.

    Attributes:
        name: The data set's.
        path: Its folder.
        fingerprint: As its `dataset.json` says.
        labels: In their order.
        counts: By split: what is counted to how many there are.
        total: The same of the whole data set; an image that splits share counts once.
        values: What is measured to a value a sample, a picture or a segment, in no order.
        published: What the paper says of this data set; None of any other.
        model: Whose tokens are counted; None where none was named.
        estimated: Whether tokens of text are worked out from characters, for want of the tokenizer.
    """

    name: str
    path: Path
    fingerprint: str | None
    labels: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    total: Mapping[str, int]
    values: Mapping[str, Sequence[int]]
    published: Mapping[str, Any] | None
    model: str | None = None
    estimated: bool = False

    @cached_property
    def spreads(self) -> dict[str, dict[str, float]]:
        """What is measured to `max`, `min`, `median` and `mean`; without what there is nothing of."""
        found = {name: spread(values) for name, values in self.values.items()}
        return {name: each for name, each in found.items() if each is not None}

    def as_json(self) -> dict[str, Any]:
        """The figures as docs/interface.md's `stats --json` holds them."""
        return {
            "name": self.name,
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "labels": list(self.labels),
            "counts": {split: dict(each) for split, each in self.counts.items()},
            "total": dict(self.total),
            "spreads": self.spreads,
            "published": self.published,
            "model": self.model,
            "estimated": self.estimated,
        }
