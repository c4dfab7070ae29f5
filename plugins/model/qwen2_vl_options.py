"""Options of the model `qwen2_vl`."""

from __future__ import annotations

from plugins.model.chat.options import PixelOptions


class Qwen2VLOptions(PixelOptions):
    """Qwen2-VL from a checkpoint, or of a small named size with random weights."""
