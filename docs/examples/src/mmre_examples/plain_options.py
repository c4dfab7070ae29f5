"""Options of the trainer `plain`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.stages import TrainerOptions


class PlainOptions(TrainerOptions):
    """Trains one sample per step in float32, on one worker, without checkpoints."""

    epochs: Annotated[int, Field(gt=0)] = 1
    """Number of passes over the training split."""
