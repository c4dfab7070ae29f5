"""Options of the plugins that use a server with OpenAI's chat completions API."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from plugins.servers.answers import Thinking
from runner.errors import RequirementError
from runner.stages import DecodingOptions, Options, OutsideFingerprint

PLAIN_URL = re.compile(
    r"https?://([a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[a-z0-9._~!$&'()*+,;=:@%/-]*)?",
    re.IGNORECASE | re.ASCII,
)
"""Matches addresses that all programs read in the same way, so that a plan names the host that gets the key."""


class ChatServerOptions(Options):
    """A server with OpenAI's chat completions API, and the limits of requests to this server."""

    model: Annotated[str, Field(min_length=1)]
    """The model's name at the server, such as `gpt-4o-2024-08-06`. Use a dated name if the server has one: an undated
    name can later mean another model. The server does not report which weights it uses, so the fingerprint identifies
    the model only by this name."""

    base_url: str = "https://api.openai.com/v1"
    """URL of the server, without `/chat/completions`. For a server of vLLM or transformers, write
    `http://HOST:8000/v1`. Default: OpenAI's server."""

    api_key_env: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), OutsideFingerprint()] = (
        "OPENAI_API_KEY"
    )
    """Name of the environment variable that contains the API key. Never write the key into the spec. Write null for a
    server that needs no key."""

    concurrency: Annotated[int, Field(gt=0, le=256), OutsideFingerprint()] = 8
    """Number of simultaneous requests."""

    requests_per_minute: Annotated[float | None, Field(gt=0), OutsideFingerprint()] = None
    """Maximum number of requests per minute, including retries. Requests are sent at even intervals. Default: no
    limit."""

    tokens_per_minute: Annotated[float | None, Field(gt=0), OutsideFingerprint()] = None
    """Maximum number of tokens of prompts and answers per minute. A request without an answer yet counts with the mean
    number of tokens of the answered requests. Default: no limit."""

    max_retries: Annotated[int, Field(ge=0), OutsideFingerprint()] = 8
    """Maximum number of retries of a request that fails because of the network, the server or the server's rate limit.
    The waiting time grows with each retry. If the server states a waiting time of at most two minutes, this time is
    used instead."""

    timeout: Annotated[float, Field(gt=0), OutsideFingerprint()] = 120.0
    """Maximum number of seconds from sending a request to the end of its answer. A request that takes longer counts as
    failed, even if parts of the answer arrive."""

    max_response_bytes: Annotated[int, Field(gt=0), OutsideFingerprint()] = 10_000_000
    """Maximum size of a response of the server in bytes, unpacked. A larger response is an error. Default: 10 MB; an
    answer of a thousand tokens has about 5 kB."""

    thinking: Thinking = "cut"
    """What happens if an answer begins with reasoning, such as `<think>…</think>`. `cut`: the reasoning is removed.
    `flag`: the reasoning stays; a launch prints a warning with the number of such answers, and a build flags such
    summaries for review."""

    @property
    def remote_address(self) -> str:
        """The URL of the server."""
        return self.base_url

    @property
    def key_variables(self) -> Sequence[str]:
        """The variable with the API key."""
        return (self.api_key_env,) if self.api_key_env else ()

    def key(self, stage: str) -> str | None:
        """Read the key from the environment; None if the server needs none.

        Args:
            stage: The section of the spec with these options, for the error.

        Raises:
            RequirementError: The environment has no key, or one that a request cannot contain.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise RequirementError(
                f"{stage}: the environment variable {self.api_key_env} is not set; it should hold the key for "
                f"{self.base_url}. Set it, or write `api_key_env: null` for a server without keys"
            )
        if not (key.isascii() and key.isprintable() and key.strip() == key):
            raise RequirementError(
                f"{stage}: the value of the environment variable {self.api_key_env} has white space at an end, or "
                "characters that a request cannot contain; set it to the key alone, without a line end"
            )
        return key

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = None
        if parts is not None and (parts.username is not None or parts.password is not None or parts.query):
            raise ValueError(
                "must not contain a user, password or query, as it is written into plans and logs; put a key into the "
                "environment variable that `api_key_env` names"
            )
        if parts is None or not PLAIN_URL.fullmatch(url):
            raise ValueError(
                "must be a URL such as http://127.0.0.1:8000/v1, with a host of ASCII letters and digits (for another "
                "host, its form with xn--), and without spaces and `#`"
            )
        return url.rstrip("/")


class OpenAIGeneratorOptions(DecodingOptions, ChatServerOptions):
    """Zero- and few-shot answers from a server with OpenAI's chat completions API, with temperature 0."""

    needs_model: ClassVar[bool] = False
    can_generate_during_training: ClassVar[bool] = False

    def check_requirements(self) -> None:
        """Raise RequirementError if the environment has no key."""
        self.key("generator")

    def smoke(self) -> Mapping[str, Any]:
        """Use empty answers instead of a server."""
        return {"type": "constant", "num_few_shot": self.num_few_shot}


