"""Image sizes and pixels of the Qwen-VL plugins, against a program in Rust that computes them from scratch."""

import random

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from plugins.model.chat.raw_pixels import RawPixels
from tests.registry_packages import download_wheel

NUM_SIZES = 2_000
LONGEST_SIDE, HIGHEST_RATIO = 400, 200
PATCHES = {"Qwen2.5-VL": 14, "Qwen3-VL": 16}
"""Side of a patch in pixels. Two by two patches form a token."""


def _sizes():
    """Random widths and heights, among them extreme ratios."""
    draw = random.Random(0)
    while True:
        size = tuple(draw.choice([draw.randint(1, 12), draw.randint(1, LONGEST_SIDE)]) for _ in range(2))
        if max(size) <= HIGHEST_RATIO * min(size):
            yield size


@pytest.mark.slow
@pytest.mark.parametrize("family", PATCHES)
def test_grids_and_pixels_equal_those_of_another_program(monkeypatch, tmp_path, family):
    monkeypatch.syspath_prepend(str(download_wheel("hf-processors-rs==0.1.0", tmp_path)))
    import hf_processors_rs

    patch = PATCHES[family]
    # Small images, so that thousands take seconds: from 4 to 36 tokens.
    bounds = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 36 * (2 * patch) ** 2}
    ours = Qwen2VLImageProcessorPil(patch_size=patch, size=bounds)
    raw, plain = RawPixels(ours), Qwen2VLImageProcessorPil(patch_size=patch, do_resize=False)
    settings = {**ours.to_dict(), "image_processor_type": "Qwen2VLImageProcessor"}
    theirs = hf_processors_rs.Qwen2VLImageProcessor.from_dict(settings, backend="pil")
    noise = Image.effect_noise((LONGEST_SIDE, LONGEST_SIDE), 90).convert("RGB")
    noise.paste((250, 40, 90), (0, 0, LONGEST_SIDE // 3, LONGEST_SIDE))
    num_other = 0
    for (width, height), _ in zip(_sizes(), range(NUM_SIZES // len(PATCHES)), strict=False):
        image = noise.crop((0, 0, width, height))
        encoded, expected = raw.encode([image]), theirs(image)
        where = f"{width} x {height}"
        assert encoded["image_grid_thw"].tolist() == expected["image_grid_thw"].tolist(), where
        assert encoded["image_grid_thw"].prod() == ours.get_number_of_image_patches(height, width), where
        pixels = raw.normalise(encoded["pixel_values"])
        _, rows, columns = encoded["image_grid_thw"][0].tolist()
        resized, in_two_steps = _resize(image, columns * patch, rows * patch)
        if resized.tobytes() != in_two_steps.tobytes():
            num_other += 1
            assert pixels.equal(plain(images=[resized], return_tensors="pt")["pixel_values"]), where
            pixels = plain(images=[in_two_steps], return_tensors="pt")["pixel_values"]
        assert pixels.equal(torch.from_numpy(expected["pixel_values"])), where
    assert num_other < NUM_SIZES / len(PATCHES) / 2


def _resize(image, width, height):
    """Resize with Pillow, and first horizontally, then vertically, as the other program does.

    Pillow 13 resizes vertically first where that is less work, and rounds in between, so many of its pixels differ from
    those of earlier versions (findings/pillow_13_resize_order.sh).
    """
    first = image.resize((width, image.height), Image.Resampling.BICUBIC)
    return tuple(each.resize((width, height), Image.Resampling.BICUBIC) for each in (image, first))
