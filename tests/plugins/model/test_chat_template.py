"""Prompts in several chat templates, for any text."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors

from plugins.model.chat import limited_call
from plugins.model.chat.processor_and_images import train_tokenizer
from plugins.model.chat.template import ChatTemplate
from plugins.model.model_options_and_small_sizes import (
    END_OF_TEXT,
    TURN_END,
    TURN_START,
    ChatFormat,
    chat_template,
    is_own_template,
)
from runner.errors import PluginError, RequirementError
from runner.records import ImagePart, Rendered, TextPart

SPECIAL = (END_OF_TEXT, TURN_START, TURN_END, "<image>")
FLAGGED = "<start_of_turn>"  # special in the vocabulary, but not one of `all_special_tokens`, as in Gemma 3's
TEXTS = ["What is this?\nTell me more of it.", "It is a tree, a house and a boat.", "Victoria ' s Secret : a"]
BARE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %} {% endfor %}"
)

plain = st.text(st.characters(max_codepoint=0x2FF), max_size=9)  # what Qwen2's tokenizer does not normalise
pieces = st.lists(st.one_of(st.sampled_from([*SPECIAL, FLAGGED, "\ue0000\ue001", "<|im_", "end|>", "\n"]), plain))
texts = pieces.map("".join)


def _tokenizer(template, special=SPECIAL):
    tokenizer = train_tokenizer(TEXTS, 400, ChatFormat(special, template))
    tokenizer.add_tokens([AddedToken(FLAGGED, special=True, normalized=False)])
    assert FLAGGED not in tokenizer.all_special_tokens
    return tokenizer


TEMPLATE = ChatTemplate(_tokenizer(chat_template("<image>")), "<image>")


def _sample(*parts, **more):
    return Rendered("s1", tuple(ImagePart(Path("a.png")) if part is None else TextPart(part) for part in parts), **more)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), texts), min_size=1, max_size=5), st.lists(texts, max_size=2))
def test_control_tokens_come_from_the_template_only_for_any_text(parts, answers):
    examples = tuple(_sample(None, answer, target=answer) for answer in answers)
    sample = _sample(*parts, examples=examples)
    ids = TEMPLATE.encode_prompt(sample, ["<image>" * 3] * len(sample.images))
    spelt = {token: TEMPLATE.tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL, FLAGGED)}
    turns = 1 + 2 * len(answers)
    assert ids.count(spelt["<image>"]) == 3 * len(sample.images)
    assert ids.count(spelt[TURN_END]) == 1 + turns  # the system's too
    assert ids.count(spelt[TURN_START]) == 2 + turns  # and that of the answer to come
    assert ids.count(spelt[END_OF_TEXT]) == ids.count(spelt[FLAGGED]) == 0
    shown = TEMPLATE.tokenizer.decode(ids)
    content = "".join("<image>" * 3 if part is None else part for part in parts)
    assert shown.endswith(f"{TURN_START}user\n{content}{TURN_END}\n{TURN_START}assistant\n")


def test_a_control_token_formed_by_two_adjacent_texts_is_plain_text():
    one, parted = _sample("a <|im_end|> b"), _sample("a <|im_", "end|> b")
    assert TEMPLATE.encode_prompt(parted, []) == TEMPLATE.encode_prompt(one, [])


@settings(deadline=None)
@given(texts)
def test_an_encoded_answer_decodes_to_the_same_text(text):
    assert TEMPLATE.tokenizer.convert_tokens_to_ids(FLAGGED) not in TEMPLATE.encode_text(text)
    ids = TEMPLATE.encode_text(text)
    assert not {*ids} & {*TEMPLATE.tokenizer.all_special_ids}
    assert TEMPLATE.tokenizer.decode(ids) == text


def test_a_prompt_without_control_tokens_in_its_texts_is_tokenized_as_one_text():
    sample = _sample("What is ", None, "this?\n")
    whole = TEMPLATE.tokenizer.apply_chat_template(
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is "},
                    {"type": "image"},
                    {"type": "text", "text": "this?\n"},
                ],
            }
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert TEMPLATE.encode_prompt(sample, ["<image>"]) == TEMPLATE.tokenizer(whole)["input_ids"]


def test_an_answer_ends_with_the_eos_token_if_the_template_has_no_end_token():
    assert ChatTemplate(_tokenizer(BARE), "<image>").turn_end == TEMPLATE.turn_end
    nothing = _tokenizer(BARE)
    nothing.eos_token = None
    with pytest.raises(RequirementError, match="defines the token that ends an answer"):
        ChatTemplate(nothing, "<image>")


def test_the_end_token_of_the_template_takes_precedence_over_the_eos_token():
    template = BARE.replace("{% endfor %} {% endfor %}", "{% endfor %}<end>\n{% endfor %}")
    tokenizer = _tokenizer(template, (*SPECIAL, "<end>"))
    assert ChatTemplate(tokenizer, "<image>").turn_end == tokenizer.convert_tokens_to_ids("<end>")


def test_unmarked_special_tokens_are_plain_text_in_a_sample():
    template = BARE.replace("{% endfor %} {% endfor %}", "{% endfor %}<end>{% endfor %}")
    tokenizer = _tokenizer(template, SPECIAL[:3])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<image>", "<end>")])
    made = ChatTemplate(tokenizer, "<image>")
    ids = made.encode_prompt(_sample(None, "a <image> <end>"), ["<image><image>"])
    assert [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in ("<image>", "<end>")] == [2, 1]
    assert made.turn_end not in made.encode_text("<end>")


def test_a_bos_token_is_added_once():
    for template, begun in ((BARE, 1), ("{{ bos_token }}" + BARE, 1)):
        tokenizer = _tokenizer(template, (*SPECIAL, "<s>"))
        tokenizer.bos_token = "<s>"
        begin = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", begin)]
        )
        ids = ChatTemplate(tokenizer, "<image>").encode_prompt(_sample("Who <s>"), [])
        assert ids[0] == begin
        assert ids.count(begin) == begun


def test_a_template_that_changes_the_prompt_is_an_error():
    sample = _sample(None, "one", "two")
    for template, said in (
        (BARE.replace("<image>", ""), "contains 0 of 1 images"),
        (BARE.replace("<image>", "<image><image>"), "contains 2 of 1 images"),
        (BARE.replace("message.content", "message.content | reverse"), "changes the order"),
        (BARE.replace("{{ part.text }}", "{{ part.text if loop.last else '' }}"), "drops a text"),
    ):
        with pytest.raises(PluginError, match=f"sample s1: .*{said}"):
            ChatTemplate(_tokenizer(template), "<image>").encode_prompt(sample, ["<image>"])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "takes more than 1 seconds"),
        ("{{ 'x' * 3000000 }}", "result has more than 1,000,000 bytes"),
        ("{% set many = 'x' * 2000000000 %}", "more memory than it may use"),
        ("{{ raise_exception('only text') }}", "TemplateError: only text"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_exceeds_a_limit_or_is_broken_is_refused(monkeypatch, template, problem):
    monkeypatch.setattr(limited_call, "CPU_SECONDS", 1)
    monkeypatch.setattr(limited_call, "OUTPUT_BYTES", 1_000_000)
    with pytest.raises(RequirementError, match=f"chat template cannot be rendered: .*{problem}"):
        ChatTemplate(_tokenizer(template), "<image>")


def test_a_template_that_hangs_without_computing_is_ended(monkeypatch):
    monkeypatch.setattr(limited_call, "WALL_SECONDS", 0.1)
    with pytest.raises(limited_call.LimitError, match="takes more than 0 seconds"):
        limited_call.call_with_limits(lambda: time.sleep(60) or "")


@given(st.text(max_size=20))
def test_only_templates_of_this_project_count_as_own(image):
    assert is_own_template(chat_template(image)) == ("{" not in image)
    assert not is_own_template(chat_template(image) + "{{ 1 }}")
    assert not is_own_template(image)


def test_a_call_with_limits_returns_the_text():
    text = "é\ue000" * 100_000
    assert limited_call.call_with_limits(lambda: text) == text


STRING_ANSWERS = (
    f"{END_OF_TEXT}{{% for message in messages %}}<{{{{ message.role }}}}>"
    "{% if message.role == 'assistant' or message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""As the template of GLM-4.1V: it reads the parts of a user's turn, and writes an assistant's content as it is."""


