"""Stage 3 of a build: requests a summary for every image that has none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import reduce
from typing import Any

from runner.dataset.build.work_folder import JsonlStore, WorkFolder
from runner.dataset.folder_reader import sample_from_row
from runner.dataset.review.decisions import utc_now
from runner.errors import StepError
from runner.files import iter_jsonl, stream_jsonl
from runner.fingerprint_and_provenance import fingerprint
from runner.records import Sample, is_blank, replace_lone_surrogates
from runner.stages import Annotation, AnnotationEstimate, Annotator, Reporter, TokenUsage

Row = dict[str, Any]


class AnnotateStage:
    """Requests summaries from the annotator and adds them to the samples."""

    def __init__(self, work: WorkFolder, annotator: Annotator | None) -> None:
        """Store the arguments; nothing is requested yet.

        Args:
            work: The work folder, with cropped samples.
            annotator: The annotator; None keeps the summaries of the corpus.
        """
        self._work, self._annotator = work, annotator

    def estimate(self) -> tuple[int, AnnotationEstimate | None]:
        """Count the missing answers and estimate their tokens and cost; the estimate is None if none is missing."""
        if self._annotator is None:
            return 0, None
        with JsonlStore(self._work.answers, durable=True) as answers:
            num_missing = sum(1 for _ in self._missing_answers(answers))
            if not num_missing:
                return 0, None
            return num_missing, self._annotator.estimate(num_missing, _used_tokens(answers), len(answers))

    def annotate(self, num_missing: int, reporter: Reporter) -> TokenUsage:
        """Request the missing answers; each answer is on disk before the next one is requested.

        Args:
            num_missing: Number of missing answers, from `estimate`.
            reporter: Receives the progress.

        Returns:
            The tokens used.

        Raises:
            StepError: The server failed, or the budget is spent. Received answers are kept.
            RequirementError: There is no API key.
        """
        assert self._annotator is not None
        tokens = TokenUsage()
        with (
            JsonlStore(self._work.answers, durable=True) as answers,
            JsonlStore(self._work.answer_log, durable=False) as log,
        ):
            pending: dict[str, tuple[str, Row]] = {}
            reporter.progress(0, num_missing)
            annotations = self._annotator.annotate(self._request(answers, pending), _used_tokens(answers), reporter)
            for num_done, annotation in enumerate(annotations, start=1):
                key, request = pending.pop(annotation.id)
                row = _annotation_to_row(annotation)
                if not _is_readable(row):
                    raise StepError(
                        f"annotator: sample {annotation.id}: the plugin returned {ascii(row)[:200]}, which cannot be "
                        "read again as an answer. The answer is not stored"
                    )
                answers.add(key, {**request, **row})
                log.add(key, {"when": utc_now(), **annotation.transient})
                tokens += annotation.tokens
                reporter.progress(num_done, num_missing, thousand_tokens=tokens.total / 1000)
        return tokens

    def write_samples(self, key: str) -> Row:
        """Write `WorkFolder.annotated_samples`: each sample with its summary, flags, and the key of the answer.

        Returns:
            The stage's result record: `number` of samples, their `digest`, and `flags` with the count of each.
        """
        num_samples, flags = 0, Counter[str]()

        def rows() -> Iterator[Row]:
            nonlocal num_samples
            with JsonlStore(self._work.answers, durable=True) as answers:
                for row in iter_jsonl(self._work.cropped_samples):
                    annotated = self._add_summary(row, answers)
                    num_samples += 1
                    flags.update(annotated["flags"])
                    yield annotated

        digest = stream_jsonl(self._work.annotated_samples, rows())
        flag_counts = dict(flags.most_common())
        return dict(self._work.save_result("annotate", key, digest=digest, number=num_samples, flags=flag_counts))

    def _request(self, answers: JsonlStore, pending: dict[str, tuple[str, Row]]) -> Iterator[Sample]:
        """Yield the samples to annotate, and store the key and the request of each in `pending` by sample id."""
        assert self._annotator is not None
        for key, row in self._missing_answers(answers):
            sample = sample_from_row(row, self._work.image_root)
            request = self._annotator.request(sample)
            pending[sample.id] = key, {"image_sha256": row["image_sha256"], "request": request}
            yield sample

    def _missing_answers(self, answers: JsonlStore) -> Iterator[tuple[str, Row]]:
        """Yield each key without an answer that can be read, with the first sample that needs it."""
        yielded = set[str]()
        for row in iter_jsonl(self._work.cropped_samples):
            key = self._answer_key(row)
            if key is not None and key not in yielded and not (key in answers and _is_readable(answers[key])):
                yielded.add(key)
                yield key, row

    def _answer_key(self, row: Row) -> str | None:
        """Hash the image and the request of a sample; None if the sample needs no answer."""
        if row["summary"] is not None or self._annotator is None:
            return None
        request = self._annotator.request(sample_from_row(row, self._work.image_root))
        return fingerprint({"image": row["image_sha256"], "request": request})

    def _add_summary(self, row: Row, answers: JsonlStore) -> Row:
        key = self._answer_key(row)
        if key is None:
            summary_hash = hashlib.sha256((row["summary"] or "").encode()).hexdigest()
            return {**row, "flags": [], "annotation": summary_hash}
        assert self._annotator is not None
        annotation = _annotation_from_row(row["id"], answers[key])
        summary = self._annotator.summary(annotation)
        if summary is not None and is_blank(summary):
            summary = None
        return {**row, "summary": summary, "flags": list(self._annotator.flags(annotation)), "annotation": key}


def _annotation_to_row(annotation: Annotation) -> Row:
    return {
        "answer": annotation.answer,
        "ending": annotation.finish_reason,
        "refusal": annotation.refusal,
        "tokens": asdict(annotation.tokens),
        "origin": dict(annotation.origin),
    }


def _is_readable(row: Mapping[str, Any]) -> bool:
    """Return whether `_annotation_from_row` can read a row, and whether a file can hold its texts."""
    tokens = row.get("tokens")
    texts = row.get("answer"), row.get("ending"), row.get("refusal") or ""
    return (
        isinstance(tokens, dict)
        and tokens.keys() == {"input", "output"}
        and all(isinstance(count, int) and count >= 0 for count in tokens.values())
        and isinstance(row.get("origin"), dict)
        and all(isinstance(text, str) and replace_lone_surrogates(text) == text for text in texts)
    )


def _annotation_from_row(sample_id: str, row: Row) -> Annotation:
    tokens = TokenUsage(**row["tokens"])
    return Annotation(sample_id, row["answer"], row["ending"], row["refusal"], tokens, row["origin"], {})


def _used_tokens(answers: JsonlStore) -> TokenUsage:
    """Add up the token usage of all answers that can be read."""
    readable = filter(_is_readable, answers.values())
    return reduce(lambda total, row: total + TokenUsage(**row["tokens"]), readable, TokenUsage())
