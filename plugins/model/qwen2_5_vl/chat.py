"""Turns prompts and answers into token ids inside the chat template; special tokens come from it alone."""

from __future__ import annotations

import re
from itertools import count

from transformers import PreTrainedTokenizerBase

from plugins.model.qwen2_5_vl.tokenizer import IMAGE_PAD, TURN_END
from runner.errors import PluginError, UnmetError
from runner.records import ImagePart, Rendered, TextPart

_SLOT = re.compile("\ue000(\\d+)\ue001")
"""The place of a text part in a rendered template, marked with characters of Unicode's private area."""


class ChatTokenizer:
    """A tokenizer with its chat template.

    What the template writes may hold special tokens; what a sample holds is plain text, also where a tweet
    spells out `<|im_end|>`.

    Attributes:
        tokenizer: With `chat_template` set.
        turn_end: The token that ends an answer.
        image_token: The token that stands for one place of the vision tower's features.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a tokenizer that holds Qwen2.5-VL's special tokens.

        Raises:
            UnmetError: It has no chat template.
        """
        if not tokenizer.chat_template:
            raise UnmetError(
                "model.checkpoint: its files hold no chat template (chat_template.json, chat_template.jinja "
                "or an entry in tokenizer_config.json); take an instruction-tuned one"
            )
        self.tokenizer = tokenizer
        self._added: dict[str, int] = tokenizer.get_added_vocab()
        self.turn_end = self._special(TURN_END)
        self.image_token = self._special(IMAGE_PAD)
        special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, special)) + ")")
        self._templates: dict[tuple[tuple[type, ...], ...], list[str]] = {}

    def _special(self, token: str) -> int:
        if token not in self._added:
            raise UnmetError(f"model.checkpoint: its tokenizer lacks {token}, so it is no Qwen2.5-VL checkpoint")
        return self._added[token]

    def prompt(self, rendered: Rendered) -> list[int]:
        """Tokenise the turns up to where the answer begins; each image is one `image_token`.

        Raises:
            PluginError: The template drops or doubles an image.
        """
        texts = [part.text if isinstance(part, TextPart) else "" for turn in _turns(rendered) for part in turn]
        ids: list[int] = []
        for position, piece in enumerate(self._template(rendered)):
            if position % 2:
                ids.append(self._added[piece])
            else:
                ids += self.text(_SLOT.sub(lambda slot: texts[int(slot[1])], piece))
        if ids.count(self.image_token) != len(rendered.images):
            raise PluginError(
                f"sample {rendered.id}: the chat template shows {ids.count(self.image_token)} images of "
                f"{len(rendered.images)}; the checkpoint needs the template of a vision-language model"
            )
        return ids

    def _template(self, rendered: Rendered) -> list[str]:
        """The template around such a content: plain text and special tokens in turns, plain text first."""
        shape = tuple(tuple(type(part) for part in turn) for turn in _turns(rendered))
        if shape not in self._templates:
            places = count()
            slots = [[(kind, f"\ue000{next(places)}\ue001") for kind in turn] for turn in shape]
            messages = [
                {
                    "role": "assistant" if place % 2 else "user",
                    "content": [
                        {"type": "image"} if kind is ImagePart else {"type": "text", "text": slot}
                        for kind, slot in turn
                    ],
                }
                for place, turn in enumerate(slots)
            ]
            written = self.tokenizer.apply_chat_template(
                messages,  # type: ignore[arg-type]
                tokenize=False,
                add_generation_prompt=True,
            )
            assert isinstance(written, str)
            self._templates[shape] = self._cut.split(written)
        return self._templates[shape]

    def text(self, text: str) -> list[int]:
        """Tokenise plain text; what looks like a special token is spelt out."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


def _turns(rendered: Rendered) -> list[tuple[ImagePart | TextPart, ...]]:
    """The conversation up to the answer: solved samples first, each a question and an answer."""
    solved = [turn for each in rendered.examples for turn in (each.content, (TextPart(each.target or ""),))]
    return [*solved, rendered.content]
