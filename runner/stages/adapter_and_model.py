"""Stages `adapter` and `model`: how a sample becomes a prompt, and the vision-language model that reads it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from runner.records import Answer, Prediction, Rendered, Sample
from runner.stages.box_frame import BoxFrame
from runner.stages.options_and_reporter import Options

if TYPE_CHECKING:
    import torch


class AdapterOptions(Options):
    """The base class of the options of adapters that can ask each task with its own prompt; see `TaskAdapter`."""

    @property
    def task_names(self) -> Sequence[str]:
        """The tasks that a prompt asks, in the order of the answer; empty if the adapter cannot ask them apart."""
        return ()

    @property
    def needs_box_frame(self) -> bool:
        """Whether the adapter writes boxes in the frame of the spec's model; see `BoxAdapter`."""
        return False

    @property
    def num_target_draws(self) -> int:
        """Number of targets that are drawn at random for each training sample; 0 for none, see `TargetDrawer`."""
        return 0


class Adapter(Protocol):
    """Stage `adapter`: renders samples as prompts and targets, and parses answers."""

    parse_modes: Sequence[str]
    """The available parse modes: first the mode that the options select, then those reported in addition."""

    def __init__(self, options: Any, labels: Sequence[str]) -> None:
        """Create the adapter from the section's options and the data set's labels.

        Raises:
            SpecError: The options name labels that differ from those of the data set.
        """

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """List the tasks that samples, or rendered targets, contain answers for, as a value of the option `tasks`."""

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render the prompt of a sample; `target` is None."""

    def render_training(self, sample: Sample) -> Rendered:
        """Render the prompt of a sample and the answer that the model is trained on.

        Raises:
            DataError: The sample lacks a field that a task needs.
        """

    def parse(self, output: str, mode: str) -> Prediction:
        """Parse an answer; never raises, whatever the text is.

        An edit of this method scores answers again, and trains nothing. An adapter can name more such methods in the
        class attribute `parsing_methods` (default: `("parse",)`).
        """

    def reference(self, sample: Sample) -> Answer:
        """Return the correct answer to a sample, from its fields; parts whose task is not asked for are None."""


@runtime_checkable
class TaskAdapter(Adapter, Protocol):
    """Optional for an adapter: asks each task with its own prompt, which can show answers to other tasks.

    The section `regime` of a spec needs it. The options of such an adapter derive from `AdapterOptions`.
    """

    tasks: Sequence[str]
    """The tasks that a prompt asks, in the order of the answer; see `AdapterOptions.task_names`."""

    def for_task(self, task: str) -> Adapter:
        """Return the adapter that asks, renders and parses this task alone."""

    def with_context(self, rendered: Rendered, answers: Mapping[str, str]) -> Rendered:
        """Add answers to other tasks to a prompt, with the sentence that the image decides.

        Args:
            rendered: What the adapter of one task rendered; its target stays as it is.
            answers: For each other task, an answer as in a target or as a model wrote it. What surrounds an answer in
                the prompt depends only on its task, so that two contexts of the same tasks differ in the answers only.
        """

    def context_answer(self, task: str, answer: str) -> str:
        """Return the part of an answer that `with_context` shows: all but the headings of the task."""

    def neutral_answer(self, task: str) -> str:
        """Return words that say nothing about a sample, in place of an answer to a task."""

    def has_context(self, rendered: Rendered) -> bool:
        """Return whether `with_context` added anything to this prompt."""


class TargetDrawer(Protocol):
    """Optional for an adapter: draws targets at random for training, which the epochs use in turn.

    Its options derive from `AdapterOptions`, and their `num_target_draws` says how many there are. The targets of
    `render_training` stay those of the validation loss and of references.
    """

    def draw_target(self, sample: Sample, draw: int, seed: int) -> Rendered:
        """Render the prompt of a sample, and the target of a draw.

        The result depends on nothing but the arguments and the options.

        Args:
            sample: The sample.
            draw: The number of the draw, from 0.
            seed: Random seed of the trial.
        """


@dataclass(frozen=True)
class TargetProblems:
    """What is wrong with a reference that is given as text.

    Attributes:
        losses: Parts that cannot be read: scores against this reference would be wrong.
        doubts: Parts that can be read, but probably mean something else.
    """

    losses: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@runtime_checkable
class TargetChecker(Protocol):
    """Optional for an adapter: checks references that are given as text, before anything is scored against them."""

    def target_problems(self, target: str, mode: str) -> TargetProblems:
        """Find the problems of a target in a parse mode; parts that the target does not have are no problem."""


Features = dict[str, "torch.Tensor"]
"""One encoded sample: `input_ids` and `labels` of shape (length,), and the other inputs of the model's forward."""


