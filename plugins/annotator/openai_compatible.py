"""Annotator `openai_compatible`: summaries from a server with OpenAI's chat completions API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from plugins.servers.answers import REFUSAL_CODES, Reply, remove_thinking
from plugins.servers.chat import ChatServer
from plugins.servers.openai_generator_and_annotator_options import OpenAIAnnotatorOptions, Prices
from runner.errors import StepError
from runner.records import ImagePart, Rendered, Sample, TextPart, is_blank
from runner.stages import Annotation, AnnotationEstimate, Reporter, TokenUsage


class TokenBudget:
    """Yields samples to annotate as long as the token budget covers another request."""

    def __init__(self, limit: int | None, used: TokenUsage, max_usage: TokenUsage, samples: Iterator[Sample]) -> None:
        """Start with the tokens that are used already.

        Args:
            limit: Maximum tokens in total; None for no limit.
            used: Token usage so far.
            max_usage: Assumed maximum usage of one request, until an answer takes more.
            samples: The samples to annotate.
        """
        self._limit, self._used, self._max_usage = limit, used.total, max_usage
        self._samples, self._next = samples, next(samples, None)
        self._num_pending = 0

    @property
    def is_done(self) -> bool:
        """Whether all samples have been yielded."""
        return self._next is None

    @property
    def used(self) -> int:
        """Tokens used so far."""
        return self._used

    def next_affordable(self) -> Iterator[Sample]:
        """Yield samples until one more request, with all pending ones, could exceed the limit."""
        while self._next is not None and self._covers_another():
            sample, self._next = self._next, next(self._samples, None)
            self._num_pending += 1
            yield sample

    def record(self, tokens: TokenUsage) -> None:
        """Record the usage of a completed request."""
        self._num_pending -= 1
        self._used += tokens.total
        self._max_usage = TokenUsage(
            max(self._max_usage.input, tokens.input), max(self._max_usage.output, tokens.output)
        )

    def _covers_another(self) -> bool:
        required = (self._num_pending + 1) * self._max_usage.total
        return self._limit is None or self._used + required <= self._limit


CHARACTERS_PER_TOKEN = 4
"""Characters per token of English text, by OpenAI's rule of thumb; used only for estimates. Other scripts
have fewer: with Qwen's tokenizer, Chinese 1.2, Hindi 0.9 and Telugu 0.6 (docs/models.md)."""

MILLION = 1_000_000

REFUSAL_PATTERN = re.compile(
    r"(?i)^\W*(?:(?:i'?m|i am|we'?re|we are) (?:very |so |truly )?sorry\b|sorry\b|my apologies|i apologi[sz]e"
    r"|unfortunately, i\b"
    r"|(?:i|we) (?:can'?t|can ?not|could ?n[o']t|will not|won'?t|do not|don'?t) (?:\w+ )?"
    r"(?:assist|help|identify|recogni[sz]e|provide|describe|see|view|determine|tell|comply|access|analy[sz]e|process)\b"
    r"|(?:i'?m|i am|we are) (?:not able|unable)\b|as an ai\b)"
)
"""Matches the beginning of answers that are refusals."""


def is_refusal(annotation: Annotation, answer: str | None = None) -> bool:
    """Return whether an answer is a refusal: by the server's statement, or by how its text begins.

    Args:
        annotation: The annotation.
        answer: Its text without reasoning; None for the unmodified text.
    """
    text = (annotation.answer if answer is None else answer).replace("’", "'")
    return (
        annotation.refusal is not None or annotation.finish_reason in REFUSAL_CODES or bool(REFUSAL_PATTERN.match(text))
    )


