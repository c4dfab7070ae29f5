"""Plugins that make the mistakes of docs/mistakes.md which a spec alone cannot make."""

import torch

from plugins.model.qwen_vl import Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.trainer.sft import SftTrainer

ENTRY_POINTS = """\
[runner.model.options]
unmasked = plugins.model.model_options:Qwen25VLOptions
endless = plugins.model.model_options:Qwen25VLOptions
miscounted = plugins.model.model_options:Qwen25VLOptions
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


class Unmasked(Qwen25VLModel.loaded):
    """Prompts carry loss."""

    def encode(self, rendered, target_suffix="", **how):
        features = super().encode(rendered, target_suffix, **how)
        return features if rendered.target is None else {**features, "labels": features["input_ids"].clone()}


class Endless(Qwen25VLModel.loaded):
    """The end token carries none."""

    def encode(self, rendered, target_suffix="", **how):
        features = super().encode(rendered, target_suffix, **how)
        if rendered.target is not None:
            features["labels"][-1] = -100
        return features


class Miscounted(Qwen25VLModel.loaded):
    """The vision tower gives a feature more than there are places."""

    def num_image_features(self, features):
        number = super().num_image_features(features)
        return number + 1 if number else 0


class UnmaskedModel(Qwen25VLModel):
    loaded = Unmasked


class EndlessModel(Qwen25VLModel):
    loaded = Endless


class MiscountedModel(Qwen25VLModel):
    loaded = Miscounted


class OneRateOptimizer(AdamWOptimizer):
    """All groups learn at the same rate."""

    def build(self, module, num_steps):
        built = super().build(module, num_steps)
        for group in (group for each in built for group in each.optimizer.param_groups):
            group["lr"] = group["initial_lr"] = 1e-5
        return built


class ThawingTrainer(SftTrainer):
    """What is frozen changes."""

    def train(self, model, *told):
        trained = super().train(model, *told)
        with torch.no_grad():
            for parameter in model.module.parameters():
                if not parameter.requires_grad:
                    parameter.add_(0.1)
        return trained
