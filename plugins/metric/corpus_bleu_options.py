"""The options of corpus BLEU."""

from __future__ import annotations

from runner.stages import Options


class CorpusBleuOptions(Options):
    """BLEU-4 between summaries over the whole corpus; nothing to choose, so that results compare."""
