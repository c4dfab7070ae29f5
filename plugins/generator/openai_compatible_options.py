"""Options of the generator `openai_compatible`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from plugins.servers.chat_options import ChatServerOptions
from runner.stages import DecodingOptions


class OpenAICompatibleOptions(DecodingOptions, ChatServerOptions):
    """Zero- and few-shot answers from a server that speaks OpenAI's chat completions; greedy, temperature 0."""

    needs_model: ClassVar[bool] = False
    answers_in_training: ClassVar[bool] = False

    def refuse_unmet(self) -> None:
        """Refuse an environment without the key."""
        self.key("generator")

    def smoke(self) -> Mapping[str, Any]:
        """No server is asked: an empty answer stands in for each."""
        return {"type": "fixed", "examples": self.examples}
