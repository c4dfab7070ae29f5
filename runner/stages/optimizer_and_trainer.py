"""Stages `optimizer` and `trainer`: parameter groups, schedules, and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from runner.records import Rendered, TrainingBudget, TrainingEstimate
from runner.stages.adapter_and_model import (
    BuildsAsStored,
    Features,
    Model,
    ModelSpec,
    TokenCounts,
    VisionLanguageModel,
)
from runner.stages.options_and_reporter import Options, Reporter

if TYPE_CHECKING:
    import torch


class SelectionMetric(Options):
    """The metric that selects the best model. A test metric here is an error."""

    metric: str
    """A metric of the validation samples: `validation/loss` or, with `eval_generate_steps`, `validation/` followed by a
    metric of the spec, such as `validation/ner_f1`."""

    mode: Literal["min", "max"]
    """Whether a lower (`min`) or a higher (`max`) value is better."""


class TrainerOptions(Options):
    """The base class of the options of all trainers."""

    @property
    def validation_metrics(self) -> Sequence[str]:
        """The metrics that the trainer itself computes on the validation samples, such as `validation/loss`."""
        return ()

    @property
    def generates_validation(self) -> bool:
        """Whether answers to validation samples are generated during training (`eval_generate_steps`)."""
        return False

    @property
    def selection_metric(self) -> SelectionMetric | None:
        """The metric that selects the best model (`metric_for_best_model`); None if the last model is the result."""
        return None

    @property
    def sequence_tasks(self) -> Sequence[Sequence[str]]:
        """The tasks of each part of a training that trains tasks one after the other; empty if it does not."""
        return ()

    def check_num_samples(self, num_samples: int) -> None:
        """Check that the options fit the size of the training split; called before a trial starts.

        Raises:
            SpecError: They do not fit, for example because a ratio of the samples rounds to no sample.
        """


@dataclass(frozen=True)
class ParameterRow:
    """One parameter in an optimizer's manifest.

    Attributes:
        name: Its full name in the module.
        group: The optimizer group that it belongs to.
        lr: Peak learning rate; None if it is frozen.
        weight_decay: Decoupled weight decay; None if it is frozen.
        trainable: Whether it is trained.
        num_parameters: Number of weights in it.
    """

    name: str
    group: str
    lr: float | None
    weight_decay: float | None
    trainable: bool
    num_parameters: int


@dataclass(frozen=True)
class ScheduledOptimizer:
    """An optimizer and its learning-rate schedule, which advances once per optimizer step."""

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


class Optimizer(Protocol):
    """Stage `optimizer`: parameter groups, their learning rates, and the optimizers."""

    def __init__(self, options: Any) -> None:
        """Create the stage from the section's options."""

    def prepare(self, module: torch.nn.Module, seed: int) -> Sequence[ParameterRow]:
        """Freeze parameters and add adapters in place, and list every parameter of the module once.

        Args:
            module: The unmodified module of the model, possibly on the meta device.
            seed: Random seed of the adapters' weights.

        Raises:
            SpecError: A group matches no parameter, or a parameter is in no group; the message names each.
        """

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Create the optimizers and their schedules; there are several if groups need different algorithms."""

    def check(self, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Compare the optimizers with the manifest, after they and the module are wrapped for training.

        Raises:
            StepError: The settings of a parameter differ from the manifest.
        """

    def finish(self, module: torch.nn.Module) -> None:
        """Check after training that frozen weights are unchanged, and merge adapters in place.

        Raises:
            StepError: Frozen weights changed.
        """


def _no_check(rendered: Rendered, features: Features) -> None:
    """Check nothing."""


MetricCounts = Mapping[str, Mapping[str, float]]
"""The counts of one answer, by metric plugin; metrics whose task was not asked for are omitted."""


