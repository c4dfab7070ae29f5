"""Builds a data set in resumable stages: import, crop, annotate, split, publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runner.dataset.build.annotate_stage import AnnotateStage
from runner.dataset.build.crop_stage import crop_corpus, crop_key
from runner.dataset.build.import_stage import import_corpus, import_key
from runner.dataset.build.near_duplicates import write_near_duplicates
from runner.dataset.build.split_and_publish_stage import PublishStage, ReviewProgress, count_decisions
from runner.dataset.build.work_folder import BuildStage, WorkFolder
from runner.dataset.folder_writer import NewContent, check_replaceable, exclusive_build
from runner.dataset.review.box_flags import WRONG_BOX, count_wrong_boxes
from runner.errors import StepError
from runner.fingerprint_and_provenance import fingerprint, fingerprinted_options
from runner.resolved_plan import create_plugin, smoke_section
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import Section
from runner.stages import AnnotationEstimate, Reporter, TokenUsage

Row = Mapping[str, Any]

SMOKE_TWEETS = 8


class BuildListener(Protocol):
    """Receives the messages and the progress of a build."""

    def say(self, message: str) -> None:
        """Print a message of one line."""

    def reporter(self, stage: str) -> Reporter:
        """Return the reporter for the progress of a stage."""


@dataclass(frozen=True)
class BuildResult:
    """The result of a build.

    Attributes:
        path: The folder of the data set.
        fingerprint: The fingerprint of its content; None if it was not published, like the following values.
        num_samples: The number of samples by split.
        statistics: The statistics in its `dataset.json`.
        left_out: The number of entries left out by reason; `left_out.jsonl` lists each.
        stages: `made` or `unchanged` by stage.
        asked: The number of images for which a summary was requested.
        tokens: The tokens used for them.
        estimate: The estimated tokens and cost of the missing summaries; for a dry run only.
        review: The progress of the review; None if the spec needs no review.
    """

    path: Path
    fingerprint: str | None = None
    num_samples: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0
    tokens: TokenUsage = field(default_factory=TokenUsage)
    estimate: AnnotationEstimate | None = None
    review: ReviewProgress | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form of `build --json`; see docs/interface.md."""
        return {**asdict(self), "path": str(self.path)}


def smoke_spec(spec: DatasetSpec) -> DatasetSpec:
    """Return the spec of a smoke build: a few tweets, no requests and no review, in a folder of its own."""
    return spec.model_copy(
        update={
            "limit": SMOKE_TWEETS,
            "crop": spec.crop.model_copy(update={"unusable_images": "skip", "outside_boxes": "skip"}),
            "annotator": smoke_section(spec.annotator),
            "publish": "everything",
            "leaks": "warn",
            "output": spec.output.with_name(f"{spec.output.name}_smoke"),
        }
    )


def build_dataset(
    spec: DatasetSpec, listener: BuildListener, *, dry_run: bool = False, replace: bool = False
) -> BuildResult:
    """Build the data set of a spec; the folder appears atomically, and finished stages are not repeated.

    Args:
        spec: The spec.
        listener: Receives messages and progress.
        dry_run: Whether to stop before any summary is requested, with an estimate.
        replace: Whether another data set, or files of the user, in the folder may be deleted.

    Raises:
        DataError: The corpus or its images cannot be used, the splits leak, or the folder may not be replaced.
        StepError: Annotation failed, its budget is spent, or a file cannot be read or written.
        RequirementError: There is no API key for the annotator.
    """
    with exclusive_build(spec.output, lambda: listener.say(f"waiting for another build of {spec.output}")):
        check_replaceable(spec.output, NewContent(spec.name, replace=replace))
        try:
            return _Build(spec, listener, replace=replace).run(dry_run=dry_run)
        except OSError as error:  # For example a full disk or a read-only folder.
            path = error.filename or WorkFolder.for_dataset(spec.output).path
            raise StepError(
                f"{path}: {error.strerror or error}. Finished work is kept: run the command again to continue"
            ) from error


