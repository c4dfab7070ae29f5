"""An example annotator: reads summaries from text files, one for each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from runner.records import Sample
from runner.stages import Annotation, AnnotationEstimate, FilePath, Options, OutsideFingerprint, Reporter, TokenUsage


class NotesOptions(Options):
    """A folder of notes: `red.txt` is the note for the image `red.png`."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Path of the folder."""


class NotesAnnotator:
    """The plugin `notes` of the stage `annotator`."""

    def __init__(self, options: NotesOptions) -> None:
        """Store the options of the section."""
        self._path = options.path

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """Return the note: the annotation is repeated only if the note has changed."""
        return {"note": self._note(sample)}

    def estimate(self, num_samples: int, used: TokenUsage, num_answers: int) -> AnnotationEstimate:
        """Return zero usage: reading files costs no tokens."""
        return AnnotationEstimate(TokenUsage(), cost=None, budget=None)

    def annotate(self, samples: Iterator[Sample], used: TokenUsage, reporter: Reporter) -> Iterator[Annotation]:
        """Yield the note of each image."""
        for sample in samples:
            yield Annotation(sample.id, self._note(sample), "", None, TokenUsage(), origin={}, transient={})

    def summary(self, annotation: Annotation) -> str | None:
        """Return the note as one line; None if it is empty."""
        return " ".join(annotation.answer.split()) or None

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """Mark images without a note for review."""
        return () if annotation.answer.strip() else ("no note",)

    def _note(self, sample: Sample) -> str:
        assert sample.image is not None
        note = self._path / f"{sample.image.stem}.txt"
        return note.read_text(encoding="utf-8") if note.is_file() else ""
