"""Summary metrics: ROUGE, sentence BLEU and corpus BLEU."""

from __future__ import annotations

import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from math import exp, fsum, log
from statistics import fmean
from types import ModuleType

from plugins.metric.summary_options import BleuOptions, CorpusBleuOptions, RougeOptions
from runner.records import Answer
from runner.stages import ReferenceWarning

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

ROUGE_CHARACTERS = re.compile(r"[a-z0-9]")
"""The characters that rouge-score does not remove, in lower-case text (`rouge_score.tokenize`)."""
SCRIPTS_WITHOUT_SPACES = (
    "CJK",
    "IDEOGRAPHIC",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "BOPOMOFO",
    "YI ",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TAI ",
    "NEW TAI LUE",
    "TIBETAN",
    "JAVANESE",
    "BALINESE",
)
"""How the Unicode names of letters begin in scripts that put no spaces between words (Unicode Standard Annex 14)."""
MAX_LETTERS_PER_WORD = 4
"""Maximum mean number of letters between spaces in a text of such a script that was segmented into words. Segmented
Chinese has about 1.7, segmented Thai about 3; clauses between spaces have more."""
NGRAM_ORDERS = (1, 2, 3, 4)
MAX_ORDER = NGRAM_ORDERS[-1]


def has_mostly_rouge_characters(text: str) -> bool:
    """Whether ROUGE uses at least half of the letters and digits of a text; false without any."""
    characters = [char for char in text.lower() if char.isalnum()]
    return bool(characters) and 2 * sum(map(bool, map(ROUGE_CHARACTERS.fullmatch, characters))) >= len(characters)


def has_spaces_between_words(text: str) -> bool:
    """Whether the words of a text can be found by its spaces.

    This is true unless most of its letters belong to a script without spaces, and the text was not segmented.
    """
    letters = [char for char in text if char.isalpha()]
    num_unspaced = sum(unicodedata.name(char, "").startswith(SCRIPTS_WITHOUT_SPACES) for char in letters)
    num_words = len(text.split())
    is_segmented = num_words >= MAX_ORDER and len(letters) <= MAX_LETTERS_PER_WORD * num_words
    return 2 * num_unspaced <= len(letters) or is_segmented


def _script_warnings(
    metric: str, cause: str, summaries: Sequence[str], is_measured: Callable[[str], bool]
) -> list[ReferenceWarning]:
    """Warn of reference summaries that a metric cannot measure; its values are undefined if it can measure none."""
    num_summaries, num_unmeasured = len(summaries), sum(not is_measured(summary) for summary in summaries)
    if not num_unmeasured:
        return []
    if num_unmeasured == num_summaries:
        message = f"{metric} is null: it has no meaning for any of the {num_summaries:,} reference summaries, because"
        return [ReferenceWarning(f"{message} {cause}", is_undefined=True)]
    message = f"{metric} has no meaning for {num_unmeasured:,} of {num_summaries:,} reference summaries, because"
    return [ReferenceWarning(f"{message} {cause}")]


def _summaries(references: Sequence[Answer]) -> list[str]:
    return [reference.summary for reference in references if reference.summary]


ROUGE_CACHE_SIZE = 50_000
"""Number of cached pairs of summaries; larger than the test split of any data set that we know."""


