"""Options of the model `internvl`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from plugins.model.chat.options import ChatModelOptions
from plugins.model.chat.wording import END_OF_TEXT, TURN_END, TURN_START, Wording, chat_template

BEGIN, PLACE, END, VIDEO = "<img>", "<IMG_CONTEXT>", "</img>", "<video>"


class InternVLOptions(ChatModelOptions):
    """InternVL, from a checkpoint in transformers' own form (`…-hf`), or of a small named size with random weights."""

    wording = Wording((END_OF_TEXT, TURN_START, TURN_END, BEGIN, PLACE, END, VIDEO), chat_template(f"{PLACE}\n"))

    max_tiles: Annotated[int, Field(gt=0)] | None = None
    """Square tiles that an image may be cut into, an overview of it not counted; 1 keeps each image whole. By
    default that of the checkpoint or the size. A tile takes 256 tokens in the published checkpoints."""

    def smoke(self) -> Mapping[str, Any]:
        """The same architecture in its smallest size, without special kernels."""
        return {**super().smoke(), "max_tiles": None}
