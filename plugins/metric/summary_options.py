"""Options of the summary metrics: `rouge`, `bleu`, `corpus_bleu`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from runner.stages import MetricOptions


class RougeOptions(MetricOptions):
    """ROUGE-1, ROUGE-2 and ROUGE-L between summaries; nothing to choose, so that results compare."""

    figures: ClassVar[Sequence[str]] = ("rouge1", "rouge2", "rougeL")


class BleuOptions(MetricOptions):
    """BLEU-4 between summaries; nothing to choose, so that results compare."""

    figures: ClassVar[Sequence[str]] = ("bleu",)


class CorpusBleuOptions(MetricOptions):
    """BLEU-4 between summaries over the whole corpus; nothing to choose, so that results compare."""

    figures: ClassVar[Sequence[str]] = ("corpus_bleu",)
