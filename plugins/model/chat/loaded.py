"""A chat model in memory: its module with all that turns samples into its inputs and its outputs into text."""

from __future__ import annotations

import copy
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import PreTrainedModel

from plugins.model.chat.batching import collate
from plugins.model.chat.images import Dimensions, dimensions, read_picture, unusable
from plugins.model.chat.processor import Processor, write_lock
from plugins.model.chat.template import REMEMBERED, ChatTemplate, make_special
from runner.errors import RequirementError
from runner.records import IGNORED, Rendered
from runner.stages import Features, FrozenVision, TokenCounts

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
"""Names under which a forward takes the kind of each token: 1 at images, 0 elsewhere."""

KNOWN_SIZES = 4096
"""Sizes of pictures for which it is remembered what stands for them in a prompt."""

TEXT_FEATURES = {"input_ids", "labels", *TOKEN_TYPES}
"""What an encoded sample holds of its text; all else is of its images."""


class LoadedChatModel(ABC):
    """The `VisionLanguageModel` of every family; one says what it does otherwise in a class of its own.

    Attributes:
        module: Transformers' own class.
        processor: Transformers' own, for images alone.
        stop_token_ids: The end of a turn, and what the checkpoint's generation configuration adds.
        turn_end: The text of the token that ends a turn.
        image_token_ids: The token that stands for one place of the vision tower's features.
        context_length: Positions that the language model was configured for.
        supports_packing: Whether `pack` keeps each sample what it is alone; false where a family has not shown it.
        replaces_pixels: Whether `frozen_vision` can give anything; false where a family has not shown it.
    """

    supports_packing = False

    replaces_pixels = False

    mask_on_the_right = False
    """Whether padding on the right needs a mask. Causal attention never looks there, and without a mask its
    kernels skip half of the work."""

    def __init__(self, module: PreTrainedModel, processor: Processor) -> None:
        """Take the module and the processor of a checkpoint; the tokenizer carries the chat template.

        Raises:
            UnmetError: Tokenizer or template do not fit the model.
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
                f"model.checkpoint: its tokenizer has no special token of the number {image_token}, which its "
                "configuration names for images; are tokenizer and model of the same checkpoint?"
            )
        make_special(self._tokenizer, self._image_token)
        self._template = ChatTemplate(self._tokenizer, processor.image_token)
        self._texts_of_sizes = lru_cache(KNOWN_SIZES)(lambda sizes: tuple(self._image_texts(sizes)))
        self._kinds = lru_cache(REMEMBERED)(lambda ids: self.processor.create_mm_token_type_ids([list(ids)])[0])
        self._run = re.compile(f"(?:{re.escape(self._image_token)})+")
        self._token_types = [name for name in TOKEN_TYPES if name in inspect.signature(module.forward).parameters]
        self.stop_token_ids: Sequence[int] = self._stop_token_ids()
        self.turn_end = self.decode_raw([self._template.turn_end])
        self.image_token_ids = frozenset({image_token})
        self.context_length: int | None = getattr(module.config.get_text_config(), "max_position_embeddings", None)

    def _stop_token_ids(self) -> list[int]:
        configured = self.module.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        return sorted({self._template.turn_end, *(end for end in ends if end is not None)})

    def encode(self, rendered: Rendered, target_suffix: str = "", *, pixels: bool = True) -> Features:
        """Tokenise a sample inside the chat template; see `VisionLanguageModel.encode`.

        Labels are the answer, the end of its turn and `target_suffix`.

        Returns:
            `input_ids`, `labels` and, where the model takes them, the kinds of tokens (length,), 1 at images; with
            images and `pixels` also what the family's processor makes of them, such as `pixel_values`.

        Raises:
            DataError: An image cannot be used.
        """
        made, texts = self._process(rendered) if pixels else ({}, self._texts_by_size(rendered))
        prompt, runs = self._prompt(rendered, texts)
        prompt = self._with_image_tokens(prompt, runs)
        answer = self._answer(rendered, target_suffix)
        features = {
            "input_ids": torch.tensor(prompt + answer),
            "labels": torch.tensor([IGNORED] * len(prompt) + answer),
        }
        if self._token_types:
            # An answer is plain text, whatever it spells out.
            kinds = torch.tensor([*self._kinds(tuple(prompt)), *([0] * len(answer))])
            features |= {name: kinds.clone() for name in self._token_types}
        return {**features, **made}

    def _process(self, rendered: Rendered) -> tuple[Features, Sequence[str]]:
        """Process the images of a sample.

        Returns:
            The vision tower's inputs, and for each image what stands for it in the prompt.
        """
        if not rendered.images:
            return {}, []
        pictures = [read_picture(path, rendered.id) for path in rendered.images]
        try:
            return self._process_pictures(pictures)
        except ValueError:
            self._raise_for_picture(rendered, [(each.height, each.width) for each in pictures])
            raise

    def _process_pictures(self, pictures: Sequence[Image.Image]) -> tuple[Features, Sequence[str]]:
        made = self.processor(
            images=[list(pictures)],
            text=[self.processor.image_token * len(pictures)],
            return_text_replacement_offsets=True,
            return_tensors="pt",
        )
        texts = [each["replacement"] for each in made["text_replacement_offsets"][0]]
        of_text = {*TEXT_FEATURES, "attention_mask", "text_replacement_offsets"}
        return {name: value for name, value in made.items() if name not in of_text}, texts

    def _image_texts(self, sizes: Sequence[Dimensions]) -> list[str]:
        """What stands for each image of a sample, by their sizes; blank pictures tell, where a family does not."""
        blank = [Image.new("RGB", (width, height), "white") for height, width in sizes]
        return list(self._process_pictures(blank)[1])

    def _texts_by_size(self, rendered: Rendered) -> Sequence[str]:
        """What stands for each image of a sample, without reading pixels."""
        sizes = tuple(dimensions(path, rendered.id) for path in rendered.images)
        try:
            return self._texts_of_sizes(sizes) if sizes else ()
        except ValueError:
            self._raise_for_picture(rendered, sizes)
            raise

    def num_image_tokens(self, rendered: Rendered) -> int:
        """Count a sample's image tokens by the sizes of its images; see `VisionLanguageModel.num_image_tokens`.

        Raises:
            DataError: An image cannot be used.
        """
        return sum(text.count(self._image_token) for text in self._texts_by_size(rendered))

    def _raise_for_picture(self, rendered: Rendered, sizes: Sequence[Dimensions]) -> None:
        """Name the image that a processor refuses for its size."""
        for path, size in zip(rendered.images, sizes, strict=True):
            try:
                self._texts_of_sizes((size,))
            except ValueError as error:
                raise unusable(path, rendered.id, error) from error

    def _prompt(self, rendered: Rendered, image_texts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Tokenise a prompt with one image token for each run of them, and give the lengths of the runs."""
        runs = [len(found[0]) // len(self._image_token) for text in image_texts for found in self._run.finditer(text)]
        short = [self._run.sub(lambda _: self._image_token, text) for text in image_texts]
        return self._template.prompt(rendered, short), runs

    def _with_image_tokens(self, prompt: Sequence[int], runs: Sequence[int]) -> list[int]:
        remaining = iter(runs)
        ids: list[int] = []
        for token in prompt:
            ids += [token] * next(remaining) if token in self.image_token_ids else [token]
        return ids

    def _answer(self, rendered: Rendered, target_suffix: str) -> list[int]:
        if rendered.target is None:
            return []
        return [*self._template.text(rendered.target), self._template.turn_end, *self._template.text(target_suffix)]

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack encoded samples; see `VisionLanguageModel.collate`.

        Returns:
            `input_ids`, `labels` and kinds of tokens (samples, length); the images of all samples one after the
            other, brought to one shape with zeros; and `attention_mask` (samples, length) for padding on the left,
            on the right only where the family needs it.
        """
        # Whatever pads is never looked at; a tokenizer that has nothing for it may take any token.
        padding = self._tokenizer.pad_token_id if self._tokenizer.pad_token is not None else self._template.turn_end
        fills = {"input_ids": padding, "labels": IGNORED, **dict.fromkeys(self._token_types, 0)}
        return collate(batch, fills, padding_side, masked=padding_side == "left" or self.mask_on_the_right)

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Lay samples in a row; see `VisionLanguageModel.pack`. Families that pack have it of their own."""
        raise NotImplementedError(f"{type(self.module).__name__} does not pack samples")

    def frozen_vision(self) -> FrozenVision | None:
        """What looks at images, where it never changes; see `VisionLanguageModel.frozen_vision`."""
        return None

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn generated tokens into text, without special tokens, nothing else cleaned up."""
        return self._text_of(token_ids, skip_special_tokens=True)

    def decode_raw(self, token_ids: Sequence[int]) -> str:
        """Turn any tokens into text, special tokens spelt out."""
        return self._text_of(token_ids, skip_special_tokens=False)

    def _text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    @abstractmethod
    def num_image_features(self, features: Features) -> int:
        """Count the features that the vision tower makes of one encoded sample, from its pixels."""

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count a sample's tokens without reading pixels; see `VisionLanguageModel.count`.

        Raises:
            DataError: An image cannot be used.
        """
        texts = self._texts_by_size(rendered)
        prompt, runs = self._prompt(rendered, texts)
        return TokenCounts(text=len(prompt) - len(runs), image=sum(runs), target=len(self._answer(rendered, "")))

    def save(self, folder: Path, precision: str) -> None:
        """Write a folder that `from_pretrained` loads, with the processor lock that `Model.load` compares.

        Args:
            folder: Made where it is missing.
            precision: Of the weights: `fp32` or `bf16`.
        """
        dtype = DTYPES[precision]
        weights = {
            name: weight.to(dtype) if weight.is_floating_point() else weight
            for name, weight in self.module.state_dict().items()
        }
        self.module.save_pretrained(folder, state_dict=weights)
        # save_pretrained writes down the precision of the module, which is not that of the given weights.
        config = copy.deepcopy(self.module.config)
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            part.dtype = dtype
        config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        # Readers before transformers 5, and those of videos, look for this file.
        self.processor.image_processor.save_pretrained(folder)
        write_lock(folder, self.processor)