class ValidationEvaluator(Protocol):
    """Generates answers to validation samples with a model in training, and scores them.

    Prompts, generator, parsing and metrics are the same as for the test split.
    """

    def prepare(self, model: VisionLanguageModel, indices: Sequence[int]) -> None:
        """Render the prompts before training starts.

        Args:
            model: Used only to count tokens.
            indices: The index of the first example of each sample that any worker will evaluate. Neither these samples
                nor samples that share an image or a text with them are used as few-shot examples.

        Raises:
            SpecError: The context has too little room for an answer after a prompt, or there are too few samples for
                the few-shot examples.
            DataError: A prompt alone is too long.
        """

    def evaluate(self, model: VisionLanguageModel, indices: Sequence[int]) -> list[MetricCounts]:
        """Generate answers with the current weights and score them.

        Args:
            model: The whole model on this worker. Its train/eval mode and the random state may change.
            indices: The samples of this worker, a subset of the prepared ones.

        Raises:
            StopRequestedError: The user asked to stop; the answers are lost.
        """

    def aggregate(self, counts: Sequence[MetricCounts]) -> Mapping[str, float | None]:
        """Reduce the counts of all workers' samples, ordered by sample index, to metrics."""


@dataclass(frozen=True)
class TrainingRun:
    """The environment of one training: folders, seed, reporter and checks.

    Attributes:
        checkpoints: Folder of checkpoints; training resumes from an existing one.
        seed: Random seed of data order and dropout.
        reporter: Receives losses and progress.
        check: Called with each encoded sample before it is trained on; raises if the tokens that contribute to the loss
            are not the answer.
        evaluator: Set if the options generate validation answers (`TrainerOptions.generates_validation`).
        encoded: Folder for encoded samples that passed `check`, shared by all trainings of this model on this data, in
            other workers, trials and launches. Its siblings are folders of the same kind. None to store none.
        encoded_images: A sibling of `encoded` for what is encoded of images alone, shared by trainings whose prompts
            differ too. None to store it with the samples.
        profile: Folder for profiles of steps, if the options ask for them. None to write none.
        encoded_bytes: Estimated size of all encoded samples of this training; 0 if it is not known.
        later_draws: What to train on in later epochs, if prompts or targets change from epoch to epoch: with n lists,
            epoch e of a training, counted from 0, uses list e mod (n + 1) of the samples of `train` and these. All
            lists have equal ids. A trainer with the class attribute `uses_later_draws = True` uses them; for another
            one, a spec that needs them is an error.
        plain: The samples as they are asked at test, for the validation loss; None if they are those of `train`.
        num_per_sample: Number of examples that each sample of the data set has; they follow one another.
    """

    checkpoints: Path
    seed: int
    reporter: Reporter = field(repr=False)
    check: Callable[[Rendered, Features], object] = field(default=_no_check, repr=False)
    evaluator: ValidationEvaluator | None = field(default=None, repr=False)
    encoded: Path | None = None
    encoded_images: Path | None = None
    profile: Path | None = None
    encoded_bytes: int = 0
    later_draws: Sequence[Sequence[Rendered]] = field(default=(), repr=False)
    plain: Sequence[Rendered] | None = field(default=None, repr=False)
    num_per_sample: int = 1


