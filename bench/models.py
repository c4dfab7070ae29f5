"""Two models of Qwen2.5-VL's architecture with random weights, small enough for a CPU, for benchmarks.

`fullvocab` has the 7B's vocabulary, so the output layer takes 91 % of its operations; in `balanced` it takes 8 %, as in
the 7B. A speed-up of one says little about the other: quote both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

IGNORED = -100
END, PAD, VISION_START, VISION_END, IMAGE, VIDEO = range(6)
"""Token ids; those from 6 on are words."""

PATCH, MERGE, FRAMES = 14, 2, 2
"""Pixels per side of a patch, patches per side of a token, and frames of a still image: as in the 7B."""


@dataclass(frozen=True)
class Shape:
    """The widths of a model's decoder."""

    width: int
    layers: int
    heads: int
    ffn: int
    words: int


SHAPES = {
    "fullvocab": Shape(width=256, layers=4, heads=4, ffn=1024, words=151_936),
    "balanced": Shape(width=384, layers=6, heads=6, ffn=1536, words=2_832),
}


def random_model(name: str, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Create one of the two models, float32."""
    shape = SHAPES[name]
    frequencies = shape.width // shape.heads // 2
    third = frequencies // 3
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.words,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": 2,
            "intermediate_size": shape.ffn,
            "initializer_range": 0.06,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [frequencies - 2 * third, third, third],
            },
            "bos_token_id": None,
            "eos_token_id": END,
            "pad_token_id": PAD,
        },
        vision_config={
            "hidden_size": 128,
            "out_hidden_size": shape.width,
            "depth": 4,
            "num_heads": 4,
            "intermediate_size": 256,
            "patch_size": PATCH,
            "temporal_patch_size": FRAMES,
            "fullatt_block_indexes": [3],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config).eval()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Lengths:
    """The length of one sample.

    Attributes:
        words: Tokens of the prompt's text.
        grids: Height and width of each image in tokens.
        answer: Tokens of the answer, with its end token.
    """

    words: int
    grids: tuple[tuple[int, int], ...]
    answer: int


MAX_IMAGE_TOKENS = 256
"""Maximum tokens of an image, 200,704 pixels: the lowest limit that Qwen's model card recommends."""


def mmre_lengths(num_samples: int, seed: int) -> list[Lengths]:
    """Draw lengths distributed like those of M-MRE.

    A prompt's text is the wording and a tweet. An answer has a summary of 10 to 97 words and the pairs and letters of
    one to six segments: 103 tokens on average. Images are as large as those of Twitter GMNER. Of the images with a box
    of a tagged entity, four in five have one box. The logarithm of the area in tokens has mean 5.96 and deviation 0.67,
    that of a box's fraction of it -1.75 and 1.37, and three images in four are wider than high. If random batches of
    four are padded to their longest sample, a fifth of the tokens is padding; for 223 tweets of GMNER it is a sixth.
    """
    rng = random.Random(seed)
    lengths = []
    for _ in range(num_samples):
        segments = min(6, 1 + int(rng.expovariate(1.5)))
        summary = min(125, max(13, round(rng.gauss(68, 20))))
        area = math.exp(rng.gauss(5.96, 0.67))
        fractions = [min(1.0, math.exp(rng.gauss(-1.75, 1.37))) for _ in range(segments)]
        grids = tuple(_grid(area * fraction, rng) for fraction in (1.0, *fractions))
        lengths.append(Lengths(rng.randint(170, 240), grids, summary + 17 + 14 * segments))
    return lengths


def _grid(area: float, rng: random.Random) -> tuple[int, int]:
    """Return height and width, in tokens, of an image with this area, limited to `MAX_IMAGE_TOKENS`."""
    limited_area, aspect = min(max(area, 4.0), MAX_IMAGE_TOKENS), math.exp(rng.gauss(0.25, 0.35))
    height = max(1, round(math.sqrt(limited_area / aspect)))
    return height, max(1, int(limited_area / height))


Features = dict[str, torch.Tensor]


def random_sample(lengths: Lengths, num_words: int, generator: torch.Generator, *, with_answer: bool) -> Features:
    """Create a sample of random tokens and pixels, images first; labels are the tokens of its answer."""
    tokens: list[int] = []
    for height, width in lengths.grids:
        tokens += [VISION_START, *[IMAGE] * (height * width), VISION_END]
    text = torch.randint(VIDEO + 1, num_words, (lengths.words + lengths.answer,), generator=generator)
    prompt = torch.cat([torch.tensor(tokens), text[: lengths.words]])
    answer = torch.cat([text[lengths.words : -1], torch.tensor([END])]) if with_answer else text[:0]
    input_ids = torch.cat([prompt, answer])
    grid = torch.tensor([[1, height * MERGE, width * MERGE] for height, width in lengths.grids])
    patches = int(grid.prod(dim=1).sum())
    return {
        "input_ids": input_ids,
        "labels": torch.cat([torch.full_like(prompt, IGNORED), answer]),
        "mm_token_type_ids": (input_ids == IMAGE).long(),
        "pixel_values": torch.randn(patches, 3 * FRAMES * PATCH**2, generator=generator),
        "image_grid_thw": grid,
    }


def collate_samples(batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
    """Pad and stack samples, with an attention mask, as the usual collators do."""
    fills = {"input_ids": PAD, "labels": IGNORED, "mm_token_type_ids": 0}
    stacked = {
        name: pad_sequence(
            [sample[name] for sample in batch], batch_first=True, padding_value=fill, padding_side=padding_side
        )
        for name, fill in fills.items()
    }
    ones = [torch.ones_like(sample["input_ids"]) for sample in batch]
    stacked["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    for name in batch[0].keys() - stacked.keys():
        stacked[name] = torch.cat([sample[name] for sample in batch])
    return stacked
