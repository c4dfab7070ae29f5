"""The options of ROUGE."""

from __future__ import annotations

from runner.stages import Options


class RougeOptions(Options):
    """ROUGE-1, ROUGE-2 and ROUGE-L between summaries; nothing to choose, so that results compare."""
