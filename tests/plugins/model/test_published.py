"""Qwen2.5-VL without hub or tokenizer: the published sizes, and lengths estimated from characters."""

import pytest
from PIL import Image

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen2_5_vl_published_sizes import PUBLISHED_SIZES
from plugins.model.qwen_vl import Qwen25VLModel
from plugins.model.token_estimate import LATIN_CHARACTERS_PER_TOKEN
from runner.errors import DataError, RequirementError
from runner.records import ImagePart, Rendered, TextPart

NUMBERS = {"3B": 3_754_622_976, "7B": 8_292_166_656, "32B": 33_452_718_336, "72B": 73_410_777_344}


@pytest.fixture
def meta_model(monkeypatch):
    """A function that creates the model of a checkpoint on the meta device without access to the hub."""

    def away(name, revision):
        raise RequirementError(f"{name} cannot be had")

    monkeypatch.setattr("plugins.model.chat.find_checkpoint.hub_revision", away)
    return lambda checkpoint, **options: Qwen25VLModel(Qwen25VLOptions(checkpoint=checkpoint, **options)).meta_model(
        None
    )


@pytest.mark.parametrize("size", NUMBERS)
def test_each_published_size_has_its_number_of_weights(meta_model, size):
    model_spec = meta_model(f"Qwen/Qwen2.5-VL-{size}-Instruct")
    assert sum(each.numel() for each in model_spec.module.parameters()) == NUMBERS[size]
    assert next(model_spec.module.parameters()).is_meta
    assert len(PUBLISHED_SIZES) == len(NUMBERS)


def test_images_are_counted_and_text_is_estimated(meta_model, tmp_path):
    Image.new("RGB", (280, 140)).save(tmp_path / "even.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    images = [ImagePart(tmp_path / name) for name in ("even.png", "small.png")]
    model_spec = meta_model("Qwen/Qwen2.5-VL-7B-Instruct")
    rendered = Rendered("1", (*images, TextPart("word" * 100)), "tell" * 10)
    count = model_spec.count(rendered)
    # Blocks of 28 pixels a side: ten by five, and an image below the least area grows to four of them.
    assert count.image == 50 + 4
    assert count.estimated
    plain = model_spec.count(Rendered("1", (TextPart("word" * 100),), None))
    assert count.text - plain.text == 2 * len(images)
    assert plain.text == pytest.approx(400 / LATIN_CHARACTERS_PER_TOKEN, abs=25)
    assert (count.target, plain.target) == (11, 0)
    shown = Rendered("2", rendered.content, rendered.target, (rendered,))
    assert model_spec.count(shown).image == 2 * count.image
    assert model_spec.count(shown).text > count.text + 100


def test_pixels_of_the_spec_bound_the_images(meta_model, tmp_path):
    Image.new("RGB", (2800, 2800)).save(tmp_path / "large.png")
    rendered = Rendered("1", (ImagePart(tmp_path / "large.png"),), "x")
    assert meta_model("Qwen/Qwen2.5-VL-3B-Instruct").count(rendered).image == 100 * 100
    assert meta_model("Qwen/Qwen2.5-VL-3B-Instruct", max_pixels=280 * 280).count(rendered).image == 100


def test_an_image_that_cannot_be_used_is_named(meta_model, tmp_path):
    Image.new("RGB", (3000, 2)).save(tmp_path / "thread.png")
    rendered = Rendered("7", (ImagePart(tmp_path / "thread.png"),), "x")
    with pytest.raises(DataError, match=r"sample 7: image .*thread\.png"):
        meta_model("Qwen/Qwen2.5-VL-3B-Instruct").count(rendered)


def test_other_checkpoints_are_not_available_and_a_small_size_needs_texts(meta_model):
    with pytest.raises(RequirementError, match="somebody/else"):
        meta_model("somebody/else")
    with pytest.raises(RequirementError, match="training texts"):
        Qwen25VLModel(Qwen25VLOptions(size="smoke")).meta_model(None)
    assert Qwen25VLModel(Qwen25VLOptions(size="smoke")).meta_model(["a text"]).context_length
