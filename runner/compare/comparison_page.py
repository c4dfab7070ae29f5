"""Writes a comparison as one self-contained HTML page: tables, plots and samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner import __version__
from runner.compare.comparison import Comparison
from runner.compare.comparison_plots import curve_plots, difference_plots, group_colour, value_plots
from runner.compare.finished_runs import Run
from runner.compare.groups import Group
from runner.compare.tables import (
    claim_tables,
    groups_table,
    intervals_table,
    published_tables,
    reinforcement_tables,
    subgroups_table,
    tests_table,
)
from runner.dataset.answer_files import read_answer_file
from runner.errors import RequirementError, RunnerError
from runner.files import write_text
from runner.html_page import page_template
from runner.records import Answer, GroundedEntity, Sample
from runner.regime import parse_row
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.stages import Adapter, Data, GeneratedData, have_same_region
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.score import RIGHT_IOU

MAX_OPEN_ROWS = 40
"""A table of differences with more rows is folded at first."""
SAMPLES_PER_PAGE = 10
"""Number of samples that the page lists at once."""


THUMBNAIL_PIXELS = 160
"""Length of the longer side of a picture."""

Verdict = Literal["correct", "wrong", "missing"]


@dataclass(frozen=True)
class MarkedItem:
    """A label-entity pair or a segment of an answer, compared with the reference.

    Attributes:
        text: `person: Ann` or `a = Ann`.
        verdict: `wrong`: the reference does not have it; `missing`: only the reference has it.
    """

    text: str
    verdict: Verdict


@dataclass(frozen=True)
class ComparedAnswer:
    """The answer of one group to a sample.

    Attributes:
        output: The generated text.
        summary: The parsed summary; empty if there is none.
        marked: The parsed pairs, then the parsed segments, each compared with the reference.
        problem: Why the answer is missing, or could not be parsed with the run's adapter; empty if it was parsed, or
            without the data set.
    """

    output: str
    summary: str = ""
    marked: Sequence[MarkedItem] = ()
    problem: str = ""


@dataclass(frozen=True)
class ComparedSample:
    """A sample on which groups disagree.

    Attributes:
        id: The id of the sample.
        text: The text of the tweet; empty if the data set is not available.
        pictures: The caption and the file of each picture.
        reference: The reference answer by task.
        changes: Index of each pair that disagrees to its metrics: name to the values of `a` and of `b`.
        answers: Index of each group of these pairs to the answer of its first run.
    """

    id: str
    text: str
    pictures: Sequence[tuple[str, Path]]
    reference: Mapping[str, Any]
    changes: Mapping[int, Mapping[str, tuple[float, float]]]
    answers: Mapping[int, ComparedAnswer]

    @property
    def largest_change(self) -> tuple[int, str, float, float]:
        """The pair and metric that differ most, with the values of `a` and of `b`."""
        changes = [(pair, name, *values) for pair, metrics in self.changes.items() for name, values in metrics.items()]
        return max(changes, key=lambda change: abs(change[2] - change[3]))


def write_page(file: Path, comparison: Comparison) -> None:
    """Write the page; missing parent folders are created.

    Raises:
        RequirementError: The file cannot be written.
    """
    test_split = _load_test_split(comparison.runs)
    html = page_template("comparison.html.jinja", THUMBNAIL_PIXELS).render(
        comparison=comparison,
        title=f"Comparison of {', '.join(dict.fromkeys(run.experiment for run in comparison.runs))}",
        version=__version__,
        colours=[group_colour(index) for index in range(len(comparison.groups))],
        claim_tables=claim_tables(comparison),
        reinforcement_tables=reinforcement_tables(comparison),
        groups=groups_table(comparison),
        intervals=intervals_table(comparison),
        published=list(zip(published_tables(comparison), comparison.published, strict=True)),
        tests=tests_table(comparison, as_change=True, full=True),
        subgroups=subgroups_table(comparison, as_change=True),
        difference_plots=difference_plots(comparison),
        value_plots=value_plots(comparison),
        curve_plots=curve_plots(comparison),
        samples=list(_compared_samples(comparison, test_split)),
        missing_data=test_split.problem,
        max_open_rows=MAX_OPEN_ROWS,
        samples_per_page=SAMPLES_PER_PAGE,
        pair_changes=[_change_name(comparison, index) for index in range(len(comparison.pairs))],
        pair_groups=json.dumps(
            [[_group_index(comparison, pair.a), _group_index(comparison, pair.b)] for pair in comparison.pairs]
        ),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, html)
    except OSError as error:
        raise RequirementError(f"--html {file}: cannot be written ({error.strerror}); choose another folder") from error


def _change_name(comparison: Comparison, pair_index: int) -> str:
    pair = comparison.pairs[pair_index]
    details = ", ".join(pair.details.values())
    return f"{pair.b.label} → {pair.a.label}" + (f" ({details})" if details else "")


def _group_index(comparison: Comparison, group: Group) -> int:
    return next(index for index, other in enumerate(comparison.groups) if other is group)


@dataclass(frozen=True)
class _TestSplit:
    """The samples of the test split by id, and the labels of the data set; empty if there is a problem."""

    samples: Mapping[str, Sample]
    labels: Sequence[str]
    problem: str = ""


def _load_test_split(runs: Sequence[Run]) -> _TestSplit:
    """Load the test samples of the runs if their data set exists and is unchanged; a missing one is not generated."""
    section = runs[0].plan["data"]
    path = section.get("path")
    if path is not None and not Path(path).exists():
        return _TestSplit({}, (), f"{path} does not exist")
    try:
        data: Data = create_plugin(make_section("data", section))
        info = data.prepare_existing() if isinstance(data, GeneratedData) else data.prepare(_SilentReporter())
        if info.fingerprint != runs[0].data_fingerprint:
            return _TestSplit({}, (), "the data set has changed since the runs")
        return _TestSplit({sample.id: sample for sample in data.load("test")}, info.labels)
    except RunnerError as error:
        return _TestSplit({}, (), str(error))


class _SilentReporter:
    """Ignores progress and warnings: the launch of the runs has shown them."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore metrics."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Ignore a warning."""

    def stop_requested(self) -> bool:
        """Never stop."""
        return False


def _compared_samples(comparison: Comparison, test_split: _TestSplit) -> Iterator[ComparedSample]:
    """Yield each sample once, with all pairs that disagree on it."""
    changes: dict[str, dict[int, Mapping[str, tuple[float, float]]]] = {}
    pair_indices = {id(pair): index for index, pair in enumerate(comparison.pairs)}
    for disagreement in comparison.disagreements:
        changes.setdefault(disagreement.id, {})[pair_indices[id(disagreement.pair)]] = disagreement.values
    readers = [_answer_reader(group.runs[0], comparison.parse_mode, test_split.labels) for group in comparison.groups]
    for sample_id, by_pair in changes.items():
        pairs = [comparison.pairs[index] for index in by_pair]
        groups = {_group_index(comparison, group) for pair in pairs for group in (pair.a, pair.b)}
        sample = test_split.samples.get(sample_id)
        yield ComparedSample(
            id=sample_id,
            text=sample.text if sample else "",
            pictures=list(_pictures(sample)) if sample else [],
            reference=_merged_reference(sample_id, comparison.runs),
            changes=by_pair,
            answers={index: readers[index](sample_id) for index in sorted(groups)},
        )


def _read_answer_rows(file: Path) -> dict[str, dict[str, Any]]:
    """Read the answers of a run by sample id.

    Raises:
        DataError: The file is broken.
    """
    return (
        {sample_id: line.as_row() for sample_id, line in read_answer_file(file, "output").items()}
        if file.exists()
        else {}
    )


def _answer_reader(run: Run, mode: str, labels: Sequence[str]) -> Callable[[str], ComparedAnswer]:
    """Return a function from a sample id to the run's answer, marked if the labels and the adapter are available."""
    rows = _read_answer_rows(RunDirectory(run.folder).predictions)
    adapter: Adapter | None = None
    problem = ""
    try:
        if labels:
            adapter = create_plugin(make_section("adapter", run.plan["adapter"]), labels)
    except RunnerError as error:
        problem = str(error)

    def read(sample_id: str) -> ComparedAnswer:
        row = rows.get(sample_id)
        if row is None:
            return ComparedAnswer("", problem="predictions.jsonl has no answer to this sample")
        output = row["output"]
        if adapter is None:
            return ComparedAnswer(output, problem=problem)
        answer = parse_row(adapter, row, mode or adapter.parse_modes[0]).answer
        reference = run.scores[sample_id].get("reference") or {}
        return ComparedAnswer(output, answer.summary or "", list(mark_answer(answer, reference)))

    return read


