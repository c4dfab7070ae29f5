"""Two models of Qwen2.5-VL's architecture with random weights, small enough for a CPU, for benchmarks.

`fullvocab` has the 7B's vocabulary, so that 91 % of its work is the output layer; in `balanced` that is 8 %, as in the
7B. What speeds up one says little of the other: quote both.
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
"""Pixels of a patch's side, patches of a token's side, and frames that a still image is doubled to: as in the 7B."""


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
    """Make one of the two models, float32."""
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
    """How long one sample is.

    Attributes:
        words: Tokens of the prompt's text.
        grids: Each image's height and width in tokens.
        answer: Tokens of the answer, its end included.
    """

    words: int
    grids: tuple[tuple[int, int], ...]
    answer: int


MOST_TOKENS = 256
"""Tokens of a picture at most, 200,704 pixels: the least that Qwen's model card advises to allow it."""


def mmre_lengths(num_samples: int, seed: int) -> list[Lengths]:
    """Draw lengths spread like those of M-MRE.

    A prompt's text is the wording and a tweet; an answer has a summary of 10 to 97 words and the pairs and letters of
    one to six segments: 103 tokens in the mean. Pictures are as large as those of Twitter GMNER: of images with a box
    of a tagged entity, four in five have one; the logarithm of the area in tokens has mean 5.96 and deviation 0.67,
    that of a box's share of it -1.75 and 1.37, and three images in four are wider than high. Padded to the longest of
    a random four, a fifth of the tokens is padding, and a sixth where 223 tweets of GMNER are cut alike.
    """
    drawn = random.Random(seed)
    lengths = []
    for _ in range(num_samples):
        segments = min(6, 1 + int(drawn.expovariate(1.5)))
        summary = min(125, max(13, round(drawn.gauss(68, 20))))
        area = math.exp(drawn.gauss(5.96, 0.67))
        shares = [min(1.0, math.exp(drawn.gauss(-1.75, 1.37))) for _ in range(segments)]
        grids = tuple(_grid(area * share, drawn) for share in (1.0, *shares))
        lengths.append(Lengths(drawn.randint(170, 240), grids, summary + 17 + 14 * segments))
    return lengths


def _grid(area: float, drawn: random.Random) -> tuple[int, int]:
    """Height and width, in tokens, of a picture of this area or of the most that is allowed."""
    within, aspect = min(max(area, 4.0), MOST_TOKENS), math.exp(drawn.gauss(0.25, 0.35))
    height = max(1, round(math.sqrt(within / aspect)))
    return height, max(1, int(within / height))


Features = dict[str, torch.Tensor]


def random_sample(lengths: Lengths, num_words: int, drawn: torch.Generator, *, with_answer: bool) -> Features:
    """Make a sample of random words and pixels, images first; labels are its answer's tokens."""
    tokens: list[int] = []
    for height, width in lengths.grids:
        tokens += [VISION_START, *[IMAGE] * (height * width), VISION_END]
    text = torch.randint(VIDEO + 1, num_words, (lengths.words + lengths.answer,), generator=drawn)
    prompt = torch.cat([torch.tensor(tokens), text[: lengths.words]])
    answer = torch.cat([text[lengths.words : -1], torch.tensor([END])]) if with_answer else text[:0]
    input_ids = torch.cat([prompt, answer])
    grid = torch.tensor([[1, height * MERGE, width * MERGE] for height, width in lengths.grids])
    patches = int(grid.prod(dim=1).sum())
    return {
        "input_ids": input_ids,
        "labels": torch.cat([torch.full_like(prompt, IGNORED), answer]),
        "mm_token_type_ids": (input_ids == IMAGE).long(),
        "pixel_values": torch.randn(patches, 3 * FRAMES * PATCH**2, generator=drawn),
        "image_grid_thw": grid,
    }


def collated(batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
    """Pad and stack samples, with an attention mask, as the usual collators do."""
    fills = {"input_ids": PAD, "labels": IGNORED, "mm_token_type_ids": 0}
    stacked = {
        name: pad_sequence(
            [each[name] for each in batch], batch_first=True, padding_value=fill, padding_side=padding_side
        )
        for name, fill in fills.items()
    }
    ones = [torch.ones_like(each["input_ids"]) for each in batch]
    stacked["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    for name in batch[0].keys() - stacked.keys():
        stacked[name] = torch.cat([each[name] for each in batch])
    return stacked
