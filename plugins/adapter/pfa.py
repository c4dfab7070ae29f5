"""The Prompt Format Adapter of M-MRE: a sample to one prompt and one answer, and the answer back."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.adapter import pfa_wording
from plugins.adapter.pfa_options import PfaOptions
from plugins.adapter.pfa_parse import parse
from runner.errors import DataError, SpecError
from runner.records import Answer, ImagePart, Prediction, Rendered, Sample, TextPart

MODES = ("lossless", "published")


class PromptFormatAdapter:
    """Renders and parses the tasks that its options name.

    A pair that a tweet names twice stands once in the target: the prompt asks for a set, and sets are scored.
    An entity that itself holds `:<label>;` cannot be told from two pairs by any parser of this format.
    """

    def __init__(self, options: PfaOptions, labels: Sequence[str]) -> None:
        """Take the options and the data set's labels.

        Raises:
            SpecError: The options' labels miss one of the data set's.
        """
        self._options = options
        self._labels = options.labels or tuple(labels)
        unnamed = [label for label in labels if label not in self._labels]
        if unnamed:
            raise SpecError(
                f"the data set has labels that are not named here: {', '.join(unnamed)}; "
                f"leave `labels` out, or name all of: {', '.join(labels)}",
                path=("adapter", "labels"),
            )
        self.parse_modes: Sequence[str] = (options.parse, *(mode for mode in MODES if mode != options.parse))

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render what the model is shown."""
        text = pfa_wording.prompt(self._options.tasks, sample.text, self._labels)
        return Rendered(sample.id, (*self._images(sample), TextPart(text)))

    def render_training(self, sample: Sample) -> Rendered:
        """Render what the model is shown and the answer it is to learn.

        Raises:
            DataError: The summary is asked for and the sample has none.
        """
        answer = self.reference(sample)
        pairs = dict.fromkeys((entity.label, _one_line(entity.text)) for entity in sample.entities)
        target = pfa_wording.target(self._options.tasks, answer.summary, list(pairs), answer.mapping or {})
        prompt = self.render_prompt(sample)
        return Rendered(prompt.id, prompt.content, target)

    def parse(self, output: str, mode: str) -> Prediction:
        """Read an answer; never raises."""
        return parse(output, self._options.tasks, self._labels, mode)

    def reference(self, sample: Sample) -> Answer:
        """The right answer, from the sample's own fields.

        Raises:
            DataError: The summary is asked for and the sample has none.
        """
        tasks = self._options.tasks
        if "summary" in tasks and sample.summary is None:
            raise DataError(
                f"sample {sample.id!r} has no summary, and the task `summary` is asked for; "
                "annotate the data set, or set adapter.tasks to [ner, match]"
            )
        return Answer(
            sample.summary if "summary" in tasks else None,
            frozenset((each.label, _one_line(each.text)) for each in sample.entities) if "ner" in tasks else None,
            {each.letter: _one_line(each.entity) for each in sample.segments} if "match" in tasks else None,
        )

    def _images(self, sample: Sample) -> list[ImagePart | TextPart]:
        parts: list[ImagePart | TextPart] = [ImagePart(sample.image)] if sample.image else []
        if "match" not in self._options.tasks:
            return parts
        for segment in sample.segments:
            if segment.image is None:
                raise DataError(f"sample {sample.id!r}: segment {segment.letter} has no image, and `match` needs one")
            if self._options.images == "lettered":
                parts.append(TextPart(f"{segment.letter}:"))
            parts.append(ImagePart(segment.image))
        return parts


def _one_line(text: str) -> str:
    return " ".join(text.split())
