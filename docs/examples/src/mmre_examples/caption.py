"""An example adapter: asks for a caption only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner.errors import DataError
from runner.records import Answer, ImagePart, Prediction, Rendered, Sample, TextPart
from runner.stages import Options


class CaptionOptions(Options):
    """Prompts with one image and one question."""

    question: str = "What does this picture show?"
    """The text after the image."""


class CaptionAdapter:
    """The plugin `caption` of the stage `adapter`."""

    parse_modes: Sequence[str] = ("plain",)

    def __init__(self, options: CaptionOptions, labels: Sequence[str]) -> None:
        """Store the options; a caption has no labels."""
        self._options = options

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """Return the only task."""
        return ("summary",)

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render the image, then the question.

        Raises:
            DataError: The sample has no image.
        """
        if sample.image is None:
            raise DataError(f"sample {sample.id!r} has no image; the adapter `caption` requires one")
        return Rendered(sample.id, (ImagePart(sample.image), TextPart(self._options.question)))

    def render_training(self, sample: Sample) -> Rendered:
        """Render the same prompt, with the caption as its target.

        Raises:
            DataError: The sample has no image or no caption.
        """
        if not sample.summary:
            raise DataError(f"sample {sample.id!r} has no caption to train on")
        return Rendered(sample.id, self.render_prompt(sample).content, sample.summary)

    def parse(self, output: str, mode: str) -> Prediction:
        """Return the whole answer as the caption; an empty answer is malformed. Never raises, whatever the text."""
        caption = output.strip()
        answer = Answer(summary=caption, pairs=None, mapping=None)
        return Prediction(answer, "clean") if caption else Prediction(answer, "malformed", ("the answer is empty",))

    def reference(self, sample: Sample) -> Answer:
        """Return the caption; None if the sample has none."""
        return Answer(summary=sample.summary, pairs=None, mapping=None)
