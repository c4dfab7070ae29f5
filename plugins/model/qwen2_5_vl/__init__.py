"""The model plugin `qwen2_5_vl`: Qwen2.5-VL with transformers' own classes, and without torchvision."""

from plugins.model.qwen2_5_vl.plugin import Qwen25VLModel

__all__ = ["Qwen25VLModel"]
