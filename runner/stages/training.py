"""Stages `optimizer` and `trainer`: how a model is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from runner.records import Rendered, TrainingBudget, TrainingEstimate
from runner.stages.model import Features, ModelSpec, TokenCounts, VisionLanguageModel
from runner.stages.plugin import Options, Reporter

if TYPE_CHECKING:
    import torch


class SelectionMetric(Options):
    """What the better of two models is told by, never a figure of the test split."""

    metric: str
    """A figure of the samples that training keeps aside: `validation/loss`, or, where they are answered too,
    `validation/` and a figure of the spec's metrics, such as `validation/ner_f1`."""

    mode: Literal["min", "max"]
    """Whether less of it or more is better."""


class TrainerOptions(Options):
    """The base of every trainer's options."""

    @property
    def own_metrics(self) -> Sequence[str]:
        """What the trainer itself measures on the samples that it keeps aside, such as `validation/loss`."""
        return ()

    @property
    def generates_validation(self) -> bool:
        """Whether answers to validation samples are generated during training (`eval_generate_steps`)."""
        return False

    @property
    def selection_metric(self) -> SelectionMetric | None:
        """The metric that selects the best model (`metric_for_best_model`); None if the last model is the result."""
        return None


@dataclass(frozen=True)
class ParameterRow:
    """One parameter in an optimizer's manifest.

    Attributes:
        name: Its full name in the module.
        group: The optimizer group that it belongs to.
        lr: Peak learning rate; None where it does not learn.
        weight_decay: Decoupled weight decay; None where it does not learn.
        trainable: Whether it learns.
        num_parameters: Weights in it.
    """

    name: str
    group: str
    lr: float | None
    weight_decay: float | None
    trainable: bool
    num_parameters: int


@dataclass(frozen=True)
class ScheduledOptimizer:
    """An optimizer and the schedule of its rates, stepped once an optimizer step."""

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


