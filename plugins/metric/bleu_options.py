"""The options of BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from runner.stages import MetricOptions


class BleuOptions(MetricOptions):
    """BLEU-4 between summaries; nothing to choose, so that results compare."""

    figures: ClassVar[Sequence[str]] = ("bleu",)
