"""Estimates what a launch would do: trials, steps, tokens, parameters, memory and time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import DataError, RequirementError
from runner.files import cached_json
from runner.fingerprint_and_provenance import code_hash, fingerprint, installed_packages
from runner.preflight.host_memory import check_host_memory
from runner.preflight.hours import Answers, estimate_hours, find_faster
from runner.preflight.resources import check_memory, estimate_disk, local_gpus, missing_requirements
from runner.preflight.sent_variables import find_sent_variables
from runner.prompt_rendering import repeats_images, split_groups, training_texts
from runner.records import Rendered, TrainingBudget
from runner.regime import Regime
from runner.resolved_plan import PlanResolver, Trial, create_adapter, create_plugin, expand_trials, find_box_frame
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.spec.load import LoadedSpec
from runner.spec.variants import SweepVariants
from runner.stages import DatasetInfo, ModelSpec, Reporter, TokenCounts, Trainer
from runner.stages.optimizer_and_trainer import builder_as_stored, summarize_groups
from runner.stages.registry import find_plugin
from runner.trial_factory import TrialFactory, describe_sweep, predetermined_trials

UNAVAILABLE = "unavailable"
"""Prefix of the reason why data or model are not available; takes the place of their content hash."""

MAX_CACHED_PLANS = 200
"""Number of cached estimates; the newest are kept. Each takes a few kilobytes."""


def estimate_key(spec: ExperimentSpec, resolver: PlanResolver) -> dict[str, Any]:
    """Collect everything that an estimate depends on, as the key of its cache entry.

    Returns:
        The spec; the content hash of data and model, or why they are not available; every installed package with its
        version; and the code of this project and of each plugin that the spec uses.
    """
    plugins = {find_plugin(part.stage, part.type).entry.module.partition(".")[0] for part in spec.sections()}
    return {
        "spec": spec.as_json(),
        "data": _get_or_reason(lambda: resolver.dataset(spec.data).fingerprint),
        "model": _get_or_reason(lambda: resolver.revision(spec)),
        "packages": installed_packages(),
        "code": {name: code_hash(name) for name in sorted({"runner", *plugins})},
    }


def _get_or_reason(get: Callable[[], str]) -> str:
    try:
        return get()
    except (DataError, RequirementError) as error:
        return f"{UNAVAILABLE}: {error}"


def is_cacheable_estimate(key: Mapping[str, Any], estimate: Mapping[str, Any]) -> bool:
    """Return whether an estimate depends on its key alone.

    It does not if files of a checkpoint were missing that the key does not cover: they may be there the next time.
    """
    is_estimated = bool(estimate.get("tokens", {}).get("estimated"))
    return UNAVAILABLE in f"{key['data']}{key['model']}" or not (is_estimated or estimate["unmet"])


def cached_estimate(folder: Path, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read the cached estimate of a key, or compute and cache it.

    Args:
        folder: The cache, with a file per hash of a key. If it is not writable, nothing is cached.
        key: See `estimate_key`.
        compute: Computes the estimate as plain data; see `is_cacheable_estimate` for what is not cached.
    """
    file = folder / f"{fingerprint(key)}.json"
    return cached_json(
        file, compute, keep=lambda estimate: is_cacheable_estimate(key, estimate), max_files=MAX_CACHED_PLANS
    )


ASSUMED_LENGTH = TokenCounts(text=280, image=1100, target=120, estimated=True)
"""Length of a typical M-MRE sample in tokens: the published prompt with a tweet; a photograph of about a megapixel,
including its segments; a summary with one or two entity pairs."""


def assumed_sample_length(limit: int | None) -> TokenCounts:
    """The sample length to assume if there is no data.

    Args:
        limit: Maximum sample length of the spec: the images then fill the sample up to it. None: no limit in the spec.
    """
    text = ASSUMED_LENGTH.text + ASSUMED_LENGTH.target
    return (
        ASSUMED_LENGTH
        if limit is None
        else TokenCounts(ASSUMED_LENGTH.text, max(0, limit - text), ASSUMED_LENGTH.target, estimated=True)
    )


