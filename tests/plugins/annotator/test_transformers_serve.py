"""Summaries from transformers' own server, with a tiny LLaVA of random weights."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from PIL import Image

from plugins.annotator.openai_compatible import OpenAICompatibleAnnotator
from plugins.servers.openai_generator_and_annotator_options import OpenAIAnnotatorOptions
from runner.records import Sample
from runner.stages import TokenUsage

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}{% if part.type == 'image' %}<image>\n"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %} ANSWER:"
)


def save_llava(folder):
    """Write a LLaVA of a few thousand weights, which answers nonsense."""
    import torch
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    from plugins.model.chat.processor_and_images import train_tokenizer
    from plugins.model.model_options_and_small_sizes import END_OF_TEXT, ChatFormat

    texts = ["What is in this image? Two people stand in front of a wall. ANSWER:"] * 4
    tokenizer = train_tokenizer(texts, 300, ChatFormat((END_OF_TEXT, "<image>"), TEMPLATE))
    image_token = tokenizer.get_added_vocab()["<image>"]
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "num_key_value_heads": 2, "head_dim": 16, **SHAPE}
    vision = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **SHAPE}
    torch.manual_seed(0)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=image_token)
    LlavaForConditionalGeneration(config).save_pretrained(folder)


@pytest.fixture
def server(tmp_path):
    """The address of `transformers serve`, and the folder of its model."""
    folder = tmp_path / "llava"
    save_llava(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).parent / "transformers"
    command = [program, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (tmp_path / "serve.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "serve.txt")
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.terminate()
        process.wait()


def wait_for(url, process, output):
    while True:
        assert process.poll() is None, output.read_text()
        try:
            with urlopen(url):
                return
        except (URLError, ConnectionError):
            time.sleep(0.5)


@pytest.mark.slow
def test_transformers_own_server_annotates(server, recorder, tmp_path):
    url, folder = server
    samples = []
    for place, colour in enumerate(("red", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{colour}.jpg")
        samples.append(Sample(f"s{place}", "", tmp_path / f"{colour}.jpg", None, (), ()))
    options = OpenAIAnnotatorOptions(
        model=str(folder), base_url=url, api_key_env=None, max_new_tokens=12, concurrency=2, max_retries=0, timeout=600
    )
    found = list(OpenAICompatibleAnnotator(options).annotate(iter(samples), TokenUsage(), recorder()))
    assert {each.id for each in found} == {"s0", "s1"}
    for each in found:
        assert each.answer
        assert each.finish_reason in {"length", "stop"}
        assert each.tokens.input > 16  # the picture takes so many alone
        assert 0 < each.tokens.output <= 12
