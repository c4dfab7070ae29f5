"""Puts prompts and answers inside a checkpoint's chat template; control tokens come from the template alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import count

from transformers import PreTrainedTokenizerBase, TokenizersBackend
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from runner.errors import PluginError, RequirementError
from runner.records import ImagePart, Rendered, TextPart

_SLOT_BEGIN = "\ue000"
"""Marks the place of a text in a rendered template, with its end: characters of Unicode's private area."""
_SLOT = re.compile(f"{_SLOT_BEGIN}(\\d+)\ue001")

_MARKER = re.compile("[\U000f0000\U000f0001]")
"""What `mark_control_tokens` puts around a control token that a sample spells out."""

REMEMBERED = 64
"""Texts whose tokens are remembered: a sample is encoded several times in turn, to be checked, counted, trained on."""

Shape = tuple[tuple[bool, ...], ...]
"""For each turn of a conversation whether its parts are images; user and assistant take turns."""


class ChatTemplate:
    """A tokenizer with its chat template.

    What the template writes may hold control tokens; what a sample holds is plain text, also where a tweet spells
    out `<|im_end|>`.

    Attributes:
        tokenizer: With `chat_template` set.
        turn_end: The token that ends an answer: what the template writes behind one, where that is an added token,
            else the tokenizer's end of a sequence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_mark: str) -> None:
        """Take a tokenizer and what its template writes where an image stands.

        Raises:
            UnmetError: There is no chat template, or no token that ends an answer.
        """
        if not tokenizer.chat_template:
            raise RequirementError(
                "model.checkpoint: its files hold no chat template (chat_template.json, chat_template.jinja "
                "or an entry in tokenizer_config.json); take an instruction-tuned one"
            )
        self.tokenizer = tokenizer
        self._image_mark = image_mark
        self._written: dict[Shape, str] = {}
        self._encode_chat = lru_cache(REMEMBERED)(self._chat_tokens)
        self._encode_text = lru_cache(REMEMBERED)(self._text_tokens)
        end = self._turn_end()
        make_special(tokenizer, image_mark, end)
        self.turn_end = tokenizer.get_added_vocab()[end]
        self._control = _any_of(tokenizer.all_special_tokens)
        self._begin = self._begin_tokens()

    def prompt(self, rendered: Rendered, image_texts: Sequence[str]) -> list[int]:
        """Tokenise the turns up to where the answer begins.

        Prompt and answer are tokenised apart, so that the first token of an answer is the same in training and
        generation.

        Args:
            rendered: Examples stand before its content as solved turns, images in the order of `rendered.images`.
            image_texts: What stands for each image, control tokens included.

        Raises:
            PluginError: The template drops, doubles or moves an image or a text.
        """
        written = self._write(rendered)
        self._check_order(rendered, written)
        texts = [part.text for turn in _turns(rendered) for part in turn if isinstance(part, TextPart)]
        images = iter(image_texts)
        whole = ""
        for place, piece in enumerate(self._control.split(written)):
            if place % 2:
                whole += next(images) if piece == self._image_mark else piece
            elif _SLOT_BEGIN in piece:
                # Marked with the texts in place, as a control token may come about where two of them meet.
                whole += mark_control_tokens(_SLOT.sub(_filling(texts), piece), self._control)
            else:
                whole += piece
        return [*self._begin, *self._encode_chat(whole)]

    def _chat_tokens(self, marked: str) -> tuple[int, ...]:
        if _MARKER.search(marked):
            return tuple(encode_marked_chat(self.tokenizer, marked))
        return self._tokens(marked, as_text=False)

    def _check_order(self, rendered: Rendered, written: str) -> None:
        """Make sure that the template shows every image and text once, where the adapter put it."""
        texts = count()
        wanted = [
            self._image_mark if isinstance(part, ImagePart) else f"{_SLOT_BEGIN}{next(texts)}\ue001"
            for turn in _turns(rendered)
            for part in turn
        ]
        shown = [found[0] for found in re.finditer(f"{re.escape(self._image_mark)}|{_SLOT.pattern}", written)]
        if shown == wanted:
            return
        if shown.count(self._image_mark) != len(rendered.images):
            raise PluginError(
                f"sample {rendered.id}: the chat template shows {shown.count(self._image_mark)} images of "
                f"{len(rendered.images)}; the checkpoint needs the template of a vision-language model"
            )
        raise PluginError(
            f"sample {rendered.id}: the chat template shows images and texts in another order than the adapter gave "
            "them, or drops a text; render all images before the text, or take a checkpoint with another template"
        )

    def text(self, text: str) -> list[int]:
        """Tokenise plain text; what looks like a control token is spelt out."""
        return list(self._encode_text(text))

    def _text_tokens(self, text: str) -> tuple[int, ...]:
        return self._tokens(text, as_text=True)

    def _tokens(self, text: str, *, as_text: bool) -> tuple[int, ...]:
        """Tokenise a text, and what looks like a control token in it as text or as the token."""
        if not isinstance(self.tokenizer, TokenizersBackend):
            return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"])
        # The tokenizer's own call works out the place of each token too, which takes as long again.
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = as_text
        [encoded] = backend.encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoded.ids)

    def system_prompt(self) -> str:
        """What the template writes of its own before a user's first words."""
        return _SLOT.split(self._render((("user", (False,)),), answer_follows=True))[0]

    def _write(self, rendered: Rendered) -> str:
        shape = tuple(tuple(isinstance(part, ImagePart) for part in turn) for turn in _turns(rendered))
        if shape not in self._written:
            roles = ("user" if place % 2 == 0 else "assistant" for place in range(len(shape)))
            self._written[shape] = self._render(tuple(zip(roles, shape, strict=True)), answer_follows=True)
        return self._written[shape]

    def _render(self, turns: Sequence[tuple[str, Sequence[bool]]], *, answer_follows: bool) -> str:
        """The template around such turns, with slots where their texts go."""
        slots = (f"{_SLOT_BEGIN}{place}\ue001" for place in range(sum(len(parts) for _, parts in turns)))
        conversation = [
            {
                "role": role,
                "content": [{"type": "image"} if image else {"type": "text", "text": next(slots)} for image in parts],
            }
            for role, parts in turns
        ]
        written = self.tokenizer.apply_chat_template(
            conversation,  # type: ignore[arg-type]  # parts of a content are dictionaries, not strings
            tokenize=False,
            add_generation_prompt=answer_follows,
        )
        assert isinstance(written, str)
        return written

    def _turn_end(self) -> str:
        solved = self._render((("user", (False,)), ("assistant", (False,))), answer_follows=False)
        behind = _SLOT.split(solved)[-1].lstrip()
        found = _any_of(self.tokenizer.get_added_vocab()).match(behind)
        end = found[0] if found else self.tokenizer.eos_token
        if end is None:
            raise RequirementError(
                "model.checkpoint: neither its chat template nor its tokenizer says which token ends an answer"
            )
        assert isinstance(end, str)
        return end

    def _begin_tokens(self) -> list[int]:
        """What a tokenizer puts at the beginning of every text, where the template does not write it already."""
        begin = self.tokenizer.bos_token
        written = self._render((("user", (False,)),), answer_follows=True)
        adds = self.tokenizer("x")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        return [self.tokenizer.bos_token_id] if begin and adds and not written.startswith(begin) else []


def _turns(rendered: Rendered) -> list[tuple[ImagePart | TextPart, ...]]:
    """The conversation that ends with the sample's question: user and assistant in turns."""
    turns: list[tuple[ImagePart | TextPart, ...]] = []
    for example in rendered.examples:
        assert example.target is not None, "an example is a solved sample"
        turns += [example.content, (TextPart(example.target),)]
    return [*turns, rendered.content]


def _filling(texts: Sequence[str]) -> Callable[[re.Match[str]], str]:
    return lambda slot: texts[int(slot[1])]


def make_special(tokenizer: PreTrainedTokenizerBase, *tokens: str) -> None:
    """Mark added tokens as special, which some checkpoints omit, so that no text of a sample becomes one."""
    plain = [token for token in tokens if token not in tokenizer.all_special_tokens]
    if plain:
        tokenizer.add_special_tokens({"extra_special_tokens": plain}, replace_extra_special_tokens=False)


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Match any of some tokens, as a group; the longest first, as one may begin another."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)'})")
