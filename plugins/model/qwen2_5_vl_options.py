"""Options of the model `qwen2_5_vl`."""

from __future__ import annotations

from plugins.model.qwen_vl_options import QwenVLOptions


class Qwen25VLOptions(QwenVLOptions):
    """Qwen2.5-VL from a checkpoint, or of a small named size with random weights."""
