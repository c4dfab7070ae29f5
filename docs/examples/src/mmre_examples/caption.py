"""An adapter that asks for a caption and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner.errors import DataError
from runner.records import Answer, ImagePart, Prediction, Rendered, Sample, TextPart
from runner.stages import Options


class CaptionOptions(Options):
    """One picture, one question, one sentence."""

    question: str = "What does this picture show?"
    """What stands behind the picture."""


class CaptionAdapter:
    """The plugin `caption` of the stage `adapter`."""

    parse_modes: Sequence[str] = ("plain",)

    def __init__(self, options: CaptionOptions, labels: Sequence[str]) -> None:
        """Take the section's options; captions know no labels."""
        self._options = options

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """There is one task."""
        return ("summary",)

    def render_prompt(self, sample: Sample) -> Rendered:
        """Show the picture, then ask.

        Raises:
            DataError: The sample has no picture.
        """
        if sample.image is None:
            raise DataError(f"sample {sample.id!r} has no picture to ask about")
        return Rendered(sample.id, (ImagePart(sample.image), TextPart(self._options.question)))

    def render_training(self, sample: Sample) -> Rendered:
        """Show the same prompt, with the caption as its answer.

        Raises:
            DataError: The sample has no picture or no caption.
        """
        if not sample.summary:
            raise DataError(f"sample {sample.id!r} has no caption to learn from")
        return Rendered(sample.id, self.render_prompt(sample).content, sample.summary)

    def parse(self, output: str, mode: str) -> Prediction:
        """The whole answer is the caption; an empty one is malformed. Nothing is raised, whatever the text."""
        caption = output.strip()
        answer = Answer(summary=caption, pairs=None, mapping=None)
        return Prediction(answer, "clean") if caption else Prediction(answer, "malformed", ("it is empty",))

    def reference(self, sample: Sample) -> Answer:
        """The caption, or None where nobody wrote one."""
        return Answer(summary=sample.summary, pairs=None, mapping=None)
