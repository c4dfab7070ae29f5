"""Qwen2.5-VL in memory: its module with all that turns samples into its inputs and its outputs into text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from plugins.model.qwen2_5_vl.chat import ChatTokenizer
from plugins.model.qwen2_5_vl.images import num_image_tokens, pixel_features
from runner.records import Rendered
from runner.stages import Features, TokenCount

IGNORED = -100
"""The label of positions without loss."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LoadedQwen25VL:
    """The `VisionLanguageModel` of this family.

    Attributes:
        module: Transformers' own class.
        stop_token_ids: The end of a turn, and what the checkpoint's generation configuration adds.
        turn_end: The text of the token that ends a turn.
        image_token_ids: The token that stands for one place of the vision tower's features.
        context_length: Positions that the language model was configured for.
    """

    def __init__(
        self,
        module: Qwen2_5_VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Qwen2VLImageProcessorPil,
    ) -> None:
        """Take the three parts of a checkpoint; the tokenizer carries the chat template."""
        self.module = module
        self._chat = ChatTokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self.stop_token_ids: Sequence[int] = self._stop_token_ids()
        self.turn_end = self.spell([self._chat.turn_end])
        self.image_token_ids = frozenset({self._chat.image_token})
        self.context_length: int | None = module.config.get_text_config().max_position_embeddings

    def _stop_token_ids(self) -> list[int]:
        configured = self.module.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        return sorted({self._chat.turn_end, *(end for end in ends if end is not None)})

    def encode(self, rendered: Rendered, trailing: str = "") -> Features:
        """Tokenise a sample inside the chat template; see `VisionLanguageModel.encode`.

        Prompt and answer are tokenised apart and joined, so that the first token of an answer is the same in
        training and generation. Labels are the answer, the end of its turn and `trailing`.

        Returns:
            `input_ids`, `labels` and `mm_token_type_ids` (length,), the last 1 at image tokens; with images
            also `pixel_values` (patches, values of a patch) and `image_grid_thw` (images, 3).

        Raises:
            DataError: An image cannot be used.
        """
        pixels = pixel_features(self._image_processor, rendered)
        grid = pixels.get("image_grid_thw", torch.zeros(0, 3, dtype=torch.long))
        lengths = (grid.prod(dim=1) // self._image_processor.merge_size**2).tolist()
        prompt = self._with_image_tokens(self._chat.prompt(rendered), lengths)
        answer = self._answer(rendered, trailing)
        input_ids = torch.tensor(prompt + answer)
        return {
            "input_ids": input_ids,
            "labels": torch.tensor([IGNORED] * len(prompt) + answer),
            "mm_token_type_ids": (input_ids == self._chat.image_token).long(),
            **pixels,
        }

    def _answer(self, rendered: Rendered, trailing: str) -> list[int]:
        if rendered.target is None:
            return []
        return [*self._chat.text(rendered.target), self._chat.turn_end, *self._chat.text(trailing)]

    def _with_image_tokens(self, prompt: Sequence[int], lengths: Sequence[int]) -> list[int]:
        remaining = iter(lengths)
        ids: list[int] = []
        for token in prompt:
            ids += [token] * next(remaining) if token == self._chat.image_token else [token]
        return ids

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack encoded samples; see `VisionLanguageModel.collate`.

        Returns:
            `input_ids`, `labels` and `mm_token_type_ids` (samples, length), the images of all samples one after the
            other, and `attention_mask` (samples, length) for padding on the left. On the right there is no need of
            one: causal attention never looks there, and without a mask its kernels skip half of the work.
        """
        fills = {"input_ids": self._tokenizer.pad_token_id, "labels": IGNORED, "mm_token_type_ids": 0}
        stacked = {
            name: pad_sequence(
                [each[name] for each in batch],
                batch_first=True,
                padding_value=fill,
                padding_side=padding_side,
            )
            for name, fill in fills.items()
        }
        if padding_side == "left":
            ones = [torch.ones_like(each["input_ids"]) for each in batch]
            stacked["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side="left")
        for name in ("pixel_values", "image_grid_thw"):
            if parts := [each[name] for each in batch if name in each]:
                stacked[name] = torch.cat(parts)
        return stacked

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn generated tokens into text, without special tokens, nothing else cleaned up."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def spell(self, token_ids: Sequence[int]) -> str:
        """Turn any tokens into text, special tokens spelt out."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def num_image_features(self, features: Features) -> int:
        """Count the features of a sample: a merged block of patches each, by the grid of its pixels."""
        grid = features.get("image_grid_thw")
        return 0 if grid is None else int(grid.prod(dim=1).sum()) // self._image_processor.merge_size**2

    def count(self, rendered: Rendered) -> TokenCount:
        """Count a sample's tokens without reading pixels; see `VisionLanguageModel.count`.

        Raises:
            DataError: An image cannot be used.
        """
        return TokenCount(
            text=len(self._chat.prompt(rendered)) - len(rendered.images),
            image=sum(num_image_tokens(self._image_processor, rendered)),
            target=len(self._answer(rendered, "")),
        )

    def save(self, folder: Path, precision: str) -> None:
        """Write a folder that `from_pretrained` loads.

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
        for part in (config, config.text_config, config.vision_config):
            assert isinstance(part, PreTrainedConfig)
            part.dtype = dtype
        config.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        self._image_processor.save_pretrained(folder)
