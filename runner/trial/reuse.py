"""Reuses the artifacts of a step from another trial with the same key, or runs the step and publishes them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import read_lines, write_text
from runner.preflight.check_samples import Progress, check_prompts
from runner.rendering import training_texts
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import StopRequestedError
from runner.trial.cache_entry import CacheEntry, DamagedError, Lease, LeaseHeldError
from runner.trial.cache_keys import ReusedMetrics, generation_key, training_key, validation_metrics
from runner.trial.context import TrialContext, main_process
from runner.trial.events import Event
from runner.trial.run_directory import RunDirectory

RANK_POLL_SECONDS = 0.1


def broadcast_decision(run: RunDirectory, step: str, *, make: bool) -> None:
    """Tell the other workers whether the step is to be run; the main one knows."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    for old in run.path.glob(f".{step}-in-group-*"):
        old.unlink(missing_ok=True)
    write_text(run.path / _file(step), "make" if make else "taken")


def wait_for_decision(run: RunDirectory, step: str) -> bool:
    """Wait for what the main worker tells; whether the step is to be run.

    Raises:
        StopRequestedError: The user asked to stop meanwhile.
    """
    file = run.path / _file(step)
    while not file.exists():
        if run.stop_request.exists():
            raise StopRequestedError
        time.sleep(RANK_POLL_SECONDS)
    return file.read_text(encoding="utf-8") == "make"


def _file(step: str) -> str:
    """A name that an earlier group of the same trial did not have: each meets at a port of its own."""
    return f".{step}-in-group-{os.environ.get('MASTER_ADDR', '')}-{os.environ.get('MASTER_PORT', '')}"


RECORD_FILE = "told.json"
"""What a training told on its way: `events`, the record's entry `proof`, the `answer_limit` it was proven with, and the
`metrics` that measured the samples kept aside."""
RECORDED_KINDS = ("metrics", "parameters", "preflight", "warning")


@dataclass(frozen=True)
class ArtifactSpec:
    """How a step is shared.

    Attributes:
        kind: Its kind in the cache.
        word: What is shared, for people.
        key: What made it, hashed.
        parts: What is kept; see `CacheEntry.publish`.
        take: Takes up what lies in a folder as the trial's own; told who made it.
    """

    kind: str
    word: str
    key: Callable[[ExperimentSpec], str]
    parts: Callable[[TrialContext], Mapping[str, Path | str]]
    take: Callable[[TrialContext, Path, str], None]


def training_record(context: TrialContext) -> str:
    """What a training has told so far, as the text of the file `RECORD_FILE`."""
    run = context.run
    told = {
        "events": [event for event in read_lines(run.events) if _is_of_training(event)],
        "metrics": validation_metrics(context.spec),
        "preflight": run.read_record().get("preflight"),
        "answer_limit": context.spec.generator_options.answer_limit,
    }
    return json.dumps(told, ensure_ascii=False)


def _training_parts(context: TrialContext) -> dict[str, Path | str]:
    run = context.run
    return {"model": run.model, run.parameters.name: run.parameters, RECORD_FILE: training_record(context)}


def _is_of_training(event: Event) -> bool:
    """Whether an event belongs to this trial's training: its figures have a step, unlike the trial's results."""
    is_result = event["kind"] == "metrics" and event["step"] is None
    return event["kind"] in RECORDED_KINDS and not is_result and "reused_from" not in event


def _take_training(context: TrialContext, folder: Path, maker: str) -> None:
    """Take up a trained model, with its curves, so that trackers and searches see them as if trained here.

    Raises:
        SpecError: Longer answers are asked for than when it was trained, and they find no room.
    """
    run = context.run
    told = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    if told["answer_limit"] != context.spec.generator_options.answer_limit:
        _check_prompt_lengths(context)
    shutil.rmtree(run.model, ignore_errors=True)
    (folder / "model").rename(run.model)
    (folder / run.parameters.name).replace(run.parameters)
    if maker != run.name:
        replay_record(context, told, maker)
    run.update_record(preflight=told["preflight"])
    context.log.artifact("model", run.model)


def replay_record(context: TrialContext, told: Mapping[str, Any], maker: str) -> None:
    """Tell what was told in a training, as far as it is right of this trial too.

    Args:
        context: The trial that takes it up.
        told: What the file `RECORD_FILE` holds.
        maker: Who trained.
    """
    figures = ReusedMetrics(context.spec, told["metrics"])
    for event in told["events"]:
        passed_on = {name: value for name, value in event.items() if name not in {"time", "kind"}}
        if event["kind"] == "metrics":
            passed_on["values"] = figures.still_right(event["values"])
            if not passed_on["values"]:
                continue
        context.log.append(event["kind"], **{**passed_on, "reused_from": maker})
    if figures.lacking:
        context.log.warning(
            f"{', '.join(figures.lacking)}: no figures of the samples kept aside, as the training is reused, and these "
            "metrics did not measure them then as they would now"
        )


def _check_prompt_lengths(context: TrialContext) -> None:
    """Prove that answers of another length find room, as it is proven before a training."""
    rendered = [context.adapter.render_training(sample) for sample in context.samples("train")]
    prompts = context.prompts(context.samples("test"))
    progress = Progress(context.reporter("preflight"), len(prompts))
    model = context.model.model_spec(training_texts(rendered))
    check_prompts(model, prompts, context.spec.generator_options.answer_limit, progress)


