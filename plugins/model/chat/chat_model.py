"""Base class of the model plugins: loads a checkpoint or a trained model, or creates one with random weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BaseImageProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2Tokenizer,
    TokenizersBackend,
)
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_kernels_available,
)
from transformers.utils.logging import disable_progress_bar

from plugins.model.chat.find_checkpoint import check_no_adapter, hub_folder, local_folder
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.chat.processor_and_images import (
    Processor,
    create_processor,
    load_processor,
    train_tokenizer,
)
from plugins.model.chat.saved_processor_settings import check_lock
from plugins.model.model_options_and_small_sizes import ATTENTION_NAMES, SIZES, ChatModelOptions, SmallSize
from runner.errors import RequirementError, SpecError
from runner.stages import ModelSpec

FamilyOptions = TypeVar("FamilyOptions", bound=ChatModelOptions)


class ChatModel(ABC, Generic[FamilyOptions]):
    """Base class of the plugins of the stage `model`; subclasses define what differs between families.

    Attributes:
        name: The plugin's name.
        loaded: The family's model in memory.
        config_class: Transformers' configuration class of its checkpoints.
        other_config_classes: Those of other checkpoints that the plugin loads.
        processor_class: Transformers' processor class of its checkpoints.
        tokenizer_class: The class of the tokenizers of its small sizes, with which transformers loads them again.
    """

    name: ClassVar[str]
    loaded_class: ClassVar[type[LoadedChatModel]]
    config_class: ClassVar[type[PreTrainedConfig]]
    other_config_classes: ClassVar[tuple[type[PreTrainedConfig], ...]] = ()
    processor_class: ClassVar[type[ProcessorMixin]]
    tokenizer_class: ClassVar[type[TokenizersBackend]] = Qwen2Tokenizer

    def __init__(self, options: FamilyOptions) -> None:
        """Store the options; nothing is loaded yet."""
        self._options = options
        # Transformers' progress bars would interfere with those of the runner.
        disable_progress_bar()  # type: ignore[no-untyped-call]

    @abstractmethod
    def _small_config(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
        """Create the configuration of a small size for a tokenizer."""

    @abstractmethod
    def _small_processor(self, small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> Processor:
        """Create the processor of a small size."""

    def _with_options(self, processor: Processor) -> Processor:
        """Apply the image options of the family to a processor, and return it."""
        return processor

    def build(self, texts: Iterable[str], seed: int) -> LoadedChatModel:
        """Create the model to train, with float32 weights on the CPU; see `Model.build`.

        Raises:
            RequirementError: The checkpoint or the attention implementation is not available.
            SpecError: The checkpoint has another architecture.
        """
        return self._build(texts, seed, as_stored=False)

    def build_as_stored(self, texts: Iterable[str], seed: int) -> LoadedChatModel:
        """Create the model to train, with the weights of a checkpoint as stored; see `BuildsAsStored`.

        Raises:
            RequirementError: The checkpoint or the attention implementation is not available.
            SpecError: The checkpoint has another architecture.
        """
        return self._build(texts, seed, as_stored=True)

    def mapped_bytes(self) -> int:
        """Return the bytes of each weight that `build_as_stored` maps from files; see `BuildsAsStored`.

        Raises:
            SpecError: The checkpoint is not a folder with weights.
        """
        if self._options.checkpoint is None:
            return 0
        try:
            formats = stored_formats(self._folder(weights=True))
        except RequirementError:
            formats = {"BF16"}
        return MAPPED_BYTES.get(formats.pop(), 0) if len(formats) == 1 else 0

    def _build(self, texts: Iterable[str], seed: int, *, as_stored: bool) -> LoadedChatModel:
        self._check_attention()
        if self._options.checkpoint is None:
            config, processor = self._small(texts)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return self._without_weights(config, processor, self._options.attention)
        folder = self.checkpoint()
        assert folder is not None
        dtype = stored_dtype(folder) if as_stored else torch.float32
        return self.loaded_class(self._weights(folder, dtype), self._processor(folder))

    def model_spec(self, texts: Iterable[str]) -> LoadedChatModel:
        """Create the same model on the meta device, without weights; see `Model.model_spec`.

        Raises:
            RequirementError: The checkpoint's configuration is not available.
            SpecError: The checkpoint has another architecture.
        """
        if self._options.checkpoint is None:
            config, processor = self._small(texts)
        else:
            folder = self._folder(weights=False)
            config, processor = self._config(folder), self._processor(folder)
        # Memory and tokens do not depend on the kernel, which may not be installed here.
        attention = "eager" if self._options.attention == "eager" else "sdpa"
        with torch.device("meta"):
            return self._without_weights(config, processor, attention)

    def meta_model(self, texts: Iterable[str] | None) -> ModelSpec:
        """Build the model on the meta device, from the published configuration if the checkpoint is not available.

        See `Model.meta_model`.

        Raises:
            RequirementError: The plugin has no published configuration, or there are no texts to train a tokenizer on.
            SpecError: The checkpoint has another architecture.
        """
        if self._options.checkpoint is None and texts is None:
            raise RequirementError("model.size: the tokenizer is trained on the training texts, which are missing")
        try:
            return self.model_spec(texts or ())
        except RequirementError:
            published = self._published()
            if published is None:
                raise
            return published

    def _published(self) -> ModelSpec | None:
        """Return a model spec from a published configuration in the plugin; None if there is none."""
        return None

    def checkpoint(self) -> Path | None:
        """Return the folder of the checkpoint, including weights; see `Model.checkpoint`.

        Raises:
            RequirementError: The checkpoint is not available.
            SpecError: The checkpoint has another architecture.
        """
        if self._options.checkpoint is None:
            return None
        folder = self._folder(weights=True)
        self._config(folder)
        return folder

    def load(self, folder: Path) -> LoadedChatModel:
        """Load a saved model or a checkpoint, in the precision in which it was saved.

        Raises:
            RequirementError: Image settings, template or tokenizer differ from those of the training.
        """
        self._check_attention()
        processor = self._processor(folder)
        check_lock(folder, processor)
        return self.loaded_class(self._weights(folder, "auto"), processor)

    def _check_attention(self) -> None:
        """Check that the attention implementation can be used on this machine.

        Raises:
            RequirementError: It cannot; the message names the package.
        """
        attention = self._options.attention
        package, is_available = None, True
        if attention == "flash_attention_2":
            package, is_available = "flash-attn", is_flash_attn_2_available()
        elif attention == "flash_attention_3":
            package, is_available = "flash-attn-3", is_flash_attn_3_available()
        elif attention not in ATTENTION_NAMES:
            package, is_available = "kernels", is_kernels_available() and torch.cuda.is_available()
        if not is_available:
            raise RequirementError(
                f"model.attention: {attention} needs the package {package} and a CUDA GPU; sdpa runs everywhere"
            )

    def _folder(self, *, weights: bool) -> Path:
        checkpoint = self._options.checkpoint
        assert checkpoint is not None
        if Path(checkpoint).is_absolute():
            return local_folder(checkpoint)
        pickled = self._options.pickled_weights
        return hub_folder(checkpoint, self._options.exact_revision(), weights=weights, pickled=pickled)

    def _config(self, folder: Path) -> PreTrainedConfig:
        config = read_config(folder)
        accepted = (self.config_class, *self.other_config_classes)
        if not isinstance(config, accepted):
            raise SpecError(
                f"{folder} contains a model of type {config.model_type!r}; the plugin {self.name} requires "
                f"{' or '.join(repr(each.model_type) for each in accepted)}",
                path=("model", "checkpoint"),
            )
        return config

    def _processor(self, folder: Path) -> Processor:
        return self._with_options(load_processor(self.processor_class, folder))

    def _small(self, texts: Iterable[str]) -> tuple[PreTrainedConfig, Processor]:
        assert self._options.size is not None
        small = SIZES[self._options.size]
        tokenizer = train_tokenizer(texts, small.vocab_size, self._options.chat_format, self.tokenizer_class)
        return self._small_config(small, tokenizer), self._with_options(self._small_processor(small, tokenizer))

    def _assemble(
        self, images: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, **settings: object
    ) -> Processor:
        """Create the family's processor from its parts."""
        parts = {"image_processor": images, "tokenizer": tokenizer}
        template = self._options.chat_format.template
        return create_processor(self.processor_class, parts, chat_template=template, **settings)

    def _without_weights(self, config: PreTrainedConfig, processor: Processor, attention: str) -> LoadedChatModel:
        with _attention_errors(config, attention):
            module = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=attention, dtype=torch.float32, trust_remote_code=False
            )
        tokenizer = processor.tokenizer
        module.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
        )
        return self.loaded_class(module, processor)

    def _weights(self, folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
        """Load the weights in a folder, which somebody else may have written, also as a trained model in a cache.

        Raises:
            RequirementError: The files do not hold all weights, or are damaged. Transformers would draw missing weights
                at random. Or the folder contains an adapter.
            SpecError: The files have another architecture.
        """
        check_no_adapter(folder)
        config = self._config(folder)
        # A configuration may name a package of the hub whose code computes the attention.
        config._attn_implementation = self._options.attention
        try:
            with _attention_errors(config, self._options.attention):
                loaded: Any = AutoModelForImageTextToText.from_pretrained(
                    folder,
                    config=config,
                    trust_remote_code=False,
                    dtype=dtype,
                    attn_implementation=self._options.attention,
                    use_safetensors=None if self._options.pickled_weights else True,
                    output_loading_info=True,
                )
        except (SafetensorError, UnpicklingError, EOFError) as error:
            raise RequirementError(
                f"model.checkpoint: the files with weights in {folder} are damaged ({error}); copy the whole checkpoint"
            ) from error
        module, loading = cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)
        missing = sorted(loading["missing_keys"])
        if missing:
            raise RequirementError(
                f"model.checkpoint: the files with weights in {folder} lack weights of the model: {missing[0]} "
                f"({len(missing)} in all); copy the whole checkpoint, or use one of this architecture"
            )
        return module


