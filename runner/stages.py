"""What the engine asks of a plugin: the options base and one protocol a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict

from runner.records import Answer, Completion, Prediction, Rendered, Sample

if TYPE_CHECKING:
    import torch

Stage = Literal["data", "adapter", "model", "optimizer", "trainer", "generator", "metric", "tracker", "source"]


class LocatedStr(str):
    """A string of a spec that knows the folder of the file it was written in."""

    folder: Path

    def __new__(cls, text: str, folder: Path) -> LocatedStr:
        """Attach the folder to the text."""
        made = super().__new__(cls, text)
        made.folder = folder
        return made


def _beside_its_file(value: object) -> object:
    if isinstance(value, LocatedStr):
        return (value.folder / Path(value).expanduser()).resolve()
    return Path(value).expanduser().resolve() if isinstance(value, str | Path) else value


FilePath = Annotated[Path, BeforeValidator(_beside_its_file)]
"""A path of a spec: relative to the file it is written in; from `--set` or a default, to the current folder."""


@dataclass(frozen=True)
class OutsideFingerprint:
    """Marks an option that cannot change a number, such as a path or a micro-batch.

    Used as `Annotated[int, OutsideFingerprint()]`; such options are left out of the plan's fingerprint.
    """


class Options(BaseModel):
    """The base of every plugin's options: a section of the spec less its `type`.

    Unknown keys are errors, instances are frozen, and the docstring under a field is its description.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    def smoke(self) -> Mapping[str, Any]:
        """Say what stands in for this section in a smoke run.

        Returns:
            Options to change, by name; with a `type`, the whole section of that other plugin of the same stage.
        """
        return {}


class StopRequestedError(Exception):
    """Raised by a step at a safe point after `Reporter.stop_requested` said yes and its state was saved."""


class Reporter(Protocol):
    """Where a running step tells what happens; the engine turns it into events, bars and tracked metrics."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell how many units of the running step are done; `shown` are figures to print beside the bar."""

    def warn(self, message: str) -> None:
        """Tell the user something that they should know and that stops nothing."""

    def stop_requested(self) -> bool:
        """Whether the user asked to stop: save, then raise `StopRequestedError`."""


@dataclass(frozen=True)
class DatasetInfo:
    """What the engine needs to know of a data set before it is read.

    Attributes:
        name: As the tracker shows it.
        location: Its folder or URI.
        fingerprint: SHA-256 over the content of all that is read from it, in hexadecimal.
        labels: The entity labels, in their order.
        num_samples: By split; `train` and `test` at least.
    """

    name: str
    location: str
    fingerprint: str
    labels: tuple[str, ...]
    num_samples: Mapping[str, int]


class Data(Protocol):
    """Stage `data`: where samples come from."""

    def __init__(self, options: Any) -> None:
        """Take the section's options; nothing is read yet."""

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Make sure that the data is there, and describe it.

        Raises:
            DataError: It is missing, broken, or its splits share samples; the message says what to do.
        """

    def load(self, split: str) -> Sequence[Sample]:
        """The samples of a split, in a fixed order, images as absolute paths; `prepare` comes first."""


class Adapter(Protocol):
    """Stage `adapter`: a sample to a prompt and a target, and an answer back to its content."""

    parse_modes: Sequence[str]
    """How answers can be read: first the mode that the options chose, then those reported beside it."""

    def __init__(self, options: Any, labels: Sequence[str]) -> None:
        """Take the section's options and the data set's labels.

        Raises:
            SpecError: The options name other labels than the data set has.
        """

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render what the model is shown; `target` is None."""

    def render_training(self, sample: Sample) -> Rendered:
        """Render what the model is shown and the answer it is to learn.

        Raises:
            DataError: The sample lacks what a task needs.
        """

    def parse(self, output: str, mode: str) -> Prediction:
        """Read an answer; never raises, whatever the text."""

    def reference(self, sample: Sample) -> Answer:
        """The right answer to a sample, from its own fields; None for the parts not asked for."""


Features = dict[str, "torch.Tensor"]
"""One encoded sample: `input_ids` and `labels` (length,), and whatever else the model's forward takes."""


@dataclass(frozen=True)
class TokenCount:
    """The lengths of one encoded sample, in tokens.

    Attributes:
        text: Prompt and chat template, without images.
        image: Places that the vision tower's features take.
        target: The answer with its end token: the tokens that carry loss.
    """

    text: int
    image: int
    target: int


class VisionLanguageModel(Protocol):
    """A model in memory with all that is particular to its family: template, special tokens, processor."""

    module: torch.nn.Module
    """A transformers model: its `base_model` gives hidden states, its output embeddings give logits."""

    stop_token_ids: Sequence[int]
    """Tokens that end an answer."""

    def encode(self, rendered: Rendered, trailing: str = "") -> Features:
        """Tokenise a sample inside the chat template, images processed.

        Args:
            rendered: With a target for training, without for generation (then `labels` are all -100).
            trailing: Text trained after the end token.
        """

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack encoded samples; labels are padded with -100."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn generated tokens into text, without special tokens, nothing else cleaned up."""

    def count(self, rendered: Rendered) -> TokenCount:
        """Count a sample's tokens from its text and the size of its images, without reading pixels."""

    def save(self, folder: Path, precision: str) -> None:
        """Write weights, tokenizer, template and processor so that `from_pretrained` loads them."""