class _Build:
    """One run of a build."""

    def __init__(self, spec: DatasetSpec, listener: BuildListener, *, replace: bool) -> None:
        self._spec, self._listener, self._replace = spec, listener, replace
        self._work = WorkFolder.for_dataset(spec.output)
        self._publish_stage = PublishStage(spec, self._work)
        self._stages: dict[str, str] = {}

    def run(self, *, dry_run: bool) -> BuildResult:
        spec, work = self._spec, self._work
        imported = self._run_stage(
            "import", "tweets", import_key(spec, work), lambda key: import_corpus(spec, work, key)
        )
        cropped = self._run_stage(
            "crop",
            "samples",
            crop_key(work, imported["digest"], spec.crop, spec.keep),
            lambda key: crop_corpus(
                work, spec.crop, spec.keep, imported["number"], key, self._listener.reporter("crop")
            ),
        )
        annotate_stage = AnnotateStage(work, create_plugin(spec.annotator) if spec.annotator else None)
        num_missing, estimate = annotate_stage.estimate()
        if estimate is not None:
            self._listener.say(_estimate_message(num_missing, estimate))
        if dry_run:
            return BuildResult(spec.output, stages=self._stages, estimate=estimate)
        tokens = TokenUsage()
        if num_missing:
            tokens = annotate_stage.annotate(num_missing, self._listener.reporter("annotate"))
        annotator = spec.annotator.as_json() if spec.annotator else None
        key = fingerprint({"crop": cropped["digest"], "annotator": annotator})
        annotated = self._run_stage("annotate", "samples", key, annotate_stage.write_samples)
        for flag, count in annotated["flags"].items():
            self._listener.say(f"flagged: {count:,} × {flag}")
        if message := write_near_duplicates(work, spec.near_images):
            self._listener.say(message)
        if num_wrong := count_wrong_boxes(work):
            self._listener.say(
                f"flagged by reviewers: {num_wrong:,} × {WRONG_BOX}; these boxes are published, unless their samples "
                "are rejected (`runner review DATASET --json` lists them)"
            )
        review = count_decisions(work) if spec.waits_for_review else None
        if review is not None and review.undecided:
            return BuildResult(spec.output, stages=self._stages, asked=num_missing, tokens=tokens, review=review)
        published, left_out = self._split_and_publish(imported)
        return BuildResult(
            spec.output,
            published["fingerprint"],
            published["num_samples"],
            published["statistics"],
            left_out,
            self._stages,
            num_missing,
            tokens,
            None,
            review,
        )

    def _split_and_publish(self, imported: Row) -> tuple[Row, Mapping[str, int]]:
        """Return the result record of the published folder, and the number of entries left out by reason."""
        stage = self._publish_stage
        split = self._run_stage(
            "split",
            "samples",
            stage.split_key(stage.select_samples()),
            lambda key: stage.split(key, self._listener.reporter("split")),
        )
        provenance = {"source": imported["name"], "spec": _spec_provenance(self._spec)}
        key = stage.publish_key(split, provenance)
        published = stage.load_published(key)
        self._stages["publish"] = "made" if published is None else "unchanged"
        if published is None:
            new = NewContent(self._spec.name, imported["name"], self._replace)
            published = stage.publish(key, list(split["digests"]), imported["labels"], provenance, new)
        else:
            self._listener.say(f"publish: {self._spec.output} is unchanged")
        # Details after a colon are dropped, so that entries with the same reason are counted together.
        reasons = Counter(row["reason"].partition(":")[0] for row in stage.left_out())
        return published, dict(reasons.most_common())

    def _run_stage(self, stage: BuildStage, items: str, key: str, run: Callable[[str], Row]) -> Row:
        """Load the result record of a stage, or run the stage if its key has changed; `items` names what it counts."""
        result = self._work.load_result(stage, key)
        self._stages[stage] = "made" if result is None else "unchanged"
        unchanged = "" if result is None else ", unchanged since the last build"
        if result is None:
            result = run(key)
        self._listener.say(f"{stage}: {result['number']:,} {items}{unchanged}")
        return result


def _estimate_message(num_images: int, estimate: AnnotationEstimate) -> str:
    tokens = estimate.tokens
    cost = "" if estimate.cost is None else f", cost {estimate.cost:,.2f} by annotator.prices"
    budget = "" if estimate.budget is None else f"; the total budget is {estimate.budget:,} tokens"
    return (
        f"annotate: {num_images:,} images need a summary, with about {tokens.input:,} input tokens and at most "
        f"{tokens.output:,} output tokens{cost}{budget}"
    )


def _spec_provenance(spec: DatasetSpec) -> dict[str, Any]:
    """Return the full spec without paths of this machine and options that cannot change the content."""
    values = {key: value for key, value in spec.as_json().items() if key != "output"}
    annotator = _section_provenance(spec.annotator) if spec.annotator else None
    return {**values, "source": _section_provenance(spec.source), "annotator": annotator}


def _section_provenance(section: Section) -> dict[str, Any]:
    return {"type": section.type, **fingerprinted_options(section.options)}
