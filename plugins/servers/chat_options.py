"""Options that every plugin has which asks a server for chat completions."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from runner.errors import RequirementError
from runner.stages import Options, OutsideFingerprint


class ChatServerOptions(Options):
    """A server that speaks OpenAI's chat completions, and how it may be asked."""

    model: Annotated[str, Field(min_length=1)]
    """The model's name at the server, such as `gpt-4o-2024-08-06`: with a date where there is one, as an undated
    name comes to mean another model. A server says nothing of its weights, so this name is all that stands in the
    fingerprint."""

    base_url: str = "https://api.openai.com/v1"
    """Where the server is, without `/chat/completions`; vLLM's and transformers' own are `http://HOST:8000/v1`."""

    api_key_env: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), OutsideFingerprint()] = (
        "OPENAI_API_KEY"
    )
    """The environment variable that holds the key, never the key itself; null for a server that wants none."""

    concurrency: Annotated[int, Field(gt=0, le=256), OutsideFingerprint()] = 8
    """Requests under way at once."""

    requests_per_minute: Annotated[float | None, Field(gt=0), OutsideFingerprint()] = None
    """The most requests that are sent in a minute, evenly, those that are sent again included; none: no limit."""

    tokens_per_minute: Annotated[float | None, Field(gt=0), OutsideFingerprint()] = None
    """The most tokens of questions and answers in a minute; none: no limit. A request counts with the mean of those
    that were answered."""

    max_retries: Annotated[int, Field(ge=0), OutsideFingerprint()] = 8
    """How often a request is sent again after a failure of the network or the server, or one too many; each time
    later, or as late as the server says (up to two minutes)."""

    timeout: Annotated[float, Field(gt=0), OutsideFingerprint()] = 120.0
    """Seconds to wait for an answer before the request counts as failed."""

    def key(self, stage: str) -> str | None:
        """Read the key; None where the server wants none.

        Args:
            stage: Which section of the spec these options are, for the error.

        Raises:
            UnmetError: The environment has no key.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise RequirementError(
                f"{stage}: the environment has no {self.api_key_env}, which should hold the key for "
                f"{self.base_url}; set it, or say `api_key_env: null` for a server that wants none"
            )
        return key

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError("must be an address such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                "must hold no user, password or query, as it is written into plans and logs; a key belongs into the "
                "environment variable that `api_key_env` names"
            )
        return url.rstrip("/")