class Rouge:
    """The mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L with Porter's stemmer (Lin 2004)."""

    metric_names = RougeOptions.metric_names

    def __init__(self, options: RougeOptions) -> None:
        """Prepare the scorer, with a cache: all parse modes find the same summary in an answer."""
        self._tokens = _StemmedTokens()
        self._overlaps = RougeScorer(["rouge1", "rouge2"], tokenizer=self._tokens)
        self._cached_scores = lru_cache(maxsize=ROUGE_CACHE_SIZE)(self._compute)

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Return the F-measures of one summary, from 0 to 1; 0 for an empty summary."""
        if reference.summary is None:
            return None
        return self._cached_scores(reference.summary, prediction.summary or "")

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {name: fmean(sample[name] for sample in counts) if counts else None for name in self.metric_names}

    def check_references(self, references: Sequence[Answer]) -> Sequence[ReferenceWarning]:
        """Warn of summaries in other scripts than the Latin one, and of summaries of one word."""
        summaries = _summaries(references)
        cause = "it uses only the letters a to z and digits, and most of their characters are others"
        warnings = _script_warnings("ROUGE", cause, summaries, has_mostly_rouge_characters)
        num_single = sum(len(self._tokens.tokenize(summary)) == 1 for summary in summaries)
        if num_single and not any(warning.is_undefined for warning in warnings):
            message = (
                f"rouge2 is 0 for {num_single:,} of {len(summaries):,} reference summaries, whatever the answer is, "
                "because they have only one word"
            )
            warnings.append(ReferenceWarning(message))
        return warnings

    def _compute(self, reference: str, prediction: str) -> dict[str, float]:
        overlaps = self._overlaps.score(reference, prediction)
        expected, predicted = self._tokens.tokenize(reference), self._tokens.tokenize(prediction)
        # rouge-score computes this length with a table in pure Python, which takes most of its time.
        common = lcs_length(expected, predicted)
        longest = fmeasure(common / len(predicted), common / len(expected)) if common else 0.0
        return {
            "rouge1": float(overlaps["rouge1"].fmeasure),
            "rouge2": float(overlaps["rouge2"].fmeasure),
            "rougeL": float(longest),
        }


class _StemmedTokens:
    """rouge-score's tokenizer with cached stems; passed to `RougeScorer`."""

    def __init__(self) -> None:
        self._stemmer = PorterStemmer()
        self.stem = lru_cache(maxsize=ROUGE_CACHE_SIZE)(self._stemmer.stem)
        self.tokenize = lru_cache(maxsize=ROUGE_CACHE_SIZE)(lambda text: tokenize(text, self))


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Compute the length of the longest common subsequence of two sequences.

    A row of the usual table is stored as an integer with one bit for each element of `one`; the bit is 0 where the row
    increases (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    positions: dict[str, int] = {}
    for index, token in enumerate(one):
        positions[token] = positions.get(token, 0) | 1 << index
    mask = (1 << len(one)) - 1
    row = mask
    for token in other:
        matched = row & positions.get(token, 0)
        row = (row + matched | row - matched) & mask
    return len(one) - row.bit_count()


BLEU_CACHE_SIZE = 50_000
"""As `ROUGE_CACHE_SIZE`."""
NO_SPACES = "it splits texts at spaces, and they have no spaces between words"


def _bleu_warnings(
    metric: Bleu | CorpusBleu, title: str, name: str, references: Sequence[Answer]
) -> Sequence[ReferenceWarning]:
    """Warn of summaries without spaces between words, and of summaries that are shorter than the longest n-grams."""
    summaries = _summaries(references)
    warnings = _script_warnings(title, NO_SPACES, summaries, has_spaces_between_words)
    num_short = sum(len(summary.split()) < MAX_ORDER for summary in summaries)
    if num_short and not any(warning.is_undefined for warning in warnings):
        answers = [Answer(summary, None, None) for summary in summaries]
        scores = [metric.score(answer, answer) for answer in answers]
        highest = metric.reduce([counts for counts in scores if counts is not None])[name]
        message = (
            f"{name} is at most {highest:.4f} on these references, because {num_short:,} of {len(summaries):,} "
            f"reference summaries have fewer than {MAX_ORDER} words"
        )
        warnings.append(ReferenceWarning(message))
    return warnings


class Bleu:
    """The mean sentence BLEU-4 over white-space tokens (Papineni et al. 2002).

    Smoothing is method 1 of Chen and Cherry (2014): an n-gram order without a match counts as 0.1 matches.
    """

    metric_names = BleuOptions.metric_names

    def __init__(self, options: BleuOptions) -> None:
        """Prepare the smoothing, and a cache: all parse modes find the same summary in an answer."""
        self._smoothing = SmoothingFunction().method1
        self._cached_scores = lru_cache(maxsize=BLEU_CACHE_SIZE)(self._compute)

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Return the BLEU of one summary, from 0 to 1; 0 for an empty summary."""
        if reference.summary is None:
            return None
        return {"bleu": self._cached_scores(reference.summary, prediction.summary or "")}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {"bleu": fmean(sample["bleu"] for sample in counts) if counts else None}

    def check_references(self, references: Sequence[Answer]) -> Sequence[ReferenceWarning]:
        """Warn of summaries that BLEU cannot measure; see `_bleu_warnings`."""
        return _bleu_warnings(self, "BLEU", "bleu", references)

    def _compute(self, reference: str, prediction: str) -> float:
        tokens = prediction.split()
        return float(sentence_bleu([reference.split()], tokens, smoothing_function=self._smoothing)) if tokens else 0.0


class CorpusBleu:
    """BLEU-4 over white-space tokens, with n-gram counts and lengths summed over the corpus (Papineni et al. 2002).

    Equals NLTK's `corpus_bleu` with smoothing method 1, which changes nothing if every order has a match. It is
    computed from counts stored for each sample, so that samples can be resampled without their texts.
    """

    metric_names = CorpusBleuOptions.metric_names

    def __init__(self, options: CorpusBleuOptions) -> None:
        """Prepare the smoothing."""
        self._smoothing = SmoothingFunction().method1

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the words, and for each order all n-grams and the matching ones."""
        if reference.summary is None:
            return None
        tokens, expected = (prediction.summary or "").split(), reference.summary.split()
        precisions = {order: modified_precision([expected], tokens, order) for order in NGRAM_ORDERS}
        return {
            "predicted": len(tokens),
            "reference": len(expected),
            **{f"matched_{order}": precision.numerator for order, precision in precisions.items()},
            **{f"ngrams_{order}": precision.denominator for order, precision in precisions.items()},
        }

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then multiply the geometric mean of the precisions by the brevity penalty."""
        if not counts:
            return {"corpus_bleu": None}
        total = {name: int(sum(sample[name] for sample in counts)) for name in counts[0]}
        if not total["matched_1"]:
            return {"corpus_bleu": 0.0}
        # NLTK's fractions are not reduced: smoothing 0/5 gives another result than smoothing 0/1.
        precisions = [Fraction(total[f"matched_{order}"], total[f"ngrams_{order}"]) for order in NGRAM_ORDERS]
        smoothed = self._smoothing(precisions, references=None, hypothesis=None, hyp_len=total["predicted"])
        mean = exp(fsum(log(precision) for precision in smoothed) / len(NGRAM_ORDERS))
        return {"corpus_bleu": float(brevity_penalty(total["reference"], total["predicted"]) * mean)}

    def check_references(self, references: Sequence[Answer]) -> Sequence[ReferenceWarning]:
        """Warn of summaries that BLEU cannot measure; see `_bleu_warnings`."""
        return _bleu_warnings(self, "corpus BLEU", "corpus_bleu", references)
