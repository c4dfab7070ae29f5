"""Creates a chat model: from a checkpoint, with random weights, or from a trained folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BaseImageProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from plugins.model.chat.checkpoint_files import hub_folder, local_folder
from plugins.model.chat.loaded import LoadedChatModel
from plugins.model.chat.processor import Processor, check_lock, images_only, load_processor, train_tokenizer
from plugins.model.chat.small_models import SIZES, SmallSize
from plugins.model.model_options import ChatModelOptions
from runner.errors import RequirementError, SpecError
from runner.stages import ModelSpec

FamilyOptions = TypeVar("FamilyOptions", bound=ChatModelOptions)


class ChatModel(ABC, Generic[FamilyOptions]):
    """The plugins of the stage `model`; a family says what is its own.

    Attributes:
        name: The plugin's name.
        loaded: The family's model in memory.
        config_class: The configuration of its checkpoints.
        processor_class: Transformers' processor of its checkpoints.
    """

    name: ClassVar[str]
    loaded: ClassVar[type[LoadedChatModel]]
    config_class: ClassVar[type[PreTrainedConfig]]
    processor_class: ClassVar[type[ProcessorMixin]]

    def __init__(self, options: FamilyOptions) -> None:
        """Take the section's options; nothing is loaded yet."""
        self._options = options
        # The bars of loading and writing weights would break into the runner's own.
        disable_progress_bar()  # type: ignore[no-untyped-call]

    @abstractmethod
    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
        """Write out the configuration of a small size for the vocabulary of a tokenizer."""

    @abstractmethod
    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        """Make the processor of a small size."""

    def _with_options(self, processor: Processor) -> Processor:
        """Set in a processor what the family's options say of images."""
        return processor

    def build(self, texts: Iterable[str], seed: int) -> LoadedChatModel:
        """Make the model to train, float32 weights on the CPU; see `Model.build`.

        Raises:
            UnmetError: The checkpoint or the attention implementation cannot be had here.
            SpecError: The checkpoint is of another architecture.
        """
        self._check_attention()
        if self._options.checkpoint is None:
            config, processor = self._small(texts)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return self._without_weights(config, processor)
        folder = self.checkpoint()
        assert folder is not None
        return self.loaded(self._weights(folder, torch.float32), self._processor(folder))

    def model_spec(self, texts: Iterable[str]) -> LoadedChatModel:
        """Make the same model without memory for its weights; see `Model.model_spec`.

        Raises:
            UnmetError: The checkpoint's configuration cannot be had here.
            SpecError: The checkpoint is of another architecture.
        """
        if self._options.checkpoint is None:
            config, processor = self._small(texts)
        else:
            folder = self._folder(weights=False)
            config, processor = self._config(folder), self._processor(folder)
        with torch.device("meta"):
            return self._without_weights(config, processor)

    def meta_model(self, texts: Iterable[str] | None) -> ModelSpec:
        """Build the model on the meta device, from the published configuration if the checkpoint is not available.

        See `Model.meta_model`.

        Raises:
            UnmetError: Nothing is published with this plugin, or there are no texts to make a tokenizer from.
            SpecError: The checkpoint is of another architecture.
        """
        if self._options.checkpoint is None and texts is None:
            raise RequirementError("model.size: its tokenizer is made from the training texts, which are not here")
        try:
            return self.model_spec(texts or ())
        except RequirementError:
            published = self._published()
            if published is None:
                raise
            return published

    def _published(self) -> ModelSpec | None:
        """Make an model_spec from the figures that a family's plugin holds of the checkpoint, where it holds any."""
        return None

    def checkpoint(self) -> Path | None:
        """Find the folder of the checkpoint, weights and all; see `Model.checkpoint`.

        Raises:
            UnmetError: The checkpoint cannot be had here.
            SpecError: It is of another architecture.
        """
        if self._options.checkpoint is None:
            return None
        folder = self._folder(weights=True)
        self._config(folder)
        return folder

    def load(self, folder: Path) -> LoadedChatModel:
        """Load what `LoadedChatModel.save` wrote, or a checkpoint, in the precision it was saved in.

        Raises:
            UnmetError: Pixels, template or tokenizer are not those that the model was trained with.
        """
        self._check_attention()
        processor = self._processor(folder)
        check_lock(folder, processor)
        return self.loaded(self._weights(folder, "auto"), processor)

    def _check_attention(self) -> None:
        if self._options.attention == "flash_attention_2" and not is_flash_attn_2_available():
            raise RequirementError(
                "model.attention: flash_attention_2 needs the package flash-attn and a CUDA GPU; sdpa runs everywhere"
            )

    def _folder(self, *, weights: bool) -> Path:
        checkpoint = self._options.checkpoint
        assert checkpoint is not None
        if Path(checkpoint).is_absolute():
            return local_folder(checkpoint)
        return hub_folder(checkpoint, self._options.exact_revision(), weights=weights)

    def _config(self, folder: Path) -> PreTrainedConfig:
        config = read_config(folder)
        if not isinstance(config, self.config_class):
            raise SpecError(
                f"{folder} holds a model of type {config.model_type!r}; the plugin {self.name} takes "
                f"{self.config_class.model_type!r}",
                path=("model", "checkpoint"),
            )
        return config

    def _processor(self, folder: Path) -> Processor:
        return self._with_options(load_processor(self.processor_class, folder))

    def _small(self, texts: Iterable[str]) -> tuple[PreTrainedConfig, Processor]:
        assert self._options.size is not None
        small = SIZES[self._options.size]
        tokenizer = train_tokenizer(texts, small.vocab_size, self._options.wording)
        return self._small_config(small, tokenizer), self._with_options(self._small_processor(small, tokenizer))

    def _assemble(
        self, images: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, **settings: object
    ) -> Processor:
        """Make the family's processor of its parts."""
        made = images_only(self.processor_class)
        return made(
            image_processor=images, tokenizer=tokenizer, chat_template=self._options.wording.template, **settings
        )

    def _without_weights(self, config: PreTrainedConfig, processor: Processor) -> LoadedChatModel:
        module = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=self._options.attention, dtype=torch.float32
        )
        tokenizer = processor.tokenizer
        module.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
        )
        return self.loaded(module, processor)

    def _weights(self, folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
        return AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation=self._options.attention
        )


def read_config(folder: Path) -> PreTrainedConfig:
    """Read a checkpoint's configuration.

    Raises:
        SpecError: Transformers does not know its architecture; code that a checkpoint brings along is not run.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SpecError(
            f"{folder} is no checkpoint of transformers' own architectures ({reason}); many have a twin that is, "
            "often called …-hf",
            path=("model", "checkpoint"),
        ) from error
    return config
