"""Options of the model `qwen2_vl`."""

from __future__ import annotations

from plugins.model.qwen_vl_options import QwenVLOptions


class Qwen2VLOptions(QwenVLOptions):
    """Qwen2-VL from a checkpoint, or of a small named size with random weights."""
