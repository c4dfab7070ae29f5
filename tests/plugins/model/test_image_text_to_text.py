"""The general class with checkpoints of families without a plugin, created here with transformers."""

import json
import shutil
from functools import wraps

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from plugins.model.chat.processor_and_images import train_tokenizer
from plugins.model.chat.settled_template import PROMPT_DATE, settle_template
from plugins.model.family_options import ImageTextToTextOptions
from plugins.model.image_text_to_text import ImageTextToTextModel
from plugins.model.model_options_and_small_sizes import END_OF_TEXT, TURN_END, TURN_START, ChatFormat, chat_template
from plugins.trainer.loss import AnswerLoss
from runner.errors import PluginError, RequirementError, SpecError
from runner.records import Rendered, TextPart

TEXT_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
VISION_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
SIZE = {"height": 32, "width": 32}


def _llava(texts, template=None):
    """LLaVA 1.5: 16 tokens per image, and a template without an end token after an answer."""
    template = template or (
        "{% for message in messages %}{{ message.role | upper }}: "
        "{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
        "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    tokenizer = train_tokenizer(texts, 400, ChatFormat((END_OF_TEXT, TURN_START, TURN_END, "<image>"), template))
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    config = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **TEXT_SHAPE},
        vision_config={"model_type": "clip_vision_model", **VISION_SHAPE},
        image_token_index=tokenizer.get_added_vocab()["<image>"],
    )
    return config, processor


def _gemma3(texts):
    """Gemma 3: image tokens differ from those in the template, and attend to each other."""
    marks = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    template = chat_template("<start_of_image>")
    tokenizer = train_tokenizer(texts, 400, ChatFormat((END_OF_TEXT, TURN_START, TURN_END, *marks), template))
    tokenizer._set_model_specific_special_tokens(
        dict(zip(("boi_token", "eoi_token", "image_token"), marks, strict=True))
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size=SIZE), tokenizer, chat_template=template, image_seq_length=4
    )
    special = tokenizer.get_added_vocab()
    config = Gemma3Config(
        text_config={
            **TEXT_SHAPE,
            "vocab_size": len(tokenizer),
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "pad_token_id": 0,
        },
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION_SHAPE},
        mm_tokens_per_image=4,
        boi_token_index=special[marks[0]],
        eoi_token_index=special[marks[1]],
        image_token_index=special[marks[2]],
    )
    return config, processor


def _checkpoint(folder, config, processor):
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return ImageTextToTextModel(ImageTextToTextOptions(checkpoint=str(folder)))


@pytest.fixture(scope="module")
def texts(pictured):
    return [text for sample in pictured for text in (sample.prompt, sample.target)]


@pytest.fixture(scope="module", params=[_llava, _gemma3], ids=["llava", "gemma3"])
def plugin(request, texts, tmp_path_factory):
    return _checkpoint(tmp_path_factory.mktemp("checkpoint"), *request.param(texts))


