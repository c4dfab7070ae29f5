"""Puts prompts and answers inside a checkpoint's chat template; control tokens come from the template alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, count

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from runner.errors import PluginError, UnmetError
from runner.records import ImagePart, Rendered, TextPart

_SLOT = re.compile("\ue000(\\d+)\ue001")
"""The place of a text in a rendered template, marked with characters of Unicode's private area."""

Shape = tuple[tuple[bool, ...], ...]
"""For each turn of a conversation whether its parts are images; user and assistant take turns."""


class ChatTemplate:
    """A tokenizer with its chat template.

    What the template writes may hold control tokens; what a sample holds is plain text, also where a tweet spells
    out `<|im_end|>`.

    Attributes:
        tokenizer: With `chat_template` set.
        turn_end: The token that ends an answer: what the template writes behind one, where that is a control token,
            else the tokenizer's end of a sequence.
        image_mark: What the template writes where an image stands.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_mark: str) -> None:
        """Take a tokenizer and its family's mark of an image.

        Raises:
            UnmetError: There is no chat template, or no token that ends an answer.
        """
        if not tokenizer.chat_template:
            raise UnmetError(
                "model.checkpoint: its files hold no chat template (chat_template.json, chat_template.jinja "
                "or an entry in tokenizer_config.json); take an instruction-tuned one"
            )
        self.tokenizer = tokenizer
        self.image_mark = image_mark
        self._control = _control_tokens(tokenizer, image_mark)
        self._written: dict[Shape, str] = {}
        self.turn_end = self._turn_end()
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
        marked = [mark_control_tokens(text, self._control) for text in texts]
        # What stands for an image is put in before the sample's texts, which may spell out an image's mark.
        pieces = chain.from_iterable(zip(written.split(self.image_mark), [*image_texts, ""], strict=True))
        return [*self._begin, *encode_marked_chat(self.tokenizer, _SLOT.sub(_filling(marked), "".join(pieces)))]

    def _check_order(self, rendered: Rendered, written: str) -> None:
        """Make sure that the template shows every image and text once, where the adapter put it."""
        texts = count()
        wanted = [
            self.image_mark if isinstance(part, ImagePart) else f"\ue000{next(texts)}\ue001"
            for turn in _turns(rendered)
            for part in turn
        ]
        shown = [found[0] for found in re.finditer(f"{re.escape(self.image_mark)}|{_SLOT.pattern}", written)]
        if shown == wanted:
            return
        if shown.count(self.image_mark) != len(rendered.images):
            raise PluginError(
                f"sample {rendered.id}: the chat template shows {shown.count(self.image_mark)} images of "
                f"{len(rendered.images)}; the checkpoint needs the template of a vision-language model"
            )
        raise PluginError(
            f"sample {rendered.id}: the chat template shows images and texts in another order than the adapter gave "
            "them, or drops a text; render all images before the text, or take a checkpoint with another template"
        )

    def text(self, text: str) -> list[int]:
        """Tokenise plain text; what looks like a control token is spelt out."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

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
        slots = (f"\ue000{place}\ue001" for place in range(sum(len(parts) for _, parts in turns)))
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

    def _turn_end(self) -> int:
        solved = self._render((("user", (False,)), ("assistant", (False,))), answer_follows=False)
        behind = _SLOT.split(solved)[-1].lstrip()
        found = self._control.match(behind)
        token = found[0] if found else self.tokenizer.eos_token
        if token is None:
            raise UnmetError(
                "model.checkpoint: neither its chat template nor its tokenizer says which token ends an answer"
            )
        ends = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(ends, int)
        return ends

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


def _control_tokens(tokenizer: PreTrainedTokenizerBase, image_mark: str) -> re.Pattern[str]:
    """Match the tokens that no text of a sample may become; the longest first, as one may begin another."""
    added = tokenizer.added_tokens_decoder.values()
    control = {image_mark, *tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return re.compile("|".join(re.escape(token) for token in sorted(control, key=len, reverse=True)))
