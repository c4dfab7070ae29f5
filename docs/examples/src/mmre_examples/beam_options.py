"""Options of the generator `beam`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.stages import DecodingOptions


class BeamOptions(DecodingOptions):
    """Beam search; the base class adds `num_few_shot` and `max_new_tokens`."""

    beams: Annotated[int, Field(ge=1)] = 4
    """Number of beams."""