def summarize_lengths(counts: Sequence[TokenCounts], *, assumed: bool) -> dict[str, Any]:
    """Summarize the token counts of the training split for one epoch.

    Returns:
        `text`, `image`, `target`, `total`: tokens; null if the sample is assumed. `longest_sample`, `mean_sample`.
        `estimated`: text is estimated from its characters; `assumed`: there is no data.
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
    """A rendered training split with its lengths.

    Attributes:
        rendered: The examples of an epoch, with their targets.
        groups: The group of each example; a validation split never divides a group.
        model_spec: The model; None if it is not available.
        counts: The lengths of the examples; None without a model.
        unmet: Why there is no model; empty if there is one.
        num_per_sample: Number of examples of each sample.
    """

    rendered: Sequence[Rendered]
    groups: Sequence[str]
    model_spec: ModelSpec | None
    counts: Sequence[TokenCounts] | None
    unmet: str = ""
    num_per_sample: int = 1

    def training_budget(self, spec: ExperimentSpec) -> TrainingBudget:
        """Count the optimizer steps and trained tokens of this split's spec.

        Raises:
            SpecError: The training would never end.
        """
        assert spec.trainer is not None
        budget: TrainingBudget = create_plugin(spec.trainer).training_budget(
            self.model_spec, self.counts, self.groups, spec.seed, [example.task for example in self.rendered]
        )
        return budget


class TrainingSplits:
    """Cache of training splits: each is rendered and counted once, even if many trials use it."""

    def __init__(self, reporter: Reporter) -> None:
        """Start empty; the reporter receives the progress of generating data."""
        self._reporter = reporter
        self._splits: dict[str, TrainingSplit] = {}

    def of(self, spec: ExperimentSpec) -> TrainingSplit:
        """Return the training split of a spec that has a model and a trainer.

        Raises:
            DataError: The data set is missing or broken, or the adapter cannot render a sample.
        """
        assert spec.model is not None
        key = json.dumps([part.as_json() for part in (spec.data, spec.adapter, spec.model)], sort_keys=True)
        seed = spec.seed if spec.training_uses_seed else None
        key += json.dumps([spec.regime.training_settings(), seed], sort_keys=True)
        if key not in self._splits:
            self._splits[key] = self._render(spec)
        return self._splits[key]

    def _render(self, spec: ExperimentSpec) -> TrainingSplit:
        data = create_plugin(spec.data)
        adapter = create_adapter(spec, data.prepare(self._reporter).labels)
        samples = data.load("train")
        groups = split_groups(samples, spec.max_hash_distance)
        examples = Regime(spec.regime, adapter, spec.seed, spec.num_target_draws).training_examples(samples, groups)
        rendered, groups, number = examples.first, examples.groups(groups), examples.num_per_sample
        assert spec.model is not None
        try:
            model_spec: ModelSpec = create_plugin(spec.model).meta_model(training_texts(examples.distinct))
        except RequirementError as error:
            return TrainingSplit(rendered, groups, None, None, str(error), number)
        counts = [
            replace(model_spec.count(example), shares_images=repeats)
            for example, repeats in zip(rendered, repeats_images(rendered), strict=True)
        ]
        return TrainingSplit(rendered, groups, model_spec, counts, num_per_sample=number)


def describe_plan(loaded: LoadedSpec[ExperimentSpec], reporter: Reporter, cache: Path | None = None) -> dict[str, Any]:
    """Describe what a launch would run, as docs/interface.md documents `plan --json`.

    `unmet` lists what prevents a launch on this machine. Values that depend on it are null, empty, or marked as
    estimated or assumed. For a sweep, they describe the spec without its sweep.

    Args:
        loaded: The spec.
        reporter: Receives the progress of generating data.
        cache: Folder of cached estimates. None, or a spec with a sweep, computes everything anew.

    Raises:
        SpecError: The optimizer groups do not match the parameters of the model, or a trial of a sweep is invalid.
    """
    spec = loaded.spec
    description: dict[str, Any] = {
        "fingerprint": None,
        "trials": [],
        "num_samples": {},
        "steps_per_trial": None,
        "tokens": {},
        "parameters": [],
        "memory": {},
        "host_memory": {},
        "disk": {},
        "hours": {},
        "faster": None,
        "fits": None,
        "advice": [],
        "sweep": None,
        "where": placement_text(spec.compute),
        "variables": [variable.as_json() for variable in find_sent_variables(loaded)],
        "unmet": [],
    }
    factory, resolver = None, PlanResolver(reporter)
    if spec.sweep is not None:
        factory = TrialFactory(SweepVariants(loaded.tree, spec.sweep), resolver)
        description["sweep"] = describe_sweep(factory)

    def compute() -> dict[str, Any]:
        return _estimate(spec, resolver, factory, TrainingSplits(reporter))

    if cache is None or factory is not None:
        estimate = compute()
    else:
        estimate = cached_estimate(cache, estimate_key(spec, resolver), compute)
    description |= estimate
    description["unmet"] = missing_requirements(spec.compute, local_gpus()) + estimate["unmet"]
    if spec.sweep is not None:
        gpu_hours, num_trials = description["hours"].get("gpu"), description["sweep"]["num_trials"]
        known = gpu_hours is not None and num_trials is not None
        description["sweep"]["gpu_hours"] = gpu_hours * num_trials if known else None
    return description


def _estimate(
    spec: ExperimentSpec, resolver: PlanResolver, factory: TrialFactory | None, splits: TrainingSplits
) -> dict[str, Any]:
    """The part of the description that depends on spec, data and model only, not on this machine."""
    estimate: dict[str, Any] = {"unmet": []}
    try:
        plan = resolver.resolve(spec)
        trials = expand_trials(plan) if factory is None else predetermined_trials(factory)
        estimate |= {"fingerprint": plan.fingerprint, "trials": [_describe_trial(trial, splits) for trial in trials]}
    except (DataError, RequirementError) as error:
        estimate["unmet"].append(str(error))
    return estimate | _estimate_training(spec, resolver, splits, estimate["unmet"])


def _describe_trial(trial: Trial, splits: TrainingSplits) -> dict[str, Any]:
    spec = trial.plan.spec
    budget = splits.of(spec).training_budget(spec) if has_training(spec) else TrainingBudget(0, 0)
    return {
        "name": trial.name,
        "fingerprint": trial.plan.fingerprint,
        "parameters": dict(trial.parameters),
        "group": trial.group,
        "arm": trial.arm,
        "steps": budget.steps,
        "trained_tokens": budget.tokens,
        "learns_from": describe_training(spec),
    }


def describe_training(spec: ExperimentSpec) -> str:
    """Say in one line what a trial learns from: prompts, contexts, and the order of tasks."""
    regime = spec.regime.describe(spec.task_names)
    if spec.trainer_options is None:
        return f"nothing; {regime}"
    parts = [" and ".join(tasks) for tasks in spec.trainer_options.sequence_tasks]
    return f"{regime}; first {', then '.join(parts)}" if parts else regime


def has_training(spec: ExperimentSpec) -> bool:
    """Return whether a spec has a model, a trainer and an optimizer."""
    return spec.model is not None and spec.trainer is not None and spec.optimizer is not None


def _estimate_training(
    spec: ExperimentSpec, resolver: PlanResolver, splits: TrainingSplits, unmet: list[str]
) -> dict[str, Any]:
    """Estimate the training as far as data and model are available; reasons why they are not are added to `unmet`."""
    dataset: DatasetInfo | None = _get_or_unmet(lambda: resolver.dataset(spec.data), unmet)
    estimate: dict[str, Any] = {"num_samples": dict(dataset.num_samples)} if dataset else {}
    if not has_training(spec):
        return {**estimate, "steps_per_trial": 0}
    assert spec.model is not None
    assert spec.model_options is not None
    if dataset is None:
        model = spec.model
        # The plan was not resolved, so nothing has checked yet that the checkpoint is available.
        _get_or_unmet(spec.model_options.exact_revision, unmet)
        model_spec = _get_or_unmet(lambda: create_plugin(model).meta_model(None), unmet)
        return estimate if model_spec is None else estimate | _estimate_resources(spec, model_spec, None, None)
    if spec.needs_box_frame and _get_or_unmet(lambda: find_box_frame(spec), unmet) is None:
        return estimate
    split = splits.of(spec)
    estimate["steps_per_trial"] = split.training_budget(spec).steps
    if split.model_spec is None:
        unmet += [split.unmet] if split.unmet not in unmet else []
        return estimate
    return estimate | _estimate_resources(spec, split.model_spec, split, _num_prompts(dataset, split))


def _num_prompts(dataset: DatasetInfo, split: TrainingSplit) -> int | None:
    number = dataset.num_samples.get("test")
    return None if number is None else number * split.num_per_sample


def _get_or_unmet(get: Callable[[], Any], unmet: list[str]) -> Any:
    """Get a value; if it is not available, return None and add the reason to `unmet` once."""
    try:
        return get()
    except (DataError, RequirementError) as error:
        if str(error) not in unmet:
            unmet.append(str(error))
        return None


def _estimate_resources(
    spec: ExperimentSpec, model_spec: ModelSpec, split: TrainingSplit | None, num_prompts: int | None
) -> dict[str, Any]:
    """Estimate tokens, parameters, memory, disk space and hours; without a split, for a sample of assumed length."""
    assert spec.trainer is not None
    assert spec.optimizer is not None
    trainer, optimizer = create_plugin(spec.trainer), create_plugin(spec.optimizer)
    parameters = summarize_groups(optimizer.prepare(model_spec.module, spec.seed))
    limit = trainer.max_sample_tokens(model_spec)
    counts = split.counts if split else None
    if counts is None:
        counts = [assumed_sample_length(limit if limit != model_spec.context_length else None)]
    gpus = spec.compute.gpus_per_worker > 0
    estimate = trainer.estimate_training(model_spec, optimizer, counts, spec.compute.workers, gpus=gpus)
    budget = split.training_budget(spec) if split else TrainingBudget(None, None)
    memory = check_memory(estimate, spec.compute)
    is_too_large = memory["fits"] is False
    num_weights = sum(group["num_parameters"] for group in parameters)
    hours = estimate_hours(estimate, spec.compute, budget.steps, _answers(spec, counts, num_weights, num_prompts))
    return {
        "tokens": {**summarize_lengths(counts, assumed=split is None), "trained": budget.tokens},
        "parameters": parameters,
        **memory,
        "host_memory": check_host_memory(estimate, spec.compute, num_weights, _mapped_bytes(spec, trainer)),
        "disk": estimate_disk(
            estimate,
            assumed=split is None,
            num_steps=budget.steps,
            seconds_per_step=hours.get("seconds_per_step"),
        ),
        "hours": hours,
        "faster": None if is_too_large else find_faster(estimate, spec.compute, memory["memory"]["limit"]),
    }


def _mapped_bytes(spec: ExperimentSpec, trainer: Trainer) -> int:
    """Return the bytes of each weight that the workers of a machine share while they load the model."""
    model = builder_as_stored(create_plugin(spec.model), trainer) if spec.model else None
    return model.mapped_bytes() if model else 0


def _answers(
    spec: ExperimentSpec, counts: Sequence[TokenCounts], num_weights: int, number: int | None
) -> Answers | None:
    """Describe the answers to the test split, as if its samples were as long as those of the training split."""
    concurrent = spec.generator_options.concurrent_answers
    if number is None or concurrent is None:
        return None
    return Answers(
        number=number,
        prompt_tokens=sum(count.text + count.image for count in counts) / len(counts),
        answer_tokens=sum(count.target for count in counts) / len(counts),
        concurrent=concurrent,
        num_parameters=num_weights,
    )


def placement_text(compute: ComputeOptions) -> str:
    """Describe the resources of each trial in words."""
    accelerator = f" {compute.accelerator}" if compute.accelerator else ""
    gpus = f"{compute.gpus_per_worker:g}{accelerator} GPU each" if compute.gpus_per_worker else "on the CPU"
    cpus = f", {compute.cpus_per_worker} cores each" if compute.cpus_per_worker else ""
    return f"{compute.workers} worker{'s' if compute.workers > 1 else ''}, {gpus}{cpus}"
