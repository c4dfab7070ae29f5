"""A chat model in memory: its module, the encoding of samples to inputs, and the decoding of outputs."""

from __future__ import annotations

import copy
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from plugins.model.chat.batching import collate
from plugins.model.chat.precomputed_image_features import FrozenVisionTower, to_encoder_outputs
from plugins.model.chat.processor_and_images import (
    ImageSize,
    Processor,
    cached_image_size,
    load_image,
    unusable_image_error,
)
from plugins.model.chat.saved_processor_settings import write_lock
from plugins.model.chat.template import TOKEN_CACHE_SIZE, ChatTemplate, mark_as_special
from runner.errors import RequirementError
from runner.records import IGNORED, Rendered
from runner.stages import Features, FrozenVisionEncoder, TokenCounts

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

EXPERT_TOKEN_TYPES = "moe_mm_token_type_ids"
"""The argument that selects the experts of Ernie 4.5: 1 for image tokens and the tokens around them, 0 otherwise."""

TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids", EXPERT_TOKEN_TYPES)
"""Arguments of a forward pass for the type of each token: 1 for image tokens, 0 otherwise."""

IMAGE_TEXT_CACHE_SIZE = 4096
"""Number of combinations of image sizes for which the image text of the prompt is cached."""

TEXT_FEATURES = {"input_ids", "labels", *TOKEN_TYPES}
"""Entries of an encoded sample for its text; all other entries belong to its images."""


