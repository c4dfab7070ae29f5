"""Options of the generator `beam`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.stages import DecodingOptions


class BeamOptions(DecodingOptions):
    """Beam search; `examples` and `max_new_tokens` come with the base."""

    beams: Annotated[int, Field(ge=1)] = 4
    """Answers that are followed side by side."""
