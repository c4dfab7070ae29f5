"""Restores the artifact of a step from the cache, or leases the right to produce and publish it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from runner.files import write_text
from runner.preflight.check_samples import CheckProgress, check_prompt_lengths
from runner.prompt_rendering import training_texts
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import StopRequestedError
from runner.trial.cache_entry import (
    DamagedEntryError,
    InvalidEntryError,
    Lease,
    LeaseHeldError,
    ReusedMetrics,
    generation_key,
    training_key,
    validation_metric_identities,
)
from runner.trial.run_directory_and_events import Event, EventTail, RunDirectory
from runner.trial.trial_components import TrialContext

RANK_POLL_SECONDS = 0.1
"""How often a rank looks for the decision of rank 0."""
LEASE_POLL_SECONDS = 0.5
"""How often a trial that waits for another one looks for the artifact."""


def broadcast_decision(run: RunDirectory, step: str, *, must_run: bool) -> None:
    """Tell the other ranks of the worker group whether to run the step; called by rank 0."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    for stale_file in run.path.glob(f".{step}-in-group-*"):
        stale_file.unlink(missing_ok=True)
    write_text(run.path / _decision_file(step), "make" if must_run else "taken")


def wait_for_decision(run: RunDirectory, step: str) -> bool:
    """Wait until rank 0 has decided; return True if the step must run.

    Raises:
        StopRequestedError: The user asked to stop meanwhile.
    """
    file = run.path / _decision_file(step)
    while not file.exists():
        if run.stop_request.exists():
            raise StopRequestedError
        time.sleep(RANK_POLL_SECONDS)
    return file.read_text(encoding="utf-8") == "make"


def _decision_file(step: str) -> str:
    """A file name that no earlier worker group of the trial used: each group has a rendezvous port of its own."""
    return f".{step}-in-group-{os.environ.get('MASTER_ADDR', '')}-{os.environ.get('MASTER_PORT', '')}"


RECORD_FILE = "told.json"
"""The record of a training in its cache entry: `events`; `preflight`, that entry of the trial's record; `answer_limit`,
which the preflight checked; and `metrics`, the identities of the metrics that scored the validation samples."""
RECORDED_KINDS = ("metrics", "parameters", "preflight", "warning")
"""The kinds of events that a training record holds."""


@dataclass(frozen=True)
class ArtifactSpec:
    """How the artifact of a step is cached.

    Attributes:
        kind: Its kind in the cache.
        label: Its name in messages.
        cache_key: Computes the cache key of a spec.
        files: Lists what to publish; see `CacheEntry.publish`.
        restore: Moves the files of a folder into the run directory. Its last argument is the trial whose run published
            them, or None if this run did.
    """

    kind: str
    label: str
    cache_key: Callable[[ExperimentSpec], str]
    files: Callable[[TrialContext], Mapping[str, Path | str]]
    restore: Callable[[TrialContext, Path, str | None], None]


def training_record(context: TrialContext) -> str:
    """The record of the training so far, as the text of `RECORD_FILE`."""
    run = context.run
    record = {
        "events": [event for event in EventTail(run.events).read() if _is_training_event(event)],
        "metrics": validation_metric_identities(context.spec),
        "preflight": run.read_record().get("preflight"),
        "answer_limit": context.spec.generator_options.max_answer_tokens,
    }
    return json.dumps(record, ensure_ascii=False)


class _RecordedEvent(BaseModel):
    kind: Literal["parameters", "preflight"]


class _RecordedWarning(BaseModel):
    kind: Literal["warning"]
    message: str


class _RecordedMetrics(BaseModel):
    kind: Literal["metrics"]
    step: int
    values: dict[str, float | None]


class _TrainingRecord(BaseModel):
    """The form of `RECORD_FILE`."""

    events: list[_RecordedMetrics | _RecordedWarning | _RecordedEvent]
    metrics: dict[str, Any]
    preflight: dict[str, Any] | None
    answer_limit: int | None


