"""What a launch would do, worked out without doing it, for `runner plan`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.errors import DataError, UnmetError
from runner.forecast.fit import disk, hours, judged
from runner.forecast.lengths import assumed_length, length_figures
from runner.forecast.remembered import made_of, remembered
from runner.forecast.resources import local_gpus, unmet_by
from runner.forecast.splits import Split, Splits
from runner.plan import Plan, Survey, Trial, expand, implement
from runner.records import Extent
from runner.spec.load import LoadedSpec
from runner.spec.models import ComputeOptions, ExperimentSpec
from runner.spec.variants import Variants
from runner.stages import DatasetInfo, Outline, Reporter
from runner.steps.manifest import by_group
from runner.sweep.outlook import known_trials, outlook
from runner.sweep.points import Composer


def describe_plan(loaded: LoadedSpec[ExperimentSpec], reporter: Reporter, kept: Path | None = None) -> dict[str, Any]:
    """Describe what would run, as docs/interface.md's `plan --json` holds it.

    What stands in the way of a launch here is listed under `unmet`; figures that need it are then null or empty, or
    marked as estimated or assumed. Those of a sweep are of the spec as it is without it.

    Args:
        loaded: The spec.
        reporter: Told of the progress of data that are made on the way.
        kept: The folder of what earlier plans foretold; of a sweep, and of None, everything is worked out anew.

    Raises:
        SpecError: The optimizer's groups do not fit the model's parameters, or trials of a sweep cannot be made.
    """
    spec = loaded.spec
    told: dict[str, Any] = {
        "fingerprint": None,
        "trials": [],
        "num_samples": {},
        "steps_per_trial": None,
        "tokens": {},
        "parameters": [],
        "memory": {},
        "disk": {},
        "hours": {},
        "fits": None,
        "advice": [],
        "sweep": None,
        "where": where(spec.compute),
        "unmet": [],
    }
    composer, survey = None, Survey(reporter)
    if spec.sweep is not None:
        composer = Composer(Variants(loaded.tree, spec.sweep), survey)
        told["sweep"] = outlook(composer)

    def work_out() -> dict[str, Any]:
        return _foretold(spec, survey, composer, Splits(reporter))

    foretold = remembered(kept, made_of(spec, survey), work_out) if kept and composer is None else work_out()
    told |= foretold
    told["unmet"] = unmet_by(spec.compute, local_gpus()) + foretold["unmet"]
    if spec.sweep is not None:
        told["sweep"]["gpu_hours"] = _times(told["hours"].get("gpu"), told["sweep"]["num_trials"])
    return told


def _foretold(spec: ExperimentSpec, survey: Survey, composer: Composer | None, splits: Splits) -> dict[str, Any]:
    """What follows from the spec and what is found of its data and model, whatever this machine is."""
    told: dict[str, Any] = {"unmet": []}
    try:
        told |= _pinned(survey.resolve(spec), composer, splits)
    except (DataError, UnmetError) as error:
        told["unmet"].append(str(error))
    return told | _trained(spec, survey, splits, told["unmet"])


def _times(hours: float | None, num_trials: int | None) -> float | None:
    return None if hours is None or num_trials is None else hours * num_trials


def _pinned(plan: Plan, composer: Composer | None, splits: Splits) -> dict[str, Any]:
    trials = expand(plan) if composer is None else known_trials(composer)
    return {"fingerprint": plan.fingerprint, "trials": [_trial(trial, splits) for trial in trials]}


def _trial(trial: Trial, splits: Splits) -> dict[str, Any]:
    spec = trial.plan.spec
    extent = splits.of(spec).extent(spec) if trains(spec) else Extent(0, 0)
    return {
        "name": trial.name,
        "fingerprint": trial.plan.fingerprint,
        "parameters": dict(trial.parameters),
        "group": trial.group,
        "arm": trial.arm,
        "steps": extent.steps,
        "trained_tokens": extent.tokens,
    }


def trains(spec: ExperimentSpec) -> bool:
    """Whether a spec has all that it takes to train."""
    return spec.model is not None and spec.trainer is not None and spec.optimizer is not None


def _trained(spec: ExperimentSpec, survey: Survey, splits: Splits, unmet: list[str]) -> dict[str, Any]:
    """Tell what a training takes, as far as data and model can be had; what cannot is added to `unmet`."""
    found: DatasetInfo | None = _or_unmet(lambda: survey.dataset(spec.data), unmet)
    told: dict[str, Any] = {"num_samples": dict(found.num_samples)} if found else {}
    if not trains(spec):
        return {**told, "steps_per_trial": 0}
    assert spec.model is not None
    assert spec.model_options is not None
    if found is None:
        model = spec.model
        # Nobody has asked for the checkpoint yet.
        _or_unmet(spec.model_options.exact_revision, unmet)
        outline = _or_unmet(lambda: implement(model).sketch(None), unmet)
        return told if outline is None else told | _forecast(spec, outline, None)
    split = splits.of(spec)
    told["steps_per_trial"] = split.extent(spec).steps
    if split.outline is None:
        unmet += [split.unmet] if split.unmet not in unmet else []
        return told
    return told | _forecast(spec, split.outline, split)


def _or_unmet(get: Callable[[], Any], unmet: list[str]) -> Any:
    """Get something, or None and say why not, once."""
    try:
        return get()
    except (DataError, UnmetError) as error:
        if str(error) not in unmet:
            unmet.append(str(error))
        return None


def _forecast(spec: ExperimentSpec, outline: Outline, split: Split | None) -> dict[str, Any]:
    assert spec.trainer is not None
    assert spec.optimizer is not None
    trainer, optimizer = implement(spec.trainer), implement(spec.optimizer)
    parameters = by_group(optimizer.prepare(outline.module, spec.seed))
    limit = trainer.limit(outline)
    counts = split.counts if split else None
    if counts is None:
        counts = [assumed_length(limit if limit != outline.context_length else None)]
    gpus = spec.compute.gpus_per_worker > 0
    forecast = trainer.forecast(outline, optimizer, counts, spec.compute.workers, gpus=gpus)
    extent = split.extent(spec) if split else Extent(None, None)
    return {
        "tokens": {**length_figures(counts, assumed=split is None), "trained": extent.tokens},
        "parameters": parameters,
        **judged(forecast, spec.compute),
        "disk": disk(forecast),
        "hours": hours(forecast, spec.compute, extent.steps),
    }


def where(compute: ComputeOptions) -> str:
    """Phrase what each trial is placed on."""
    accelerator = f" {compute.accelerator}" if compute.accelerator else ""
    gpus = f"{compute.gpus_per_worker:g}{accelerator} GPU each" if compute.gpus_per_worker else "on the CPU"
    cpus = f", {compute.cpus_per_worker} cores each" if compute.cpus_per_worker else ""
    return f"{compute.workers} worker{'s' if compute.workers > 1 else ''}, {gpus}{cpus}"
