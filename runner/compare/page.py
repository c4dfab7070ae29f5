"""Writes a comparison to one self-contained page: tables, figures, and the samples that groups disagree on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import __version__
from runner.artifacts import RunDirectory, read_lines, write_text
from runner.compare.comparison import Comparison
from runner.compare.drawing import colour, curve_drawings, difference_drawings, value_drawings
from runner.compare.groups import Group
from runner.compare.run import Run
from runner.compare.written import groups_table, intervals_table, parts_table, tests_table
from runner.errors import RunnerError, UnmetError
from runner.plan import implement
from runner.preview.page import page_template
from runner.records import Sample
from runner.spec.check import section

THUMBNAIL = 160
"""The longer side of a picture, in pixels."""


@dataclass(frozen=True)
class ShownSample:
    """A sample that groups disagree on.

    Attributes:
        id: Its id.
        text: The tweet; empty where the data set is not here.
        pictures: What each shows, and its file.
        reference: What is right, by task.
        pairs: A pair's number to its figures: a name to the values of both groups.
        answers: A group's number to what the first of its runs answered.
    """

    id: str
    text: str
    pictures: Sequence[tuple[str, Path]]
    reference: Mapping[str, Any]
    pairs: Mapping[int, Mapping[str, tuple[float, float]]]
    answers: Mapping[int, str]


def write_page(file: Path, found: Comparison) -> None:
    """Write the page; its folder is made.

    Raises:
        UnmetError: The file cannot be written.
    """
    samples, told = _samples(found.runs)
    text = page_template("runner.compare", THUMBNAIL).render(
        found=found,
        title=f"Comparison of {', '.join(dict.fromkeys(run.experiment for run in found.runs))}",
        version=__version__,
        colours=[colour(place) for place in range(len(found.groups))],
        groups=groups_table(found),
        intervals=intervals_table(found),
        tests=tests_table(found),
        parts=parts_table(found),
        differences=difference_drawings(found),
        values=value_drawings(found),
        curves=curve_drawings(found),
        shown=list(_shown(found, samples)),
        pictures_missing=told,
        pair_names=[_pair_name(found, number) for number in range(len(found.pairs))],
        pair_groups=json.dumps([[_place(found, pair.a), _place(found, pair.b)] for pair in found.pairs]),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise UnmetError(f"--html {file}: cannot be written ({error.strerror}); name another folder") from error


def _pair_name(found: Comparison, number: int) -> str:
    pair = found.pairs[number]
    told = ", ".join(pair.told.values())
    return f"{pair.a.label} – {pair.b.label}" + (f" ({told})" if told else "")


def _place(found: Comparison, group: Group) -> int:
    return next(place for place, each in enumerate(found.groups) if each is group)


def _shown(found: Comparison, samples: Mapping[str, Sample]) -> Iterator[ShownSample]:
    """Each sample once, with all pairs that disagree on it."""
    figures: dict[str, dict[int, Mapping[str, tuple[float, float]]]] = {}
    numbers = {id(pair): number for number, pair in enumerate(found.pairs)}
    for each in found.disagreements:
        figures.setdefault(each.id, {})[numbers[id(each.pair)]] = each.figures
    outputs = [_outputs(group.runs[0]) for group in found.groups]
    for name, pairs in figures.items():
        sides = {_place(found, side) for number in pairs for side in (found.pairs[number].a, found.pairs[number].b)}
        sample = samples.get(name)
        yield ShownSample(
            id=name,
            text=sample.text if sample else "",
            pictures=list(_pictures(sample)) if sample else [],
            reference=_reference(name, found.runs),
            pairs=pairs,
            answers={place: outputs[place].get(name, "") for place in sorted(sides)},
        )


def _outputs(run: Run) -> dict[str, str]:
    return {row["id"]: row["output"] for row in read_lines(RunDirectory(run.folder).predictions)}


def _reference(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """What is right, of every task that any run was asked."""
    found: dict[str, Any] = {}
    for run in runs:
        told = (run.rows[name].get("reference") or {}).items()
        found |= {task: right for task, right in told if right is not None and task not in found}
    return found


def _pictures(sample: Sample) -> Iterator[tuple[str, Path]]:
    if sample.image is not None:
        yield "image", sample.image
    for segment in sample.segments:
        if segment.image is not None:
            yield f"{segment.letter}: {segment.entity}", segment.image


class _Quiet:
    """Is told of the progress of a data set that is opened again."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Show nothing; the launch has shown it."""


def _samples(runs: Sequence[Run]) -> tuple[dict[str, Sample], str]:
    """The test samples of the runs, where their data set is here and is still the same; else why not.

    One that is not here is not made for its pictures' sake.
    """
    told = runs[0].plan["data"]
    place = told.get("path")
    if place is not None and not Path(place).exists():
        return {}, f"without texts and pictures: {place} is not here"
    try:
        data = implement(section("data", told))
        if data.prepare(_Quiet()).fingerprint != runs[0].data:
            return {}, "without texts and pictures: the data set has changed since the runs"
        return {sample.id: sample for sample in data.load("test")}, ""
    except RunnerError as error:
        return {}, f"without texts and pictures: {error}"