@dataclass(frozen=True)
class TokenCounts:
    """The lengths of one encoded sample, in tokens.

    Attributes:
        text: Tokens of the prompt and the chat template, without images.
        image: Image tokens, one for each feature of the vision tower.
        target: Tokens of the answer with its end token: those that contribute to the loss.
        estimated: Whether text and target are estimated from the number of characters, because there is no tokenizer.
        shares_images: Whether an earlier example has the same images, so that what is encoded of them is stored once.
        by_image: The image tokens of each image, in the order of the prompt; empty if the model does not tell.
    """

    text: int
    image: int
    target: int
    estimated: bool = False
    shares_images: bool = False
    by_image: tuple[int, ...] = ()


class FrozenVisionEncoder(Protocol):
    """A vision encoder without trainable parameters, whose features of a sample are the same at every step."""

    @property
    def digest(self) -> str:
        """SHA-256 over its weights, in hexadecimal."""

    def to(self, device: torch.device) -> None:
        """Move the encoder to a device permanently, with weights in float32."""

    def replace_pixels(self, features: Features) -> Features:
        """Replace the pixels of an encoded sample by the encoder's features.

        The features are computed in autocast's precision and returned on the CPU. `collate` and `pack` accept the
        result like any other sample, but one batch cannot mix samples with pixels and samples with features.
        """


class ModelSpec(Protocol):
    """The part of a model that planning needs; every `VisionLanguageModel` provides it."""

    @property
    def module(self) -> torch.nn.Module:
        """The module of a `VisionLanguageModel`, possibly on the meta device."""

    @property
    def supports_packing(self) -> bool:
        """Whether samples can be packed without padding; see `VisionLanguageModel.pack`."""

    @property
    def replaces_pixels(self) -> bool:
        """Whether features can replace pixels if the vision encoder is frozen; see `FrozenVisionEncoder`."""

    @property
    def stores_raw_pixels(self) -> bool:
        """Whether encoded samples hold a byte for each channel of a pixel; see `VisionLanguageModel`."""

    @property
    def context_length(self) -> int | None:
        """Maximum number of tokens of prompt and answer together; None if the model has no limit."""

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count a sample's tokens from its text and the size of its images, without reading pixels."""


class VisionLanguageModel(Protocol):
    """A loaded model with everything specific to its family: chat template, special tokens, processor."""

    module: torch.nn.Module
    """A transformers model: `base_model` returns hidden states, the output embeddings return logits."""

    stop_token_ids: Sequence[int]
    """Tokens that end an answer."""

    turn_end: str
    """The text of the token that ends an answer, as `decode_raw` returns it."""

    image_token_ids: frozenset[int]
    """Ids of the tokens that the vision tower's features replace."""

    context_length: int | None
    """Maximum number of tokens of prompt and answer together; None if the model has no limit."""

    def encode(self, rendered: Rendered, target_suffix: str = "", *, pixels: bool = True) -> Features:
        """Apply the chat template, tokenize a sample and process its images.

        Args:
            rendered: The sample. Without a target (for generation), all `labels` are -100.
            target_suffix: Text that is trained after the end token.
            pixels: Whether images are read. If not, the tokens are the same (the number of image tokens follows from
                the image size), and the inputs of the vision tower are omitted.
        """

    supports_packing: bool
    """Whether `pack` is implemented."""

    replaces_pixels: bool
    """Whether `frozen_vision` can return an encoder. If not, the model needs pixels at every step."""

    stores_raw_pixels: bool
    """Whether encoded samples hold a byte for each channel of a pixel, instead of the inputs of the vision tower."""

    def frozen_vision(self) -> FrozenVisionEncoder | None:
        """Return the vision encoder; call this before anything wraps the module, whose weights it shares.

        Returns:
            None if the encoder is trainable or random, or the model family does not accept features.
        """

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack encoded samples; labels are padded with -100."""

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Concatenate encoded samples into a single row without padding.

        Each sample keeps its own positions, attends only to itself, and has the same loss as on its own.

        Returns:
            `labels` of shape (1, length) and the other inputs of the model's forward, which may not all be tensors.
        """

    def decode(self, token_ids: Sequence[int]) -> str:
        """Convert generated tokens to text: special tokens are removed, nothing else is cleaned up."""

    def decode_raw(self, token_ids: Sequence[int]) -> str:
        """Convert tokens to text including special tokens."""

    def num_image_features(self, features: Features) -> int:
        """Count the features that the vision tower computes from the pixels of one encoded sample."""

    def count(self, rendered: Rendered) -> TokenCounts:
        """Count a sample's tokens from its text and the size of its images, without reading pixels."""

    def num_image_tokens(self, rendered: Rendered) -> int:
        """Count a sample's image tokens from the size of its images, without reading pixels."""

    def save(self, folder: Path, precision: str) -> None:
        """Save weights, tokenizer, chat template and processor so that `from_pretrained` loads them."""


