"""An annotator: summaries that somebody wrote into text files, one for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from runner.records import Sample
from runner.stages import Annotation, Estimate, FilePath, Options, OutsideFingerprint, Reporter, Tokens


class NotesOptions(Options):
    """A folder of notes: `red.txt` is about the picture `red.png`."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The folder."""


class NotesAnnotator:
    """The plugin `notes` of the stage `annotator`."""

    def __init__(self, options: NotesOptions) -> None:
        """Take the section's options."""
        self._path = options.path

    def request(self, sample: Sample) -> Mapping[str, Any]:
        """The note itself decides: a note that is edited is read again, any other answer is kept."""
        return {"note": self._note(sample)}

    def estimate(self, number: int, taken: Tokens, answers: int) -> Estimate:
        """Reading files takes nothing that is counted."""
        return Estimate(Tokens(), cost=None, budget=None)

    def annotate(self, samples: Iterator[Sample], taken: Tokens, reporter: Reporter) -> Iterator[Annotation]:
        """Yield each note as it is read."""
        for sample in samples:
            yield Annotation(sample.id, self._note(sample), "", None, Tokens(), origin={}, passing={})

    def summary(self, annotation: Annotation) -> str | None:
        """The note in one line; None where there is none."""
        return " ".join(annotation.answer.split()) or None

    def flags(self, annotation: Annotation) -> Sequence[str]:
        """A reviewer should look at pictures that nobody wrote about."""
        return () if annotation.answer.strip() else ("no note",)

    def _note(self, sample: Sample) -> str:
        assert sample.image is not None
        note = self._path / f"{sample.image.stem}.txt"
        return note.read_text(encoding="utf-8") if note.is_file() else ""
