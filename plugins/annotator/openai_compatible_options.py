"""Options of the annotator `openai_compatible`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from plugins.servers.chat_options import ChatServerOptions
from runner.stages import Options, OutsideFingerprint


class Prices(Options):
    """What a server charges, in one currency."""

    input: Annotated[float, Field(ge=0)]
    """For a million tokens of questions, pictures included."""
    output: Annotated[float, Field(ge=0)]
    """For a million tokens of answers."""


class Words(Options):
    """How many words a summary has that nobody needs to look at."""

    min: Annotated[int, Field(ge=0)] = 10
    """Fewer are flagged (the paper's Table 1: its shortest summary)."""
    max: Annotated[int, Field(ge=1)] = 97
    """More are flagged (its longest)."""

    @model_validator(mode="after")
    def _in_order(self) -> Words:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so that every summary would be flagged")
        return self


class OpenAICompatibleOptions(ChatServerOptions):
    """Summaries from a server that speaks OpenAI's chat completions: GPT-4o as in the paper, vLLM, transformers.

    An answer is known again by model, prompt, parameters and the picture's content; the server's address is not among
    them, so that it may move.
    """

    base_url: Annotated[str, OutsideFingerprint()] = "https://api.openai.com/v1"
    """Where the server is, without `/chat/completions`; vLLM's and transformers' own are `http://HOST:8000/v1`."""

    prompt: Annotated[str, Field(min_length=1)] = "What is in this image?"
    """What is asked, with the picture before it. The paper's question is the default."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Randomness of the answers; the paper does not say which it used."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 300
    """Tokens after which an answer is cut off, and flagged. The paper gives no limit; its longest summary has 97
    words, some 130 tokens."""

    words: Annotated[Words, OutsideFingerprint()] = Words()
    """The length of a summary; what lies outside of it is flagged for review. Changing it asks nothing again."""

    token_budget: Annotated[int | None, Field(gt=0), OutsideFingerprint()] = None
    """The most tokens, of questions and answers together, that the summaries of this data set may take, those of
    earlier builds included. The build stops before a request that could go beyond it; none: no limit."""

    tokens_per_image: Annotated[int, Field(ge=0), OutsideFingerprint()] = 765
    """What a picture is taken for before any was asked about; afterwards the mean of the answers counts. The default
    is what GPT-4o takes for a square picture in full detail: four tiles of 170, and 85."""

    prices: Annotated[Prices | None, OutsideFingerprint()] = None
    """What the server charges, for the estimate before it is asked; none: tokens alone are told."""

    def smoke(self) -> Mapping[str, Any]:
        """No server is asked: a fixed summary stands in for each."""
        return {"type": "constant"}