class Prices(Options):
    """Prices of a server, in one currency."""

    input: Annotated[float, Field(ge=0)]
    """Price of a million prompt tokens, images included."""
    output: Annotated[float, Field(ge=0)]
    """Price of a million answer tokens."""


class WordRange(Options):
    """Expected minimum and maximum number of words of a summary."""

    min: Annotated[int, Field(ge=0)] = 10
    """Minimum number of words. Shorter summaries are flagged for review. Default: 10, the shortest summary in the
    paper's Table 1."""
    max: Annotated[int, Field(ge=1)] = 97
    """Maximum number of words. Longer summaries are flagged for review. Default: 97, the longest summary in the paper's
    Table 1."""

    @model_validator(mode="after")
    def _in_order(self) -> WordRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}, so every summary would be flagged")
        return self


class OpenAIAnnotatorOptions(ChatServerOptions):
    """Summaries from a server with OpenAI's chat completions API, such as OpenAI's (GPT-4o in the paper) or vLLM's.

    The build reuses an earlier answer if model, prompt, parameters and the content of the image are the same. It also
    does so if you have changed the URL of the server.
    """

    base_url: Annotated[str, OutsideFingerprint()] = "https://api.openai.com/v1"
    """URL of the server, without `/chat/completions`. For a server of vLLM or transformers, write
    `http://HOST:8000/v1`. Default: OpenAI's server."""

    prompt: Annotated[str, Field(min_length=1)] = "What is in this image?"
    """Text that follows the image in the prompt. Default: the question in the paper."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature. Default: 0, our choice, because the paper does not state its temperature."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 300
    """Maximum number of tokens of an answer. Longer answers are cut off and flagged for review. Default: 300, our
    choice, because the paper gives no limit. The paper's longest summary has 97 words, which are about 130 tokens."""

    words: Annotated[WordRange, OutsideFingerprint()] = WordRange()
    """Expected number of words of a summary. Shorter or longer summaries are flagged for review. If you change this
    option, no summary is requested again."""

    token_budget: Annotated[int | None, Field(gt=0), OutsideFingerprint()] = None
    """Maximum number of tokens of prompts and answers together for the summaries of this data set, including earlier
    builds. Before a request that could exceed this number, the build stops with an error. Default: no limit."""

    tokens_per_image: Annotated[int, Field(ge=0), OutsideFingerprint()] = 765
    """Estimated number of tokens of an image. After the first answers, the cost estimate uses the mean number of prompt
    tokens that the server has reported instead. Default: 765, the tokens of GPT-4o for a square image in full detail
    (four tiles of 170 tokens, and 85 tokens)."""

    prices: Annotated[Prices | None, OutsideFingerprint()] = None
    """Prices of the server, for the cost estimate before requests are sent. Default: no prices, so only the tokens are
    estimated."""

    def smoke(self) -> Mapping[str, Any]:
        """Use a constant summary instead of a server."""
        return {"type": "constant"}
