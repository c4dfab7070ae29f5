"""A published size of Qwen2.5-VL without its weights, to plan a run where the checkpoint is not available."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
)

from plugins.model.chat.processor_and_images import read_image_size, unusable_image_error
from plugins.model.chat.vision_tower import prepare_attention
from plugins.model.qwen2_5_vl_published_sizes import (
    MAX_PIXELS,
    MERGE_SIZE,
    MIN_PIXELS,
    PATCH_SIZE,
    PUBLISHED_SIZES,
    PublishedSize,
    published_config,
)
from plugins.model.token_estimate import estimate_tokens
from runner.records import Rendered
from runner.stages import TokenCounts

CONVERSATION_OVERHEAD, EXAMPLE_OVERHEAD = 19, 10
"""Tokens that the published template adds: for prompt and answer with the system message, and for each example."""


class PublishedModelSpec:
    """A published size without weights, for planning; see `ModelSpec`.

    Attributes:
        module: The module on the meta device.
        supports_packing: Whether samples can be packed with this attention.
        replaces_pixels: Whether features can replace pixels; true for this family.
        stores_raw_pixels: Whether encoded samples hold pixels as bytes; true for this family.
        context_length: The published value.
    """

    module: torch.nn.Module
    supports_packing: bool
    replaces_pixels = True
    stores_raw_pixels = True
    context_length: int | None

    def __init__(self, size: PublishedSize, min_pixels: int, max_pixels: int, attention: str) -> None:
        """Build the architecture without memory for its weights.

        Args:
            size: The published size.
            min_pixels: Minimum image area in pixels.
            max_pixels: Maximum image area in pixels.
            attention: Attention implementation in transformers.
        """
        config = Qwen2_5_VLConfig(**published_config(size))
        # Memory and tokens do not depend on the kernel, which may not be installed here.
        available = "eager" if attention == "eager" else "sdpa"
        with torch.device("meta"):
            module: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=available, dtype=torch.float32
            )
        self.module = module
        self.supports_packing = prepare_attention(module)
        self.context_length = config.get_text_config().max_position_embeddings
        self._images = Qwen2VLImageProcessorPil(
            patch_size=PATCH_SIZE, merge_size=MERGE_SIZE, size={"shortest_edge": min_pixels, "longest_edge": max_pixels}
        )

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count image tokens from image sizes, and estimate text tokens from the characters of each script.

        Raises:
            DataError: An image cannot be used.
        """
        patches = [self._num_patches(path, rendered.id) for path in rendered.images]
        texts = [rendered.prompt]
        for example in rendered.examples:
            texts += [example.prompt, example.target or ""]
        overhead = CONVERSATION_OVERHEAD + EXAMPLE_OVERHEAD * len(rendered.examples)
        return TokenCounts(
            # Each image is enclosed by two special tokens.
            text=sum(map(estimate_tokens, texts)) + 2 * len(patches) + overhead,
            image=sum(patches) // MERGE_SIZE**2,
            target=0 if rendered.target is None else estimate_tokens(rendered.target) + 1,
            estimated=True,
            by_image=tuple(count // MERGE_SIZE**2 for count in patches),
        )

    def _num_patches(self, path: Path, sample: str) -> int:
        try:
            return int(self._images.get_number_of_image_patches(*read_image_size(path, sample)))
        except ValueError as error:  # the image is too narrow
            raise unusable_image_error(path, sample, error) from error


def published_model_spec(
    checkpoint: str | None, min_pixels: int | None, max_pixels: int | None, attention: str
) -> PublishedModelSpec | None:
    """Return the published size that a checkpoint names on the hub; None for any other checkpoint.

    Args:
        checkpoint: Value of the option.
        min_pixels: Minimum image area in pixels; None selects the published one.
        max_pixels: Maximum image area in pixels; None selects the published one.
        attention: Attention implementation in transformers.
    """
    size = PUBLISHED_SIZES.get(checkpoint or "")
    return (
        None
        if size is None
        else PublishedModelSpec(size, min_pixels or MIN_PIXELS, max_pixels or MAX_PIXELS, attention)
    )
