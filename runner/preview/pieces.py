"""Cuts an encoded sample into pieces of text that can be shown: images folded, special tokens apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from runner.records import IGNORED
from runner.stages import VisionLanguageModel

Kind = Literal["text", "special", "image"]

CHARACTER_TOKENS = 8
"""So many tokens may share a character: bytes of an emoji, each a token of its own."""


@dataclass(frozen=True)
class Piece:
    """A piece of what the model gets.

    Attributes:
        kind: Plain text, one special token, or the places of an image.
        text: As it is shown: special tokens spelt out, an image as `‹image: 64 tokens›`.
        num_tokens: How many tokens it is.
        trained: Whether they carry loss.
    """

    kind: Kind
    text: str
    num_tokens: int
    trained: bool


class Cutter:
    """Cuts the encoded samples of one model."""

    def __init__(self, model: VisionLanguageModel) -> None:
        """Take the model."""
        self._model = model
        self._special: dict[int, bool] = {}

    def pieces(self, ids: Sequence[int], labels: Sequence[int]) -> tuple[Piece, ...]:
        """Cut a sample, text that carries loss by its tokens, other text where something else comes between.

        Args:
            ids: Its tokens.
            labels: A label a token, -100 where there is no loss.
        """
        marked = [(self._kind(token), label != IGNORED, token) for token, label in zip(ids, labels, strict=True)]
        return tuple(
            piece
            for (kind, trained), run in groupby(marked, key=lambda each: each[:2])
            for piece in self._run(kind, trained, [token for *_, token in run])
        )

    def _run(self, kind: Kind, trained: bool, run: Sequence[int]) -> Iterator[Piece]:
        if kind == "image":
            yield Piece(kind, f"‹image: {len(run)} token{'s' if len(run) > 1 else ''}›", len(run), trained)
        elif kind == "special":
            yield from (Piece(kind, self._model.spell([token]), 1, trained) for token in run)
        elif trained:
            yield from (Piece(kind, text, number, True) for text, number in self._by_token(run))
        else:
            yield Piece(kind, self._model.spell(run), len(run), False)

    def _kind(self, token: int) -> Kind:
        if token in self._model.image_token_ids:
            return "image"
        if token not in self._special:
            self._special[token] = bool(self._model.spell([token])) and not self._model.decode([token])
        return "special" if self._special[token] else "text"

    def _by_token(self, run: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Yield the text of each token, or of the few that share a character, and how many those are."""
        start = 0
        while start < len(run):
            end = start + 1
            while end < min(len(run), start + CHARACTER_TOKENS) and self._spelt(run, start, end).endswith("\ufffd"):
                end += 1
            yield self._spelt(run, start, end), end - start
            start = end

    def _spelt(self, run: Sequence[int], start: int, end: int) -> str:
        """The text of some tokens behind the one before them, as some tokenizers drop a space at the beginning."""
        before = self._model.spell(run[max(0, start - 1) : start])
        both = self._model.spell(run[max(0, start - 1) : end])
        return both[len(before) :] if both.startswith(before) else self._model.spell(run[start:end])
