"""Qwen2.5-VL without checkpoint and tokenizer: the published architecture, and lengths estimated from characters."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen2_5_VLConfig, Qwen2VLImageProcessorPil

from plugins.model.chat.packing import prepare_packing
from plugins.model.chat.pictures import read_dimensions, unusable
from plugins.model.qwen2_5_vl_published import MERGE, PATCH, PublishedSize, published_settings
from runner.records import Rendered
from runner.stages import TokenCount

CHARACTERS_PER_TOKEN = 4.0
"""English prose has about 4.5 characters a token in vocabularies of 150,000, the names, tags and links of tweets about
3; prompts and answers here are mostly prose."""

TURNS, TURN = 19, 10
"""Tokens of the published template around a question and its answer, system message included, and around an example."""


class PublishedOutline:
    """What planning needs of a published size; see `Outline`.

    Attributes:
        module: On the meta device.
        packs: As the family does with this attention.
        replaces_pixels: As the family does.
        context_length: As published.
    """

    module: torch.nn.Module
    packs: bool
    replaces_pixels = True
    context_length: int | None

    def __init__(self, size: PublishedSize, min_pixels: int, max_pixels: int, attention: str) -> None:
        """Build the architecture without memory for its weights.

        Args:
            size: Which one.
            min_pixels: Area to which smaller images are enlarged.
            max_pixels: Area to which larger images are reduced.
            attention: Implementation in transformers.
        """
        config = Qwen2_5_VLConfig(**published_settings(size))
        # Kernels that are not installed here make no difference to what is counted.
        known = attention if attention != "flash_attention_2" else "sdpa"
        with torch.device("meta"):
            module: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=known, dtype=torch.float32
            )
        self.module = module
        self.packs = prepare_packing(module)
        self.context_length = config.get_text_config().max_position_embeddings
        self._images = Qwen2VLImageProcessorPil(
            patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": min_pixels, "longest_edge": max_pixels}
        )

    def count(self, rendered: Rendered) -> TokenCount:
        """Count image tokens from the sizes of the files, and estimate the text's from its characters.

        Raises:
            DataError: An image cannot be used.
        """
        patches = [self._patches(path, rendered.id) for path in rendered.images]
        shown = [(each.prompt, each.target or "") for each in rendered.examples]
        text = estimated(rendered.prompt) + sum(estimated(asked) + estimated(told) for asked, told in shown)
        return TokenCount(
            text=text + 2 * len(patches) + TURNS + TURN * len(shown),  # each image stands between two tokens of its own
            image=sum(patches) // MERGE**2,
            target=0 if rendered.target is None else estimated(rendered.target) + 1,
            estimated=True,
        )

    def _patches(self, path: Path, sample: str) -> int:
        try:
            return int(self._images.get_number_of_image_patches(*read_dimensions(path, sample)))
        except ValueError as error:  # too narrow
            raise unusable(path, sample, error) from error


def estimated(text: str) -> int:
    """Estimate the tokens of a text from its characters."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