@pytest.mark.parametrize(
    "template",
    [
        STRING_ANSWERS,
        STRING_ANSWERS.replace("{{ message.content }}", "{{ message.content + '' }}"),  # a list raises an exception
        STRING_ANSWERS.replace(
            "{{ message.content }}", "{{ message.content if message.content is string else message.content | tojson }}"
        ),
    ],
    ids=["written", "added", "serialized"],
)
def test_a_template_may_take_answers_as_strings(template):
    made = ChatTemplate(_tokenizer(template), "<image>")
    assert made.turn_end == made.tokenizer.eos_token_id  # and not the token at the beginning of the conversation
    shown = _sample(None, "Who?", examples=(_sample(None, "Who is it?", target="It is Jan."),))
    ids = made.encode_prompt(shown, ["<image>"] * 2)
    assert made.tokenizer.decode(ids) == (
        f"{END_OF_TEXT}<user><image>Who is it?<assistant>It is Jan.<user><image>Who?<assistant>"
    )


def test_a_template_of_a_text_model_takes_texts():
    template = "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
    made = ChatTemplate(_tokenizer(template), "<image>")
    shown = _sample("Who ", "is it?", examples=(_sample("Who?", target="It is Jan."),))
    assert (
        made.tokenizer.decode(made.encode_prompt(shown, [])) == "user: Who?\nassistant: It is Jan.\nuser: Who is it?\n"
    )
    with pytest.raises(RequirementError, match="cannot be rendered: TypeError"):
        made.encode_prompt(_sample(None, "Who?"), ["<image>"])


@pytest.mark.parametrize("content", ["", "{{ message.content }}{{ message.content }}"])
def test_a_template_without_the_answer_is_refused(content):
    template = f"{{% for message in messages %}}{{% if message.role == 'user' %}}x{{% else %}}{content}{{% endif %}}"
    with pytest.raises(RequirementError, match="drops, repeats or moves"):
        ChatTemplate(_tokenizer(template + "{% endfor %}"), "<image>")
