"""Options of the summary metrics: `rouge`, `bleu`, `corpus_bleu`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from runner.stages import MetricOptions


class RougeOptions(MetricOptions):
    """ROUGE-1, ROUGE-2 and ROUGE-L of summaries. There are no options, so that results are comparable."""

    metric_names: ClassVar[Sequence[str]] = ("rouge1", "rouge2", "rougeL")


class BleuOptions(MetricOptions):
    """BLEU-4 of summaries, averaged over samples. There are no options, so that results are comparable."""

    metric_names: ClassVar[Sequence[str]] = ("bleu",)


class CorpusBleuOptions(MetricOptions):
    """BLEU-4 of summaries over the whole corpus. There are no options, so that results are comparable."""

    metric_names: ClassVar[Sequence[str]] = ("corpus_bleu",)
