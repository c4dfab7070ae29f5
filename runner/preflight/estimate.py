"""Estimates what a launch would do, without doing it: trials, steps, tokens, parameters, memory and time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import DataError, RequirementError
from runner.files import write_json
from runner.fingerprint import fingerprint
from runner.plan import Plan, PlanResolver, Trial, expand, implement
from runner.preflight.resources import check_memory, disk, hours, local_gpus, missing_requirements
from runner.provenance import code_hash, installed_packages
from runner.records import Rendered, TrainingBudget
from runner.rendering import groups_of, training_texts
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.spec.load import LoadedSpec
from runner.spec.variants import Variants
from runner.stages import DatasetInfo, ModelSpec, Reporter, TokenCounts
from runner.stages.registry import find
from runner.stages.training import summarize_groups
from runner.trial_factory import TrialFactory, describe_sweep, known_trials

NOT_HAD = "not had"
"""Before the reason, in the place of what cannot be had."""

MOST_KEPT = 200
"""Plans that are kept, the newest ones; each is a few kilobytes."""


def estimate_key(spec: ExperimentSpec, survey: PlanResolver) -> dict[str, Any]:
    """All that a plan is worked out of.

    Returns:
        The spec; the content of data and model, or why they cannot be had; every installed package with its version;
        and the code of this project and of each plugin that the spec names.
    """
    tops = {find(each.stage, each.type).entry.module.partition(".")[0] for each in spec.sections()}
    return {
        "spec": spec.as_json(),
        "data": _or_why_not(lambda: survey.dataset(spec.data).fingerprint),
        "model": _or_why_not(lambda: survey.revision(spec)),
        "packages": installed_packages(),
        "code": {name: code_hash(name) for name in sorted({"runner", *tops})},
    }


def _or_why_not(look: Callable[[], str]) -> str:
    try:
        return look()
    except (DataError, RequirementError) as error:
        return f"{NOT_HAD}: {error}"


def is_cacheable_estimate(parts: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether what was told follows from the parts alone: a checkpoint's files may have been away that are there."""
    is_estimated = bool(told.get("tokens", {}).get("estimated"))
    return NOT_HAD in f"{parts['data']}{parts['model']}" or not (is_estimated or told["unmet"])


