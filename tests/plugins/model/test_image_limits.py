"""Options that limit the size of images mean the same in every family that has them."""

from importlib.metadata import entry_points

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plugins.model.chat.grid_model import GridModel
from plugins.model.family_options import SmolVLMOptions
from plugins.model.model_options_and_small_sizes import SIZES, PixelOptions
from plugins.model.smolvlm import SmolVLMModel
from runner.errors import SpecError
from runner.records import ImagePart, Rendered

TEXTS = ["Who is this?"] * 8
PATCH = SIZES["smoke"].patch
BLOCK = (2 * PATCH) ** 2
"""Pixels of a token."""


GRID_FAMILIES = [
    pytest.param(entry.load(), options.load(), id=entry.name)
    for entry in entry_points(group="runner.model")
    if entry.module.startswith("plugins.") and issubclass(entry.load(), GridModel)
    for options in entry_points(group="runner.model.options", name=entry.name)
]


@pytest.mark.parametrize(("model", "options"), GRID_FAMILIES)
def test_min_pixels_and_max_pixels_are_areas_of_the_resized_image(model, options, tmp_path):
    assert issubclass(options, PixelOptions)
    spec = model(options(size="smoke", min_pixels=4 * BLOCK, max_pixels=9 * BLOCK)).model_spec(TEXTS)

    def count(size):
        Image.new("L", size).save(tmp_path / "image.png")
        return spec.count(Rendered("x", (ImagePart(tmp_path / "image.png"),))).image

    # A square image has exactly the area of the limit.
    assert [count((side, side)) for side in (4, 2 * 2 * PATCH, 400)] == [4, 4, 9]

    @settings(max_examples=20, deadline=None)
    @given(width=st.integers(16, 300), height=st.integers(16, 300))
    def check(width, height):
        assert 4 <= count((width, height)) <= 9 or max(width, height) > 9 * min(width, height)

    check()


@pytest.mark.parametrize(("model", "options"), GRID_FAMILIES)
def test_a_minimum_above_the_maximum_of_the_size_is_an_error_in_pixels(model, options):
    largest = SIZES["smoke"].max_pixels
    with pytest.raises(SpecError, match=f"the minimum of {largest + 1} pixels exceeds the maximum of {largest} pixels"):
        model(options(size="smoke", min_pixels=largest + 1)).model_spec(TEXTS)


def test_smolvlm_with_the_length_of_a_tile_does_not_split_images(tmp_path):
    Image.new("L", (200, 90)).save(tmp_path / "image.png")
    sample = Rendered("x", (ImagePart(tmp_path / "image.png"),))
    tile = SIZES["smoke"].tile
    split, whole = (
        SmolVLMModel(SmolVLMOptions(size="smoke", longest_edge=length)).model_spec(TEXTS) for length in (None, tile)
    )
    per_tile = (tile // PATCH // 2) ** 2
    assert whole.count(sample).by_image == (per_tile,)
    assert split.count(sample).image > per_tile
    assert whole.num_image_features(whole.encode(sample)) == per_tile
