"""Options of the annotator `openai_compatible`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from plugins.servers.chat_options import ChatServerOptions
from runner.stages import Options, OutsideFingerprint


class Prices(Options):
    """Prices of a server, in one currency."""

    input: Annotated[float, Field(ge=0)]
    """Price of a million prompt tokens, images included."""
    output: Annotated[float, Field(ge=0)]
    """Price of a million answer tokens."""


class WordRange(Options):
    """Number of words of a summary that needs no review."""

    min: Annotated[int, Field(ge=0)] = 10
    """Minimum number of words; shorter summaries are flagged. Default: the shortest in the paper's Table 1."""
    max: Annotated[int, Field(ge=1)] = 97
    """Maximum number of words; longer summaries are flagged. Default: the longest in the paper's Table 1."""

    @model_validator(mode="after")
    def _in_order(self) -> WordRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so every summary would be flagged")
        return self


class OpenAICompatibleOptions(ChatServerOptions):
    """Summaries from a server with OpenAI's chat completions API: GPT-4o as in the paper, vLLM, transformers.

    An answer is reused if model, prompt, parameters and the content of the image are the same. The server's URL does
    not count, so the server may move.
    """

    base_url: Annotated[str, OutsideFingerprint()] = "https://api.openai.com/v1"
    """URL of the server, without `/chat/completions`; for vLLM's and transformers' servers, `http://HOST:8000/v1`.
    Default: OpenAI."""

    prompt: Annotated[str, Field(min_length=1)] = "What is in this image?"
    """Text of the prompt, after the image. Default: the paper's question."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature. Default: our choice, as the paper does not say which it used."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 300
    """Maximum tokens of an answer; longer answers are cut off and flagged. Default: our choice, as the paper gives no
    limit; its longest summary has 97 words, about 130 tokens."""

    words: Annotated[WordRange, OutsideFingerprint()] = WordRange()
    """Expected number of words of a summary; others are flagged for review. A change causes no new requests."""

    token_budget: Annotated[int | None, Field(gt=0), OutsideFingerprint()] = None
    """Maximum tokens, of prompts and answers together, for the summaries of this data set, earlier builds included. The
    build stops before a request that could exceed it. Default: no limit."""

    tokens_per_image: Annotated[int, Field(ge=0), OutsideFingerprint()] = 765
    """Estimated tokens of an image until the first answer; afterwards the mean of the answers is used. Default: the
    tokens of GPT-4o for a square image in full detail, four tiles of 170, and 85."""

    prices: Annotated[Prices | None, OutsideFingerprint()] = None
    """Prices of the server, for the cost estimate before requests are sent. Default: only tokens are estimated."""

    def smoke(self) -> Mapping[str, Any]:
        """Use a constant summary instead of a server."""
        return {"type": "constant"}
