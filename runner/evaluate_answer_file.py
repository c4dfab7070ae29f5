"""Scores predictions from any source against references, with the code that scores a launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.dataset.answer_files import match_outputs, raise_problems, read_answer_file
from runner.dataset.folder_reader import DatasetFolder
from runner.errors import DataError, PluginError, SpecError
from runner.records import Answer, Sample
from runner.regime import parse_row
from runner.resolved_plan import create_adapter, create_plugin
from runner.spec.check import make_section
from runner.spec.experiment_spec import ExperimentSpec, Section
from runner.spec.load import load_spec
from runner.stages import Adapter, Metric, Reporter, Stage, TargetChecker
from runner.stages.registry import find_plugin
from runner.trial.score import (
    ScoredCorpus,
    all_values,
    describe_mistake,
    describe_total_failure,
    is_wrong,
    metric_values,
    score_modes,
    score_rows,
)

ADAPTER = "pfa"
"""The adapter plugin that parses the answers."""
LABELS = ("person", "location", "organization", "other")
"""The labels of Twitter GMNER, used if neither a data set nor the user names any."""
SPLIT = "test"
"""The split of a data set that is used if the user names none."""
METRICS = ("rouge", "bleu", "ner_f1", "image_entity_accuracy")
"""The metric plugins of the paper."""
PARSE_MODE = "lossless"
"""The parse mode that is used if the user names none."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What to score, and how.

    Attributes:
        predictions: JSON lines `{"id", "output"}`; with `outputs`, an object, if each task had its own prompt.
        references: A data-set folder, or JSON lines `{"id", "target"}`.
        split: The split to use if the references are a data set; None for `SPLIT`.
        labels: The known labels if the references are not a data set; None for `LABELS`.
        tasks: The tasks that were asked for; None for those that the references answer.
        parse: The parse mode whose values come first; None for `PARSE_MODE`, or that of `spec`.
        metrics: Names of metric plugins; None for `METRICS`, or the metrics of `spec`.
        spec: A spec or plan, whose adapter parses the answers, in the frame in which its model writes boxes; None for
            the adapter `ADAPTER`.
        allow_missing: Score a reference without an output as an empty answer, instead of raising an error.
    """

    predictions: Path
    references: Path
    split: str | None = None
    labels: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    parse: str | None = None
    metrics: Sequence[str] | None = None
    allow_missing: bool = False
    spec: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """A scored corpus.

    Attributes:
        tasks: The tasks that were scored.
        labels: The known labels.
        num_missing: The number of references without an output.
        modes: The scores in the chosen parse mode, then in the others.
        rows: One row per sample, as in a run's `scores.jsonl`.
        warnings: Why values may be wrong or are None, each with the number of references.
    """

    tasks: Sequence[str]
    labels: Sequence[str]
    num_missing: int
    modes: Sequence[ScoredCorpus]
    rows: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()

    @property
    def metrics(self) -> dict[str, float | None]:
        """All metric values and parse counts, named as in a run's `metrics.json`."""
        return all_values(self.modes)

    def as_json(self) -> dict[str, Any]:
        """The result as plain data; docs/interface.md describes it under `evaluate --json`."""
        first = self.modes[0]
        return {
            "metrics": metric_values(self.modes),
            "parse": first.parse_counts,
            "num_samples": len(first.scores),
            "num_missing": self.num_missing,
            "mode": first.mode,
            "other_parse": {other.mode: other.parse_counts for other in self.modes[1:]},
            "tasks": list(self.tasks),
            "labels": list(self.labels),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class _References:
    """The references of a corpus.

    Attributes:
        by_id: Samples of a data set, or target texts, by sample id.
        locations: Where each one is stored, for messages, by sample id.
        labels: The known labels.
    """

    by_id: Mapping[str, Sample | str]
    locations: Mapping[str, str]
    labels: Sequence[str]

    def answers(self, adapter: Adapter, mode: str) -> dict[str, Answer]:
        """Return the right answers: from the fields of samples, or by parsing target texts."""
        return {
            sample_id: adapter.reference(item) if isinstance(item, Sample) else adapter.parse(item, mode).answer
            for sample_id, item in self.by_id.items()
        }


def evaluate(request: EvaluateOptions, reporter: Reporter) -> Evaluation:
    """Score a file of outputs.

    Raises:
        DataError: A file is missing or broken, a reference cannot be read, or ids are unknown, duplicate or missing;
            the error names file and line.
        SpecError: Tasks, labels, metrics or the parse mode are unknown.
    """
    spec = None if request.spec is None else load_spec(request.spec).spec
    metrics = _create_metrics(request, spec)
    _check_parse_mode(request)
    references = _read_references(request)
    lines = read_answer_file(request.predictions, "output")
    missing = match_outputs(lines, references.locations, request.predictions, allow_missing=request.allow_missing)
    outputs = {sample_id: lines[sample_id].text if sample_id in lines else "" for sample_id in references.by_id}
    name = ADAPTER if spec is None else spec.adapter.type
    answered = find_plugin("adapter", name).implementation().tasks_of(references.by_id.values())
    tasks = request.tasks or (answered if spec is None else [task for task in spec.task_names if task in answered])
    if not tasks:
        listed = "summary, ner and match" if spec is None else ", ".join(spec.task_names)
        raise DataError(f"{request.references}: the references answer none of the tasks {listed}")
    adapter = _create_adapter(request, spec, tasks, references.labels)
    if unanswered := [task for task in tasks if task not in answered]:
        raise DataError(
            f"{request.references}: no reference has an answer to the task {unanswered[0]}; omit this task in --tasks"
        )
    warnings = _check_targets(references, adapter, tasks)
    rows = {sample_id: lines[sample_id].as_row() if sample_id in lines else {"output": ""} for sample_id in outputs}
    modes = score_modes(
        adapter,
        metrics,
        lambda mode: references.answers(adapter, mode),
        lambda sample_id, mode: parse_row(adapter, rows[sample_id], mode),
        reporter,
    )
    warnings += [*modes[0].warnings, *_total_failure_warning(request, modes, outputs)]
    return Evaluation(tasks, references.labels, len(missing), modes, score_rows(modes), warnings)


def _create_metrics(request: EvaluateOptions, spec: ExperimentSpec | None) -> dict[str, Metric]:
    if request.metrics is None and spec is not None:
        return {section.type: create_plugin(section) for section in spec.metrics}
    names = METRICS if request.metrics is None else request.metrics
    if not names:
        raise SpecError("--metrics: name at least one metric")
    return {name: create_plugin(_section("--metrics", "metric", name)) for name in dict.fromkeys(names)}


def _check_parse_mode(request: EvaluateOptions) -> None:
    if request.spec is None:
        _section("--parse", "adapter", ADAPTER, parse=request.parse or PARSE_MODE)
    elif request.parse is not None:
        raise SpecError(f"--parse: {request.spec} says how answers are parsed; omit --parse")


def _create_adapter(
    request: EvaluateOptions, spec: ExperimentSpec | None, tasks: Sequence[str], labels: Sequence[str]
) -> Adapter:
    """Create the adapter for the tasks: that of the spec, or `ADAPTER`."""
    if spec is None:
        parse = request.parse or PARSE_MODE
        section = _section("--tasks", "adapter", ADAPTER, tasks=list(tasks), parse=parse)
        return create_plugin(section, labels)  # type: ignore[no-any-return]
    options = spec.adapter.as_json() | {"tasks": list(tasks)}
    section = _section("--tasks", "adapter", options.pop("type"), **options)
    return create_adapter(spec.model_copy(update={"adapter": section}), labels)


def _section(option: str, stage: Stage, name: str, **options: Any) -> Section:
    """Check the value of an option. The error names only the first problem, because the others follow from it."""
    try:
        return make_section(stage, {"type": name, **options})
    except PluginError as error:
        first = str(error).partition("; spec: ")[0].removeprefix("spec: ").removeprefix("type: ")
        raise SpecError(f"{option}: {first}") from error


def _read_references(request: EvaluateOptions) -> _References:
    path = request.references
    references = _read_dataset(request) if path.is_dir() else _read_targets(request)
    if not references.by_id:
        raise DataError(f"{path}: holds no samples")
    return references


def _read_dataset(request: EvaluateOptions) -> _References:
    folder = DatasetFolder(request.references, with_images=False)
    split = SPLIT if request.split is None else request.split
    samples = {sample.id: sample for sample in folder.load(split)}
    if request.labels is not None and set(request.labels) != set(folder.labels):
        raise SpecError(f"--labels: {folder.path} has labels of its own: {', '.join(folder.labels)}; omit --labels")
    return _References(samples, dict.fromkeys(samples, f"{folder.path}, split {split}"), folder.labels)


def _read_targets(request: EvaluateOptions) -> _References:
    targets = read_answer_file(request.references, "target")
    if request.split is not None:
        raise SpecError(f"--split: {request.references} is a file and has no splits; omit --split")
    return _References(
        {sample_id: line.text for sample_id, line in targets.items()},
        {sample_id: line.location for sample_id, line in targets.items()},
        tuple(dict.fromkeys(request.labels or LABELS)),
    )


def _check_targets(references: _References, adapter: Adapter, tasks: Sequence[str]) -> list[str]:
    """Check references that are given as text, and return warnings with the number of references of each.

    Raises:
        DataError: A part of a reference cannot be read in the main parse mode.
    """
    targets = {sample_id: item for sample_id, item in references.by_id.items() if isinstance(item, str)}
    if not targets or not isinstance(adapter, TargetChecker):
        return []
    main_mode, *other_modes = adapter.parse_modes
    errors: list[str] = []
    affected: dict[str, list[str]] = defaultdict(list)
    for sample_id, target in targets.items():
        location = references.locations[sample_id]
        problems = adapter.target_problems(target, main_mode)
        if problems.losses:
            errors.append(f"{location}: the target cannot be read: {'; '.join(problems.losses)}")
        if problems.doubts:
            affected["may mean something else than what is read"].append(f"{location}: {'; '.join(problems.doubts)}")
        for mode in other_modes:
            if losses := adapter.target_problems(target, mode).losses:
                affected[f"cannot be read in the parse mode {mode}"].append(f"{location}: {'; '.join(losses)}")
        answered = adapter.tasks_of([target])
        for task in (task for task in tasks if task not in answered):
            affected[f"have no answer to the task {task} and count as empty ones"].append(location)
    raise_problems(errors)
    return [
        f"{len(examples):,} of {len(targets):,} references {problem}, for example {examples[0]}"
        for problem, examples in affected.items()
    ]


def _total_failure_warning(
    request: EvaluateOptions, modes: Sequence[ScoredCorpus], outputs: Mapping[str, str]
) -> Iterator[str]:
    """Yield a warning with one raw answer if all answers failed."""
    problem, scored = describe_total_failure(all_values(modes)), modes[0]
    wrong = [key for key, prediction in scored.predictions.items() if is_wrong(prediction, scored.references[key])]
    if problem and wrong:
        example = describe_mistake(wrong[0], outputs[wrong[0]], "; ".join(scored.predictions[wrong[0]].notes))
        yield f"{problem}. {example} {request.predictions} contains all answers; --scores FILE writes their scores"
