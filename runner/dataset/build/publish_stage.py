"""Stages 4 and 5 of a build: selects reviewed samples, splits them and publishes the folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from runner.dataset.build.work_folder import JsonlStore, WorkFolder
from runner.dataset.folder import DESCRIPTION, StoredSamples
from runner.dataset.publish import publishing, write_rows
from runner.dataset.review.decisions import Reviewed, reviewed
from runner.dataset.split import divide_by, find_leaks, leak_message
from runner.errors import DataError
from runner.files import link_or_copy, rows_of, write_rows_whole
from runner.fingerprint import fingerprint
from runner.records import Sample
from runner.spec.dataset_spec import DatasetSpec, Ratios
from runner.stages import Reporter

Row = dict[str, Any]

REJECTED = "summary rejected in review"
NO_SUMMARY = "answer without a summary"


@dataclass(frozen=True)
class ReviewProgress:
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


def review_progress(work: WorkFolder) -> ReviewProgress:
    """Count the decisions."""
    counts = Counter(each.decision.decision if each.decision else "" for each in reviewed(work))
    return ReviewProgress(counts["accept"], counts["edit"], counts["reject"], counts[""])


class Release:
    """What a build publishes."""

    def __init__(self, spec: DatasetSpec, work: WorkFolder) -> None:
        """Take the spec, and a work folder with annotated samples."""
        self._spec, self._work = spec, work

    def choose(self) -> str:
        """Write what review lets through to `WorkFolder.chosen`, and what it does not.

        Returns:
            The digest of what is published.
        """
        left_out: list[Row] = []

        def chosen() -> Iterator[Row]:
            for each in reviewed(self._work):
                against = self._against(each)
                if against is None:
                    yield {**each.row, "summary": each.summary, "decision": _verdict(each)}
                else:
                    left_out.append({"id": each.row["id"], "reason": against})

        digest = write_rows_whole(self._work.chosen, chosen())
        write_rows_whole(self._work.left_out("review"), left_out)
        return digest

    def split_key(self, chosen: str) -> str:
        """Hash all that decides the division: the samples, by their digest, and the options."""
        told = self._spec.as_json()
        options = {name: told[name] for name in ("split", "leaks", "near_images")}
        return fingerprint({"samples": chosen, "options": options})

    def split(self, key: str, reporter: Reporter) -> Row:
        """Write a file a split; see `WorkFolder.split`.

        Returns:
            The note of the stage: `number` of samples, `digests` of the splits.

        Raises:
            DataError: No sample is left, too few for a split, or the splits leak and the spec refuses that.
        """
        stored = StoredSamples(self._work.chosen, self._work.pictures)
        splits = self._divided(stored)
        self._check_leaks(splits, reporter)
        places = {sample.id: place for place, sample in enumerate(stored)}
        digests = {
            split: write_rows_whole(self._work.split(split), (stored.row(places[sample.id]) for sample in samples))
            for split, samples in splits.items()
        }
        return dict(self._work.note("split", key, digests=digests, number=len(stored)))

    def left_out(self) -> Iterator[Row]:
        """Yield all that is not published, and why."""
        return chain.from_iterable(rows_of(self._work.left_out(stage)) for stage in ("import", "crop", "review"))

    def publish_key(self, split: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
        """Hash all that decides the folder's content: the splits, and what is told of them."""
        told = {
            "name": self._spec.name,
            "license": self._spec.license,
            "provenance": dict(provenance),
            "left_out": [_sha256(self._work.left_out(stage)) for stage in ("import", "crop", "review")],
        }
        return fingerprint({"splits": split["digests"], **told})

    def published(self, key: str) -> Mapping[str, Any] | None:
        """What was noted of the folder, if it stands there as it was published."""
        note = self._work.made("publish", key)
        description = self._spec.output / DESCRIPTION
        return note if note and description.is_file() and note["description"] == _sha256(description) else None

    def publish(
        self, key: str, names: Sequence[str], labels: Sequence[str], provenance: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Make the folder, whole or not at all, in the place of an earlier one.

        Args:
            key: See `publish_key`.
            names: Of the splits, in their order.
            labels: In their order.
            provenance: How it was made, as plain data.

        Returns:
            The note of the stage: `fingerprint`, `num_samples` and `statistics` as in its `dataset.json`.
        """
        with publishing(self._spec.output) as unfinished:
            splits = {name: StoredSamples(self._work.split(name), unfinished.path) for name in names}
            for row in rows_of(self._work.chosen):
                self._place(row, unfinished.path)
            description = unfinished.describe(self._spec.name, labels, splits, provenance, self._spec.license)
            write_rows(unfinished.path / "left_out.jsonl", self.left_out())
            if self._spec.annotator is not None:
                write_rows(unfinished.path / "annotations.jsonl", self._annotations())
        told = {name: description[name] for name in ("fingerprint", "num_samples", "statistics")}
        return self._work.note("publish", key, description=_sha256(self._spec.output / DESCRIPTION), **told)

    def _against(self, each: Reviewed) -> str | None:
        if each.is_rejected:
            return REJECTED
        return NO_SUMMARY if self._spec.annotator is not None and each.summary is None else None

    def _divided(self, stored: StoredSamples) -> Mapping[str, Sequence[Sample]]:
        if not len(stored):
            raise DataError("no sample is left to publish: all were rejected, or have no summary")
        chosen = self._spec.split
        slim = [_slim(sample) for sample in stored]
        if isinstance(chosen, Ratios):
            return divide_by(chosen, slim, self._spec.near_images)
        splits: dict[str, list[Sample]] = {}
        for row, sample in zip(rows_of(self._work.chosen), slim, strict=True):
            splits.setdefault(row["split"], []).append(sample)
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

    def _place(self, row: Row, folder: Path) -> None:
        """Link a sample's pictures; a main image that several samples show is there already."""
        for name in (row["image"], *(segment["image"] for segment in row["segments"])):
            if name is not None and not (folder / name).exists():
                link_or_copy(self._work.pictures / name, folder / name)

    def _annotations(self) -> Iterator[Row]:
        """Yield what each summary was asked with, what was answered, and what became of it; no dates, no names."""
        with JsonlStore(self._work.answers, durable=True) as answers:
            for row in rows_of(self._work.chosen):
                answer = answers.get(row["annotation"], {})
                told = {name: value for name, value in answer.items() if name != "key"}
                yield {"id": row["id"], **told, "flags": row["flags"], "decision": row["decision"]}


def _slim(sample: Sample) -> Sample:
    """A sample without what a division does not look at, so that thousands take little room."""
    return replace(sample, summary=None, segments=tuple(replace(each, image=None) for each in sample.segments))


def _verdict(each: Reviewed) -> str | None:
    return each.decision.decision if each.decision else None


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
