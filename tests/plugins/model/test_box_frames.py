"""The frame in which each model family writes boxes, compared with the processors of transformers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plugins.model.chat.resize_settings import parse_resize_settings
from plugins.model.family_options import (
    ImageTextToTextOptions,
    InternVLOptions,
    LlavaOnevisionOptions,
    Qwen2VLOptions,
    Qwen3VLOptions,
    Qwen25VLOptions,
)
from runner.errors import RequirementError
from runner.stages import RelativeFrame, ResizedFrame

SMALL = {"size": "tiny"}


def checkpoint(folder, **files):
    folder.mkdir()
    for name, content in {"config": {}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def test_families_with_relative_positions():
    assert Qwen2VLOptions(**SMALL).box_frame() == RelativeFrame(units=1000)
    assert Qwen3VLOptions(**SMALL).box_frame() == RelativeFrame(units=1000)
    marked = InternVLOptions(**SMALL).box_frame()
    assert marked.join([["1", "2", "3", "4"]]) == "<box>[[1, 2, 3, 4]]</box>"


@pytest.mark.parametrize("options", [LlavaOnevisionOptions, ImageTextToTextOptions])
def test_families_whose_frame_is_not_known(options):
    assert options(**SMALL).box_frame() is None


def test_a_small_qwen2_5_vl_has_the_sizes_of_its_processor_unless_options_change_them():
    assert Qwen25VLOptions(**SMALL).box_frame() == ResizedFrame(multiple=16, min_pixels=256, max_pixels=4096)
    changed = Qwen25VLOptions(size="tiny", min_pixels=512, max_pixels=8192).box_frame()
    assert changed == ResizedFrame(multiple=16, min_pixels=512, max_pixels=8192)


def test_settings_of_a_checkpoint_come_from_the_file_that_transformers_reads(tmp_path):
    older = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056}
    newer = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 4096, "longest_edge": 65536}}
    folder = checkpoint(tmp_path / "older", preprocessor_config=older)
    assert Qwen25VLOptions(checkpoint=folder).box_frame() == ResizedFrame(
        multiple=28, min_pixels=3136, max_pixels=12845056
    )
    folder = checkpoint(tmp_path / "newer", preprocessor_config=older, processor_config={"image_processor": newer})
    assert Qwen25VLOptions(checkpoint=folder).box_frame() == ResizedFrame(
        multiple=32, min_pixels=4096, max_pixels=65536
    )
    assert Qwen25VLOptions(checkpoint=folder, max_pixels=8192).box_frame().max_pixels == 8192


def test_missing_or_damaged_settings_are_named(tmp_path):
    with pytest.raises(RequirementError, match=r"preprocessor_config\.json cannot be read"):
        Qwen25VLOptions(checkpoint=checkpoint(tmp_path / "empty")).box_frame()
    with pytest.raises(RequirementError, match=r"patch_size of the image processor of .* is 'x'"):
        parse_resize_settings({"patch_size": "x"}, tmp_path)


def test_a_published_checkpoint_can_be_planned_without_its_files(monkeypatch):
    def missing(*_):
        raise RequirementError("not here")

    monkeypatch.setattr("plugins.model.chat.resize_settings.hub_revision", missing)
    frame = Qwen25VLOptions(checkpoint="Qwen/Qwen2.5-VL-7B-Instruct").box_frame()
    assert frame == ResizedFrame(multiple=28, min_pixels=3136, max_pixels=12_845_056)
    with pytest.raises(RequirementError, match="not here"):
        Qwen25VLOptions(checkpoint="someone/else").box_frame()


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)) | st.sampled_from([(3, 590), (600, 3), (28, 28), (1, 1)]),
    st.sampled_from([(3136, 12_845_056), (256 * 784, 1024 * 784), (3136, 3136), (784, 100_000)]),
    st.sampled_from([(14, 2), (8, 2), (16, 2)]),
)
def test_the_frame_has_the_size_of_the_processors_grid(size, limits, patches):
    from transformers import Qwen2VLImageProcessorPil

    (width, height), (patch, merge) = size, patches
    area = {"shortest_edge": limits[0], "longest_edge": limits[1]}
    processor = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=merge, size=area)
    frame = ResizedFrame(multiple=patch * merge, min_pixels=limits[0], max_pixels=limits[1])
    if max(size) / min(size) > 200:  # transformers refuses such a strip
        return
    if frame.size(width, height)[0] * frame.size(width, height)[1] > 2_000_000:
        return
    try:
        features = processor(images=[Image.new("RGB", (width, height))], return_tensors="np")
    except (ValueError, ZeroDivisionError):  # a side of 0 pixels
        assert min(frame.size(width, height)) == 0
        return
    _, rows, columns = features["image_grid_thw"][0].tolist()
    assert frame.size(width, height) == (columns * patch, rows * patch)


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{}, {"min_pixels": 1024}, {"max_pixels": 2048}, {"size": "smoke"}])
def test_the_frame_of_a_small_model_is_that_of_its_encoded_images(tmp_path, limits):
    from plugins.model.qwen_vl import Qwen25VLModel
    from runner.records import ImagePart, Rendered, TextPart

    options = Qwen25VLOptions(**{"size": "tiny", **limits})
    model = Qwen25VLModel(options).model_spec(["Who is this? It is Ann."])
    patch = model.module.config.vision_config.patch_size
    for number, (width, height) in enumerate([(48, 48), (20, 300), (300, 9), (17, 16), (500, 400)]):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (width, height)).save(file)
        features = model.encode(Rendered("1", (ImagePart(file), TextPart("Who is this?")), "Ann."))
        _, rows, columns = features["image_grid_thw"][0].tolist()
        assert options.box_frame().size(width, height) == (columns * patch, rows * patch)
