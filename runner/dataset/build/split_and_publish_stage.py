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
from runner.dataset.folder_reader import DESCRIPTION_FILE, JsonlSamples
from runner.dataset.folder_writer import NewContent, publish_atomically, write_rows
from runner.dataset.leaks import find_leaks, leak_message
from runner.dataset.review.decisions import ReviewedSample, reviewed_samples
from runner.dataset.split import split_by_ratios
from runner.errors import DataError
from runner.files import iter_jsonl, link_or_copy, stream_jsonl
from runner.fingerprint_and_provenance import fingerprint
from runner.records import Sample
from runner.spec.dataset_spec import DatasetSpec
from runner.stages import Ratios, Reporter

Row = dict[str, Any]

REJECTED = "summary rejected in review"
NO_SUMMARY = "answer without a summary"


@dataclass(frozen=True)
class ReviewProgress:
    """The number of samples of a build by decision.

    Attributes:
        accepted: Samples with the annotator's summary.
        edited: Samples with a reviewer's summary.
        rejected: Samples that are left out.
        undecided: Samples without a decision.
    """

    accepted: int
    edited: int
    rejected: int
    undecided: int


def count_decisions(work: WorkFolder) -> ReviewProgress:
    """Count the samples by decision."""
    counts = Counter(_verdict(sample) for sample in reviewed_samples(work))
    return ReviewProgress(counts["accept"], counts["edit"], counts["reject"], counts[None])


