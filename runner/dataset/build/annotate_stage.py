"""Stage 3 of a build: requests a summary for every image that has none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from typing import Any

from runner.dataset.build.work_folder import JsonlStore, WorkFolder
from runner.dataset.folder import sample_of
from runner.dataset.review.decisions import now
from runner.files import rows_of, write_rows_whole
from runner.fingerprint import fingerprint
from runner.records import Sample
from runner.stages import Annotation, Annotator, Estimate, Reporter, Tokens

Row = dict[str, Any]


class Annotating:
    """The images of a build that are to be summarised, and the answers that are there."""

    def __init__(self, work: WorkFolder, annotator: Annotator | None) -> None:
        """Take up what is there; without an annotator samples keep the summaries that they came with."""
        self._work, self._annotator = work, annotator

    def estimate(self) -> tuple[int, Estimate | None]:
        """Count the images that must be asked about, and what that takes; None where there is nothing to ask."""
        if self._annotator is None:
            return 0, None
        with JsonlStore(self._work.answers, durable=True) as answers:
            number = sum(1 for _ in self._missing(answers))
            return number, self._annotator.estimate(number, _taken(answers), len(answers)) if number else None

    def ask(self, number: int, reporter: Reporter) -> Tokens:
        """Ask about what has no answer; each is on the disk before the next is asked for.

        Args:
            number: Of questions, as `estimate` counts them.
            reporter: Told of the progress.

        Returns:
            What it took.

        Raises:
            StepError: The server failed, or the budget is spent; answers that came are kept.
            UnmetError: There is no key.
        """
        assert self._annotator is not None
        took = Tokens()
        with (
            JsonlStore(self._work.answers, durable=True) as answers,
            JsonlStore(self._work.answer_log, durable=False) as log,
        ):
            asked: dict[str, tuple[str, Row]] = {}
            samples = self._samples(answers, asked)
            reporter.progress(0, number)
            for place, each in enumerate(self._annotator.annotate(samples, _taken(answers), reporter), start=1):
                key, about = asked.pop(each.id)
                answers.add(key, {**about, **_answer(each)})
                log.add(key, {"when": now(), **each.passing})
                took += each.tokens
                reporter.progress(place, number, thousand_tokens=took.total / 1000)
        return took

    def gather(self, key: str) -> Row:
        """Write `WorkFolder.annotated`: each sample with its summary, what to look at, and the answer's key.

        Returns:
            The note of the stage: `number` of samples, `digest` of them, `flags` with how many have each.
        """
        number, flags = 0, Counter[str]()

        def samples() -> Iterator[Row]:
            nonlocal number
            with JsonlStore(self._work.answers, durable=True) as answers:
                for row in rows_of(self._work.cropped):
                    annotated = self._annotated(row, answers)
                    number += 1
                    flags.update(annotated["flags"])
                    yield annotated

        digest = write_rows_whole(self._work.annotated, samples())
        return dict(self._work.note("annotate", key, digest=digest, number=number, flags=dict(flags.most_common())))

    def _samples(self, answers: JsonlStore, asked: dict[str, tuple[str, Row]]) -> Iterator[Sample]:
        for key, row in self._missing(answers):
            sample = sample_of(row, self._work.pictures)
            assert self._annotator is not None
            request = self._annotator.request(sample)
            asked[sample.id] = key, {"image_sha256": row["image_sha256"], "request": request}
            yield sample

    def _missing(self, answers: JsonlStore) -> Iterator[tuple[str, Row]]:
        """Yield the first sample of each question that has no answer."""
        met = set[str]()
        for row in rows_of(self._work.cropped):
            key = self._question(row)
            if key is not None and key not in answers and key not in met:
                met.add(key)
                yield key, row

    def _question(self, row: Row) -> str | None:
        """The key of the question about a sample; None where it has a summary."""
        if row["summary"] is not None or self._annotator is None:
            return None
        request = self._annotator.request(sample_of(row, self._work.pictures))
        return fingerprint({"image": row["image_sha256"], "request": request})

    def _annotated(self, row: Row, answers: JsonlStore) -> Row:
        key = self._question(row)
        if key is None:
            own = hashlib.sha256((row["summary"] or "").encode()).hexdigest()
            return {**row, "flags": [], "annotation": own}
        assert self._annotator is not None
        answer = _annotation(row["id"], answers[key])
        summary = self._annotator.summary(answer)
        return {**row, "summary": summary, "flags": list(self._annotator.flags(answer)), "annotation": key}


def _answer(annotation: Annotation) -> Row:
    return {
        "answer": annotation.answer,
        "ending": annotation.ending,
        "refusal": annotation.refusal,
        "tokens": asdict(annotation.tokens),
        "origin": dict(annotation.origin),
    }


def _annotation(name: str, row: Row) -> Annotation:
    tokens = Tokens(**row["tokens"])
    return Annotation(name, row["answer"], row["ending"], row["refusal"], tokens, row["origin"], {})


def _taken(answers: JsonlStore) -> Tokens:
    return reduce(lambda total, row: total + Tokens(**row["tokens"]), answers.values(), Tokens())
