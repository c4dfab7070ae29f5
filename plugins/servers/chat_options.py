"""Options shared by all plugins that request chat completions from a server."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from runner.errors import RequirementError
from runner.stages import Options, OutsideFingerprint


class ChatServerOptions(Options):
    """A server with OpenAI's chat completions API, and the limits of requests to it."""

    model: Annotated[str, Field(min_length=1)]
    """The model's name at the server, such as `gpt-4o-2024-08-06`. Use a dated name if there is one: an undated name
    may later mean another model. The server does not identify its weights, so the fingerprint has only this name."""

    base_url: str = "https://api.openai.com/v1"
    """URL of the server, without `/chat/completions`; for vLLM's and transformers' servers, `http://HOST:8000/v1`.
    Default: OpenAI."""

    api_key_env: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), OutsideFingerprint()] = (
        "OPENAI_API_KEY"
    )
    """Name of the environment variable that holds the key, never the key itself; null for a server without keys."""

    concurrency: Annotated[int, Field(gt=0, le=256), OutsideFingerprint()] = 8
    """Number of simultaneous requests."""

    requests_per_minute: Annotated[float | None, Field(gt=0), OutsideFingerprint()] = None
    """Maximum requests per minute, retries included, sent at even intervals. Default: no limit."""

    tokens_per_minute: Annotated[float | None, Field(gt=0), OutsideFingerprint()] = None
    """Maximum tokens of prompts and answers per minute. A request is counted with the mean of the completed ones.
    Default: no limit."""

    max_retries: Annotated[int, Field(ge=0), OutsideFingerprint()] = 8
    """Number of retries after a failure of network or server, or a rate limit. Waiting times grow, or are those that
    the server asks for (up to two minutes)."""

    timeout: Annotated[float, Field(gt=0), OutsideFingerprint()] = 120.0
    """Seconds to wait for an answer before the request counts as failed."""

    def key(self, stage: str) -> str | None:
        """Read the key from the environment; None if the server needs none.

        Args:
            stage: The section of the spec with these options, for the error.

        Raises:
            RequirementError: The environment has no key.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise RequirementError(
                f"{stage}: the environment variable {self.api_key_env} is not set; it should hold the key for "
                f"{self.base_url}. Set it, or write `api_key_env: null` for a server without keys"
            )
        return key

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError("must be a URL such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                "must not contain a user, password or query, as it is written into plans and logs; put a key into the "
                "environment variable that `api_key_env` names"
            )
        return url.rstrip("/")