def cached_estimate(folder: Path, parts: Mapping[str, Any], work_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give what was worked out of the same parts before, or work it out and keep it.

    Args:
        folder: Where it is kept, by a hash of the parts; one that cannot be written to keeps nothing.
        parts: See `estimate_key`.
        work_out: Gives plain data; what does not last is not kept, see `is_cacheable_estimate`.
    """
    file = folder / f"{fingerprint(parts)}.json"
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text(encoding="utf-8")))
    told = work_out()
    if not is_cacheable_estimate(parts, told):
        return told
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, told)
        for old in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
    return told


ASSUMED = TokenCounts(text=280, image=1100, target=120, estimated=True)
"""A sample of M-MRE with the images of a tweet: the published prompt with a tweet, a photograph of a megapixel less
what its segments add, a summary with a pair or two."""


def assumed_length(limit: int | None) -> TokenCounts:
    """Say how long a sample is taken to be where there is none.

    Args:
        limit: Of the spec, if it has one: then a sample is as long as it may be, the images filling it.
    """
    text = ASSUMED.text + ASSUMED.target
    return ASSUMED if limit is None else TokenCounts(ASSUMED.text, max(0, limit - text), ASSUMED.target, estimated=True)


def length_figures(counts: Sequence[TokenCounts], *, assumed: bool) -> dict[str, Any]:
    """Figures over the training split, an epoch: totals by kind, and the length of a sample.

    Returns:
        `text`, `image`, `target`, `total`: tokens; null where the one sample is assumed. `longest_sample`,
        `mean_sample`. `estimated`: whether text is counted in characters; `assumed`: whether there is no data.
    """
    lengths = [count.text + count.image + count.target for count in counts]
    kinds = ("text", "image", "target")
    totals = {kind: sum(getattr(count, kind) for count in counts) for kind in kinds} | {"total": sum(lengths)}
    return {
        **(dict.fromkeys(totals) if assumed else totals),
        "longest_sample": max(lengths),
        "mean_sample": sum(lengths) / len(lengths),
        "estimated": any(count.estimated for count in counts),
        "assumed": assumed,
    }


@dataclass(frozen=True)
class TrainingSplit:
    """A training split.

    Attributes:
        rendered: Its samples, with targets.
        groups: For each the key of what a validation split does not divide.
        model_spec: Of the model; None where it cannot be had.
        counts: The samples' lengths; None likewise.
        unmet: Why there is no model_spec; empty where there is one.
    """

    rendered: Sequence[Rendered]
    groups: Sequence[str]
    model_spec: ModelSpec | None
    counts: Sequence[TokenCounts] | None
    unmet: str = ""

    def training_budget(self, spec: ExperimentSpec) -> TrainingBudget:
        """How long a training of this spec lasts, which has this split.

        Raises:
            SpecError: It can never come to its end.
        """
        assert spec.trainer is not None
        found: TrainingBudget = implement(spec.trainer).training_budget(
            self.model_spec, self.counts, self.groups, spec.seed
        )
        return found


class TrainingSplits:
    """Training splits, each rendered and counted once, however many trials have it."""

    def __init__(self, reporter: Reporter) -> None:
        """Look at nothing yet; the reporter is told of data that are made on the way."""
        self._reporter = reporter
        self._known: dict[str, TrainingSplit] = {}

    def of(self, spec: ExperimentSpec) -> TrainingSplit:
        """The split that a spec trains on; it has a model and a trainer.

        Raises:
            DataError: The data set is missing or broken, or a sample cannot be put as the adapter puts it.
        """
        assert spec.model is not None
        key = json.dumps([each.as_json() for each in (spec.data, spec.adapter, spec.model)], sort_keys=True)
        if key not in self._known:
            self._known[key] = self._look(spec)
        return self._known[key]

    def _look(self, spec: ExperimentSpec) -> TrainingSplit:
        data = implement(spec.data)
        adapter = implement(spec.adapter, data.prepare(self._reporter).labels)
        samples = data.load("train")
        rendered = [adapter.render_training(sample) for sample in samples]
        groups = groups_of(samples)
        assert spec.model is not None
        try:
            model_spec: ModelSpec = implement(spec.model).meta_model(training_texts(rendered))
        except RequirementError as error:
            return TrainingSplit(rendered, groups, None, None, str(error))
        return TrainingSplit(rendered, groups, model_spec, [model_spec.count(each) for each in rendered])


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
        "where": placement_text(spec.compute),
        "unmet": [],
    }
    composer, survey = None, PlanResolver(reporter)
    if spec.sweep is not None:
        composer = TrialFactory(Variants(loaded.tree, spec.sweep), survey)
        told["sweep"] = describe_sweep(composer)

    def work_out() -> dict[str, Any]:
        return _foretold(spec, survey, composer, TrainingSplits(reporter))

    foretold = cached_estimate(kept, estimate_key(spec, survey), work_out) if kept and composer is None else work_out()
    told |= foretold
    told["unmet"] = missing_requirements(spec.compute, local_gpus()) + foretold["unmet"]
    if spec.sweep is not None:
        told["sweep"]["gpu_hours"] = _times(told["hours"].get("gpu"), told["sweep"]["num_trials"])
    return told


def _foretold(
    spec: ExperimentSpec, survey: PlanResolver, composer: TrialFactory | None, splits: TrainingSplits
) -> dict[str, Any]:
    """What follows from the spec and what is found of its data and model, whatever this machine is."""
    told: dict[str, Any] = {"unmet": []}
    try:
        told |= _pinned(survey.resolve(spec), composer, splits)
    except (DataError, RequirementError) as error:
        told["unmet"].append(str(error))
    return told | _trained(spec, survey, splits, told["unmet"])


def _times(hours: float | None, num_trials: int | None) -> float | None:
    return None if hours is None or num_trials is None else hours * num_trials


def _pinned(plan: Plan, composer: TrialFactory | None, splits: TrainingSplits) -> dict[str, Any]:
    trials = expand(plan) if composer is None else known_trials(composer)
    return {"fingerprint": plan.fingerprint, "trials": [_trial(trial, splits) for trial in trials]}


def _trial(trial: Trial, splits: TrainingSplits) -> dict[str, Any]:
    spec = trial.plan.spec
    extent = splits.of(spec).training_budget(spec) if trains(spec) else TrainingBudget(0, 0)
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


def _trained(spec: ExperimentSpec, survey: PlanResolver, splits: TrainingSplits, unmet: list[str]) -> dict[str, Any]:
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
        model_spec = _or_unmet(lambda: implement(model).meta_model(None), unmet)
        return told if model_spec is None else told | _forecast(spec, model_spec, None)
    split = splits.of(spec)
    told["steps_per_trial"] = split.training_budget(spec).steps
    if split.model_spec is None:
        unmet += [split.unmet] if split.unmet not in unmet else []
        return told
    return told | _forecast(spec, split.model_spec, split)


def _or_unmet(get: Callable[[], Any], unmet: list[str]) -> Any:
    """Get something, or None and say why not, once."""
    try:
        return get()
    except (DataError, RequirementError) as error:
        if str(error) not in unmet:
            unmet.append(str(error))
        return None


def _forecast(spec: ExperimentSpec, model_spec: ModelSpec, split: TrainingSplit | None) -> dict[str, Any]:
    assert spec.trainer is not None
    assert spec.optimizer is not None
    trainer, optimizer = implement(spec.trainer), implement(spec.optimizer)
    parameters = summarize_groups(optimizer.prepare(model_spec.module, spec.seed))
    limit = trainer.limit(model_spec)
    counts = split.counts if split else None
    if counts is None:
        counts = [assumed_length(limit if limit != model_spec.context_length else None)]
    gpus = spec.compute.gpus_per_worker > 0
    forecast = trainer.estimate_training(model_spec, optimizer, counts, spec.compute.workers, gpus=gpus)
    extent = split.training_budget(spec) if split else TrainingBudget(None, None)
    return {
        "tokens": {**length_figures(counts, assumed=split is None), "trained": extent.tokens},
        "parameters": parameters,
        **check_memory(forecast, spec.compute),
        "disk": disk(forecast),
        "hours": hours(forecast, spec.compute, extent.steps),
    }


def placement_text(compute: ComputeOptions) -> str:
    """Phrase what each trial is placed on."""
    accelerator = f" {compute.accelerator}" if compute.accelerator else ""
    gpus = f"{compute.gpus_per_worker:g}{accelerator} GPU each" if compute.gpus_per_worker else "on the CPU"
    cpus = f", {compute.cpus_per_worker} cores each" if compute.cpus_per_worker else ""
    return f"{compute.workers} worker{'s' if compute.workers > 1 else ''}, {gpus}{cpus}"
