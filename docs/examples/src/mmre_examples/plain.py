"""A trainer: the plainest loop there is. It keeps no checkpoints, so a launch that was stopped begins anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmre_examples.plain_options import PlainOptions
from runner.errors import DataError
from runner.records import Memory, Rendered, TrainingEstimate, TrainingWay
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
"""Bytes of a number in float32."""


class PlainTrainer:
    """The plugin `plain` of the stage `trainer`."""

    target_suffix = ""
    truncates = False
    skips = False

    def __init__(self, options: PlainOptions) -> None:
        """Take the section's options."""
        self._options = options

    def precision(self) -> str:
        """Weights are saved as they are trained."""
        return "fp32"

    def limit(self, model: ModelSpec) -> int | None:
        """What the model was configured for."""
        return model.context_length

    def encode(self, model: VisionLanguageModel, rendered: Rendered) -> Features:
        """Encode a sample with its target.

        Raises:
            DataError: It is longer than the model was configured for.
        """
        features = model.encode(rendered, self.target_suffix)
        limit = self.limit(model)
        if limit is not None and len(features["input_ids"]) > limit:
            raise DataError(f"sample {rendered.id}: {len(features['input_ids']):,} tokens are more than {limit:,}")
        return features

    def num_steps(self, num_samples: int) -> int:
        """A step for each sample and epoch."""
        return self._options.epochs * num_samples

    def estimate_training(
        self, model: ModelSpec, optimizer: Optimizer, counts: Sequence[TokenCounts], workers: int, *, gpus: bool
    ) -> TrainingEstimate:
        """A rough one: activations are left out, and an optimizer is taken to keep one number for each weight."""
        weights = sum(each.numel() for each in model.module.parameters())
        learning = sum(each.numel() for each in model.module.parameters() if each.requires_grad)
        longest = max(count.text + count.image + count.target for count in counts)
        memory = Memory("step", FLOAT * weights, FLOAT * learning, FLOAT * learning, 0, 0)
        # Six operations a weight and token: two forward, four backward (Kaplan et al. 2020).
        return TrainingEstimate(
            (TrainingWay("", "one worker", memory),), 6.0 * weights * longest, 0, 0, FLOAT * weights
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
            StopRequestedError: The user asked to stop; nothing is kept.
        """
        module = model.module.to("cuda" if torch.cuda.is_available() else "cpu").train()
        num_steps = self.num_steps(len(samples))
        built = optimizer.build(module, num_steps)
        optimizer.check(module, [each.optimizer for each in built])
        order = torch.Generator().manual_seed(run.seed)
        for step in range(num_steps):
            if run.reporter.stop_requested():
                raise StopRequestedError
            if step % len(samples) == 0:
                places = torch.randperm(len(samples), generator=order).tolist()
            rendered = samples[places[step % len(samples)]]
            features = self.encode(model, rendered)
            run.check(rendered, features)
            batch = {name: each.to(module.device) for name, each in model.collate([features], "right").items()}
            loss = module(**batch).loss
            loss.backward()
            for each in built:
                each.optimizer.step()
                each.optimizer.zero_grad()
                each.schedule.step()
            run.reporter.metrics(step + 1, {"train/loss": loss.item()})
            run.reporter.progress(step + 1, num_steps, loss=loss.item())
        return model
