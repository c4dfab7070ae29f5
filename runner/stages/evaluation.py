"""Stages `generator` and `metric`: how answers are got, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from runner.records import Answer, Completion, Rendered
from runner.stages.model import VisionLanguageModel
from runner.stages.plugin import Options, Reporter


class GeneratorOptions(Options):
    """The base of every generator's options."""

    former_names: ClassVar[Mapping[str, str]] = {
        "examples": "num_few_shot",
    }

    needs_model: ClassVar[bool] = True
    """Whether answers come from the weights of the spec's `model`; where they do not, that section is `none`."""

    answers_in_training: ClassVar[bool] = True
    """Whether a model that is being trained in this process can answer: `Weights.load` is all that is called, and the
    model is left where it is. False for what reads weights from a folder, or asks elsewhere."""

    num_few_shot: Annotated[int, Field(ge=0)] = 0
    """Solved samples shown before each question. They are drawn from the training split by the spec's seed, the
    same for every question; a larger number begins with those of a smaller one."""

    def refuse_unmet(self) -> None:
        """Refuse a machine that lacks what answers take, such as a key; asked before anything is trained.

        Raises:
            UnmetError: It does.
        """

    @property
    def answer_limit(self) -> int | None:
        """The most tokens of an answer; None where none is set."""
        return None


class DecodingOptions(GeneratorOptions):
    """The base of the options of generators that write answers token by token."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 512
    """Tokens after which an answer is cut off. The paper gives no limit; its summaries have at most 97 words,
    and the pairs and the mapping of a tweet with many segments need as much again."""

    @property
    def answer_limit(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_new_tokens


class Weights(Protocol):
    """The weights that a generator answers with: as they were trained, or the checkpoint as it is."""

    def folder(self) -> Path:
        """Find their folder, which `from_pretrained` loads.

        Raises:
            UnmetError: The checkpoint cannot be had here.
            SpecError: They are random and were never trained, so that there is no folder.
        """

    def load(self) -> VisionLanguageModel:
        """Load them in the precision they are stored in.

        Raises:
            UnmetError: The checkpoint cannot be had here.
        """


class Generator(Protocol):
    """Stage `generator`: gets answers from a model. Its options derive from `GeneratorOptions`."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def generate(
        self,
        weights: Weights | None,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield an answer to each prompt whose id is not in `done`, as they are finished, in any order.

        Args:
            weights: Not loaded yet; None where the options need no model.
            prompts: The whole test split.
            done: What an earlier run that was interrupted has answered.
            reporter: Told of the progress.
        """


class MetricOptions(Options):
    """The base of the options of a metric that takes long to import.

    They name its figures, so that a spec is checked without it.
    """

    figures: ClassVar[Sequence[str]]
    """`Metric.names`."""


class Metric(Protocol):
    """Stage `metric`: a scorer of one answer, and a reduction over many."""

    names: Sequence[str]
    """The figures that `reduce` gives whatever the data are."""

    def __init__(self, options: Any) -> None:
        """Take the section's options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count one sample; None where the reference was not asked for what this metric is about."""

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Turn the counts of many samples into figures; of none, each figure is None.

        `runner compare` calls it on many thousand draws of samples: in seconds where figures follow from the sums or
        the means of the counts alone, as those of all shipped metrics do.
        """
