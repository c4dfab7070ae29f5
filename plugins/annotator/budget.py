"""Hands out samples to ask about as long as a budget of tokens reaches."""

from __future__ import annotations

from collections.abc import Iterator

from runner.records import Sample
from runner.stages import Tokens


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
