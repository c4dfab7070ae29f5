"""The options of corpus BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from runner.stages import MetricOptions


class CorpusBleuOptions(MetricOptions):
    """BLEU-4 between summaries over the whole corpus; nothing to choose, so that results compare."""

    figures: ClassVar[Sequence[str]] = ("corpus_bleu",)
