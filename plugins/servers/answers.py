"""Reads the answers of servers with OpenAI's chat completions API, which may have any form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runner.records import is_blank, replace_lone_surrogates
from runner.stages import Reporter

REFUSAL_CODES = {"content_filter", "content_policy_violation"}
"""Codes with which a server refuses a prompt, so that a retry would not help."""

MAX_TOKENS = 10**7
"""A larger number of tokens of one request is not plausible and counts as not reported."""

Thinking = Literal["cut", "flag"]
"""What happens to the reasoning at the beginning of an answer."""

THINKING_TAGS = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}
"""Begin of the reasoning in the answers of reasoning models, with its end."""

THINKING_TAG = re.compile("|".join(re.escape(tag) for pair in THINKING_TAGS.items() for tag in pair))


@dataclass(frozen=True)
class Reply:
    """A server's reply to one prompt. No text in a reply has a lone surrogate, so that each can be stored.

    Attributes:
        id: The prompt's id.
        text: The answer; empty if there is none.
        finish_reason: The server's reason for the end of the answer, such as `stop` or `length`; one of `REFUSAL_CODES`
            for a refusal.
        refusal: The server's explanation in place of an answer.
        model: The model that answered, as the server names it.
        response_id: The server's id of this response, which differs each time.
        input_tokens: Tokens of the prompt; None if the server does not report them.
        output_tokens: Tokens of the answer; None if the server does not report them.
        notes: What was unusual about the reply, as ends of a sentence that begins with "answers".
    """

    id: str
    text: str
    finish_reason: str
    refusal: str | None = None
    model: str | None = None
    response_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    notes: Sequence[str] = ()


def read_reply(prompt_id: str, content: bytes) -> Reply:
    """Read the body of a response.

    Raises:
        ValueError: The body is not a completion; the message says what it contains instead.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error}), but begins with {_excerpt(content[:100])}") from error
    choices = _get(document, "choices", list, "the answer")
    if not choices:
        raise ValueError("`choices` is empty")
    message = _get(choices[0], "message", dict, "the first choice")
    notes: list[str] = []
    text, refusal_part = _read_content(message.get("content"), notes)
    input_tokens, output_tokens = _read_usage(document.get("usage"), notes)
    return Reply(
        id=prompt_id,
        text=_valid_text(text, notes) or "",
        finish_reason=_valid_text(choices[0].get("finish_reason"), notes) or "",
        refusal=_valid_text(message.get("refusal") or refusal_part, notes),
        model=_valid_text(document.get("model"), notes),
        response_id=_valid_text(document.get("id"), notes),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        notes=tuple(dict.fromkeys(notes)),
    )


def _get(value: Any, key: str, kind: type, name: str) -> Any:
    """Return an item of a JSON object, which must have a type.

    Raises:
        ValueError: The value is not an object, or its item has another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_excerpt(value)}, not a JSON object")
    if not isinstance(value.get(key), kind):
        expected = "a list" if kind is list else "a JSON object"
        problem = f"`{key}` is {_excerpt(value[key])}" if key in value else f"{name} has no `{key}`: {_excerpt(value)}"
        raise ValueError(f"{problem}; {expected} is expected")
    return value[key]


def _excerpt(value: object) -> str:
    """Show a value of a server in one line of printable characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _read_content(content: Any, notes: list[str]) -> tuple[str, str | None]:
    """Return the text and the refusal of a message's content.

    Raises:
        ValueError: The content is neither null nor text nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return content or "", None
    if not isinstance(content, list):
        raise ValueError(f"`content` is {_excerpt(content)}; a text, or a list of parts with text, is expected")
    texts, refusals, left_out = [], [], None
    for part in content:
        kind, value = ("text", part) if isinstance(part, str) else _read_part(part)
        if kind == "thinking" and isinstance(value, list):
            value = _read_content(value, notes)[0]
        if kind not in PART_KEYS:
            left_out = left_out or kind
        elif not isinstance(value, str):
            raise ValueError(f"`content` has the part {_excerpt(part)}; a part with text is expected")
        elif kind == "refusal":
            refusals.append(value)
        else:
            texts.append(f"<think>{value}</think>" if kind == "thinking" else value)
    if left_out is not None:
        notes.append(f"have parts without text, such as of the type {_excerpt(left_out)}, which were left out")
    return "".join(texts), "".join(refusals) or None


PART_KEYS = {"text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Types of the parts of a message that hold text, and the key of that text."""


