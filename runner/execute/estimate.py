"""What a launch would do, worked out without doing it, for `runner plan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runner.errors import DataError, UnmetError
from runner.execute.fit import disk, hours, judged
from runner.execute.lengths import assumed_length, length_figures
from runner.execute.resources import local_gpus, unmet_by
from runner.plan import Plan, Survey, expand, implement, resolve
from runner.records import Rendered
from runner.spec.load import LoadedSpec
from runner.spec.models import ComputeOptions, ExperimentSpec
from runner.spec.variants import Variants
from runner.stages import DatasetInfo, Outline, Reporter
from runner.steps.manifest import by_group
from runner.steps.rendering import training_texts
from runner.sweep.outlook import known_trials, outlook
from runner.sweep.points import Composer


def describe_plan(loaded: LoadedSpec[ExperimentSpec], reporter: Reporter) -> dict[str, Any]:
    """Describe what would run, as docs/interface.md's `plan --json` holds it.

    What stands in the way of a launch here is listed under `unmet`; figures that need it are then null or empty, or
    marked as estimated or assumed. Those of a sweep are of the spec as it is without it.

    Raises:
        SpecError: The optimizer's groups do not fit the model's parameters, or trials of a sweep cannot be made.
    """
    spec = loaded.spec
    unmet = unmet_by(spec.compute, local_gpus())
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
        "unmet": unmet,
    }
    composer = None
    if spec.sweep is not None:
        composer = Composer(Variants(loaded.tree, spec.sweep), Survey(reporter))
        told["sweep"] = outlook(composer)
    try:
        told |= _pinned(resolve(spec, reporter), composer)
    except (DataError, UnmetError) as error:
        unmet.append(str(error))
    told |= _trained(spec, reporter, unmet)
    if spec.sweep is not None:
        told["sweep"]["gpu_hours"] = _times(told["hours"].get("gpu"), told["sweep"]["num_trials"])
    return told


def _times(hours: float | None, num_trials: int | None) -> float | None:
    return None if hours is None or num_trials is None else hours * num_trials


def _pinned(plan: Plan, composer: Composer | None) -> dict[str, Any]:
    trials = [
        {"name": trial.name, "fingerprint": trial.plan.fingerprint, "parameters": dict(trial.parameters)}
        for trial in (expand(plan) if composer is None else known_trials(composer))
    ]
    return {"fingerprint": plan.fingerprint, "trials": trials}


def _trained(spec: ExperimentSpec, reporter: Reporter, unmet: list[str]) -> dict[str, Any]:
    """Tell what a training takes, as far as data and model can be had; what cannot is added to `unmet`."""
    data = implement(spec.data)
    found: DatasetInfo | None = _or_unmet(lambda: data.prepare(reporter), unmet)
    told: dict[str, Any] = {"num_samples": dict(found.num_samples)} if found else {}
    if spec.model is None or spec.trainer is None or spec.optimizer is None:
        return {**told, "steps_per_trial": 0}
    model, rendered = implement(spec.model), None
    if found is None:
        # Nobody has asked for the checkpoint yet.
        _or_unmet(model.revision, unmet)
    else:
        adapter = implement(spec.adapter, found.labels)
        rendered = [adapter.render_training(sample) for sample in data.load("train")]
        told["steps_per_trial"] = implement(spec.trainer).num_steps(len(rendered))
    outline = _or_unmet(lambda: model.sketch(None if rendered is None else training_texts(rendered)), unmet)
    return told if outline is None else told | _forecast(spec, outline, rendered)


def _or_unmet(get: Callable[[], Any], unmet: list[str]) -> Any:
    """Get something, or None and say why not, once."""
    try:
        return get()
    except (DataError, UnmetError) as error:
        if str(error) not in unmet:
            unmet.append(str(error))
        return None


def _forecast(spec: ExperimentSpec, outline: Outline, rendered: Sequence[Rendered] | None) -> dict[str, Any]:
    assert spec.trainer is not None
    assert spec.optimizer is not None
    trainer, optimizer = implement(spec.trainer), implement(spec.optimizer)
    parameters = by_group(optimizer.prepare(outline.module, spec.seed))
    limit = trainer.limit(outline)
    if rendered is None:
        counts = [assumed_length(limit if limit != outline.context_length else None)]
    else:
        counts = [outline.count(each) for each in rendered]
    gpus = spec.compute.gpus_per_worker > 0
    forecast = trainer.forecast(outline, optimizer, counts, spec.compute.workers, gpus=gpus)
    num_steps = None if rendered is None else trainer.num_steps(len(rendered))
    return {
        "tokens": length_figures(counts, assumed=rendered is None),
        "parameters": parameters,
        **judged(forecast, spec.compute),
        "disk": disk(forecast),
        "hours": hours(forecast, spec.compute, num_steps),
    }


def where(compute: ComputeOptions) -> str:
    """Phrase what each trial is placed on."""
    accelerator = f" {compute.accelerator}" if compute.accelerator else ""
    gpus = f"{compute.gpus_per_worker:g}{accelerator} GPU each" if compute.gpus_per_worker else "on the CPU"
    cpus = f", {compute.cpus_per_worker} cores each" if compute.cpus_per_worker else ""
    return f"{compute.workers} worker{'s' if compute.workers > 1 else ''}, {gpus}{cpus}"
