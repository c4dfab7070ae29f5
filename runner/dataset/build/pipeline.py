"""Builds a data set in resumable stages: import, crop, annotate, split, publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runner.dataset.build.annotate_stage import Annotating
from runner.dataset.build.crop_stage import crop_corpus, crop_key
from runner.dataset.build.import_stage import import_corpus, import_key
from runner.dataset.build.publish_stage import Release, ReviewProgress, review_progress
from runner.dataset.build.work_folder import BuildStage, WorkFolder
from runner.dataset.publish import exclusive_build, refuse_other
from runner.errors import StepError
from runner.fingerprint import fingerprint, identity
from runner.plan import implement, smoke_section
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import Section
from runner.stages import Estimate, Reporter, Tokens

Row = Mapping[str, Any]

SMOKE_TWEETS = 8


class BuildListener(Protocol):
    """Whom a build tells how far it is."""

    def say(self, message: str) -> None:
        """Tell something, a line."""

    def reporter(self, stage: str) -> Reporter:
        """Where a stage tells its progress."""


@dataclass(frozen=True)
class BuildResult:
    """What came of a build.

    Attributes:
        path: The data set's folder.
        fingerprint: Over its content; None where it was not published, as below.
        num_samples: By split.
        statistics: As in its `dataset.json`.
        left_out: Reason to how many entries were left out for it; each is listed in `left_out.jsonl`.
        stages: What became of each stage: `made` or `unchanged`.
        asked: How many images were asked about.
        tokens: What that took.
        estimate: What it would take to ask about the rest; in a dry run alone.
        review: How far the review is; None where nothing waits for one.
    """

    path: Path
    fingerprint: str | None = None
    num_samples: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    estimate: Estimate | None = None
    review: ReviewProgress | None = None

    def as_json(self) -> dict[str, Any]:
        """The result as docs/interface.md's `build --json` holds it."""
        return {**asdict(self), "path": str(self.path)}


def smoke_of(spec: DatasetSpec) -> DatasetSpec:
    """Make the spec of a smoke run: a few tweets, nobody asked, all published, beside the data set's own place."""
    return spec.model_copy(
        update={
            "limit": SMOKE_TWEETS,
            "crop": spec.crop.model_copy(update={"unusable_images": "skip"}),
            "annotator": smoke_section(spec.annotator),
            "publish": "everything",
            "leaks": "warn",
            "output": spec.output.with_name(f"{spec.output.name}_smoke"),
        }
    )


def build_dataset(spec: DatasetSpec, listener: BuildListener, *, dry_run: bool = False) -> BuildResult:
    """Build the data set of a spec; the folder is there whole or not at all, and what is done is not done again.

    Args:
        spec: The spec.
        listener: Told how far it is.
        dry_run: Whether to stop before anybody is asked, with an estimate.

    Raises:
        DataError: The corpus or its images cannot be used, or the splits leak.
        StepError: Annotating failed, its budget is spent, or something cannot be read or written.
        UnmetError: There is no key for the annotator.
    """
    with exclusive_build(spec.output, lambda: listener.say(f"waiting for another build of {spec.output}")):
        refuse_other(spec.output)
        try:
            return _Build(spec, listener).run(dry_run=dry_run)
        except OSError as error:  # A full disk, say, or a folder that may not be written to.
            place = error.filename or WorkFolder.of(spec.output).path
            raise StepError(
                f"{place}: {error.strerror or error}. What is done is kept: run this again for the rest"
            ) from error


class _Build:
    """One build while it runs."""

    def __init__(self, spec: DatasetSpec, listener: BuildListener) -> None:
        self._spec, self._listener = spec, listener
        self._work = WorkFolder.of(spec.output)
        self._release = Release(spec, self._work)
        self._stages: dict[str, str] = {}

    def run(self, *, dry_run: bool) -> BuildResult:
        spec, work = self._spec, self._work
        imported = self._stage("import", "tweets", import_key(spec, work), lambda key: import_corpus(spec, work, key))
        cropped = self._stage(
            "crop",
            "samples",
            crop_key(work, imported["digest"], spec.crop),
            lambda key: crop_corpus(work, spec.crop, imported["number"], key, self._listener.reporter("crop")),
        )
        annotating = Annotating(work, implement(spec.annotator) if spec.annotator else None)
        number, estimate = annotating.estimate()
        if estimate is not None:
            self._listener.say(_estimated(number, estimate))
        if dry_run:
            return BuildResult(spec.output, stages=self._stages, estimate=estimate)
        tokens = annotating.ask(number, self._listener.reporter("annotate")) if number else Tokens()
        annotated_by = spec.annotator.as_json() if spec.annotator else None
        key = fingerprint({"crop": cropped["digest"], "annotator": annotated_by})
        annotated = self._stage("annotate", "samples", key, annotating.gather)
        for flag, times in annotated["flags"].items():
            self._listener.say(f"flagged: {times:,} × {flag}")
        reviewed = review_progress(work) if spec.waits_for_review else None
        if reviewed is not None and reviewed.undecided:
            return BuildResult(spec.output, stages=self._stages, asked=number, tokens=tokens, review=reviewed)
        note, left_out = self._finish(imported)
        return BuildResult(
            spec.output,
            note["fingerprint"],
            note["num_samples"],
            note["statistics"],
            left_out,
            self._stages,
            number,
            tokens,
            None,
            reviewed,
        )

    def _finish(self, imported: Row) -> tuple[Row, Mapping[str, int]]:
        release = self._release
        split = self._stage(
            "split",
            "samples",
            release.split_key(release.choose()),
            lambda key: release.split(key, self._listener.reporter("split")),
        )
        provenance = {"source": imported["name"], "spec": _provenance(self._spec)}
        key = release.publish_key(split, provenance)
        note = release.published(key)
        self._stages["publish"] = "made" if note is None else "unchanged"
        if note is None:
            note = release.publish(key, list(split["digests"]), imported["labels"], provenance)
        else:
            self._listener.say(f"publish: {self._spec.output} is as it was published")
        reasons = Counter(_kind(row["reason"]) for row in release.left_out())
        return note, dict(reasons.most_common())

    def _stage(self, stage: BuildStage, what: str, key: str, make: Callable[[str], Row]) -> Row:
        note = self._work.made(stage, key)
        self._stages[stage] = "made" if note is None else "unchanged"
        unchanged = "" if note is None else ", unchanged since the last build"
        if note is None:
            note = make(key)
        self._listener.say(f"{stage}: {note['number']:,} {what}{unchanged}")
        return note


def _estimated(number: int, estimate: Estimate) -> str:
    tokens = estimate.tokens
    price = "" if estimate.cost is None else f", {estimate.cost:,.2f} by annotator.prices"
    limit = "" if estimate.budget is None else f"; the budget is {estimate.budget:,} in all"
    return (
        f"annotate: {number:,} images to ask about, some {tokens.input:,} tokens of questions and at most "
        f"{tokens.output:,} of answers{price}{limit}"
    )


def _provenance(spec: DatasetSpec) -> dict[str, Any]:
    """The spec as written out, less the places on this machine and what cannot change the content."""
    told = {key: value for key, value in spec.as_json().items() if key != "output"}
    return {**told, "source": _told(spec.source), "annotator": _told(spec.annotator) if spec.annotator else None}


def _told(part: Section) -> dict[str, Any]:
    return {"type": part.type, **identity(part.options)}


def _kind(reason: str) -> str:
    """A reason without the particulars that follow its colon."""
    return reason.partition(":")[0]
