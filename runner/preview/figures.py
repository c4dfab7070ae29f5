"""Writes the figures of a data set to one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.dataset.figures import Figures
from runner.dataset.statistics import SPREAD
from runner.preview.page import fill

ENTITIES = "entities/"
"""What the counts of a label begin with."""
NUM_BARS = 30
"""Of a histogram, at most."""

TITLES = {
    "summary_characters": "characters of a summary",
    "summary_words": "words of a summary",
    "text_characters": "characters of a text",
    "text_words": "words of a text",
    "entities": "entities of a sample",
    "segments": "segments of a sample",
    "image_width": "width of an image, pixels",
    "image_height": "height of an image, pixels",
    "segment_width": "width of a segment, pixels",
    "segment_height": "height of a segment, pixels",
    "tokens_text": "tokens of a prompt's text",
    "tokens_image": "tokens of a prompt's images",
    "tokens_target": "tokens of an answer",
    "tokens_total": "tokens of a sample",
}
"""What is measured, in the order of tables and page."""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: how many values lie from `low` to `high`, both included."""

    low: int
    high: int
    number: int


def histogram(values: Sequence[int]) -> list[Bar]:
    """Count values in bars of one width, at most `NUM_BARS`; a bar a value where so many are enough."""
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // NUM_BARS)
    numbers = [0] * ((high - low) // width + 1)
    for value in values:
        numbers[(value - low) // width] += 1
    return [Bar(low + at * width, low + (at + 1) * width - 1, number) for at, number in enumerate(numbers)]


def by_label(figures: Figures) -> dict[str, dict[str, int]]:
    """How many entities there are of each label, by split."""
    labels = [name for name in figures.total if name.startswith(ENTITIES)]
    return {
        name.removeprefix(ENTITIES): {split: each.get(name, 0) for split, each in figures.counts.items()}
        for name in labels
    }


def shown(value: float) -> str:
    """A figure for people, with a decimal where it is no whole number: `1,024`, `53.3`."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def write_figures(file: Path, figures: Figures) -> None:
    """Write the page.

    Raises:
        UnmetError: The file cannot be written.
    """
    labels = by_label(figures)
    fill(
        file,
        "figures.html.jinja",
        figures=figures,
        titles=TITLES,
        columns=SPREAD,
        shown=shown,
        published=figures.published or {"counts": {}, "spreads": {}},
        labels=labels,
        most_entities=max((sum(numbers.values()) for numbers in labels.values()), default=0),
        histograms={
            name: histogram(figures.values[name]) for name in TITLES if len(set(figures.values.get(name, ()))) > 1
        },
    )
