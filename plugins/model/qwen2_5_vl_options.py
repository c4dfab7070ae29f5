"""Options of the model `qwen2_5_vl`."""

from __future__ import annotations

from plugins.model.chat.options import PixelOptions


class Qwen25VLOptions(PixelOptions):
    """Qwen2.5-VL from a checkpoint, or of a small named size with random weights."""
