"""Plugins with the mistakes of docs/mistakes.md that need code."""

import torch

from plugins.model.qwen_vl import Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.trainer.sft import SftTrainer

ENTRY_POINTS = """\
[runner.model.options]
unmasked = plugins.model.family_options:Qwen25VLOptions
endless = plugins.model.family_options:Qwen25VLOptions
miscounted = plugins.model.family_options:Qwen25VLOptions
[runner.model]
unmasked = broken:UnmaskedModel
endless = broken:EndlessModel
miscounted = broken:MiscountedModel
[runner.optimizer.options]
one_rate = plugins.optimizer.optimizer_options:AdamWOptions
[runner.optimizer]
one_rate = broken:OneRateOptimizer
[runner.trainer.options]
thawing = plugins.trainer.sft_options:SftOptions
[runner.trainer]
thawing = broken:ThawingTrainer
"""


class Unmasked(Qwen25VLModel.loaded_class):
    """The loss includes the prompt."""

    def encode(self, rendered, target_suffix="", **options):
        features = super().encode(rendered, target_suffix, **options)
        return features if rendered.target is None else {**features, "labels": features["input_ids"].clone()}


class Endless(Qwen25VLModel.loaded_class):
    """The loss excludes the end token."""

    def encode(self, rendered, target_suffix="", **options):
        features = super().encode(rendered, target_suffix, **options)
        if rendered.target is not None:
            features["labels"][-1] = -100
        return features


class Miscounted(Qwen25VLModel.loaded_class):
    """The vision tower returns one feature more than there are image tokens."""

    def num_image_features(self, features):
        num_features = super().num_image_features(features)
        return num_features + 1 if num_features else 0


class UnmaskedModel(Qwen25VLModel):
    loaded_class = Unmasked


class EndlessModel(Qwen25VLModel):
    loaded_class = Endless


class MiscountedModel(Qwen25VLModel):
    loaded_class = Miscounted


class OneRateOptimizer(AdamWOptimizer):
    """All parameter groups have the same learning rate."""

    def build(self, module, num_steps):
        optimizers = super().build(module, num_steps)
        for group in (group for scheduled in optimizers for group in scheduled.optimizer.param_groups):
            group["lr"] = group["initial_lr"] = 1e-5
        return optimizers


class ThawingTrainer(SftTrainer):
    """Training changes frozen parameters."""

    def train(self, model, *arguments):
        result = super().train(model, *arguments)
        with torch.no_grad():
            for parameter in model.module.parameters():
                if not parameter.requires_grad:
                    parameter.add_(0.1)
        return result
