"""Exports reference answers, and the answers of a model, for other scorers: seqeval and pycocotools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.dataset.answer_files import match_outputs, read_answer_file
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import NewContent, exclusive_build, replace_folder
from runner.dataset.scorer_files import Alignment, align_mentions, coco_references, coco_results, tag_columns
from runner.errors import SpecError
from runner.export_examples import EXPORT_FILE, check_export_target, choose_splits
from runner.files import write_json, write_jsonl, write_text
from runner.records import Answer, Sample
from runner.regime import parse_row
from runner.resolved_plan import create_adapter
from runner.spec.experiment_spec import ExperimentSpec

UNALIGNED_FILE = "unaligned.jsonl"
"""Lists what a format cannot hold."""


@dataclass(frozen=True)
class AnswerExportOptions:
    """What to export.

    Attributes:
        dataset: The folder of the data set.
        target: The folder to create.
        file_format: `seqeval` or `coco`.
        spec: The spec whose adapter reads the answers.
        split: The split.
        predictions: JSON lines `{"id", "output"}`; None exports references only.
        replace: Whether the folder of an earlier export may be replaced.
    """

    dataset: Path
    target: Path
    file_format: str
    spec: ExperimentSpec
    split: str
    predictions: Path | None = None
    replace: bool = False


@dataclass(frozen=True)
class _Answers:
    """The answers of a split, sample by sample; `predictions` is None if there are only references."""

    samples: Sequence[Sample]
    references: Sequence[Answer]
    predictions: Sequence[Answer] | None
    labels: Sequence[str]

    @property
    def sides(self) -> Iterator[tuple[str, Sequence[Answer]]]:
        """The references, and the predictions if there are any."""
        yield "reference", self.references
        if self.predictions is not None:
            yield "prediction", self.predictions


def export_answers(options: AnswerExportOptions) -> dict[str, Any]:
    """Write reference answers, and predictions if there are any, for another scorer.

    Returns:
        The content of `export.json`: numbers of samples, and of what the format cannot hold.

    Raises:
        DataError: The data set or the predictions are invalid, or the folder exists.
        SpecError: The split does not exist, or the adapter's answers lack what the format holds.
    """
    folder = DatasetFolder(options.dataset)
    samples = choose_splits(folder.load_splits(), [options.split])[options.split]
    check_export_target(options.target, replace=options.replace)
    answers = _read_answers(options, samples, folder.labels)
    write = {"seqeval": _write_seqeval, "coco": _write_coco}[options.file_format]
    new = NewContent(folder.description["name"], None, replace=True)
    with (
        exclusive_build(options.target),
        replace_folder(options.target, new, EXPORT_FILE, "an export of this kind") as unfinished,
    ):
        description = {
            "format": options.file_format,
            "data": {"name": folder.description["name"], "fingerprint": folder.description.get("fingerprint")},
            "adapter": options.spec.adapter.as_json(),
            "split": options.split,
            "num_samples": len(samples),
            **write(answers, options.split, unfinished),
        }
        write_json(unfinished / EXPORT_FILE, description)
    return description


def _read_answers(options: AnswerExportOptions, samples: Sequence[Sample], labels: Sequence[str]) -> _Answers:
    adapter = create_adapter(options.spec, labels)
    references = [adapter.reference(sample) for sample in samples]
    if options.predictions is None:
        return _Answers(samples, references, None, labels)
    lines = read_answer_file(options.predictions, "output")
    locations = {sample.id: f"split {options.split}" for sample in samples}
    match_outputs(lines, locations, options.predictions, allow_missing=False)
    mode = adapter.parse_modes[0]
    predictions = [parse_row(adapter, lines[sample.id].as_row(), mode).answer for sample in samples]
    return _Answers(samples, references, predictions, labels)


def _write_seqeval(answers: _Answers, split: str, folder: Path) -> dict[str, Any]:
    if any(answer.pairs is None for answer in answers.references):
        raise SpecError("--to seqeval: the adapter does not ask for entities; add the task `ner` to adapter.tasks")
    columns, unaligned = [], []
    num_without_tokens = 0
    for index, sample in enumerate(answers.samples):
        aligned: dict[str, Alignment] = {}
        for side, each in answers.sides:
            places = aligned["reference"].spans if aligned else None
            aligned[side] = align_mentions(sample.text, each[index].pairs or frozenset(), places)
        unaligned += [
            {"id": sample.id, "side": side, "label": label, "text": text, "reason": reason}
            for side, alignment in aligned.items()
            for (label, text), reason in sorted(alignment.unaligned.items())
        ]
        lines = tag_columns(sample.text, list(aligned.values()))
        num_without_tokens += not lines
        columns += [lines] if lines else []
    write_text(folder / f"{split}.conll", "\n".join(columns))
    write_jsonl(folder / UNALIGNED_FILE, unaligned)
    counts = {side: sum(row["side"] == side for row in unaligned) for side, _ in answers.sides}
    return {"columns": ["token", *counts], "num_unaligned": counts, "num_without_tokens": num_without_tokens}


def _write_coco(answers: _Answers, split: str, folder: Path) -> dict[str, Any]:
    if not any(entity.boxes for answer in answers.references for entity in answer.grounded or ()):
        raise SpecError("--to coco: no reference answer of this adapter has a box; use an adapter such as `gmner`")
    images = [
        {"id": number, "file_name": sample.image.name if sample.image else sample.id, "sample": sample.id}
        for number, sample in enumerate(answers.samples, start=1)
    ]
    write: Mapping[str, Callable[[Any], Any]] = {
        "reference": lambda boxes: coco_references(images, answers.labels, boxes),
        "prediction": lambda boxes: coco_results(answers.labels, boxes),
    }
    counts: dict[str, int] = {}
    for side, each in answers.sides:
        boxes = [
            (number, entity.label, box)
            for number, answer in enumerate(each, start=1)
            for entity in answer.grounded or ()
            for box in entity.boxes or ()
        ]
        write_json(folder / f"{split}_{side}s.json", write[side](boxes))
        counts[side] = len(boxes)
    return {"num_boxes": counts}