class Model(Protocol):
    """Stage `model`: makes a `VisionLanguageModel`."""

    def __init__(self, options: Any) -> None:
        """Take the section's options; nothing is loaded yet."""

    def revision(self) -> str:
        """Name the exact weights and processor: a hub commit, a content hash, or the random weights' size.

        Raises:
            UnmetError: The checkpoint cannot be had on this machine.
        """

    def build(self, texts: Iterable[str], seed: int) -> VisionLanguageModel:
        """Make the model to train, float32 weights on the CPU.

        Args:
            texts: Prompts and targets of the training split, for a tokenizer made from them where there is none.
            seed: For random weights.
        """

    def outline(self, texts: Iterable[str]) -> VisionLanguageModel:
        """Make the same model without memory for its weights (the meta device), for planning."""

    def load(self, folder: Path) -> VisionLanguageModel:
        """Load what `VisionLanguageModel.save` wrote, in the precision it was saved in."""


@dataclass(frozen=True)
class ParameterGroup:
    """What `runner plan` tells of one optimizer group.

    Attributes:
        group: Its name in the spec.
        num_parameters: Trainable weights in it.
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay.
    """

    group: str
    num_parameters: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class ScheduledOptimizer:
    """An optimizer and the schedule of its rates, stepped once an optimizer step."""

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


class Optimizer(Protocol):
    """Stage `optimizer`: which parameter learns how fast."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def groups(self, module: torch.nn.Module) -> Sequence[ParameterGroup]:
        """Assign each trainable parameter to its group.

        Raises:
            SpecError: A group wins no parameter, or a parameter is in no group; each is named.
        """

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make the optimizers (several where groups need different algorithms) and their schedules."""


@dataclass(frozen=True)
class TrainingRun:
    """Where and how one training happens.

    Attributes:
        checkpoints: Folder for resumable checkpoints; one that is there is continued.
        seed: For data order and dropout.
        reporter: Told of losses and progress.
    """

    checkpoints: Path
    seed: int
    reporter: Reporter = field(repr=False)


class Trainer(Protocol):
    """Stage `trainer`: fits a model to rendered samples."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def num_steps(self, num_samples: int) -> int:
        """Count the optimizer steps for a training split of this size."""

    def train(
        self,
        model: VisionLanguageModel,
        optimizer: Optimizer,
        samples: Sequence[Rendered],
        groups: Sequence[str],
        run: TrainingRun,
    ) -> VisionLanguageModel | None:
        """Train, continuing the last checkpoint if there is one.

        Args:
            model: Changed in place.
            optimizer: Gives parameter groups and schedule.
            samples: The training split, with targets.
            groups: For each sample the key of what must not be divided by a validation split (its image).
            run: Where to keep checkpoints, and whom to tell.

        Returns:
            The trained model, on the worker that is to save it; None on the other workers.

        Raises:
            StopRequestedError: The user asked to stop, and the state was saved.
        """

    def precision(self) -> str:
        """The precision the trained weights are saved in: `fp32` or `bf16`."""


class Generator(Protocol):
    """Stage `generator`: gets answers from a model."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def generate(
        self,
        model: VisionLanguageModel,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield an answer to each prompt whose id is not in `done`, as they are finished, in any order."""


class Metric(Protocol):
    """Stage `metric`: a scorer of one answer, and a reduction over many."""

    names: Sequence[str]
    """The figures that `reduce` gives."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count one sample; None where the reference was not asked for what this metric is about."""

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Turn the counts of many samples into figures; of none, each figure is None."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a trial when it begins.

    Attributes:
        experiment: The spec's name.
        trial: The trial's folder name.
        fingerprint: By which the same run is found again.
        run_dir: The trial's folder, with plan and record.
        parameters: The plan, flattened to dotted paths.
        dataset: What is trained and tested on.
        spec_file: The spec as the user wrote it.
    """

    experiment: str
    trial: str
    fingerprint: str
    run_dir: Path
    parameters: Mapping[str, Any]
    dataset: DatasetInfo
    spec_file: Path


class Tracker(Protocol):
    """Stage `tracker`: shows runs to people. Lives on the driver's side and is fed from `events.jsonl`."""

    def __init__(self, options: Any, storage: Path) -> None:
        """Take the section's options and the folder of all runs, for a store beside them.

        Raises:
            UnmetError: The store cannot be opened.
        """

    def start(self, run: TrackedRun) -> str:
        """Open the run, or the one begun earlier for the same fingerprint, and return the tracker's id of it."""

    def deliver(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Pass on events in order; each metric and step at most once, whatever is delivered again."""

    def finish(self, status: Literal["finished", "failed", "interrupted"]) -> None:
        """Send artifacts and set the final status."""

    def link(self) -> str:
        """Where a person looks at the run: an address, or the command that opens it."""

    def serve_command(self, host: str, port: int) -> Sequence[str]:
        """The command that serves the tracker's pages, for `runner ui`."""


@dataclass(frozen=True)
class SourceTweet:
    """One entry of a published corpus, before cropping.

    Attributes:
        sample: Its text, entities, image file (which may not exist) and boxes; segment images are None.
        split: The corpus's own split.
        size: Width and height in pixels of the image that the boxes were drawn on, where the corpus says so.
    """

    sample: Sample
    split: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class LeftOut:
    """An entry that a source or a step leaves out, and why."""

    id: str
    reason: str


class Source(Protocol):
    """Stage `source`: reads a published corpus for `runner build`."""

    name: str
    labels: Sequence[str]

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def read(self) -> Iterator[SourceTweet | LeftOut]:
        """Yield every entry of the corpus, or why it is left out.

        Raises:
            DataError: A file is missing or broken, with file and line.
        """