def test_a_family_without_a_plugin_trains_generates_and_loads(plugin, pictured, tmp_path):
    model, model_spec = plugin.build([], 0), plugin.model_spec([])
    encoded = [model.encode(sample, "\n") for sample in pictured]
    for sample, features in zip(pictured, encoded, strict=True):
        learnt = features["labels"][features["labels"] != -100].tolist()
        assert model.decode_raw(learnt) == f"{sample.target}{TURN_END}\n"
        num_places = sum(token in model.image_token_ids for token in features["input_ids"].tolist())
        counted = model.count(sample)
        assert num_places == model.num_image_features(features) == model_spec.num_image_features(features)
        assert (counted.image, counted.target) == (num_places, len(learnt) - 1)
        assert counted.text + counted.image + counted.target == len(features["input_ids"]) - 1
    batch = model.collate(encoded, "right")
    loss = AnswerLoss(model.module)(**batch)
    theirs = model.module(**batch).loss * int((batch["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(loss, theirs, rtol=1e-4, atol=1e-4)
    loss.backward()
    model.save(tmp_path, "fp32")
    loaded = plugin.load(tmp_path)
    inputs = model.collate([model.encode(Rendered(s.id, s.content)) for s in pictured], "left")
    del inputs["labels"]
    answers = [each.module.generate(**inputs, max_new_tokens=4, do_sample=False) for each in (model, loaded)]
    assert answers[0].equal(answers[1])


def test_a_trained_model_contains_the_date_and_the_reasoning_of_its_prompts(texts, tmp_path):
    template = (
        "{{ strftime_now('%Y') }}{% for message in messages %}{% for part in message.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt and enable_thinking is not defined %}<think>{% endif %}"
    )
    model = _checkpoint(tmp_path / "hub", *_llava(texts, template)).model_spec([])
    rendered = Rendered("s", (TextPart("Who?"),))
    assert model.decode_raw(model.encode(rendered)["input_ids"].tolist()) == f"{PROMPT_DATE.year}Who?"
    model.processor.save_pretrained(tmp_path / "model")
    shutil.copy(tmp_path / "hub" / "config.json", tmp_path / "model")
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    message = {"role": "user", "content": [{"type": "text", "text": "Who?"}]}
    prompt = again.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert prompt == f"{PROMPT_DATE.year}Who?"  # in a server, too
    saved = ImageTextToTextModel(ImageTextToTextOptions(checkpoint=str(tmp_path / "model"))).model_spec([])
    assert saved.processor.chat_template == model.processor.chat_template == settle_template(template)


def test_bidirectional_images_are_the_same_in_any_batch(plugin, pictured):
    model = plugin.build([], 0)
    model.module.eval()
    encoded = [model.encode(sample) for sample in pictured]
    with torch.no_grad():
        for side in ("left", "right"):
            batch = model.collate(encoded, side)
            logits = model.module(**{name: value for name, value in batch.items() if name != "labels"}).logits
            for row, alone in enumerate(encoded):
                single = model.collate([alone], side)
                del single["labels"]
                kept = batch["attention_mask"][row].bool()
                torch.testing.assert_close(logits[row][kept], model.module(**single).logits[0], atol=2e-4, rtol=2e-4)


def test_logits_that_are_scaled_after_the_head_are_refused(texts, tmp_path, monkeypatch):
    plugin, forward = _checkpoint(tmp_path, *_llava(texts)), LlavaForConditionalGeneration.forward

    @wraps(forward)
    def scaled(self, *arguments, **named):
        output = forward(self, *arguments, **named)
        output.logits = output.logits / 8
        return output

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", scaled)
    with pytest.raises(RequirementError, match="LlavaForConditionalGeneration changes its logits"):
        plugin.build([], 0)


def test_a_template_that_moves_images_is_refused_if_the_order_changes(texts, pictured, tmp_path):
    images_first = (
        "{% for message in messages %}"
        "{% for part in message.content if part.type == 'image' %}<image>{% endfor %}"
        "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endfor %}"
    )
    model = _checkpoint(tmp_path, *_llava(texts, images_first)).build([], 0)
    assert model.encode(pictured[1])
    lettered = Rendered("s1", (TextPart("a:"), *pictured[1].content))
    with pytest.raises(PluginError, match=r"sample s1: .* changes the order"):
        model.encode(lettered)


def test_a_template_that_drops_images_is_refused(texts, pictured, tmp_path):
    no_images = "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
    model = _checkpoint(tmp_path, *_llava(texts, no_images)).build([], 0)
    with pytest.raises(PluginError, match="sample one: the chat template contains 0 of 1 images"):
        model.encode(pictured[1])


def test_a_tokenizer_of_another_model_is_refused(texts, tmp_path):
    config, processor = _llava(texts)
    config.image_token_id = 99
    with pytest.raises(RequirementError, match="no special token with id 99"):
        _checkpoint(tmp_path, config, processor).model_spec([])


def test_a_checkpoint_without_template_or_of_another_kind_is_refused(texts, tmp_path):
    plugin = _checkpoint(tmp_path, *_llava(texts))
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(RequirementError, match="no chat template"):
        plugin.model_spec([])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(SpecError, match="'gpt2', which is not one of transformers' image-text-to-text models"):
        plugin.model_spec([])


def test_a_family_whose_processor_defines_no_image_text_is_refused(texts, tmp_path):
    plugin = _checkpoint(tmp_path, *_llava(texts))
    written = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({**written, "processor_class": "Blip2Processor"}))
    with pytest.raises(RequirementError, match="Blip2Processor"):
        plugin.model_spec([])