def _generation_parts(context: TrialContext) -> dict[str, Path | str]:
    return {context.run.predictions.name: context.run.predictions}


def _take_generation(context: TrialContext, folder: Path, maker: str) -> None:
    run = context.run
    (folder / run.predictions.name).replace(run.predictions)
    run.unfinished_predictions.unlink(missing_ok=True)
    context.log.artifact("predictions", run.predictions)


ARTIFACT_SPECS = {
    "train": ArtifactSpec("trained", "training", training_key, _training_parts, _take_training),
    "generate": ArtifactSpec("generated", "answers", generation_key, _generation_parts, _take_generation),
}
"""By step; scoring is cheap, and is done anew."""


def empty_folder(run: RunDirectory) -> Path:
    """Make a folder in the trial's own for what it is taking up, so that a renaming is enough."""
    folder = run.path / ".taken"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


POLL_SECONDS = 0.5
"""How often one who waits looks."""

Action = Callable[[TrialContext], None]


def reuse_or_run(context: TrialContext, step: str, make: Action) -> dict[str, Any]:
    """Get a step's artifact into the run directory, by taking it or by making it.

    Whatever fails about the cache is warned of, and the step is run. Of a group of workers the main one decides.

    Args:
        context: The trial.
        step: The step.
        make: Runs it; called at most once.

    Returns:
        What the record says of it: `cache` (kind and key), and `reused_from`, the trial that made it; empty for a step
        that is not shared.

    Raises:
        StopRequestedError: The user asked to stop while another trial was waited for.
        RunnerError: As `make` raises.
    """
    kept = ARTIFACT_SPECS.get(step)
    if kept is None:
        make(context)
        return {}
    if not main_process():
        if wait_for_decision(context.run, step):
            make(context)
        return {}
    if context.run.afresh.exists():
        _tell(context, step, "bypassed", f"{kept.word}: made anew, and not kept for other trials")
        broadcast_decision(context.run, step, make=True)
        make(context)
        return {}
    entry = context.cache.entry(kept.kind, kept.key(context.spec))
    return {"cache": f"{entry.kind}/{entry.key}", **_Sharing(context, step, kept, entry).get(make)}


def _tell(context: TrialContext, step: str, state: str, message: str, **more: str) -> None:
    context.log.append("cache", step=step, state=state, message=message, **more)


class _Sharing:
    """One trial's way to one artifact."""

    def __init__(self, context: TrialContext, step: str, kept: ArtifactSpec, entry: CacheEntry) -> None:
        self._context, self._step, self._kept, self._entry = context, step, kept, entry
        self._waits_for = ""
        self._told: set[str] = set()

    def get(self, make: Action) -> dict[str, Any]:
        """Take it, wait for who makes it, or make it."""
        claim = Lease(self._entry, self._context.run.name)
        self._fetch()
        while True:
            taken = self._taken()
            if taken is not None:
                return taken
            with ExitStack() as stack:
                try:
                    stack.enter_context(claim.held())
                except LeaseHeldError as error:
                    self._wait(str(error))
                    continue
                except OSError as error:
                    self._trouble(f"the cache cannot be written to: {error}")
                # Between the look and the claim another trial may have finished it.
                self._fetch()
                return self._taken() or self._made(make)

    def _made(self, make: Action) -> dict[str, Any]:
        broadcast_decision(self._context.run, self._step, make=True)
        make(self._context)
        try:
            self._context.cache.publish(self._entry, self._kept.parts(self._context), self._context.run.name)
        except OSError as error:
            self._trouble(f"{self._kept.word} cannot be kept for other trials: {error}")
        return {"reused_from": None}

    def _taken(self) -> dict[str, Any] | None:
        """Take the entry up; None where there is none that could be taken."""
        folder = empty_folder(self._context.run)
        try:
            told = self._entry.take(folder)
            if told is None:
                return None
            maker = str(told["made_by"])
            own = maker == self._context.run.name  # a kill came between its end and its note
            if not own:
                message = f"{self._kept.word} reused from {maker} ({self._entry.name})"
                _tell(self._context, self._step, "reused", message, trial=maker)
            self._kept.take(self._context, folder, maker)
        except (DamagedError, OSError) as error:
            self._trouble(f"the cache holds what cannot be used: {error}; it is made again")
            self._remove()
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        broadcast_decision(self._context.run, self._step, make=False)
        return {"reused_from": None if own else maker}

    def _fetch(self) -> None:
        try:
            self._context.cache.fetch(self._entry)
        except (DamagedError, OSError) as error:
            self._trouble(f"nothing was fetched from the shared cache: {error}")

    def _trouble(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _tell(self._context, self._step, "trouble", message)

    def _remove(self) -> None:
        try:
            self._entry.remove()
        except OSError as error:
            self._trouble(f"nor can it be removed: {error}")

    def _wait(self, maker: str) -> None:
        """Wait a moment for another trial; say for whom, once.

        Raises:
            StopRequestedError: The user asked to stop.
        """
        if maker != self._waits_for:
            self._waits_for = maker
            _tell(self._context, self._step, "waiting", f"{self._kept.word}: waits for {maker}, which makes the same")
        if self._context.run.stop_request.exists():
            raise StopRequestedError
        time.sleep(POLL_SECONDS)