def read_training_record(folder: Path) -> dict[str, Any]:
    """Read the record of a training from the files of its cache entry.

    Raises:
        InvalidEntryError: The record is missing or has another form.
    """
    file = folder / RECORD_FILE
    try:
        record = json.loads(file.read_bytes())
        _TrainingRecord.model_validate(record, strict=True)
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise InvalidEntryError(f"{RECORD_FILE} is not the record of a training: {error}") from error
    return dict(record)


def _training_files(context: TrialContext) -> dict[str, Path | str]:
    run = context.run
    return {"model": run.model, run.parameters.name: run.parameters, RECORD_FILE: training_record(context)}


def _is_training_event(event: Event) -> bool:
    """Whether an event belongs to this trial's own training. Metrics without a step are the trial's results."""
    is_result = event["kind"] == "metrics" and event["step"] is None
    return event["kind"] in RECORDED_KINDS and not is_result and "reused_from" not in event


def _restore_training(context: TrialContext, folder: Path, reused_from: str | None) -> None:
    """Move a trained model into the run directory and replay its metrics, so that trackers and searches see them.

    Raises:
        SpecError: Longer answers are allowed than when the model was trained, and they exceed its context.
    """
    run = context.run
    record = read_training_record(folder)
    # A training does not depend on the pipeline, whose prompts are longer.
    if record["answer_limit"] != context.spec.generator_options.max_answer_tokens or context.spec.regime.pipeline:
        _check_prompt_lengths(context)
    shutil.rmtree(run.model, ignore_errors=True)
    (folder / "model").rename(run.model)
    (folder / run.parameters.name).replace(run.parameters)
    if reused_from is not None:
        replay_training_record(context, record, reused_from)
    run.update_record(preflight=record["preflight"])
    context.log.artifact("model", run.model)


def replay_training_record(context: TrialContext, record: Mapping[str, Any], producer: str) -> None:
    """Log the events of another trial's training again, except for values that are not valid for this trial.

    Args:
        context: The trial that reuses the training.
        record: The content of `RECORD_FILE`.
        producer: The trial that trained.
    """
    metrics = ReusedMetrics(context.spec, record["metrics"])
    for event in record["events"]:
        fields = {name: value for name, value in event.items() if name not in {"time", "kind"}}
        if event["kind"] == "metrics":
            fields["values"] = metrics.keep_valid(event["values"])
            if not fields["values"]:
                continue
        context.log.append(event["kind"], **{**fields, "reused_from": producer})
    if metrics.changed_metrics:
        context.log.warning(
            f"{', '.join(metrics.changed_metrics)}: no validation values, because the training is reused and was not "
            "scored with these metrics as they are now"
        )


def _check_prompt_lengths(context: TrialContext) -> None:
    """Check that the prompts leave enough room for answers, as is done before a training."""
    limits = context.prompt_limits(context.test_prompts)
    progress = CheckProgress(context.reporter("preflight"), len(limits.prompts))
    model = context.model.model_spec(training_texts(context.training_examples.distinct))
    check_prompt_lengths(model, limits, progress)


def _generation_files(context: TrialContext) -> dict[str, Path | str]:
    return {context.run.predictions.name: context.run.predictions}


def _restore_generation(context: TrialContext, folder: Path, reused_from: str | None) -> None:
    run = context.run
    (folder / run.predictions.name).replace(run.predictions)
    for file in run.all_unfinished_predictions():
        file.unlink(missing_ok=True)
    context.log.artifact("predictions", run.predictions)


ARTIFACT_SPECS = {
    "train": ArtifactSpec("trained", "training", training_key, _training_files, _restore_training),
    "generate": ArtifactSpec("generated", "answers", generation_key, _generation_files, _restore_generation),
}
"""The cached artifacts by step. Scoring is cheap and always runs."""


def make_staging_folder(run: RunDirectory) -> Path:
    """Make an empty folder in the run directory, from which restored files can be renamed into place."""
    folder = run.path / ".taken"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def log_cache_event(context: TrialContext, step: str, state: str, message: str, **fields: str) -> None:
    """Log an event of kind `cache`; its state is `reused`, `waiting`, `bypassed` or `trouble`."""
    context.log.append("cache", step=step, state=state, message=message, **fields)


