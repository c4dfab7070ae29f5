"""Stages `generator` and `metric`: generation of answers, and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from pydantic import Field

from runner.errors import Problem
from runner.records import Answer, Completion, Rendered
from runner.stages.adapter_and_model import VisionLanguageModel
from runner.stages.options_and_reporter import Options, Reporter


class GeneratorOptions(Options):
    """The base class of the options of all generators."""

    former_names: ClassVar[Mapping[str, str]] = {
        "examples": "num_few_shot",
    }

    needs_model: ClassVar[bool] = True
    """Whether the generator uses the spec's `model`. If not, that section must be `none`."""

    can_generate_during_training: ClassVar[bool] = True
    """Whether the generator can use a model that is being trained in this process. It must then call only
    `Weights.load` and must not move the model to another device. False for a generator that reads weights from a folder
    or calls a server."""

    divides_prompts: ClassVar[bool] = False
    """Whether each worker of a trial answers a share of the prompts. The generator then gets its worker's share, and
    must use the GPU with the number `LOCAL_RANK`. If not, one worker answers all prompts."""

    num_few_shot: Annotated[int, Field(ge=0)] = 0
    """Number of few-shot examples before each prompt. The examples are drawn from the training split with the spec's
    seed and are the same for every prompt of the test split. If you increase the number, the previous examples stay,
    and further examples are added."""

    def check_requirements(self) -> None:
        """Check what generation needs, such as an API key, before anything is trained.

        Raises:
            RequirementError: This machine lacks something that generation needs.
        """

    def resource_problems(self, gpus_per_worker: float) -> Iterator[Problem]:
        """Yield the options that do not suit the resources of a worker, with paths inside this section.

        Args:
            gpus_per_worker: The spec's `compute.gpus_per_worker`.
        """
        yield from ()

    @property
    def max_answer_tokens(self) -> int | None:
        """Maximum number of tokens of an answer; None if there is no limit."""
        return None

    @property
    def concurrent_answers(self) -> int | None:
        """Number of answers that each worker generates at once; None if it does not determine their time."""
        return None


class DecodingOptions(GeneratorOptions):
    """The base class of the options of generators that decode token by token."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 512
    """Maximum number of tokens of an answer. Longer answers are cut off. Default: 512, our choice, because the paper
    gives no limit. The paper's summaries have at most 97 words; the pairs and the mapping of a tweet with many segments
    need about as many tokens as such a summary."""

    @property
    def max_answer_tokens(self) -> int | None:
        """Maximum number of tokens of an answer: `max_new_tokens`."""
        return self.max_new_tokens


class Weights(Protocol):
    """The weights that a generator uses: trained weights, or an unmodified checkpoint."""

    def folder(self) -> Path:
        """Return the folder of the weights, which `from_pretrained` loads.

        Raises:
            RequirementError: The checkpoint is not available on this machine.
            SpecError: The weights are random and were not trained, so there is no folder.
        """

    def load(self) -> VisionLanguageModel:
        """Load the model in the precision in which the weights are stored.

        Raises:
            RequirementError: The checkpoint is not available on this machine.
        """


class Generator(Protocol):
    """Stage `generator`: generates answers with a model. Its options derive from `GeneratorOptions`."""

    def __init__(self, options: Any) -> None:
        """Create the generator from the section's options."""

    def generate(
        self,
        weights: Weights | None,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield an answer to each prompt whose id is not in `done`, as answers are finished, in any order.

        Args:
            weights: The weights, not loaded yet; None if the options need no model.
            prompts: The prompts of the whole test split.
            done: Ids that an earlier, interrupted run has answered.
            reporter: Receives the progress.
        """


class MetricOptions(Options):
    """The base class of the options of a metric that is slow to import.

    The options list the metric's names, so a spec is validated without importing the metric.
    """

    metric_names: ClassVar[Sequence[str]]
    """The same names as `Metric.metric_names`."""


class Metric(Protocol):
    """Stage `metric`: counts for one answer, and a reduction of the counts of many answers to metrics."""

    metric_names: Sequence[str]
    """The names of the metrics that `reduce` returns for any data."""

    def __init__(self, options: Any) -> None:
        """Create the metric from the section's options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Score one sample; None if the reference does not contain the task that this metric is about."""

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Reduce the counts of many samples to metrics; with no samples, each metric is None.

        `runner compare` calls this for many thousand resamples. This takes seconds if the metrics depend only on the
        sums or the means of the counts, as those of all included metrics do.
        """


@dataclass(frozen=True)
class ReferenceWarning:
    """Why the values of a metric are misleading on some references.

    Attributes:
        message: The metric, the number of these references, and the reason.
        is_undefined: Whether the metric measures nothing on any of the references, so that its values must be None.
    """

    message: str
    is_undefined: bool = False


@runtime_checkable
class ReferenceChecker(Protocol):
    """Optional for a metric: finds references on which its values are misleading."""

    def check_references(self, references: Sequence[Answer]) -> Sequence[ReferenceWarning]:
        """Return a warning for each kind of such references, before any sample is scored."""
