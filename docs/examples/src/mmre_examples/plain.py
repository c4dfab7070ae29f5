"""An example trainer: a minimal training loop without checkpoints, so an interrupted training starts again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmre_examples.plain_options import PlainOptions
from runner.errors import DataError
from runner.records import Memory, Rendered, TrainingBudget, TrainingEstimate, TrainingVariant
from runner.stages import (
    Features,
    ModelSpec,
    Optimizer,
    StopRequestedError,
    TokenCounts,
    TrainingRun,
    VisionLanguageModel,
)

FLOAT = 4
"""Bytes of a float32 value."""


class PlainTrainer:
    """The plugin `plain` of the stage `trainer`."""

    target_suffix = ""
    truncates = False
    skips = False

    def __init__(self, options: PlainOptions) -> None:
        """Store the options of the section."""
        self._options = options

    def precision(self) -> str:
        """Return the precision in which weights are saved."""
        return "fp32"

    def max_sample_tokens(self, model: ModelSpec) -> int | None:
        """Return the context length of the model."""
        return model.context_length

    def encode(self, model: VisionLanguageModel, rendered: Rendered) -> Features:
        """Encode a sample with its target.

        Raises:
            DataError: The sample is longer than the context length of the model.
        """
        features = model.encode(rendered, self.target_suffix)
        limit = self.max_sample_tokens(model)
        if limit is not None and len(features["input_ids"]) > limit:
            raise DataError(f"sample {rendered.id}: {len(features['input_ids']):,} tokens exceed {limit:,}")
        return features

    def training_budget(
        self,
        model: ModelSpec | None,
        counts: Sequence[TokenCounts] | None,
        groups: Sequence[str],
        seed: int,
        tasks: Sequence[str] = (),
    ) -> TrainingBudget:
        """Count one step for each sample and epoch, and the answer tokens of all steps."""
        epochs = self._options.epochs
        tokens = None if counts is None else epochs * sum(count.target for count in counts)
        return TrainingBudget(epochs * len(groups), tokens)

    def estimate_training(
        self, model: ModelSpec, optimizer: Optimizer, counts: Sequence[TokenCounts], workers: int, *, gpus: bool
    ) -> TrainingEstimate:
        """Return a rough estimate: without activations, and with one optimizer value for each weight."""
        weights = sum(parameter.numel() for parameter in model.module.parameters())
        trainable = sum(parameter.numel() for parameter in model.module.parameters() if parameter.requires_grad)
        longest = max(count.text + count.image + count.target for count in counts)
        memory = Memory("step", FLOAT * weights, FLOAT * trainable, FLOAT * trainable, 0, 0)
        # Six operations per weight and token: two forward, four backward (Kaplan et al. 2020).
        return TrainingEstimate(
            (TrainingVariant("", "one worker", memory),), 6.0 * weights * longest, 0, 0, FLOAT * weights
        )

    def train(
        self,
        model: VisionLanguageModel,
        optimizer: Optimizer,
        samples: Sequence[Rendered],
        groups: Sequence[str],
        run: TrainingRun,
    ) -> VisionLanguageModel | None:
        """Train; see `Trainer.train`.

        Raises:
            StopRequestedError: The user asked to stop; nothing is saved.
        """
        module = model.module.to("cuda" if torch.cuda.is_available() else "cpu").train()
        num_steps = self._options.epochs * len(samples)
        scheduled = optimizer.build(module, num_steps)
        optimizer.check(module, [item.optimizer for item in scheduled])
        order = torch.Generator().manual_seed(run.seed)
        for step in range(num_steps):
            if run.reporter.stop_requested():
                raise StopRequestedError
            if step % len(samples) == 0:
                permutation = torch.randperm(len(samples), generator=order).tolist()
            rendered = samples[permutation[step % len(samples)]]
            features = self.encode(model, rendered)
            run.check(rendered, features)
            batch = {name: tensor.to(module.device) for name, tensor in model.collate([features], "right").items()}
            loss = module(**batch).loss
            loss.backward()
            for item in scheduled:
                item.optimizer.step()
                item.optimizer.zero_grad()
                item.schedule.step()
            run.reporter.metrics(step + 1, {"train/loss": loss.item()})
            run.reporter.progress(step + 1, num_steps, loss=loss.item())
        return model
