"""Options of the model `internvl`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from plugins.model.chat.options import ChatModelOptions


class InternVLOptions(ChatModelOptions):
    """InternVL, from a checkpoint in transformers' own form (`…-hf`), or of a small named size with random weights."""

    max_tiles: Annotated[int, Field(gt=0)] | None = None
    """Square tiles that an image may be cut into, an overview of it not counted; 1 keeps each image whole. By
    default that of the checkpoint or the size. A tile takes 256 tokens in the published checkpoints."""

    def smoke(self) -> Mapping[str, Any]:
        """The same architecture in its smallest size, without special kernels."""
        return {**super().smoke(), "max_tiles": None}
