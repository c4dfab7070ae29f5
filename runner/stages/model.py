"""Stage `model`: a vision-language model with all that is particular to its family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from runner.records import Rendered
from runner.stages.plugin import Options

if TYPE_CHECKING:
    import torch


Features = dict[str, "torch.Tensor"]
"""One encoded sample: `input_ids` and `labels` (length,), and whatever else the model's forward takes."""


@dataclass(frozen=True)
class TokenCounts:
    """The lengths of one encoded sample, in tokens.

    Attributes:
        text: Prompt and chat template, without images.
        image: Places that the vision tower's features take.
        target: The answer with its end token: the tokens that carry loss.
        estimated: Whether text and target are worked out from the number of characters, for want of the tokenizer.
    """

    text: int
    image: int
    target: int
    estimated: bool = False


class FrozenVision(Protocol):
    """What looks at the images of a model, where nothing in it learns: it makes the same of a sample at every step."""

    @property
    def digest(self) -> str:
        """SHA-256 over its weights, in hexadecimal."""

    def to(self, device: torch.device) -> None:
        """Move it to a device, where it stays."""

    def replace_pixels(self, features: Features) -> Features:
        """Put its features of an encoded sample's images in the place of their pixels.

        They are computed in the precision that autocast says, and come back on the CPU. `collate` and `pack` take the
        result as any other sample; samples with pixels and with features do not go together.
        """


class ModelSpec(Protocol):
    """What planning needs of a model; every `VisionLanguageModel` is one."""

    @property
    def module(self) -> torch.nn.Module:
        """As a `VisionLanguageModel` has it, without memory for its weights."""

    @property
    def supports_packing(self) -> bool:
        """Whether its samples are laid in a row without padding; see `VisionLanguageModel.pack`."""

    @property
    def replaces_pixels(self) -> bool:
        """Whether features can stand in the place of pixels where the vision part is frozen; see `FrozenVision`."""

    @property
    def context_length(self) -> int | None:
        """The most tokens of prompt and answer together; None where the model sets no limit."""

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count a sample's tokens from its text and the size of its images, without reading pixels."""


class VisionLanguageModel(Protocol):
    """A model in memory with all that is particular to its family: template, special tokens, processor."""

    module: torch.nn.Module
    """A transformers model: its `base_model` gives hidden states, its output embeddings give logits."""

    stop_token_ids: Sequence[int]
    """Tokens that end an answer."""

    turn_end: str
    """The text of the token that ends an answer, as `decode_raw` writes it."""

    image_token_ids: frozenset[int]
    """Tokens at whose places the features of the vision tower stand."""

    context_length: int | None
    """The most tokens of prompt and answer together; None where the model sets no limit."""

    def encode(self, rendered: Rendered, target_suffix: str = "", *, pixels: bool = True) -> Features:
        """Tokenise a sample inside the chat template, images processed.

        Args:
            rendered: With a target for training, without for generation (then `labels` are all -100).
            target_suffix: Text trained after the end token.
            pixels: Whether images are read. Without, the tokens are the same, as many for each image as its size asks
                for, and the vision tower's inputs are left out.
        """

    supports_packing: bool
    """Whether `pack` can be asked."""

    replaces_pixels: bool
    """Whether `frozen_vision` can give anything; otherwise the family is shown pixels at every step."""

    def frozen_vision(self) -> FrozenVision | None:
        """What looks at images, before anything wraps the module; it shares the module's weights.

        Returns:
            None where something in it learns or is random, or the family does not take features for pixels.
        """

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack encoded samples; labels are padded with -100."""

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Lay encoded samples one after the other in a single row, without padding.

        Each keeps the positions that it has alone, attends to itself only, and has the same loss.

        Returns:
            `labels` (1, length) and what else the model's forward takes; not all of it need be tensors.
        """

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn generated tokens into text, without special tokens, nothing else cleaned up."""

    def decode_raw(self, token_ids: Sequence[int]) -> str:
        """Turn any tokens into text, special tokens spelt out."""

    def num_image_features(self, features: Features) -> int:
        """Count the features that the vision tower makes of the pixels of one encoded sample."""

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count a sample's tokens from its text and the size of its images, without reading pixels."""

    def num_image_tokens(self, rendered: Rendered) -> int:
        """Count the places that a sample's images take by their sizes, without reading pixels."""

    def save(self, folder: Path, precision: str) -> None:
        """Write weights, tokenizer, template and processor so that `from_pretrained` loads them."""


class ModelOptions(Options):
    """The base of a model's options, which say what its weights are: a launch is planned without importing it."""

    @abstractmethod
    def exact_revision(self) -> str:
        """Name the exact weights and processor: a hub commit, a content hash, or the random weights' size.

        Raises:
            UnmetError: The checkpoint cannot be had on this machine.
        """


class Model(Protocol):
    """Stage `model`: makes a `VisionLanguageModel`. Its options derive from `ModelOptions`."""

    def __init__(self, options: Any) -> None:
        """Take the section's options; nothing is loaded yet."""

    def build(self, texts: Iterable[str], seed: int) -> VisionLanguageModel:
        """Make the model to train, float32 weights on the CPU.

        Args:
            texts: Prompts and targets of the training split, for a tokenizer made from them where there is none.
            seed: For random weights.
        """

    def model_spec(self, texts: Iterable[str]) -> VisionLanguageModel:
        """Make the same model without memory for its weights (the meta device), for planning."""

    def meta_model(self, texts: Iterable[str] | None) -> ModelSpec:
        """Build the model on the meta device; without a hub, from what its plugin knows of the checkpoint.

        Args:
            texts: As in `model_spec`; None where there are none yet.

        Raises:
            UnmetError: Neither the checkpoint nor its published figures can be had, or there is no text to make a
                tokenizer from.
        """

    def checkpoint(self) -> Path | None:
        """Find the folder of the checkpoint as it was published, weights and all; None for random weights.

        Raises:
            UnmetError: The checkpoint cannot be had on this machine.
            SpecError: It is of another architecture.
        """

    def load(self, folder: Path) -> VisionLanguageModel:
        """Load what `VisionLanguageModel.save` wrote, or a checkpoint, in the precision it was saved in.

        Raises:
            UnmetError: Pixels, template or tokenizer are not those that the model was trained with.
        """
