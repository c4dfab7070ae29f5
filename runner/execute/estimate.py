"""What a launch would do, worked out without doing it, for `runner plan`."""

from __future__ import annotations

from typing import Any

from runner.errors import DataError, UnmetError
from runner.execute.resources import local_gpus, unmet_by
from runner.plan import Plan, expand, implement, resolve
from runner.spec.models import ComputeOptions, ExperimentSpec
from runner.stages import Reporter, TokenCount
from runner.steps.manifest import by_group
from runner.steps.rendering import training_texts


def describe_plan(spec: ExperimentSpec, reporter: Reporter) -> dict[str, Any]:
    """Describe what would run, as docs/interface.md's `plan --json` holds it.

    What stands in the way of a launch here is listed under `unmet`; figures that need it are then null or empty.

    Raises:
        SpecError: The optimizer's groups do not fit the model's parameters.
    """
    unmet = unmet_by(spec.compute, local_gpus())
    told: dict[str, Any] = {
        "fingerprint": None,
        "trials": [],
        "num_samples": {},
        "steps_per_trial": None,
        "tokens": {},
        "parameters": [],
        "memory": {},
        "where": where(spec.compute),
        "unmet": unmet,
    }
    try:
        plan = resolve(spec, reporter)
    except (DataError, UnmetError) as error:
        unmet.append(str(error))
        return told
    return told | _pinned(plan) | _measured(plan, reporter)


def _pinned(plan: Plan) -> dict[str, Any]:
    trials = [
        {"name": trial.name, "fingerprint": trial.plan.fingerprint, "parameters": dict(trial.parameters)}
        for trial in expand(plan)
    ]
    return {"fingerprint": plan.fingerprint, "trials": trials, "num_samples": dict(plan.dataset.num_samples)}


def _measured(plan: Plan, reporter: Reporter) -> dict[str, Any]:
    """Count what only the model and its tokenizer know of a training, where there is one."""
    spec = plan.spec
    if spec.model is None or spec.trainer is None or spec.optimizer is None:
        return {"steps_per_trial": 0}
    data = implement(spec.data)
    data.prepare(reporter)
    adapter = implement(spec.adapter, plan.dataset.labels)
    rendered = [adapter.render_training(sample) for sample in data.load("train")]
    model = implement(spec.model).outline(training_texts(rendered))
    manifest = implement(spec.optimizer).prepare(model.module, spec.seed)
    return {
        "steps_per_trial": implement(spec.trainer).num_steps(len(rendered)),
        "tokens": _token_figures([model.count(each) for each in rendered]),
        "parameters": by_group(manifest),
    }


def _token_figures(counts: list[TokenCount]) -> dict[str, float | int]:
    """Figures over the training split, an epoch: totals by kind, and the length of a sample."""
    lengths = [count.text + count.image + count.target for count in counts]
    return {
        "text": sum(count.text for count in counts),
        "image": sum(count.image for count in counts),
        "target": sum(count.target for count in counts),
        "total": sum(lengths),
        "longest_sample": max(lengths),
        "mean_sample": sum(lengths) / len(lengths),
    }


def where(compute: ComputeOptions) -> str:
    """Phrase what each trial is placed on."""
    accelerator = f" {compute.accelerator}" if compute.accelerator else ""
    gpus = f"{compute.gpus_per_worker:g}{accelerator} GPU each" if compute.gpus_per_worker else "on the CPU"
    cpus = f", {compute.cpus_per_worker} cores each" if compute.cpus_per_worker else ""
    return f"{compute.workers} worker{'s' if compute.workers > 1 else ''}, {gpus}{cpus}"
