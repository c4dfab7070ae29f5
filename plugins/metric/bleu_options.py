"""Options of BLEU."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.stages import Options


class BleuOptions(Options):
    """Sentence BLEU of the summaries."""

    order: Annotated[int, Field(ge=1, le=9)] = 4
    """The longest n-grams that count, all orders weighted alike (Papineni et al. 2002 use 4)."""