def mark_answer(answer: Answer, reference: Mapping[str, Any]) -> Iterator[MarkedItem]:
    """Compare the pairs and segments of an answer with a reference of `scores.jsonl`.

    A task that the run did not have has the reference None, and is left out.
    """
    if reference.get("grounded") is not None:
        yield from _mark_boxes(answer.grounded or (), reference["grounded"])
    elif reference.get("pairs") is not None:
        expected = {(label, entity) for label, entity in reference["pairs"]}
        yield from _mark(answer.pairs or (), expected, "{}: {}")
    if reference.get("mapping") is not None:
        yield from _mark((answer.mapping or {}).items(), set(reference["mapping"].items()), "{} = {}")


def _mark_boxes(found: Iterable[GroundedEntity], expected: Iterable[Mapping[str, Any]]) -> Iterator[MarkedItem]:
    """Compare entities with their boxes, one to one, with entities of `GroundedEntity.as_json`."""
    remaining = list(expected)
    for entity in found:
        right = next((each for each in remaining if _is_same(entity, each)), None)
        if right is not None:
            remaining.remove(right)
        yield MarkedItem(_with_boxes(entity.as_json()), "wrong" if right is None else "correct")
    for each in remaining:
        yield MarkedItem(_with_boxes(each), "missing")


def _is_same(found: GroundedEntity, right: Mapping[str, Any]) -> bool:
    is_named = (found.label, found.text) == (right["label"], right["text"])
    return is_named and have_same_region(found.boxes, right["boxes"], RIGHT_IOU)


def _with_boxes(entity: Mapping[str, Any]) -> str:
    boxes = entity["boxes"]
    shown = "no readable box" if boxes is None else ", ".join(str([round(side) for side in box]) for box in boxes)
    return f"{entity['label']}: {entity['text']} ({shown or 'no box'})"


def _mark(items: Iterable[tuple[str, str]], expected: AbstractSet[tuple[str, str]], form: str) -> Iterator[MarkedItem]:
    actual = set(items)
    for item in sorted(actual):
        yield MarkedItem(form.format(*item), "correct" if item in expected else "wrong")
    for item in sorted(expected - actual):
        yield MarkedItem(form.format(*item), "missing")


def _merged_reference(sample_id: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the reference of every task that at least one run has."""
    merged: dict[str, Any] = {}
    for run in runs:
        reference = (run.scores[sample_id].get("reference") or {}).items()
        merged |= {task: value for task, value in reference if value is not None and task not in merged}
    return merged


def _pictures(sample: Sample) -> Iterator[tuple[str, Path]]:
    if sample.image is not None:
        yield "image", sample.image
    for segment in sample.segments:
        if segment.image is not None:
            yield f"{segment.letter}: {segment.entity}", segment.image
