"""The options of BLEU."""

from __future__ import annotations

from runner.stages import Options


class BleuOptions(Options):
    """BLEU-4 between summaries; nothing to choose, so that results compare."""