@contextmanager
def _attention_errors(config: PreTrainedConfig, attention: str) -> Iterator[None]:
    """Name the option to change if the model's class does not support an attention implementation.

    Raises:
        RequirementError: It does not.
    """
    try:
        yield
    except ValueError as error:
        if "attention" not in str(error) or "does not support" not in str(error):
            raise
        raise RequirementError(
            f"model.attention: models of the type {config.model_type!r} do not support {attention} in transformers; "
            "use eager"
        ) from error


STORED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
"""The names in safetensors files of the number formats that float32 contains exactly."""

MAPPED_BYTES = {**{name: dtype.itemsize for name, dtype in STORED_DTYPES.items()}, "F32": 4}
"""The bytes of the formats whose weights transformers maps from the files."""


def stored_formats(folder: Path) -> set[str]:
    """Return the names of the number formats of all weights in the safetensors files of a checkpoint.

    Returns:
        The names; none if a file is damaged, which `_weights` describes.
    """
    names = set()
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as opened:
                names |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError:
            return set()
    return names


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the number format in which a checkpoint can be loaded without a change of its weights.

    Returns:
        The format of all weights in the safetensors files, if float32 contains it exactly: transformers then maps the
        files into memory, and workers on one machine share this memory. Otherwise float32.
    """
    formats = stored_formats(folder)
    return STORED_DTYPES.get(formats.pop(), torch.float32) if len(formats) == 1 else torch.float32


def read_config(folder: Path) -> PreTrainedConfig:
    """Read a checkpoint's configuration.

    Raises:
        SpecError: Transformers does not know its architecture. Code in the checkpoint is not run.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise SpecError(
            f"{folder} is not a checkpoint of an architecture in transformers ({reason}); many models have another "
            "checkpoint that is, often called …-hf",
            path=("model", "checkpoint"),
        ) from error
    return config