class ModelOptions(Options):
    """The base class of a model's options, which identify its weights without importing the model."""

    @abstractmethod
    def exact_revision(self) -> str:
        """Identify the exact weights and processor: a hub commit, a content hash, or the size of a random model.

        Raises:
            RequirementError: The checkpoint is not available on this machine.
        """

    def pinned_to(self, revision: str) -> Self:
        """Return options that load a revision which `exact_revision` returned when the plan was resolved.

        By default the options as they are; a launch stops if they then identify other weights.
        """
        return self

    def box_frame(self) -> BoxFrame | None:
        """Return the frame in which the model family writes boxes; None if it is not known.

        Raises:
            RequirementError: The checkpoint's settings for images are not available on this machine.
        """
        return None


class Model(Protocol):
    """Stage `model`: builds a `VisionLanguageModel`. Its options derive from `ModelOptions`."""

    def __init__(self, options: Any) -> None:
        """Create the stage from the section's options; nothing is loaded yet."""

    def build(self, texts: Iterable[str], seed: int) -> VisionLanguageModel:
        """Build the model to train, with float32 weights on the CPU.

        Args:
            texts: Prompts and targets of the training split, from which a missing tokenizer is trained.
            seed: Random seed of random weights.
        """

    def model_spec(self, texts: Iterable[str]) -> VisionLanguageModel:
        """Build the same model on the meta device (without memory for weights), for planning."""

    def meta_model(self, texts: Iterable[str] | None) -> ModelSpec:
        """Build the model on the meta device; without the checkpoint, from the configuration that the plugin knows.

        Args:
            texts: As in `build`; None if there are none yet.

        Raises:
            RequirementError: Neither the checkpoint nor its published configuration is available, or there are no texts
                to train a tokenizer from.
        """

    def checkpoint(self) -> Path | None:
        """Return the folder of the published checkpoint with its weights; None for random weights.

        Raises:
            RequirementError: The checkpoint is not available on this machine.
            SpecError: The checkpoint has another architecture.
        """

    def load(self, folder: Path) -> VisionLanguageModel:
        """Load a model saved by `VisionLanguageModel.save`, or a checkpoint, in the precision it was saved in.

        Raises:
            RequirementError: Image processing, chat template or tokenizer differ from those used in training.
        """


@runtime_checkable
class ExplainsPacking(Protocol):
    """Optional for a `VisionLanguageModel`: says why it does not pack although its attention could."""

    def packing_problem(self) -> str | None:
        """Return a reason to show to the user; None if samples are packed, or the attention cannot pack them."""


@runtime_checkable
class BuildsAsStored(Model, Protocol):
    """Optional for a model plugin: builds the model to train without converting the weights of a checkpoint.

    The runner uses it for trainers with the class attribute `converts_weights = True`, which convert the weights to
    float32 themselves, on the device or after sharding. Weights in bfloat16 can stay mapped from their files, so that
    the workers of a machine share their memory.
    """

    def build_as_stored(self, texts: Iterable[str], seed: int) -> VisionLanguageModel:
        """Build the model as `Model.build` does, with weights in the precision in which they are stored."""

    def mapped_bytes(self) -> int:
        """Return the bytes of each weight that `build_as_stored` maps from files; 0 if each worker gets a copy.

        If the checkpoint is not available, the value is that of published checkpoints.
        """