class Trainer(Protocol):
    """Stage `trainer`: trains a model on rendered samples. Its options derive from `TrainerOptions`."""

    target_suffix: str
    """Text that is trained after the end token of an answer."""

    truncates: bool
    """Whether the answer of a sample that is too long is truncated."""

    skips: bool
    """Whether a sample that is too long is skipped. If neither truncated nor skipped, it is an error."""

    def __init__(self, options: Any) -> None:
        """Create the trainer from the section's options."""

    def max_sample_tokens(self, model: ModelSpec) -> int | None:
        """Return the maximum number of tokens of a sample; None if there is no limit.

        Raises:
            SpecError: The options allow more tokens than the model's context length.
        """

    def encode(self, model: VisionLanguageModel, rendered: Rendered) -> Features:
        """Encode a sample with its target and `target_suffix` for training.

        Returns:
            The model's inputs; without any token if the sample is skipped.

        Raises:
            DataError: The sample is too long and neither truncated nor skipped, or an image cannot be used.
        """

    def training_budget(
        self,
        model: ModelSpec | None,
        counts: Sequence[TokenCounts] | None,
        groups: Sequence[str],
        seed: int,
        tasks: Sequence[str] = (),
    ) -> TrainingBudget:
        """Compute the exact number of optimizer steps of a training and of the answer tokens in them.

        Args:
            model: Determines the maximum length of a sample.
            counts: The lengths of the training split's samples; None, like the model, if they are not known.
            groups: As in `train`.
            seed: Random seed of the sample order.
            tasks: The task of each example; needed if tasks are trained one after the other.

        Raises:
            SpecError: The options set a number of tokens, but no sample that is trained on has any; they ask for
                validation samples, but none can be held out; or for tasks that no example has.
        """

    def estimate_training(
        self, model: ModelSpec, optimizer: Optimizer, counts: Sequence[TokenCounts], workers: int, *, gpus: bool
    ) -> TrainingEstimate:
        """Estimate memory, disk space and floating-point operations of a training without running it.

        Args:
            model: A model on the meta device whose module `optimizer` has prepared.
            optimizer: The optimizer.
            counts: The lengths of the training split's samples, at least one.
            workers: Number of workers.
            gpus: Whether the workers have GPUs.
        """

    def train(
        self,
        model: VisionLanguageModel,
        optimizer: Optimizer,
        samples: Sequence[Rendered],
        groups: Sequence[str],
        run: TrainingRun,
    ) -> VisionLanguageModel | None:
        """Train the model, resuming from the last checkpoint if there is one.

        Args:
            model: The model; changed in place.
            optimizer: Creates parameter groups and schedule.
            samples: The examples of the training split, with targets: one or more for each sample.
            groups: A key for each example. Samples with the same key share an id, a text or an image, maybe through
                other samples, and stay together in the validation split.
            run: Folders, seed, reporter and checks of this training.

        Returns:
            The trained model on the worker that saves it; None on the other workers.

        Raises:
            StopRequestedError: The user asked to stop, and the state was saved.
            SpecError: As for `training_budget`.
            DivergedError: The loss or its gradient is not finite. A sweep then searches elsewhere.
        """

    def precision(self) -> str:
        """Return the precision in which the trained weights are saved: `fp32` or `bf16`."""


def builder_as_stored(model: Model, trainer: Trainer) -> BuildsAsStored | None:
    """Return the model plugin if it can build, and the trainer takes, weights as stored; see `BuildsAsStored`."""
    converts = getattr(trainer, "converts_weights", False)
    return model if converts and isinstance(model, BuildsAsStored) else None


def summarize_groups(rows: Sequence[ParameterRow]) -> list[dict[str, Any]]:
    """Summarize a manifest in one row for each group, in the order of the spec.

    Returns:
        Rows with `group`, `num_parameters`, `num_trainable`, and the largest `lr` and `weight_decay` of the group. Both
        are None if all of its parameters are frozen.
    """
    members: dict[str, list[ParameterRow]] = {}
    for row in rows:
        members.setdefault(row.group, []).append(row)
    return [_summarize_group(group, group_rows) for group, group_rows in members.items()]


def _summarize_group(group: str, rows: Sequence[ParameterRow]) -> dict[str, Any]:
    trainable = [row for row in rows if row.trainable]
    return {
        "group": group,
        "num_parameters": sum(row.num_parameters for row in rows),
        "num_trainable": sum(row.num_parameters for row in trainable),
        "lr": max((row.lr for row in trainable if row.lr is not None), default=None),
        "weight_decay": max((row.weight_decay for row in trainable if row.weight_decay is not None), default=None),
    }
