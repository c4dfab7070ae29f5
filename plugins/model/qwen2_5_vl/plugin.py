"""Makes a Qwen2.5-VL: from a checkpoint, with random weights in a small size, or from a trained folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from plugins.model.qwen2_5_vl.checkpoint import hub_folder, hub_revision, local_folder, local_revision
from plugins.model.qwen2_5_vl.loaded import LoadedQwen25VL
from plugins.model.qwen2_5_vl.sizes import SIZES, size_digest, small_config, small_image_processor
from plugins.model.qwen2_5_vl.tokenizer import END_OF_TEXT, train_tokenizer
from plugins.model.qwen2_5_vl_options import Qwen25VLOptions
from runner.errors import SpecError, UnmetError


class Qwen25VLModel:
    """The plugin `qwen2_5_vl` of the stage `model`."""

    def __init__(self, options: Qwen25VLOptions) -> None:
        """Take the section's options; nothing is loaded yet."""
        self._options = options
        # The bars of loading and writing weights would break into the runner's own.
        disable_progress_bar()  # type: ignore[no-untyped-call]

    def revision(self) -> str:
        """Name the exact weights: a hub commit, a content hash, or `random:` with the size and its digest.

        Raises:
            UnmetError: The checkpoint cannot be had on this machine.
        """
        checkpoint, size = self._options.checkpoint, self._options.size
        if checkpoint is None:
            assert size is not None
            return f"random:{size}:{size_digest(size)}"
        if Path(checkpoint).is_absolute():
            return local_revision(local_folder(checkpoint))
        return hub_revision(checkpoint, self._options.revision)

    def build(self, texts: Iterable[str], seed: int) -> LoadedQwen25VL:
        """Make the model to train, float32 weights on the CPU; see `Model.build`.

        Raises:
            UnmetError: The checkpoint or the attention implementation cannot be had here.
            SpecError: The checkpoint is of another architecture.
        """
        self._check_attention()
        if self._options.checkpoint is None:
            tokenizer, config, images = self._small(texts)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return self._without_weights(config, tokenizer, images)
        folder = self.checkpoint()
        assert folder is not None
        return self._from_folder(folder, torch.float32)

    def outline(self, texts: Iterable[str]) -> LoadedQwen25VL:
        """Make the same model without memory for its weights; see `Model.outline`.

        Raises:
            UnmetError: The checkpoint's configuration cannot be had here.
            SpecError: The checkpoint is of another architecture.
        """
        if self._options.checkpoint is None:
            tokenizer, config, images = self._small(texts)
        else:
            folder = self._folder(weights=False)
            config = _check_architecture(folder)
            tokenizer, images = _load_tokenizer(folder), self._load_image_processor(folder)
        with torch.device("meta"):
            return self._without_weights(config, tokenizer, images)

    def checkpoint(self) -> Path | None:
        """Find the folder of the checkpoint, weights and all; see `Model.checkpoint`.

        Raises:
            UnmetError: The checkpoint cannot be had here.
            SpecError: It is of another architecture.
        """
        if self._options.checkpoint is None:
            return None
        folder = self._folder(weights=True)
        _check_architecture(folder)
        return folder

    def load(self, folder: Path) -> LoadedQwen25VL:
        """Load what `LoadedQwen25VL.save` wrote, or a checkpoint, in the precision it was saved in."""
        self._check_attention()
        return self._from_folder(folder, "auto")

    def _check_attention(self) -> None:
        if self._options.attention == "flash_attention_2" and not is_flash_attn_2_available():
            raise UnmetError(
                "model.attention: flash_attention_2 needs the package flash-attn and a CUDA GPU; sdpa runs everywhere"
            )

    def _folder(self, *, weights: bool) -> Path:
        checkpoint = self._options.checkpoint
        assert checkpoint is not None
        if Path(checkpoint).is_absolute():
            return local_folder(checkpoint)
        return hub_folder(checkpoint, self.revision(), weights=weights)

    def _small(
        self, texts: Iterable[str]
    ) -> tuple[PreTrainedTokenizerBase, Qwen2_5_VLConfig, Qwen2VLImageProcessorPil]:
        size = self._options.size
        assert size is not None
        tokenizer = train_tokenizer(texts, SIZES[size].vocab_size)
        return tokenizer, small_config(size, tokenizer), self._with_pixels(small_image_processor(size))

    def _without_weights(
        self, config: Qwen2_5_VLConfig, tokenizer: PreTrainedTokenizerBase, images: Qwen2VLImageProcessorPil
    ) -> LoadedQwen25VL:
        module = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=self._options.attention, dtype=torch.float32
        )
        module.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)],
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
        )
        return LoadedQwen25VL(module, tokenizer, images)

    def _from_folder(self, folder: Path, dtype: torch.dtype | str) -> LoadedQwen25VL:
        module = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation=self._options.attention
        )
        return LoadedQwen25VL(module, _load_tokenizer(folder), self._load_image_processor(folder))

    def _load_image_processor(self, folder: Path) -> Qwen2VLImageProcessorPil:
        return self._with_pixels(Qwen2VLImageProcessorPil.from_pretrained(folder))

    def _with_pixels(self, images: Qwen2VLImageProcessorPil) -> Qwen2VLImageProcessorPil:
        size = dict(images.size)
        size["shortest_edge"] = self._options.min_pixels or size["shortest_edge"]
        size["longest_edge"] = self._options.max_pixels or size["longest_edge"]
        if size["shortest_edge"] > size["longest_edge"]:
            raise SpecError(
                f"an image cannot have at least {size['shortest_edge']} and at most "
                f"{size['longest_edge']} pixels; set both model.min_pixels and model.max_pixels",
                path=("model",),
            )
        images.size = size
        return images


def _check_architecture(folder: Path) -> Qwen2_5_VLConfig:
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, Qwen2_5_VLConfig):
        raise SpecError(
            f"{folder} holds a model of type {config.model_type!r}; the plugin qwen2_5_vl takes "
            f"{Qwen2_5_VLConfig.model_type!r}",
            path=("model", "checkpoint"),
        )
    return config


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer, with the processor's chat template where the checkpoint keeps one of its own."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    template = folder / "chat_template.json"
    if template.is_file():
        tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
    return tokenizer
