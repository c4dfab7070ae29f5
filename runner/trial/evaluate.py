"""Scores predictions from any source against references, with the code that scores a launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.dataset.answer_files import fitted, read_answer_file
from runner.dataset.folder import DatasetFolder
from runner.errors import DataError, PluginError, SpecError
from runner.plan import implement
from runner.records import Answer, Sample
from runner.spec.check import section
from runner.spec.experiment_spec import Section
from runner.stages import Adapter, Reporter, Stage
from runner.stages.registry import find
from runner.trial.score import Scored, all_figures, metric_figures, score_modes, score_rows

ADAPTER = "pfa"
"""The plugin that reads answers."""
LABELS = ("person", "location", "organization", "other")
"""Twitter GMNER's, known where neither a data set nor the user names any."""
METRICS = ("rouge", "bleu", "ner_f1", "image_entity_accuracy")
"""The paper's."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is to be scored, and how.

    Attributes:
        predictions: JSON lines `{"id", "output"}`.
        references: A data-set folder, or JSON lines `{"id", "target"}`.
        split: Which split of a data set.
        labels: The known labels, where the references are no data set; none: `LABELS`.
        tasks: What was asked; none: what the references answer.
        parse: The way of reading that comes first.
        metrics: Names of metric plugins.
        allow_missing: Whether a reference without an output counts as one with an empty answer.
    """

    predictions: Path
    references: Path
    split: str = "test"
    labels: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    parse: str = "lossless"
    metrics: Sequence[str] = METRICS
    allow_missing: bool = False


@dataclass(frozen=True)
class Evaluation:
    """A scored corpus.

    Attributes:
        tasks: What was taken as asked for.
        labels: The known ones.
        num_missing: References that had no output.
        modes: The figures in the chosen way of reading, then in the others.
        rows: A line a sample, as in a run's `scores.jsonl`.
    """

    tasks: Sequence[str]
    labels: Sequence[str]
    num_missing: int
    modes: Sequence[Scored]
    rows: Sequence[Mapping[str, Any]]

    @property
    def figures(self) -> dict[str, float | None]:
        """Every figure and parse count, named as in a run's `metrics.json`."""
        return all_figures(self.modes)

    def as_json(self) -> dict[str, Any]:
        """The result as docs/interface.md's `evaluate --json` holds it."""
        first = self.modes[0]
        return {
            "metrics": metric_figures(self.modes),
            "parse": first.endings,
            "num_samples": len(first.scores),
            "num_missing": self.num_missing,
            "mode": first.mode,
            "other_parse": {other.mode: other.endings for other in self.modes[1:]},
            "tasks": list(self.tasks),
            "labels": list(self.labels),
        }


@dataclass(frozen=True)
class _References:
    """What is right: samples or written targets by id, where each stands, and the labels they know."""

    right: Mapping[str, Sample | str]
    places: Mapping[str, str]
    labels: Sequence[str]

    def answers(self, adapter: Adapter, mode: str) -> dict[str, Answer]:
        """Take samples by their own fields; read targets as answers are read."""
        return {
            name: adapter.reference(each) if isinstance(each, Sample) else adapter.parse(each, mode).answer
            for name, each in self.right.items()
        }


def evaluate(request: EvaluateOptions, reporter: Reporter) -> Evaluation:
    """Score a file of outputs.

    Raises:
        DataError: A file is missing or broken, or ids are unknown, double or missing; with file and line.
        SpecError: Tasks, labels, metrics or the way of reading are none that there are.
    """
    if not request.metrics:
        raise SpecError("--metrics: name at least one")
    metrics = {name: implement(_part("--metrics", "metric", name)) for name in dict.fromkeys(request.metrics)}
    _part("--parse", "adapter", ADAPTER, parse=request.parse)
    references = _read_references(request)
    written = read_answer_file(request.predictions, "output")
    missing = fitted(written, references.places, request.predictions, allow_missing=request.allow_missing)
    outputs = {name: written[name].text if name in written else "" for name in references.right}
    tasks = request.tasks or find("adapter", ADAPTER).implementation().tasks_of(references.right.values())
    if not tasks:
        raise DataError(f"{request.references}: answers none of the tasks; name those that were asked with --tasks")
    adapter = implement(_part("--tasks", "adapter", ADAPTER, tasks=list(tasks), parse=request.parse), references.labels)
    modes = score_modes(adapter, metrics, lambda mode: references.answers(adapter, mode), outputs, reporter)
    rows = score_rows(modes, references.answers(adapter, modes[0].mode))
    return Evaluation(tasks, references.labels, len(missing), modes, rows)


def _part(option: str, stage: Stage, name: str, **options: Any) -> Section:
    """Check what the user named; only the first problem is told, as the others follow from it."""
    try:
        return section(stage, {"type": name, **options})
    except PluginError as error:
        first = str(error).partition("; spec: ")[0].removeprefix("spec: ").removeprefix("type: ")
        raise SpecError(f"{option}: {first}") from error


def _read_references(request: EvaluateOptions) -> _References:
    path = request.references
    found = _of_dataset(request) if path.is_dir() else _of_targets(request)
    if not found.right:
        raise DataError(f"{path}: holds no samples")
    return found


def _of_dataset(request: EvaluateOptions) -> _References:
    folder = DatasetFolder(request.references, with_images=False)
    samples = {sample.id: sample for sample in folder.load(request.split)}
    if request.labels is not None and set(request.labels) != set(folder.labels):
        raise SpecError(f"--labels: {folder.path} has labels of its own: {', '.join(folder.labels)}; leave it out")
    return _References(samples, dict.fromkeys(samples, f"{folder.path}, split {request.split}"), folder.labels)


def _of_targets(request: EvaluateOptions) -> _References:
    targets = read_answer_file(request.references, "target")
    return _References(
        {name: written.text for name, written in targets.items()},
        {name: written.place for name, written in targets.items()},
        tuple(dict.fromkeys(request.labels or LABELS)),
    )
