"""Keeps a sample of the wrong answers with what was shown, for people to look at where the data is not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from runner.artifacts import write_lines
from runner.records import Answer, Prediction, Sample
from runner.steps.context import TrialContext

NUM_MISTAKES = 24
"""How many are kept: what a person looks through, and as many small files for the tracker."""
HEIGHT = 128
"""Of the pictures, in pixels."""
MOST_PIXELS = 50_000_000
"""A picture of more is not opened only to make a small one."""


def keep_mistakes(context: TrialContext, outputs: Mapping[str, str], references: Mapping[str, Answer]) -> None:
    """Leave `mistakes.jsonl` and the folder `mistakes/`, with one strip of pictures for each: the whole, the segments.

    Which ones is decided by their ids alone, so that runs which are wrong about the same samples show the same.
    """
    samples = {sample.id: sample for sample in context.samples("test")}
    read = {name: context.adapter.parse(outputs[name], context.adapter.parse_modes[0]) for name in references}
    wrong = [name for name, right in references.items() if is_wrong(read[name], right)]
    drawn = set(sorted(wrong, key=_lot)[:NUM_MISTAKES])
    folder = context.run.mistakes
    shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for name in [name for name in wrong if name in drawn]:
        row = {"text": samples[name].text, **_sides(read[name], references[name]), "output": outputs[name]}
        picture = _strip(samples[name])
        file = folder / f"{len(rows) + 1}.jpg"
        if picture is not None:
            folder.mkdir(exist_ok=True)
            picture.save(file, quality=85)
        shown = f"{folder.name}/{file.name}" if picture is not None else None
        rows.append({"id": name, "pictures": shown, **row})
    write_lines(folder.with_suffix(".jsonl"), rows)


def _lot(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def is_wrong(prediction: Prediction, right: Answer) -> bool:
    """Whether pairs or segments differ, or the answer could not be read; of summaries alone, whether they differ."""
    read = prediction.answer
    if right.pairs is None and right.mapping is None:
        return read.summary != right.summary
    return prediction.ending == "malformed" or (read.pairs, read.mapping) != (right.pairs, right.mapping)


def _sides(prediction: Prediction, right: Answer) -> dict[str, Any]:
    """What was read and what is right, side by side, as text."""
    read = prediction.answer
    told: dict[str, Any] = {}
    if right.pairs is not None:
        told |= {"pairs": _pairs(read.pairs), "right pairs": _pairs(right.pairs)}
    if right.mapping is not None:
        told |= {"segments": _mapping(read.mapping), "right segments": _mapping(right.mapping)}
    if right.summary is not None:
        told |= {"summary": read.summary, "right summary": right.summary}
    return {**told, "parse": prediction.ending, "notes": "; ".join(prediction.notes)}


def _pairs(pairs: frozenset[tuple[str, str]] | None) -> str:
    return "; ".join(f"{label}: {entity}" for label, entity in sorted(pairs or ()))


def _mapping(mapping: Mapping[str, str] | None) -> str:
    return "; ".join(f"{letter}: {entity}" for letter, entity in (mapping or {}).items())


def _strip(sample: Sample) -> Image.Image | None:
    """The pictures of a sample in a row, the whole one first; None where there are none that can be read."""
    paths = [sample.image, *(segment.image for segment in sample.segments)]
    pictures = [picture for path in paths if path is not None and (picture := _small(path)) is not None]
    if not pictures:
        return None
    strip = Image.new("RGB", (sum(each.width + 4 for each in pictures) - 4, HEIGHT), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + 4
    return strip


def _small(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            picture.draft("RGB", (HEIGHT * 4, HEIGHT * 2))
            return ImageOps.contain(picture.convert("RGB"), (HEIGHT * 3, HEIGHT))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's kinds for a broken file
        return None