class Optimizer(Protocol):
    """Stage `optimizer`: which parameter learns how fast."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def prepare(self, module: torch.nn.Module, seed: int) -> Sequence[ParameterRow]:
        """Settle what learns: freeze, add adapters, in place, and list every parameter of the module once.

        Args:
            module: As the model made it; perhaps without memory for its weights (the meta device).
            seed: For the random weights of adapters.

        Raises:
            SpecError: A group wins no parameter, or a parameter is in no group; each is named.
        """

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make the optimizers (several where groups need different algorithms) and their schedules."""

    def check(self, module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Compare the optimizers with the manifest, after what wraps them and the module for training has done so.

        Raises:
            StepError: A parameter does not learn as the manifest says.
        """

    def finish(self, module: torch.nn.Module) -> None:
        """Prove, when training ends, that what was not to learn is unchanged, and merge adapters; in place.

        Raises:
            StepError: Weights changed that were not to learn.
        """


def _taken_as_it_is(rendered: Rendered, features: Features) -> None:
    """Check nothing: the caller does not ask for a proof."""


Counts = Mapping[str, Mapping[str, float]]
"""What each metric counts in one answer, by the metric's plugin; it lacks those that were not asked about."""


class AnswerEvaluator(Protocol):
    """Has samples of the training split answered by a model in training, and measures the answers.

    Prompts, generator, reading and metrics are those of the test split.
    """

    def prepare(self, model: VisionLanguageModel, places: Sequence[int]) -> None:
        """Render the questions, before anything is trained.

        Args:
            model: Only counts tokens.
            places: Of all samples that will be asked about, on whatever worker. None of them, nor what shares an image
                or a text with one, is shown solved before a question.

        Raises:
            SpecError: An answer finds no room behind a prompt, or there are too few samples to show.
            DataError: A prompt alone is too long.
        """

    def evaluate(self, model: VisionLanguageModel, places: Sequence[int]) -> list[Counts]:
        """Have samples answered by the model as it is, and count what is right.

        Args:
            model: Stands whole on this worker; it may be left in another mode, with other random numbers drawn.
            places: This worker's, of those that were prepared.

        Raises:
            StopRequestedError: The user asked to stop; the answers are lost.
        """

    def figures(self, counts: Sequence[Counts]) -> Mapping[str, float | None]:
        """Reduce the counts of all workers' samples, in the order of their places, to the figures of the metrics."""


@dataclass(frozen=True)
class TrainingRun:
    """Where and how one training happens.

    Attributes:
        checkpoints: Folder for resumable checkpoints; one that is there is continued.
        seed: For data order and dropout.
        reporter: Told of losses and progress.
        check: Called with each sample as it is encoded, before anything is learnt from it; raises where the tokens
            that carry loss are not the answer.
        evaluator: Where the options ask for answers to the samples kept aside (`TrainerOptions.generates_validation`).
        encoded: Folder for samples as `check` has passed them, shared by all trainings of this model on these data,
            other workers', other trials' and later ones; others of its kind lie beside it. None to keep none.
    """

    checkpoints: Path
    seed: int
    reporter: Reporter = field(repr=False)
    check: Callable[[Rendered, Features], object] = field(default=_taken_as_it_is, repr=False)
    evaluator: AnswerEvaluator | None = field(default=None, repr=False)
    encoded: Path | None = None


class Trainer(Protocol):
    """Stage `trainer`: fits a model to rendered samples. Its options derive from `TrainerOptions`."""

    target_suffix: str
    """Text that is trained after the end token of an answer."""

    truncates: bool
    """Whether the answer of a sample beyond the limit is cut at its end."""

    skips: bool
    """Whether a sample beyond the limit is left out of training; one that is neither cut nor left out is refused."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def limit(self, model: ModelSpec) -> int | None:
        """The most tokens that a sample may have; None where there is no limit.

        Raises:
            SpecError: The options ask for more than the model was configured for.
        """

    def encode(self, model: VisionLanguageModel, rendered: Rendered) -> Features:
        """Encode a sample with its target, and `target_suffix`, as it is trained on.

        Returns:
            What the model takes; no token at all where the sample is left out.

        Raises:
            DataError: It is beyond the limit and neither cut nor left out, or an image cannot be used.
        """

    def training_budget(
        self, model: ModelSpec | None, counts: Sequence[TokenCounts] | None, groups: Sequence[str], seed: int
    ) -> TrainingBudget:
        """Count the optimizer steps of a training, and the tokens of answers in them, exactly.

        Args:
            model: For the limit of a sample's length.
            counts: The lengths of the training split's samples; None, as the model, where they are not known.
            groups: As in `train`.
            seed: For the order of the samples.

        Raises:
            SpecError: The options ask for so many tokens, and no sample that is trained on has any.
        """

    def estimate_training(
        self, model: ModelSpec, optimizer: Optimizer, counts: Sequence[TokenCounts], workers: int, *, gpus: bool
    ) -> TrainingEstimate:
        """Work out memory, disk and operations of a training; nothing is computed.

        Args:
            model: Its module without memory for its weights, as `Optimizer.prepare` left it.
            optimizer: Has prepared it.
            counts: The lengths of the training split's samples, at least one.
            workers: Who train together.
            gpus: Whether they have GPUs.
        """

    def train(
        self,
        model: VisionLanguageModel,
        optimizer: Optimizer,
        samples: Sequence[Rendered],
        groups: Sequence[str],
        run: TrainingRun,
    ) -> VisionLanguageModel | None:
        """Train, continuing the last checkpoint if there is one.

        Args:
            model: Changed in place.
            optimizer: Gives parameter groups and schedule.
            samples: The training split, with targets.
            groups: For each sample the key of what must not be divided by a validation split (its image).
            run: Where to keep checkpoints, and whom to tell.

        Returns:
            The trained model, on the worker that is to save it; None on the other workers.

        Raises:
            StopRequestedError: The user asked to stop, and the state was saved.
        """

    def precision(self) -> str:
        """The precision the trained weights are saved in: `fp32` or `bf16`."""


def summarize_groups(rows: Sequence[ParameterRow]) -> list[dict[str, Any]]:
    """Sum a manifest up, a row a group in the order of the spec.

    Returns:
        `group`, `num_parameters` (all its weights), `num_trainable`, and `lr` and `weight_decay`, the largest in it;
        both are None in a group where nothing learns.
    """
    members: dict[str, list[ParameterRow]] = {}
    for row in rows:
        members.setdefault(row.group, []).append(row)
    return [_summed(group, each) for group, each in members.items()]


def _summed(group: str, rows: Sequence[ParameterRow]) -> dict[str, Any]:
    learning = [row for row in rows if row.trainable]
    return {
        "group": group,
        "num_parameters": sum(row.num_parameters for row in rows),
        "num_trainable": sum(row.num_parameters for row in learning),
        "lr": max((row.lr for row in learning if row.lr is not None), default=None),
        "weight_decay": max((row.weight_decay for row in learning if row.weight_decay is not None), default=None),
    }