class OpenAICompatibleAnnotator:
    """The plugin `openai_compatible` of the stage `annotator`."""

    def __init__(self, options: OpenAIAnnotatorOptions) -> None:
        """Take the section's options; the key is read when the first request is sent."""
        self._options = options
        self._parameters = {"temperature": options.temperature, "max_tokens": options.max_new_tokens}

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """Return model, prompt and parameters; see `Annotator.request`."""
        return {"model": self._options.model, "prompt": self._options.prompt, "parameters": self._parameters}

    def estimate(self, num_samples: int, used: TokenUsage, num_answers: int) -> AnnotationEstimate:
        """Estimate with the limit of an answer and the mean prompt so far; see `Annotator.estimate`."""
        per_request = self._max_usage(used, num_answers)
        tokens = TokenUsage(num_samples * per_request.input, num_samples * per_request.output)
        prices = self._options.prices
        cost = None if prices is None else compute_cost(tokens, prices)
        return AnnotationEstimate(tokens, cost, self._options.token_budget)

    def annotate(self, samples: Iterator[Sample], used: TokenUsage, reporter: Reporter) -> Iterator[Annotation]:
        """Annotate samples as long as the budget lasts; see `Annotator.annotate`."""
        max_usage = self._max_usage(TokenUsage(), 0)
        budget = TokenBudget(self._options.token_budget, used, max_usage, samples)
        server = ChatServer(self._options, "annotator", self._parameters, expected=max_usage.total)
        while not budget.is_done:
            has_replies = False
            prompts = (self._prompt(sample) for sample in budget.next_affordable())
            for reply in server.complete(prompts, reporter):
                has_replies, annotation = True, self._annotation(reply)
                budget.record(annotation.tokens)
                yield annotation
            if not has_replies:
                raise StepError(
                    f"annotator: the token budget is used up: {budget.used:,} of {self._options.token_budget:,}, and "
                    "the next request could exceed it. Completed answers are saved: raise annotator.token_budget "
                    "and run the same command again for the others"
                )

    def summary(self, annotation: Annotation) -> str | None:
        """Return the answer in one line, as in the target; see `Annotator.summary`."""
        return " ".join(self._answer(annotation).split()) or None

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """Flag refusals, empty and truncated answers, reasoning, and too few or too many words."""
        answer = self._answer(annotation)
        if is_refusal(annotation, answer):
            return ("refused",)
        words, num_words = self._options.words, len(answer.split())
        flags = {
            "no text": is_blank(answer),
            "cut off": annotation.finish_reason == "length",
            "contains reasoning": remove_thinking(answer) is not None,
            "fewer words than expected": num_words < words.min,
            "more words than expected": num_words > words.max,
        }
        return tuple(flag for flag, applies in flags.items() if applies)

    def _answer(self, annotation: Annotation) -> str:
        """Return the text of an answer, without reasoning if it is to be cut."""
        without = remove_thinking(annotation.answer) if self._options.thinking == "cut" else None
        return annotation.answer if without is None else without

    def _prompt(self, sample: Sample) -> Rendered:
        assert sample.image is not None
        return Rendered(sample.id, (ImagePart(sample.image), TextPart(self._options.prompt)))

    def _max_usage(self, used: TokenUsage, num_answers: int) -> TokenUsage:
        """Estimate the maximum usage of one request."""
        estimate = self._options.tokens_per_image + ceil(len(self._options.prompt) / CHARACTERS_PER_TOKEN)
        return TokenUsage(ceil(used.input / num_answers) if num_answers else estimate, self._options.max_new_tokens)

    def _annotation(self, reply: Reply) -> Annotation:
        estimate = self._max_usage(TokenUsage(), 0)
        tokens = TokenUsage(
            estimate.input if reply.input_tokens is None else reply.input_tokens,
            ceil(len(reply.text) / CHARACTERS_PER_TOKEN) if reply.output_tokens is None else reply.output_tokens,
        )
        return Annotation(
            id=reply.id,
            answer=reply.text,
            finish_reason=reply.finish_reason,
            refusal=reply.refusal,
            tokens=tokens,
            origin={"answered_by": reply.model},
            transient={"server_id": reply.response_id},
        )


def compute_cost(tokens: TokenUsage, prices: Prices) -> float:
    """Return the cost of tokens, in the currency of the prices."""
    return (tokens.input * prices.input + tokens.output * prices.output) / MILLION
