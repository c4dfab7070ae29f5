"""Options of the model `idefics3`; torch stays out of this file, so that `runner validate` is quick."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plugins.model.model_options import ImageTextToTextOptions


class Idefics3Options(ImageTextToTextOptions):
    """Idefics3 and SmolVLM."""

    longest_edge: Annotated[int, Field(gt=0)] | None = None
    """Pixels to which the longer side of an image is brought before it is cut into tiles; by default the
    checkpoint's."""
