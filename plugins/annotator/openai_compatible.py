"""Annotator `openai_compatible`: summaries from a server with OpenAI's chat completions API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from plugins.annotator.openai_compatible_options import OpenAICompatibleOptions, Prices
from plugins.servers.chat import REFUSALS, ChatServer, Reply
from runner.errors import StepError
from runner.records import ImagePart, Rendered, Sample, TextPart
from runner.stages import Annotation, Estimate, Reporter, Tokens


class Budget:
    """Samples to ask about, and the tokens that may be spent on them."""

    def __init__(self, limit: int | None, taken: Tokens, most: Tokens, samples: Iterator[Sample]) -> None:
        """Begin with what is spent already.

        Args:
            limit: Tokens in all; None for no limit.
            taken: What is spent.
            most: What one request is taken for until an answer took more.
            samples: To ask about.
        """
        self._limit, self._spent, self._most = limit, taken.total, most
        self._samples, self._next = samples, next(samples, None)
        self._underway = 0

    @property
    def is_done(self) -> bool:
        """Whether every sample was handed out."""
        return self._next is None

    @property
    def spent(self) -> int:
        """Tokens."""
        return self._spent

    def affordable(self) -> Iterator[Sample]:
        """Yield samples until one more request could go beyond the limit, with those under way at their most."""
        while self._next is not None and self._reaches():
            sample, self._next = self._next, next(self._samples, None)
            self._underway += 1
            yield sample

    def pay(self, tokens: Tokens) -> None:
        """Count an answer."""
        self._underway -= 1
        self._spent += tokens.total
        self._most = Tokens(max(self._most.input, tokens.input), max(self._most.output, tokens.output))

    def _reaches(self) -> bool:
        needed = (self._underway + 1) * self._most.total
        return self._limit is None or self._spent + needed <= self._limit


CHARACTERS_PER_TOKEN = 4
"""Of English text, as OpenAI's own rule of thumb has it; for estimates alone."""

MILLION = 1_000_000

REFUSING = re.compile(
    r"(?i)^\W*(?:(?:i'?m|i am|we'?re|we are) (?:very |so |truly )?sorry\b|sorry\b|my apologies|i apologi[sz]e"
    r"|unfortunately, i\b"
    r"|(?:i|we) (?:can'?t|can ?not|could ?n[o']t|will not|won'?t|do not|don'?t) (?:\w+ )?"
    r"(?:assist|help|identify|recogni[sz]e|provide|describe|see|view|determine|tell|comply|access|analy[sz]e|process)\b"
    r"|(?:i'?m|i am|we are) (?:not able|unable)\b|as an ai\b)"
)
"""How answers begin that say that there is none."""


def refuses(annotation: Annotation) -> bool:
    """Whether an answer is none: the server says so, or it begins as such answers do."""
    typographic = annotation.answer.replace("’", "'")
    return annotation.refusal is not None or annotation.ending in REFUSALS or bool(REFUSING.match(typographic))


class OpenAICompatibleAnnotator:
    """The plugin `openai_compatible` of the stage `annotator`."""

    def __init__(self, options: OpenAICompatibleOptions) -> None:
        """Take the section's options; the key is looked for when something is asked."""
        self._options = options
        self._parameters = {"temperature": options.temperature, "max_tokens": options.max_new_tokens}

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """Model, prompt and parameters; see `Annotator.request`."""
        return {"model": self._options.model, "prompt": self._options.prompt, "parameters": self._parameters}

    def estimate(self, number: int, taken: Tokens, answers: int) -> Estimate:
        """Count answers with their limit, and questions with the mean so far; see `Annotator.estimate`."""
        one = self._most(taken, answers)
        tokens = Tokens(number * one.input, number * one.output)
        prices = self._options.prices
        return Estimate(tokens, None if prices is None else cost(tokens, prices), self._options.token_budget)

    def annotate(self, samples: Iterator[Sample], taken: Tokens, reporter: Reporter) -> Iterator[Annotation]:
        """Ask about each sample as long as the budget reaches; see `Annotator.annotate`."""
        most = self._most(Tokens(), 0)
        budget = Budget(self._options.token_budget, taken, most, samples)
        server = ChatServer(self._options, "annotator", self._parameters, expected=most.total)
        while not budget.is_done:
            asked = False
            for reply in server.ask((self._prompt(sample) for sample in budget.affordable()), reporter):
                asked, annotation = True, self._annotation(reply)
                budget.pay(annotation.tokens)
                yield annotation
            if not asked:
                raise StepError(
                    f"annotator: the token budget is spent: {budget.spent:,} of {self._options.token_budget:,}, and "
                    "the next request could go beyond it. Answers that came are kept: raise annotator.token_budget "
                    "and run this again for the rest"
                )

    def summary(self, annotation: Annotation) -> str | None:
        """The answer in one line, as the target has it; see `Annotator.summary`."""
        return " ".join(annotation.answer.split()) or None

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """Refused, cut off, too few or too many words; see `Annotator.flags`."""
        if refuses(annotation):
            return ("refused",)
        words, number = self._options.words, len(annotation.answer.split())
        found = {
            "cut off": annotation.ending == "length",
            "fewer words than expected": number < words.min,
            "more words than expected": number > words.max,
        }
        return tuple(flag for flag, holds in found.items() if holds)

    def _prompt(self, sample: Sample) -> Rendered:
        assert sample.image is not None
        return Rendered(sample.id, (ImagePart(sample.image), TextPart(self._options.prompt)))

    def _most(self, taken: Tokens, answers: int) -> Tokens:
        """The most that one request is likely to take."""
        guess = self._options.tokens_per_image + ceil(len(self._options.prompt) / CHARACTERS_PER_TOKEN)
        return Tokens(ceil(taken.input / answers) if answers else guess, self._options.max_new_tokens)

    def _annotation(self, reply: Reply) -> Annotation:
        guess = self._most(Tokens(), 0)
        tokens = Tokens(
            guess.input if reply.input_tokens is None else reply.input_tokens,
            ceil(len(reply.text) / CHARACTERS_PER_TOKEN) if reply.output_tokens is None else reply.output_tokens,
        )
        origin, passing = {"answered_by": reply.model}, {"server_id": reply.name}
        return Annotation(reply.id, reply.text, reply.ending, reply.refusal, tokens, origin, passing)


def cost(tokens: Tokens, prices: Prices) -> float:
    """What tokens cost, in the prices' currency."""
    return (tokens.input * prices.input + tokens.output * prices.output) / MILLION