class LoadedChatModel(ABC):
    """The `VisionLanguageModel` of all families; subclasses define what differs.

    Attributes:
        module: The model, an instance of a transformers class.
        processor: The processor of transformers, without video support.
        stop_token_ids: The end of a turn, and the end tokens of the checkpoint's generation configuration.
        turn_end: The text of the token that ends a turn.
        image_token_ids: The token that is replaced by one image feature.
        context_length: Maximum number of positions in the configuration of the language model.
        supports_packing: Whether packed samples are computed as if alone; false unless tested for the family.
        replaces_pixels: Whether `frozen_vision` may return an encoder; false unless tested for the family.
        stores_raw_pixels: Whether encoded samples hold pixels as bytes.
    """

    supports_packing = False

    replaces_pixels = False

    stores_raw_pixels = False

    needs_right_padding_mask = False
    """Whether padding on the right needs a mask. Causal attention ignores it, and without a mask its kernels skip half
    of the work."""

    takes_features_in_parts = True
    """Whether the model takes precomputed image features as a sequence of tensors, or as one tensor."""

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Store module and processor; the tokenizer contains the chat template.

        Raises:
            RequirementError: Tokenizer or template do not match the model.
        """
        self.module = module
        self.processor = processor
        self._tokenizer = processor.tokenizer
        image_token = getattr(module.config, "image_token_id", None)
        self._image_token = next(
            (text for text, token in self._tokenizer.get_added_vocab().items() if token == image_token), ""
        )
        if not self._image_token:
            raise RequirementError(
                f"model.checkpoint: its tokenizer has no special token with id {image_token}, the image token of its "
                "configuration; use tokenizer and model of the same checkpoint"
            )
        mark_as_special(self._tokenizer, self._image_token)
        self._template = ChatTemplate(self._tokenizer, processor.image_token)
        self._texts_for_sizes = lru_cache(IMAGE_TEXT_CACHE_SIZE)(lambda sizes: tuple(self._image_texts(sizes)))
        self._cached_prompt = lru_cache(TOKEN_CACHE_SIZE)(self._prompt)
        self._type_by_token: dict[int, int] = {}
        self._image_token_run = re.compile(f"(?:{re.escape(self._image_token)})+")
        self._token_types = [name for name in TOKEN_TYPES if name in inspect.signature(module.forward).parameters]
        self.stop_token_ids: Sequence[int] = self._stop_token_ids()
        self.turn_end = self.decode_raw([self._template.turn_end])
        self.image_token_ids = frozenset({image_token})
        self.context_length: int | None = getattr(module.config.get_text_config(), "max_position_embeddings", None)

    def _stop_token_ids(self) -> list[int]:
        eos = self.module.generation_config.eos_token_id
        ends = eos if isinstance(eos, list) else [eos]
        return sorted({self._template.turn_end, *(token for token in ends if token is not None)})

    def encode(self, rendered: Rendered, target_suffix: str = "", *, pixels: bool = True) -> Features:
        """Tokenize a sample in the chat template; see `VisionLanguageModel.encode`.

        The labels are the answer, the end of its turn and `target_suffix`.

        Returns:
            `input_ids`, `labels` and, if the model uses them, token type ids (length,), 1 for image tokens. With
            images and `pixels`, also the outputs of the family's image processor, such as `pixel_values`.

        Raises:
            DataError: An image cannot be used.
        """
        image_features, texts = self._process(rendered) if pixels else ({}, self._texts_by_size(rendered))
        prompt = self._expand_image_tokens(*self._cached_prompt(replace(rendered, target=None), tuple(texts)))
        answer = self._answer(rendered, target_suffix)
        features = {
            "input_ids": _to_tensor(prompt + answer),
            "labels": _to_tensor([IGNORED] * len(prompt) + answer),
        }
        if self._token_types:
            # An answer is plain text, even if it contains the text of an image token.
            no_image = [0] * len(answer)
            type_ids = _to_tensor(self._type_ids(prompt) + no_image)
            features |= dict.fromkeys(self._token_types, type_ids)
            if EXPERT_TOKEN_TYPES in features:
                expert_ids = self.processor.create_moe_mm_token_type_ids([prompt])[0]
                features[EXPERT_TOKEN_TYPES] = _to_tensor([*expert_ids, *no_image])
        return {**features, **image_features}

    def _type_ids(self, prompt: Sequence[int]) -> list[int]:
        """Return the type of each token of a prompt: 1 for image tokens, 0 otherwise."""
        create = self.processor.create_mm_token_type_ids
        if getattr(create, "__func__", None) is not ProcessorMixin.create_mm_token_type_ids:
            return list(create([list(prompt)])[0])
        # The type of a token depends on nothing else; looking types up takes a tenth of the time of computing them.
        unknown = sorted(set(prompt) - self._type_by_token.keys())
        if unknown:
            self._type_by_token.update(zip(unknown, create([unknown])[0], strict=True))
        return [self._type_by_token[token] for token in prompt]

    def _process(self, rendered: Rendered) -> tuple[Features, Sequence[str]]:
        """Process the images of a sample.

        Returns:
            The vision tower's inputs, and the text of each image in the prompt.
        """
        if not rendered.images:
            return {}, []
        images = [load_image(path, rendered.id) for path in rendered.images]
        try:
            return self._process_images(images)
        except ValueError:
            self._raise_for_image(rendered, [(image.height, image.width) for image in images])
            raise

    def _process_images(self, images: Sequence[Image.Image]) -> tuple[Features, Sequence[str]]:
        outputs = self.processor(
            images=[list(images)],
            text=[self.processor.image_token * len(images)],
            return_text_replacement_offsets=True,
            return_tensors="pt",
        )
        texts = [replacement["replacement"] for replacement in outputs["text_replacement_offsets"][0]]
        text_outputs = {*TEXT_FEATURES, "attention_mask", "text_replacement_offsets"}
        return {name: value for name, value in outputs.items() if name not in text_outputs}, texts

    def _image_texts(self, sizes: Sequence[ImageSize]) -> list[str]:
        """Return the text of each image in the prompt, given the image sizes. By default, process blank images."""
        blank = [Image.new("RGB", (width, height), "white") for height, width in sizes]
        return list(self._process_images(blank)[1])

    def _texts_by_size(self, rendered: Rendered) -> Sequence[str]:
        """Return the text of each image in the prompt, without reading pixels."""
        sizes = tuple(cached_image_size(path, rendered.id) for path in rendered.images)
        try:
            return self._texts_for_sizes(sizes) if sizes else ()
        except ValueError:
            self._raise_for_image(rendered, sizes)
            raise

    def num_image_tokens(self, rendered: Rendered) -> int:
        """Count a sample's image tokens from the sizes of its images; see `VisionLanguageModel.num_image_tokens`.

        Raises:
            DataError: An image cannot be used.
        """
        return sum(text.count(self._image_token) for text in self._texts_by_size(rendered))

    def _raise_for_image(self, rendered: Rendered, sizes: Sequence[ImageSize]) -> None:
        """Raise an error for the image whose size the processor rejects."""
        for path, size in zip(rendered.images, sizes, strict=True):
            try:
                self._texts_for_sizes((size,))
            except ValueError as error:
                raise unusable_image_error(path, rendered.id, error) from error

    def _prompt(self, rendered: Rendered, image_texts: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokenize a prompt with one image token for each run of image tokens, and return the run lengths too."""
        run_lengths = tuple(
            len(run[0]) // len(self._image_token)
            for text in image_texts
            for run in self._image_token_run.finditer(text)
        )
        shortened = [self._image_token_run.sub(lambda _: self._image_token, text) for text in image_texts]
        return tuple(self._template.encode_prompt(rendered, shortened)), run_lengths

    def _expand_image_tokens(self, prompt: Sequence[int], run_lengths: Sequence[int]) -> list[int]:
        remaining = iter(run_lengths)
        ids: list[int] = []
        for token in prompt:
            ids += [token] * next(remaining) if token in self.image_token_ids else [token]
        return ids

    def _answer(self, rendered: Rendered, target_suffix: str) -> list[int]:
        if rendered.target is None:
            return []
        target, suffix = self._template.encode_text(rendered.target), self._template.encode_text(target_suffix)
        return [*target, self._template.turn_end, *suffix]

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> dict[str, Any]:
        """Pad and stack encoded samples; see `VisionLanguageModel.collate`.

        Returns:
            `input_ids`, `labels` and token type ids (samples, length); the images of all samples, concatenated and
            zero-padded to one shape; and `attention_mask` (samples, length) for padding on the left, and on the right
            only if the family needs it.
        """
        # Padding is masked, so a tokenizer without a padding token may use any token.
        padding = self._tokenizer.pad_token_id if self._tokenizer.pad_token is not None else self._template.turn_end
        fills = {"input_ids": padding, "labels": IGNORED, **dict.fromkeys(self._token_types, 0)}
        masked = padding_side == "left" or self.needs_right_padding_mask
        inputs = collate(batch, fills, padding_side, masked=masked)
        width = self.module.config.get_text_config().hidden_size
        return to_encoder_outputs(inputs, width, in_parts=self.takes_features_in_parts)

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Concatenate samples into one row; see `VisionLanguageModel.pack`. Families that pack override this."""
        raise NotImplementedError(f"{type(self.module).__name__} does not support packing")

    def frozen_vision(self) -> FrozenVisionEncoder | None:
        """Return the vision encoder if it is frozen; see `VisionLanguageModel.frozen_vision`."""
        vision = FrozenVisionTower(self.module) if self.replaces_pixels else None
        return vision if vision is not None and vision.is_cacheable else None

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode generated tokens without special tokens, and without any other clean-up."""
        return self._decode(token_ids, skip_special_tokens=True)

    def decode_raw(self, token_ids: Sequence[int]) -> str:
        """Decode tokens, including special tokens."""
        return self._decode(token_ids, skip_special_tokens=False)

    def _decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    @abstractmethod
    def num_image_features(self, features: Features) -> int:
        """Count the image features that the vision tower computes for one encoded sample."""

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count a sample's tokens without reading pixels; see `VisionLanguageModel.count`.

        Raises:
            DataError: An image cannot be used.
        """
        texts = self._texts_by_size(rendered)
        prompt, run_lengths = self._cached_prompt(replace(rendered, target=None), tuple(texts))
        return TokenCounts(
            text=len(prompt) - len(run_lengths),
            image=sum(run_lengths),
            target=len(self._answer(rendered, "")),
            by_image=tuple(text.count(self._image_token) for text in texts),
        )

    def save(self, folder: Path, precision: str) -> None:
        """Save a folder that `from_pretrained` loads, with the processor lock that `Model.load` checks.

        Args:
            folder: Created if it does not exist.
            precision: Precision of the saved weights: `fp32` or `bf16`.
        """
        dtype = DTYPES[precision]
        weights = {
            name: weight.to(dtype) if weight.is_floating_point() else weight
            for name, weight in self.module.state_dict().items()
        }
        self.module.save_pretrained(folder, state_dict=weights)
        # save_pretrained stores the precision of the module, not that of the given weights.
        config = copy.deepcopy(self.module.config)
        for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
            if part is not None:  # such as the audio part of a model without one
                part.dtype = dtype
        config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        # Versions before transformers 5, and video processors, read this file.
        self.processor.image_processor.save_pretrained(folder)
        write_lock(folder, self.processor)


def _to_tensor(values: list[int]) -> torch.Tensor:
    """Return a tensor of the values, in a fifth of the time that `torch.tensor` needs for a list."""
    return torch.from_numpy(np.array(values, dtype=np.int64))
