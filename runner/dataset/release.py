"""The last stages of a build: takes what review lets through, divides it, and publishes the folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.dataset.folder import DESCRIPTION
from runner.dataset.ledger import Ledger
from runner.dataset.publish import UnfinishedDataset, publishing, write_rows
from runner.dataset.review import Reviewed, reviewed
from runner.dataset.rows import sample_of
from runner.dataset.split import divide_by, find_leaks, leak_message
from runner.dataset.work import WorkFolder
from runner.errors import DataError
from runner.files import link_or_copy, rows_of, write_rows_whole
from runner.fingerprint import canonical_json, fingerprint
from runner.records import Sample
from runner.spec.dataset_spec import DatasetSpec, Ratios
from runner.stages import Reporter

Row = dict[str, Any]

REJECTED = "summary rejected in review"
NO_SUMMARY = "answer without a summary"


@dataclass(frozen=True)
class Standing:
    """How far the review of a build is.

    Attributes:
        accepted: Samples with the annotator's summary.
        edited: Samples with a reviewer's.
        rejected: Samples that are left out.
        undecided: Samples that nobody has decided about.
    """

    accepted: int
    edited: int
    rejected: int
    undecided: int


def standing(work: WorkFolder) -> Standing:
    """Count the decisions."""
    counts = Counter(each.decision.decision if each.decision else "" for each in reviewed(work))
    return Standing(counts["accept"], counts["edit"], counts["reject"], counts[""])


class Release:
    """What a build publishes."""

    def __init__(self, spec: DatasetSpec, work: WorkFolder) -> None:
        """Take the spec, and a work folder with annotated samples."""
        self._spec, self._work = spec, work

    def split_key(self) -> str:
        """Hash all that decides the division: samples with their summaries, and the options."""
        told = self._spec.as_json()
        content = hashlib.sha256()
        for row, _ in self._chosen():
            content.update(canonical_json(row).encode())
        return fingerprint(
            {"samples": content.hexdigest(), **{name: told[name] for name in ("split", "leaks", "near_images")}}
        )

    def split(self, key: str, reporter: Reporter) -> Row:
        """Write `WorkFolder.splits`.

        Returns:
            The note of the stage: `number` of samples, `digest` of the division.

        Raises:
            DataError: No sample is left, too few for a split, or the splits leak and the spec refuses that.
        """
        splits = self._divided()
        self._check_leaks(splits, reporter)
        rows = ({"id": sample.id, "split": split} for split, samples in splits.items() for sample in samples)
        digest = write_rows_whole(self._work.splits, rows)
        number = sum(len(samples) for samples in splits.values())
        return dict(self._work.note("split", key, digest=digest, number=number))

    def left_out(self) -> Iterator[Row]:
        """Yield all that is not published, and why."""
        yield from rows_of(self._work.left_out("import"))
        yield from rows_of(self._work.left_out("crop"))
        for each in reviewed(self._work):
            reason = self._against(each)
            if reason is not None:
                yield {"id": each.row["id"], "reason": reason}

    def publish_key(self, split: Row, provenance: Mapping[str, Any]) -> str:
        """Hash all that decides the folder's content: the division, what it divides, and what is told of it."""
        told = {
            "name": self._spec.name,
            "license": self._spec.license,
            "provenance": dict(provenance),
            "left_out": list(self.left_out()),
        }
        return fingerprint({"samples": split["key"], "splits": split["digest"], **told})

    def published(self, key: str) -> Mapping[str, Any] | None:
        """What was noted of the folder, if it stands there as it was published."""
        note = self._work.made("publish", key)
        description = self._spec.output / DESCRIPTION
        return note if note and description.is_file() and note["description"] == _sha256(description) else None

    def publish(self, key: str, labels: Sequence[str], provenance: Mapping[str, Any]) -> Row:
        """Make the folder, whole or not at all, in the place of an earlier one.

        Returns:
            The note of the stage: `fingerprint`, `num_samples` and `statistics` as in its `dataset.json`.
        """
        with publishing(self._spec.output) as unfinished:
            splits = self._placed(unfinished)
            for name in _pictures(splits, unfinished.path):
                link_or_copy(self._work.pictures / name, unfinished.path / name)
            description = unfinished.describe(self._spec.name, labels, splits, provenance, self._spec.license)
            write_rows(unfinished.path / "left_out.jsonl", self.left_out())
            if self._spec.annotator is not None:
                write_rows(unfinished.path / "annotations.jsonl", self._annotations())
        told = {name: description[name] for name in ("fingerprint", "num_samples", "statistics")}
        return dict(self._work.note("publish", key, description=_sha256(self._spec.output / DESCRIPTION), **told))

    def _chosen(self) -> Iterator[tuple[Row, Reviewed]]:
        for each in reviewed(self._work):
            if self._against(each) is None:
                yield {**each.row, "summary": each.summary}, each

    def _against(self, each: Reviewed) -> str | None:
        if each.is_rejected:
            return REJECTED
        return NO_SUMMARY if self._spec.annotator is not None and each.summary is None else None

    def _divided(self) -> Mapping[str, Sequence[Sample]]:
        kept = [(row["split"], sample_of(row, self._work.pictures)) for row, _ in self._chosen()]
        if not kept:
            raise DataError("no sample is left to publish: all were rejected, or have no summary")
        chosen = self._spec.split
        if isinstance(chosen, Ratios):
            samples = [sample for _, sample in kept]
            return divide_by(chosen, samples, self._spec.near_images)
        splits: dict[str, list[Sample]] = {}
        for split, sample in kept:
            splits.setdefault(split, []).append(sample)
        return splits

    def _check_leaks(self, splits: Mapping[str, Sequence[Sample]], reporter: Reporter) -> None:
        leaks = find_leaks(splits, self._spec.near_images)
        if leaks and self._spec.leaks == "refuse":
            raise DataError(
                f"{leak_message(leaks)}. Divide by ratios, which keeps what is shared together, or accept them with "
                "leaks: warn"
            )
        if leaks:
            reporter.warn(leak_message(leaks))

    def _placed(self, unfinished: UnfinishedDataset) -> dict[str, list[Sample]]:
        rows = {row["id"]: sample_of(row, unfinished.path) for row, _ in self._chosen()}
        splits: dict[str, list[Sample]] = {}
        for row in rows_of(self._work.splits):
            splits.setdefault(row["split"], []).append(rows[row["id"]])
        return splits

    def _annotations(self) -> Iterator[Row]:
        """Yield what each summary was asked with, what was answered, and what became of it; no dates, no names."""
        with Ledger(self._work.answers, durable=True) as answers:
            for _, each in self._chosen():
                answer = answers.get(each.row["annotation"]) or {}
                told = {name: value for name, value in answer.items() if name != "key"}
                decision = each.decision.decision if each.decision else None
                yield {"id": each.row["id"], **told, "flags": each.row["flags"], "decision": decision}


def _pictures(splits: Mapping[str, Sequence[Sample]], root: Path) -> Iterator[str]:
    """Yield the name of each picture once: main images may be shared."""
    images = {sample.image for samples in splits.values() for sample in samples if sample.image is not None}
    segments = (each.image for samples in splits.values() for sample in samples for each in sample.segments)
    yield from (path.relative_to(root).as_posix() for path in sorted(images))
    yield from (path.relative_to(root).as_posix() for path in segments if path is not None)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
