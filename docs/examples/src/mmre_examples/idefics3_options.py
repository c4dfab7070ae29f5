"""Options of the model `idefics3`; this file does not import torch, so that `runner validate` is fast."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plugins.model.family_options import ImageTextToTextOptions


class Idefics3Options(ImageTextToTextOptions):
    """Idefics3 and SmolVLM."""

    longest_edge: Annotated[int, Field(gt=0)] | None = None
    """Length in pixels to which the longer side of an image is scaled before it is split into tiles. Default: the value
    of the checkpoint."""