class PublishStage:
    """Selects, splits and publishes the samples of a build."""

    def __init__(self, spec: DatasetSpec, work: WorkFolder) -> None:
        """Store the spec and a work folder with annotated samples."""
        self._spec, self._work = spec, work

    def select_samples(self) -> str:
        """Write the samples to publish to `WorkFolder.selected_samples`, and list the others with reasons.

        Returns:
            The digest of the selected samples.
        """
        left_out: list[Row] = []

        def rows() -> Iterator[Row]:
            for sample in reviewed_samples(self._work):
                reason = self._reason_to_leave_out(sample)
                if reason is None:
                    yield {**sample.row, "summary": sample.summary, "decision": _verdict(sample)}
                else:
                    left_out.append({"id": sample.row["id"], "reason": reason})

        digest = stream_jsonl(self._work.selected_samples, rows())
        stream_jsonl(self._work.left_out("review"), left_out)
        return digest

    def split_key(self, samples_digest: str) -> str:
        """Hash the inputs of the split: the digest of the selected samples, and the options."""
        spec = self._spec.as_json()
        options = {name: spec[name] for name in ("split", "leaks", "near_images")}
        return fingerprint({"samples": samples_digest, "options": options})

    def split(self, key: str, reporter: Reporter) -> Row:
        """Write one file per split; see `WorkFolder.split_samples`.

        Returns:
            The stage's result record: `number` of samples and the `digests` of the splits.

        Raises:
            DataError: No sample is left, a split is empty, or the splits leak and the spec refuses leaks.
        """
        samples = JsonlSamples(self._work.selected_samples, self._work.image_root)
        splits = self._assign_splits(samples)
        self._check_leaks(splits, reporter)
        index_of = {sample.id: index for index, sample in enumerate(samples)}
        digests = {
            split: stream_jsonl(
                self._work.split_samples(split), (samples.row(index_of[member.id]) for member in members)
            )
            for split, members in splits.items()
        }
        return dict(self._work.save_result("split", key, digests=digests, number=len(samples)))

    def left_out(self) -> Iterator[Row]:
        """Yield everything that is not published, with the reason."""
        return chain.from_iterable(iter_jsonl(self._work.left_out(stage)) for stage in ("import", "crop", "review"))

    def publish_key(self, split: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
        """Hash the inputs of the published folder: the splits and its description."""
        return fingerprint(
            {
                "splits": split["digests"],
                "name": self._spec.name,
                "license": self._spec.license,
                "provenance": dict(provenance),
                "left_out": [_file_sha256(self._work.left_out(stage)) for stage in ("import", "crop", "review")],
            }
        )

    def load_published(self, key: str) -> Mapping[str, Any] | None:
        """Load the result record of the published folder; None unless the folder is still as it was published."""
        result = self._work.load_result("publish", key)
        file = self._spec.output / DESCRIPTION_FILE
        return result if result and file.is_file() and result["description"] == _file_sha256(file) else None

    def publish(
        self, key: str, splits: Sequence[str], labels: Sequence[str], provenance: Mapping[str, Any], new: NewContent
    ) -> Mapping[str, Any]:
        """Write the folder atomically, replacing an earlier one.

        Args:
            key: The stage's key from `publish_key`.
            splits: The names of the splits, in order.
            labels: The entity labels, in order.
            provenance: How the data set was made, as plain data.
            new: Decides whether an earlier folder may be replaced.

        Returns:
            The stage's result record: `fingerprint`, `num_samples` and `statistics` of `dataset.json`.
        """
        with publish_atomically(self._spec.output, new) as writer:
            samples = {split: JsonlSamples(self._work.split_samples(split), writer.path) for split in splits}
            for row in iter_jsonl(self._work.selected_samples):
                self._link_images(row, writer.path)
            description = writer.write_dataset(self._spec.name, labels, samples, provenance, self._spec.license)
            write_rows(writer.path / "left_out.jsonl", self.left_out())
            if self._spec.annotator is not None:
                write_rows(writer.path / "annotations.jsonl", self._annotation_rows())
        values = {name: description[name] for name in ("fingerprint", "num_samples", "statistics")}
        sha256 = _file_sha256(self._spec.output / DESCRIPTION_FILE)
        return self._work.save_result("publish", key, description=sha256, **values)

    def _reason_to_leave_out(self, sample: ReviewedSample) -> str | None:
        if sample.is_rejected:
            return REJECTED
        return NO_SUMMARY if self._spec.annotator is not None and sample.summary is None else None

    def _assign_splits(self, samples: JsonlSamples) -> Mapping[str, Sequence[Sample]]:
        if not len(samples):
            raise DataError("no sample is left to publish: all of them were rejected or have no summary")
        options = self._spec.split
        small_samples = [_without_large_fields(sample) for sample in samples]
        if isinstance(options, Ratios):
            return split_by_ratios(options, small_samples, self._spec.near_images)
        splits: dict[str, list[Sample]] = {}
        for row, sample in zip(iter_jsonl(self._work.selected_samples), small_samples, strict=True):
            splits.setdefault(row["split"], []).append(sample)
        return splits

    def _check_leaks(self, splits: Mapping[str, Sequence[Sample]], reporter: Reporter) -> None:
        leaks = find_leaks(splits, self._spec.near_images)
        if leaks and self._spec.leaks == "refuse":
            raise DataError(
                f"{leak_message(leaks)}. Split by ratios, which keeps shared content together, or accept the leaks "
                "with leaks: warn"
            )
        if leaks:
            reporter.warn(leak_message(leaks))

    def _link_images(self, row: Row, folder: Path) -> None:
        """Link the images of a sample into the folder; a main image that samples share is linked once."""
        for name in (row["image"], *(segment["image"] for segment in row["segments"])):
            if name is not None and not (folder / name).exists():
                link_or_copy(self._work.image_root / name, folder / name)

    def _annotation_rows(self) -> Iterator[Row]:
        """Yield the request, the answer and the decision of each summary, without dates and names of reviewers."""
        with JsonlStore(self._work.answers, durable=True) as answers:
            for row in iter_jsonl(self._work.selected_samples):
                answer = answers.get(row["annotation"], {})
                values = {name: value for name, value in answer.items() if name != "key"}
                yield {"id": row["id"], **values, "flags": row["flags"], "decision": row["decision"]}


def _without_large_fields(sample: Sample) -> Sample:
    """Remove what a split does not depend on, so that thousands of samples take little memory."""
    segments = tuple(replace(segment, image=None) for segment in sample.segments)
    return replace(sample, summary=None, segments=segments)


def _verdict(sample: ReviewedSample) -> str | None:
    return sample.decision.decision if sample.decision else None


def _file_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
