"""Options of the model `qwen3_vl`."""

from __future__ import annotations

from plugins.model.qwen_vl_options import QwenVLOptions


class Qwen3VLOptions(QwenVLOptions):
    """Qwen3-VL from a checkpoint, or of a small named size with random weights."""
