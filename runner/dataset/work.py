"""The folder beside a data set in which its build keeps what each stage made, so that nothing is made twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner.files import rows_of, write_rows_whole

BuildStage = Literal["import", "crop", "annotate", "split", "publish"]
"""What leaves a result on the disk, in order."""


@dataclass(frozen=True)
class WorkFolder:
    """`<data set>.build/`, beside the data set.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def of(cls, output: Path) -> WorkFolder:
        """The folder of a data set that is, or will be, at this place."""
        return cls(output.with_name(f"{output.name}.build"))

    @property
    def imported(self) -> Path:
        """The corpus's tweets with a usable box, a line each, and its pictures where they were found."""
        return self.path / "import" / "tweets.jsonl"

    @property
    def crops(self) -> Path:
        """A ledger of tweets that were cropped, with what they were made from."""
        return self.path / "crop" / "done.jsonl"

    @property
    def cropped(self) -> Path:
        """Samples whose pictures lie in `pictures`, in the order of the corpus."""
        return self.path / "crop" / "samples.jsonl"

    @property
    def pictures(self) -> Path:
        """The folder with `images` and `segments`, as the data set will have them."""
        return self.path / "pictures"

    @property
    def answers(self) -> Path:
        """A ledger of all that an annotator ever answered, each with what it was asked."""
        return self.path / "annotate" / "answers.jsonl"

    @property
    def answer_log(self) -> Path:
        """When each answer came, and what the server called it."""
        return self.path / "annotate" / "log.jsonl"

    @property
    def annotated(self) -> Path:
        """The samples of `cropped` with summary, `flags`, and the `annotation` that decisions are about."""
        return self.path / "annotate" / "samples.jsonl"

    @property
    def decisions(self) -> Path:
        """What reviewers decided, a line each; only ever added to."""
        return self.path / "review" / "decisions.jsonl"

    @property
    def chosen(self) -> Path:
        """The samples that are published, with their last summaries, in the order of `annotated`."""
        return self.path / "review" / "samples.jsonl"

    def split(self, name: str) -> Path:
        """The samples of a split, in their order."""
        return self.path / "split" / f"{name}.jsonl"

    def left_out(self, stage: BuildStage | Literal["review"]) -> Path:
        """What a stage, or the review, left out, and why."""
        return self.path / stage / "left_out.jsonl"

    def made(self, stage: BuildStage, key: str) -> Mapping[str, Any] | None:
        """What a stage noted when it was done, if what it was made from is still the same.

        Args:
            stage: The stage.
            key: A hash over all that decides its result.
        """
        file = self._note(stage)
        if not file.is_file():
            return None
        [note] = rows_of(file)
        return note if note["key"] == key else None

    def note(self, stage: BuildStage, key: str, **told: Any) -> Mapping[str, Any]:
        """Note that a stage is done, once all that it made is there; see `made`."""
        row = {"key": key, **told}
        write_rows_whole(self._note(stage), [row])
        return row

    def _note(self, stage: BuildStage) -> Path:
        return self.path / stage / "done.json"
