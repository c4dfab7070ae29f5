"""The work folder of a build: stage results, keyed JSON lines, and the lock."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from runner.errors import read_error
from runner.files import rows_of, write_rows_whole


class JsonlStore(Mapping[str, dict[str, Any]]):
    """A file of rows that each hold a `key`; of a key that stands twice, the last row counts.

    Rows stay on the disk: what is kept in memory is where each of them begins.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        """Open a ledger, or begin one.

        Args:
            path: The file. A last line that a kill tore is cut off.
            durable: Whether each row is on the disk itself before `add` returns, so that it outlives a power cut.

        Raises:
            DataError: A line in its middle is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._durable = path, durable
        self._places: dict[str, int] = {}
        self._file = path.open("a+b")
        self._end = self._read()

    def _read(self) -> int:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                break
            try:
                self._places[json.loads(line)["key"]] = end
            except (ValueError, TypeError, KeyError) as error:
                raise read_error(self.path, number, "is damaged; remove this line, and it is made again") from error
            end += len(line)
        return end

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._file.seek(self._places[key])
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Add a row; it survives whatever ends the process afterwards."""
        line = json.dumps({"key": key, **row}, ensure_ascii=False).encode() + b"\n"
        # Opened for appending, so that it is written at the end wherever a row was last read.
        self._file.write(line)
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._places[key] = self._end
        self._end += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


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