class CachedArtifact:
    """The artifact of one step of a trial, and its entry in the cache.

    Problems with the cache are logged as events, each once, and never stop the trial.
    """

    def __init__(self, context: TrialContext, step: str, artifact_spec: ArtifactSpec) -> None:
        """Find the entry by the cache key of the trial's spec."""
        self._context, self._step, self._spec = context, step, artifact_spec
        self._entry = context.cache.entry(artifact_spec.kind, artifact_spec.cache_key(context.spec))
        self._reused_from: str | None = None
        self._waits_for = ""
        self._logged_troubles: set[str] = set()

    @property
    def record(self) -> dict[str, Any]:
        """Fields of the step's record: `cache`, and `reused_from`, which is None if this trial ran the step."""
        return {"cache": f"{self._entry.kind}/{self._entry.key}", "reused_from": self._reused_from}

    @contextmanager
    def restore_or_lease(self) -> Iterator[bool]:
        """Restore the artifact from the cache, or hold the right to produce it while the block runs.

        Waits while another trial produces the same artifact.

        Yields:
            True if the artifact was restored; False if the caller has to produce and publish it.

        Raises:
            StopRequestedError: The user asked to stop while this trial waited.
            SpecError: The restored artifact does not fit the spec.
        """
        lease = Lease(self._entry, self._context.run.name)
        self._fetch_from_mirror()
        while not self._restore():
            with ExitStack() as stack:
                try:
                    stack.enter_context(lease.acquire())
                except LeaseHeldError as error:
                    self._wait(str(error))
                    continue
                except OSError as error:
                    self._log_trouble(f"the cache cannot be written to: {error}")
                # Another trial may have published the artifact between the first lookup and the lease.
                self._fetch_from_mirror()
                yield self._restore()
                return
        yield True

    def publish(self) -> None:
        """Publish the artifact that this trial produced."""
        context, run = self._context, self._context.run
        try:
            context.cache.publish(self._entry, self._spec.files(context), run.name, run.id)
        except (DamagedEntryError, InvalidEntryError, OSError) as error:
            self._log_trouble(f"{self._spec.label}: cannot be stored in the cache: {error}")

    def _restore(self) -> bool:
        """Restore the artifact; return False if the cache has none that is usable."""
        folder = make_staging_folder(self._context.run)
        try:
            description = self._entry.link_into(folder)
            if description is None:
                return False
            # An own entry is left by a run that was killed after publishing and before recording the step. A run of the
            # same trial in another storage, or in a folder that was removed since, has another id.
            if description.get("run") != self._context.run.id:
                self._reused_from = str(description["made_by"])
                message = f"{self._spec.label} reused from {self._reused_from} ({self._entry.name})"
                log_cache_event(self._context, self._step, "reused", message, trial=self._reused_from)
            self._spec.restore(self._context, folder, self._reused_from)
        except (DamagedEntryError, InvalidEntryError, OSError) as error:
            self._reused_from = None
            self._log_trouble(f"the cache entry cannot be used: {error}; the step runs again")
            # An entry that is not readable, or not in the runner's form, may be of use to its owner.
            if isinstance(error, DamagedEntryError):
                self._remove_entry()
            return False
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def _fetch_from_mirror(self) -> None:
        try:
            self._context.cache.fetch(self._entry)
        except (DamagedEntryError, InvalidEntryError, OSError) as error:
            self._log_trouble(f"cannot fetch from the cache mirror: {error}")

    def _log_trouble(self, message: str) -> None:
        if message not in self._logged_troubles:
            self._logged_troubles.add(message)
            log_cache_event(self._context, self._step, "trouble", message)

    def _remove_entry(self) -> None:
        try:
            self._entry.remove()
        except OSError as error:
            self._log_trouble(f"the unusable cache entry cannot be removed: {error}")

    def _wait(self, producer: str) -> None:
        """Wait a moment for the trial that holds the lease; log its name once.

        Raises:
            StopRequestedError: The user asked to stop.
        """
        if producer != self._waits_for:
            self._waits_for = producer
            message = f"{self._spec.label}: waits for {producer}, which is producing the same artifact"
            log_cache_event(self._context, self._step, "waiting", message)
        if self._context.run.stop_request.exists():
            raise StopRequestedError
        time.sleep(LEASE_POLL_SECONDS)
