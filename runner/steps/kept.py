"""What is kept of a step for other trials, and how another trial takes it up as its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.artifacts import RunDirectory
from runner.events import Event
from runner.files import read_lines
from runner.proof.prompts import Progress, prove_prompts
from runner.spec.models import ExperimentSpec
from runner.steps.context import TrialContext
from runner.steps.figures import Figures, measured_by
from runner.steps.keys import generation_key, training_key
from runner.steps.rendering import prompts_of, training_texts

TOLD = "told.json"
"""What a training told on its way: `events`, the record's entry `proof`, the `answer_limit` it was proven with, and the
`metrics` that measured the samples kept aside."""
TOLD_KINDS = ("metrics", "parameters", "proof", "warning")


@dataclass(frozen=True)
class Kept:
    """How a step is shared.

    Attributes:
        kind: Its kind in the cache.
        word: What is shared, for people.
        key: What made it, hashed.
        parts: What is kept; see `Entry.publish`.
        take: Takes up what lies in a folder as the trial's own; told who made it.
    """

    kind: str
    word: str
    key: Callable[[ExperimentSpec], str]
    parts: Callable[[TrialContext], Mapping[str, Path | str]]
    take: Callable[[TrialContext, Path, str], None]


def told_in_training(context: TrialContext) -> str:
    """What a training has told so far, as the text of the file `TOLD`."""
    run = context.run
    told = {
        "events": [event for event in read_lines(run.events) if _is_of_training(event)],
        "metrics": measured_by(context.spec),
        "proof": run.read_record().get("proof"),
        "answer_limit": context.spec.generator_options.answer_limit,
    }
    return json.dumps(told, ensure_ascii=False)


def _training_parts(context: TrialContext) -> dict[str, Path | str]:
    run = context.run
    return {"model": run.model, run.parameters.name: run.parameters, TOLD: told_in_training(context)}


def _is_of_training(event: Event) -> bool:
    """Whether an event belongs to this trial's training: its figures have a step, unlike the trial's results."""
    is_result = event["kind"] == "metrics" and event["step"] is None
    return event["kind"] in TOLD_KINDS and not is_result and "reused_from" not in event


def _take_training(context: TrialContext, folder: Path, maker: str) -> None:
    """Take up a trained model, with its curves, so that trackers and searches see them as if trained here.

    Raises:
        SpecError: Longer answers are asked for than when it was trained, and they find no room.
    """
    run = context.run
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    if told["answer_limit"] != context.spec.generator_options.answer_limit:
        _prove_room(context)
    shutil.rmtree(run.model, ignore_errors=True)
    (folder / "model").rename(run.model)
    (folder / run.parameters.name).replace(run.parameters)
    if maker != run.name:
        pass_on(context, told, maker)
    run.update_record(proof=told["proof"])
    context.log.artifact("model", run.model)


def pass_on(context: TrialContext, told: Mapping[str, Any], maker: str) -> None:
    """Tell what was told in a training, as far as it is right of this trial too.

    Args:
        context: The trial that takes it up.
        told: What the file `TOLD` holds.
        maker: Who trained.
    """
    figures = Figures(context.spec, told["metrics"])
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


def _prove_room(context: TrialContext) -> None:
    """Prove that answers of another length find room, as it is proven before a training."""
    rendered = [context.adapter.render_training(sample) for sample in context.samples("train")]
    prompts = prompts_of(context, context.samples("test"))
    progress = Progress(context.reporter("proof"), len(prompts))
    model = context.model.outline(training_texts(rendered))
    prove_prompts(model, prompts, context.spec.generator_options.answer_limit, progress)


def _generation_parts(context: TrialContext) -> dict[str, Path | str]:
    return {context.run.predictions.name: context.run.predictions}


def _take_generation(context: TrialContext, folder: Path, maker: str) -> None:
    run = context.run
    (folder / run.predictions.name).replace(run.predictions)
    run.unfinished_predictions.unlink(missing_ok=True)
    context.log.artifact("predictions", run.predictions)


KEPT = {
    "train": Kept("trained", "training", training_key, _training_parts, _take_training),
    "generate": Kept("generated", "answers", generation_key, _generation_parts, _take_generation),
}
"""By step; scoring is cheap, and is done anew."""


def empty_folder(run: RunDirectory) -> Path:
    """Make a folder in the trial's own for what it is taking up, so that a renaming is enough."""
    folder = run.path / ".taken"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
