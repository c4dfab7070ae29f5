"""A training with a frozen vision tower encodes each image once, with the same results."""

import re
from importlib.metadata import entry_points

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.stages import StopRequestedError, TrainingRun

LANGUAGE = {"language": {"match": "*", "lr": 1e-3}}
FROZEN = {"vision": {"match": "*visual*", "frozen": True}, **LANGUAGE}
NUM_PICTURED = 11
"""Of the twelve samples; each has one picture."""

OPTIONS = {"epochs": 3, "global_batch_size": 4, "precision": "fp32", "validation_ratio": 0.2}


@pytest.fixture
def train(colour_samples, tmp_path, recorder):
    """A function that trains a family's smoke-sized model; trainings in it share what they encode."""

    def train(family="qwen2_5_vl", groups=FROZEN, encoded="key", model=None, **options):
        model = model or _build(family, colour_samples)
        if encoded is None:
            model.frozen_vision = lambda: None
        adamw = AdamWOptimizer(AdamWOptions(groups=groups))
        adamw.prepare(model.module, 0)
        reporter = recorder()
        folder = None if encoded is None else tmp_path / "encoded" / encoded
        run = TrainingRun(tmp_path / f"run{len(list(tmp_path.iterdir()))}", 11, reporter, encoded=folder)
        ids = [sample.id for sample in colour_samples]
        trained = SftTrainer(SftOptions(**{**OPTIONS, **options})).train(model, adamw, colour_samples, ids, run)
        adamw.finish(trained.module)
        losses = [reporter.series("train/loss"), reporter.series("validation/loss")]
        return losses, torch.cat([each.detach().flatten() for each in trained.module.parameters()])

    return train


def test_resumed_training_equals_uninterrupted_training(build_smoke, colour_samples, tmp_path, recorder):
    def train(folder, reporter):
        model, adamw = build_smoke(), AdamWOptimizer(AdamWOptions(groups=FROZEN))
        adamw.prepare(model.module, 0)
        run = TrainingRun(tmp_path / folder, 11, reporter, encoded=tmp_path / "encoded" / folder)
        ids = [sample.id for sample in colour_samples]
        trained = SftTrainer(SftOptions(**OPTIONS)).train(model, adamw, colour_samples, ids, run)
        return torch.cat([each.detach().flatten() for each in trained.module.parameters()])

    expected = train("whole", recorder())
    with pytest.raises(StopRequestedError):
        train("parts", recorder(stop_after=2))
    for file in list((tmp_path / "encoded" / "parts").iterdir())[::2]:
        file.unlink()
    assert train("parts", recorder()).equal(expected)


@pytest.fixture
def looks(monkeypatch):
    """A list that has an entry for each time that a vision tower computes."""
    looked, forward = [], Tower.forward

    def look(self, *args, **settings):
        looked.append(self.training)
        return forward(self, *args, **settings)

    monkeypatch.setattr(Tower, "forward", look)
    return looked


def _build(family, samples, seed=0, **options):
    (made,) = entry_points(group="runner.model", name=family)
    (told,) = entry_points(group="runner.model.options", name=family)
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    return made.load()(told.load()(size="smoke", **options)).build(texts, seed)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2_vl", {}),
        ("qwen2_5_vl", {}),
        ("qwen3_vl", {}),
        ("qwen3_vl", {"packing": "off"}),
        ("qwen3_5", {}),
        ("qwen2_5_vl", {"gradient_checkpointing": True}),
        ("qwen2_5_vl", {"precision": "bf16"}),
    ],
)
def test_cached_features_train_like_pixels(train, family, options):
    losses, weights = train(family, epochs=2, **options)
    expected, from_pixels = train(family, encoded=None, epochs=2, **options)
    for ours, theirs in zip(losses, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6 if "precision" not in options else 1e-3)
    assert len(losses[0]) == 6
    torch.testing.assert_close(weights, from_pixels, rtol=1e-4, atol=1e-4 if "precision" not in options else 1e-2)


def test_each_image_is_encoded_once_in_all_epochs_and_trainings(train, looks):
    train(max_steps=1)
    assert 0 < len(looks) <= 8
    first = train()
    assert len(looks) == NUM_PICTURED
    again = train()
    assert len(looks) == NUM_PICTURED
    assert first[0] == again[0]
    assert first[1].equal(again[1])


@pytest.mark.parametrize(
    "groups",
    [
        LANGUAGE,
        {"merger": {"match": "*merger*", "lr": 1e-3}, **FROZEN},
        {"vision": {"match": "*visual*", "lr": 1e-3, "lora": {"rank": 2}}, **LANGUAGE},
    ],
)
def test_partly_trainable_vision_tower_runs_at_every_step(train, looks, groups):
    train(groups=groups, max_steps=4, validation_ratio=0)
    assert len(looks) == 4
    assert all(looks)


def test_other_weights_precision_or_pixels_are_encoded_again(train, looks, colour_samples):
    train(max_steps=3, validation_ratio=0)
    for changed in (
        {"model": _build("qwen2_5_vl", colour_samples, seed=1)},
        {"precision": "bf16"},
        {"encoded": "of other pixels"},
        {"target_suffix": "\n"},
    ):
        before = len(looks)
        train(max_steps=3, validation_ratio=0, **changed)
        assert len(looks) == before + NUM_PICTURED


def test_a_tower_is_converted_where_it_computes(colour_samples):
    module = _build("qwen2_5_vl", colour_samples).module.bfloat16().requires_grad_(False)
    model = _build("qwen2_5_vl", colour_samples)
    model.module = module
    vision = model.frozen_vision()
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
    moved, move = [], torch.Tensor.to
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda weight, *places: moved.append(weight.dtype) or move(weight, *places))
        vision.to(torch.device("cpu"))
    tower = list(module.base_model.visual.parameters())
    assert moved[: len(tower)] == [torch.bfloat16] * len(tower)
    assert {weight.dtype for weight in tower} == {torch.float32}


def test_random_features_are_not_cached(colour_samples):
    model = _build("qwen2_5_vl", colour_samples)
    model.module.base_model.visual.requires_grad_(False)
    assert model.frozen_vision() is not None
    model.module.base_model.visual.blocks[0].attn.attention_dropout = 0.1
    assert model.frozen_vision() is None
    model.module.base_model.visual.blocks[0].attn.attention_dropout = 0.0
    model.module.base_model.visual.merger.mlp.append(torch.nn.Dropout(0.1))
    assert model.frozen_vision() is None


def test_frozen_tower_shares_weights_and_stays_in_evaluation_mode(colour_samples):
    model = _build("qwen2_5_vl", colour_samples)
    model.module.base_model.visual.requires_grad_(False)
    vision = model.frozen_vision()
    digest = vision.digest
    features = model.encode(colour_samples[0])
    made = vision.replace_pixels(features)
    assert "pixel_values" in features
    assert made["image_features"].shape == (model.num_image_features(features), 32)
    model.module.train()
    assert vision.replace_pixels(made) is made
    text_alone = model.encode(colour_samples[5])
    assert vision.replace_pixels(text_alone) is text_alone
    with torch.no_grad():
        next(model.module.base_model.visual.parameters()).add_(1)
    assert vision.digest != digest
    assert re.fullmatch("[0-9a-f]{64}", digest)


def test_only_supported_families_provide_a_frozen_tower(colour_samples):
    for entry in entry_points(group="runner.model"):
        if entry.module.startswith("plugins."):
            model = _build(entry.name, colour_samples)
            model.module.requires_grad_(False)
            assert (model.frozen_vision() is not None) == model.replaces_pixels
