"""Options of the model `qwen3_vl`."""

from __future__ import annotations

from plugins.model.chat.options import PixelOptions


class Qwen3VLOptions(PixelOptions):
    """Qwen3-VL from a checkpoint, or of a small named size with random weights."""
