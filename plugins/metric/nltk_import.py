"""Imports NLTK and rouge-score without the optional packages of NLTK that summary metrics do not use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OPTIONAL_PACKAGES = frozenset({"scipy", "sklearn"})
"""Packages that NLTK imports if installed (nltk 3.10: `classify.scikitlearn`, `metrics`, `parse.transitionparser`)."""


class _ImportBlocker(MetaPathFinder):
    """Makes some packages appear as not installed, in one thread only."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if threading.get_ident() == self._thread and fullname.partition(".")[0] in OPTIONAL_PACKAGES:
            raise ModuleNotFoundError(f"the import of {fullname} is blocked while NLTK is imported", name=fullname)
        return None


@contextmanager
def _block_optional_packages() -> Iterator[None]:
    finder = _ImportBlocker()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with _block_optional_packages():
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.bleu_score import (
        Fraction,
        SmoothingFunction,
        brevity_penalty,
        modified_precision,
        sentence_bleu,
    )
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import fmeasure
    from rouge_score.tokenize import tokenize

__all__ = [
    "Fraction",
    "PorterStemmer",
    "RougeScorer",
    "SmoothingFunction",
    "brevity_penalty",
    "fmeasure",
    "modified_precision",
    "sentence_bleu",
    "tokenize",
]
