"""Options of the generator `transformers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from runner.stages import DecodingOptions


class TransformersOptions(DecodingOptions):
    """Greedy decoding on this machine, in the precision that the weights are stored in."""

    batch_size: Annotated[int, Field(gt=0)] = 8
    """Answers written at once. Part of a run's identity, as padding changes the last bits of the logits."""

    refill: bool = True
    """Whether an answer that ends gives its place in the batch to the next prompt at once, instead of waiting for
    the batch's longest. Part of a run's identity, for the same reason; where a model cannot be decoded so, the run
    says so and answers in batches."""

    def smoke(self) -> Mapping[str, Any]:
        """A few tokens of each answer."""
        return {"max_new_tokens": 8}
