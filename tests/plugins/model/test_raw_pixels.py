"""Pixels as bytes: the vision tower sees the values of transformers' processor, bit for bit."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from plugins.model.chat.raw_pixels import RawPixels

SETTINGS = [
    {},
    {"do_normalize": False},
    {"do_rescale": False},
    {"do_rescale": False, "do_normalize": False},
    {"rescale_factor": 1 / 127.5, "image_mean": [0.5, 0.25, 1.0], "image_std": [0.5, 0.1, 2.0]},
    {"patch_size": 8, "temporal_patch_size": 4, "merge_size": 1},
]


@pytest.mark.parametrize("chosen", SETTINGS)
@given(width=st.integers(9, 90), height=st.integers(9, 90), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_normalised_bytes_are_what_transformers_processor_gives(chosen, width, height, seed):
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 60 * 60}, **chosen)
    raw = RawPixels(processor)
    noise = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    images = [Image.fromarray(noise), Image.new("RGB", (40, 40), (seed, 0, 255))]
    expected = processor(images=images, return_tensors="pt")
    stored = raw.encode(images)
    assert stored["pixel_values"].dtype == torch.uint8
    assert 8 * stored["pixel_values"].nbytes <= expected["pixel_values"].nbytes
    assert stored["image_grid_thw"].equal(expected["image_grid_thw"])
    assert raw.normalise(stored["pixel_values"]).equal(expected["pixel_values"])
    for half in (torch.bfloat16, torch.float16):  # a model in half precision converts the bytes first
        actual = raw.normalise(stored["pixel_values"].to(half))
        assert actual.equal(expected["pixel_values"].to(half))


def test_a_tower_takes_bytes_and_normalised_pixels(build_smoke, colour_samples):
    model = build_smoke()
    stored = model.encode(colour_samples[0])
    expected = model._raw_pixels.normalise(stored["pixel_values"])
    outputs = [
        model.module.model.get_image_features(pixels, stored["image_grid_thw"]).pooler_output[0]
        for pixels in (stored["pixel_values"], expected)
    ]
    assert outputs[0].equal(outputs[1])


def test_a_processor_of_another_class_is_used_as_it_is(build_smoke, colour_samples):
    class Other(Qwen2VLImageProcessorPil):
        pass

    model = build_smoke()
    stored = model.encode(colour_samples[0])
    model.processor.image_processor.__class__ = Other
    other = type(model)(model.module, model.processor)
    assert (model.stores_raw_pixels, other.stores_raw_pixels) == (True, False)
    pixels = other.encode(colour_samples[0])["pixel_values"]
    assert pixels.equal(model._raw_pixels.normalise(stored["pixel_values"]))
