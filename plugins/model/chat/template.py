"""Encodes prompts and answers with a checkpoint's chat template; only the template adds control tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count

from transformers import PreTrainedTokenizerBase, TokenizersBackend
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from plugins.model.chat.limited_call import LimitError, RaisedError, call_with_limits
from plugins.model.model_options_and_small_sizes import is_own_template
from runner.errors import PluginError, RequirementError
from runner.records import ImagePart, Rendered, TextPart

_SLOT_BEGIN = "\ue000"
"""Start of a placeholder for a text in a rendered template; start and end are private-use Unicode characters."""
_SLOT = re.compile(f"{_SLOT_BEGIN}(\\d+)\ue001")

_MARKER = re.compile("[\U000f0000\U000f0001]")
"""Characters that `mark_control_tokens` puts around the text of a control token in a sample."""

TOKEN_CACHE_SIZE = 64
"""Number of cached tokenizations: a sample is encoded several times in a row, to check, count and train."""

_SERIALIZED = re.compile(f"[\"']text[\"']: [\"']{_SLOT.pattern}")
"""A placeholder in a rendered template that writes the parts of a content as a list, instead of their texts."""

PartKinds = tuple[tuple[bool, ...], ...]
"""For each turn of a conversation, whether its parts are images. User and assistant turns alternate."""


class ChatTemplate:
    """A tokenizer with its chat template.

    Only text of the template may contain control tokens. Text of a sample is plain text, even if a tweet contains
    `<|im_end|>`.

    Attributes:
        tokenizer: The tokenizer, with `chat_template` set.
        turn_end: The token that ends an answer: the one that the template writes after it, if it is an added token,
            else the tokenizer's end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_mark: str) -> None:
        """Prepare the template.

        Args:
            tokenizer: Its `chat_template` is used.
            image_mark: The text that the template writes for an image.

        Raises:
            RequirementError: There is no chat template, or no token that ends an answer.
        """
        if not tokenizer.chat_template:
            raise RequirementError(
                "model.checkpoint: its files contain no chat template (chat_template.json, chat_template.jinja "
                "or an entry in tokenizer_config.json); use an instruction-tuned checkpoint"
            )
        self.tokenizer = tokenizer
        self._image_mark = image_mark
        self._templates: dict[PartKinds, str] = {}
        self._string_roles: frozenset[str] = frozenset()
        self._cached_text_tokens = lru_cache(TOKEN_CACHE_SIZE)(self._text_tokens)
        end = self._find_turn_end(self._render_answered())
        mark_as_special(tokenizer, image_mark, end)
        self.turn_end = tokenizer.get_added_vocab()[end]
        self._control_tokens = _match_any(special_tokens(tokenizer))
        self._begin_tokens = self._find_begin_tokens()

    def encode_prompt(self, rendered: Rendered, image_texts: Sequence[str]) -> list[int]:
        """Tokenize the turns up to the beginning of the answer.

        Prompt and answer are tokenized separately, so that the first token of an answer is the same in training and
        generation.

        Args:
            rendered: The prompt; its examples become answered turns before its content.
            image_texts: The text for each image of `rendered.images`, including control tokens.

        Raises:
            PluginError: The template drops, repeats or moves an image or a text.
        """
        template = self._template_for(rendered)
        self._check_order(rendered, template)
        texts = [part.text for turn in _turns(rendered) for part in turn if isinstance(part, TextPart)]
        images = iter(image_texts)
        prompt = ""
        for index, piece in enumerate(self._control_tokens.split(template)):
            if index % 2:
                prompt += next(images) if piece == self._image_mark else piece
            elif _SLOT_BEGIN in piece:
                # Texts are inserted before marking, because two adjacent texts may form a control token.
                filled = _SLOT.sub(lambda slot: texts[int(slot[1])], piece)
                prompt += mark_control_tokens(filled, self._control_tokens)
            else:
                prompt += piece
        return [*self._begin_tokens, *self._chat_tokens(prompt)]

    def _chat_tokens(self, marked: str) -> tuple[int, ...]:
        if _MARKER.search(marked):
            return tuple(encode_marked_chat(self.tokenizer, marked))
        return self._tokens(marked, as_text=False)

    def _check_order(self, rendered: Rendered, template: str) -> None:
        """Check that the template contains every image and text once, in the order of the adapter."""
        texts = count()
        expected = [
            self._image_mark if isinstance(part, ImagePart) else f"{_SLOT_BEGIN}{next(texts)}\ue001"
            for turn in _turns(rendered)
            for part in turn
        ]
        actual = [match[0] for match in re.finditer(f"{re.escape(self._image_mark)}|{_SLOT.pattern}", template)]
        if actual == expected:
            return
        if actual.count(self._image_mark) != len(rendered.images):
            raise PluginError(
                f"sample {rendered.id}: the chat template contains {actual.count(self._image_mark)} of "
                f"{len(rendered.images)} images; the checkpoint needs the template of a vision-language model"
            )
        raise PluginError(
            f"sample {rendered.id}: the chat template changes the order of images and texts, or drops a text; "
            "render all images before the text, or use a checkpoint with another template"
        )

    def encode_text(self, text: str) -> list[int]:
        """Tokenize plain text; the text of a control token is encoded as ordinary text."""
        return list(self._cached_text_tokens(text))

    def _text_tokens(self, text: str) -> tuple[int, ...]:
        return self._tokens(text, as_text=True)

    def _tokens(self, text: str, *, as_text: bool) -> tuple[int, ...]:
        """Tokenize a text; `as_text` encodes the text of control tokens as ordinary text."""
        if not isinstance(self.tokenizer, TokenizersBackend):
            return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])
        # Calling the tokenizer itself also computes the offset of each token, which doubles the time.
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = as_text
        [encoded] = backend.encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoded.ids)

    def system_prompt(self) -> str:
        """Return the text that the template adds before a user's first message."""
        return _SLOT.split(self._render((("user", (False,)),), answer_follows=True))[0]

    def _template_for(self, rendered: Rendered) -> str:
        """Return the template with placeholders for the texts of a prompt, cached by the kinds of its parts."""
        shape = tuple(tuple(isinstance(part, ImagePart) for part in turn) for turn in _turns(rendered))
        if shape not in self._templates:
            roles = ("user" if index % 2 == 0 else "assistant" for index in range(len(shape)))
            self._templates[shape] = self._render(tuple(zip(roles, shape, strict=True)), answer_follows=True)
        return self._templates[shape]

    def _render(self, turns: Sequence[tuple[str, Sequence[bool]]], *, answer_follows: bool) -> str:
        """Apply the template to turns of this shape, with placeholders for their texts.

        The template of a checkpoint is a program, so it is rendered within limits.

        Raises:
            RequirementError: The template is not valid, or exceeds a limit.
        """
        slots = (f"{_SLOT_BEGIN}{index}\ue001" for index in range(sum(len(parts) for _, parts in turns)))
        conversation = [{"role": role, "content": self._content(role, parts, slots)} for role, parts in turns]

        def render() -> str:
            text = self.tokenizer.apply_chat_template(
                conversation,  # type: ignore[arg-type]  # a content may be a list of parts
                tokenize=False,
                add_generation_prompt=answer_follows,
            )
            assert isinstance(text, str)
            return text

        if is_own_template(str(self.tokenizer.chat_template)):
            return render()
        try:
            return call_with_limits(render)
        except LimitError as error:
            raise RequirementError(
                f"model.checkpoint: its chat template cannot be rendered: {error}; correct the template, or use "
                "another checkpoint"
            ) from error

    def _content(self, role: str, parts: Sequence[bool], slots: Iterator[str]) -> str | list[dict[str, str]]:
        """Return the content of a turn: a list of its parts, or one string if the template needs that for the role."""
        if role in self._string_roles and not any(parts):
            return "".join(next(slots) for _ in parts)
        return [{"type": "image"} if image else {"type": "text", "text": next(slots)} for image in parts]

    def _render_answered(self) -> str:
        """Render a question and its answer, and find out which roles need a string as content.

        The templates of some vision-language models, such as GLM-4.1V's, read the parts of a user's turn, but write
        the content of an assistant's turn as it is.

        Raises:
            RequirementError: The template is not valid, or does not write question and answer once.
        """
        problem: RequirementError | None = None
        for roles in ((), ("assistant",), ("user",), ("assistant", "user")):
            self._string_roles = frozenset(roles)
            try:
                conversation = self._render((("user", (False,)), ("assistant", (False,))), answer_follows=False)
            except RequirementError as error:
                if not isinstance(error.__cause__, RaisedError):
                    raise
                problem = problem or error
                continue
            if _SLOT.findall(conversation) == ["0", "1"] and not _SERIALIZED.search(conversation):
                return conversation
        raise problem or RequirementError(
            "model.checkpoint: its chat template drops, repeats or moves the text of a question or of an answer; use "
            "the template of a chat model"
        )

    def _find_turn_end(self, conversation: str) -> str:
        after_answer = _SLOT.split(conversation)[-1].lstrip()
        match = _match_any(self.tokenizer.get_added_vocab()).match(after_answer)
        end = match[0] if match else self.tokenizer.eos_token
        if end is None:
            raise RequirementError(
                "model.checkpoint: neither its chat template nor its tokenizer defines the token that ends an answer"
            )
        assert isinstance(end, str)
        return end

    def _find_begin_tokens(self) -> list[int]:
        """Return the token that the tokenizer adds before every text, unless the template contains it already."""
        begin = self.tokenizer.bos_token
        prompt = self._render((("user", (False,)),), answer_follows=True)
        adds_token = self.tokenizer("x")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        return [self.tokenizer.bos_token_id] if begin and adds_token and not prompt.startswith(begin) else []


def _turns(rendered: Rendered) -> list[tuple[ImagePart | TextPart, ...]]:
    """Return the conversation up to the sample's prompt; user and assistant turns alternate."""
    turns: list[tuple[ImagePart | TextPart, ...]] = []
    for example in rendered.examples:
        assert example.target is not None, "an example has a target"
        turns += [example.content, (TextPart(example.target),)]
    return [*turns, rendered.content]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the texts of all special tokens: those with a role, and those that only the vocabulary flags as special.

    Some published tokenizers, such as Gemma 3's, give the tokens around a turn no role.
    """
    flagged = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return flagged.union(tokenizer.all_special_tokens)


def mark_as_special(tokenizer: PreTrainedTokenizerBase, *tokens: str) -> None:
    """Mark added tokens as special, which some checkpoints omit, so that no text of a sample becomes one."""
    unmarked = [token for token in tokens if token not in tokenizer.all_special_tokens]
    if unmarked:
        tokenizer.add_special_tokens({"extra_special_tokens": unmarked}, replace_extra_special_tokens=False)


def _match_any(tokens: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern with one group that matches any of the tokens; longer tokens first, as prefixes may match."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)'})")
