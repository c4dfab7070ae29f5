"""Options of ROUGE."""

from __future__ import annotations

from runner.stages import Options


class RougeOptions(Options):
    """ROUGE-1, -2 and -L of the summaries."""

    stemmer: bool = True
    """Whether words are reduced to their stems by Porter's stemmer before they are compared."""
