"""How the processor of a Qwen2.5-VL checkpoint resizes images, read from its files without importing transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugins.model.chat.find_checkpoint import hub_folder, hub_revision, local_folder, read_image_settings
from plugins.model.qwen2_5_vl_published_sizes import MAX_PIXELS, MERGE_SIZE, MIN_PIXELS, PATCH_SIZE, PUBLISHED_SIZES
from runner.errors import RequirementError

DEFAULT_MIN_PIXELS, DEFAULT_MAX_PIXELS = 56 * 56, 28 * 28 * 1280
"""Limits of the image area in transformers' image processor of Qwen2-VL, for a checkpoint that has none."""


def find_resize_settings(checkpoint: str, revision: str) -> tuple[int, int, int]:
    """Return the side of a token in pixels, and the minimum and maximum area of an image in pixels.

    Args:
        checkpoint: A name on the hub, or the absolute path of a folder.
        revision: The revision on the hub.

    Raises:
        RequirementError: The settings are not available on this machine, or damaged. Of published checkpoints they are
            known, so that a run can be planned without the files.
    """
    if Path(checkpoint).is_absolute():
        folder = local_folder(checkpoint)
        return parse_resize_settings(read_image_settings(folder), folder)
    try:
        folder = hub_folder(checkpoint, hub_revision(checkpoint, revision), weights=False, pickled=False)
    except RequirementError:
        if checkpoint not in PUBLISHED_SIZES:
            raise
        return PATCH_SIZE * MERGE_SIZE, MIN_PIXELS, MAX_PIXELS
    return parse_resize_settings(read_image_settings(folder), folder)


def parse_resize_settings(settings: Mapping[str, Any], folder: Path) -> tuple[int, int, int]:
    """Return what `find_resize_settings` returns, from the settings of an image processor.

    Args:
        settings: The settings. As in transformers, `min_pixels` and `max_pixels` of older files replace `size`.
        folder: The folder of the checkpoint, for error messages.

    Raises:
        RequirementError: A setting is not a positive whole number.
    """
    size = settings.get("size")
    size = size if isinstance(size, Mapping) else {}
    values = {
        "patch_size": settings.get("patch_size", PATCH_SIZE),
        "merge_size": settings.get("merge_size", MERGE_SIZE),
        "min_pixels": settings.get("min_pixels") or size.get("shortest_edge", DEFAULT_MIN_PIXELS),
        "max_pixels": settings.get("max_pixels") or size.get("longest_edge", DEFAULT_MAX_PIXELS),
    }
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise RequirementError(
                f"model.checkpoint: {name} of the image processor of {folder} is {value!r}, which is no positive "
                "whole number; copy the checkpoint again"
            )
    return values["patch_size"] * values["merge_size"], values["min_pixels"], values["max_pixels"]