def _read_part(part: Any) -> tuple[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"`content` has the part {_excerpt(part)}; a part with text is expected")
    return kind, part.get(PART_KEYS.get(kind))


def _valid_text(value: Any, notes: list[str]) -> str | None:
    """Return a text without lone surrogates; None if the value is not text."""
    if not isinstance(value, str):
        return None
    text = replace_lone_surrogates(value)
    if text != value:
        notes.append("have half of a character (a lone surrogate), which was replaced by U+FFFD")
    return text


def _read_usage(usage: Any, notes: list[str]) -> tuple[int | None, int | None]:
    """Return the tokens of the prompt and of the answer; None for a number that is missing or not plausible."""
    counts: list[int | None] = []
    for key in ("prompt_tokens", "completion_tokens"):
        count = usage.get(key) if isinstance(usage, dict) else usage
        is_count = isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_TOKENS
        counts.append(count if is_count and isinstance(usage, dict) else None)
        if count is not None and counts[-1] is None:
            notes.append("report a number of tokens that cannot be right; it counts as not reported")
    return counts[0], counts[1]


def remove_thinking(text: str) -> str | None:
    """Return an answer without the reasoning at its beginning; None if it has none.

    A template can put the opening tag into the prompt, so reasoning may also begin without a tag. Reasoning that was
    cut off by the token limit leaves an empty answer.
    """
    start = 0
    # A long answer of many tags takes linear time, because positions move and no text is copied.
    while (end := _end_of_thinking(text, start)) is not None:
        start = end
    return text[start:].lstrip() if start else None


def _end_of_thinking(text: str, start: int) -> int | None:
    """Return the position after the reasoning that begins at a position; None if none begins there."""
    tag = THINKING_TAG.search(text, start)
    if tag is None or (tag[0] in THINKING_TAGS and text[start : tag.start()].strip()):
        return None
    if tag[0] not in THINKING_TAGS:
        return tag.end()
    close = THINKING_TAGS[tag[0]]
    end = text.find(close, tag.end())
    return len(text) if end < 0 else end + len(close)


def final_answer(text: str, finish_reason: str, thinking: Thinking) -> tuple[str, list[str]]:
    """Apply the option `thinking` to an answer.

    Returns:
        The answer, and what is to be told about it, in the form of `Reply.notes`.
    """
    notes = []
    without = remove_thinking(text)
    if without is not None and thinking == "flag":
        notes.append("begin with reasoning, such as <think>…</think>, which is scored as a part of the answer")
    answer = without if without is not None and thinking == "cut" else text
    if finish_reason in REFUSAL_CODES:
        notes += [] if is_blank(answer) else ["were cut off by the content filter of the server"]
    elif is_blank(answer):
        cause = " after their reasoning was cut" if without is not None and thinking == "cut" else ""
        remedy = "; they reached the token limit: raise max_new_tokens" if finish_reason == "length" else ""
        notes.append(f"have no text{cause} (finish reason {_excerpt(finish_reason)}) and count as empty{remedy}")
    return answer, notes


MAX_KINDS = 10
"""Number of kinds of unusual answers that are told; a server decides how many kinds there are."""


@dataclass
class AnswerNotes:
    """Counts what was unusual about answers, to warn once for each kind.

    Attributes:
        source: Who answered, for the warnings.
    """

    source: str
    _counts: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, str] = field(default_factory=dict)
    _num_answers: int = 0

    def add(self, sample: str, notes: Sequence[str]) -> None:
        """Count an answer and its notes."""
        self._num_answers += 1
        for note in notes:
            self._counts[note] += 1
            self._examples.setdefault(note, sample)

    def warn(self, reporter: Reporter) -> None:
        """Warn of each kind of note with the number of answers and an example; of many kinds, the most frequent."""
        for note, count in self._counts.most_common(MAX_KINDS):
            reporter.warn(
                f"{self.source}: {count:,} of {self._num_answers:,} answers {note}. Example: sample "
                f"{self._examples[note]}"
            )
        if len(self._counts) > MAX_KINDS:
            reporter.warn(f"{self.source}: there are {len(self._counts) - MAX_KINDS:,} more kinds of unusual answers")
