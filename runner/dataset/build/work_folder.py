"""The work folder of a build: stage results and keyed JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from runner.errors import data_line_error
from runner.files import iter_jsonl, stream_jsonl


class JsonlStore(Mapping[str, dict[str, Any]]):
    """An append-only JSON-lines file of rows by `key`; if a key occurs more than once, the last row counts.

    Rows stay on disk: only the offset of each row is held in memory.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        """Open the file, or create it.

        Args:
            path: The file. An incomplete last line, as left by a kill, is removed.
            durable: Whether `add` waits until the row is on disk, so that it survives a power failure.

        Raises:
            DataError: A line before the last one is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._durable = path, durable
        self._offsets: dict[str, int] = {}
        self._file = path.open("a+b")
        self._end = self._read_offsets()

    def _read_offsets(self) -> int:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                break
            try:
                self._offsets[json.loads(line)["key"]] = end
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                message = "is damaged. Remove this line; the next build creates it again"
                raise data_line_error(self.path, number, message) from error
            end += len(line)
        return end

    def __contains__(self, key: object) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._file.seek(self._offsets[key])
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Append a row; it survives the end of this process."""
        line = json.dumps({"key": key, **row}, ensure_ascii=False).encode() + b"\n"
        # The file is open in append mode: the line goes to the end, wherever the last row was read.
        self._file.write(line)
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._offsets[key] = self._end
        self._end += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


BuildStage = Literal["import", "crop", "annotate", "split", "publish"]
"""The stages that leave a result on disk, in order."""


@dataclass(frozen=True)
class WorkFolder:
    """The folder `<data set>.build/` beside the data set.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def for_dataset(cls, output: Path) -> WorkFolder:
        """Return the work folder of the data set with this path, which need not exist yet."""
        return cls(output.with_name(f"{output.name}.build"))

    @property
    def imported_tweets(self) -> Path:
        """The tweets of the corpus with a usable box, one per line, with the original paths of their images."""
        return self.path / "import" / "tweets.jsonl"

    @property
    def crop_results(self) -> Path:
        """A `JsonlStore` of cropped tweets, by a hash of what each was cropped from."""
        return self.path / "crop" / "done.jsonl"

    @property
    def cropped_samples(self) -> Path:
        """Samples whose images lie in `image_root`, in the order of the corpus."""
        return self.path / "crop" / "samples.jsonl"

    @property
    def image_root(self) -> Path:
        """The folder with `images` and `segments`, laid out as in the data set."""
        return self.path / "pictures"

    @property
    def answers(self) -> Path:
        """A `JsonlStore` of all answers of annotators, each with its request."""
        return self.path / "annotate" / "answers.jsonl"

    @property
    def answer_log(self) -> Path:
        """A `JsonlStore` of the time of each answer and the server's id of it."""
        return self.path / "annotate" / "log.jsonl"

    @property
    def annotated_samples(self) -> Path:
        """The rows of `cropped_samples` with summary, `flags`, and `annotation`, the key that decisions refer to."""
        return self.path / "annotate" / "samples.jsonl"

    @property
    def near_duplicates(self) -> Path:
        """One line per sample with near-duplicate images: `sample`, and `near`, the ids of the samples with these."""
        return self.path / "review" / "near_duplicates.jsonl"

    @property
    def decisions(self) -> Path:
        """The reviewers' decisions, one per line; append-only."""
        return self.path / "review" / "decisions.jsonl"

    @property
    def box_flags(self) -> Path:
        """The boxes that reviewers flagged as wrong, one per line; append-only."""
        return self.path / "review" / "box_flags.jsonl"

    @property
    def selected_samples(self) -> Path:
        """The samples to publish, with their final summaries, in the order of `annotated_samples`."""
        return self.path / "review" / "samples.jsonl"

    def split_samples(self, split: str) -> Path:
        """The samples of a split, in order."""
        return self.path / "split" / f"{split}.jsonl"

    def left_out(self, stage: BuildStage | Literal["review"]) -> Path:
        """The entries that a stage or the review left out, with reasons."""
        return self.path / stage / "left_out.jsonl"

    def load_result(self, stage: BuildStage, key: str) -> Mapping[str, Any] | None:
        """Load the result record of a stage; None unless it was saved with the same key.

        Args:
            stage: The stage.
            key: A hash over all inputs of the stage.
        """
        file = self._result_file(stage)
        if not file.is_file():
            return None
        [result] = iter_jsonl(file)
        return result if result["key"] == key else None

    def save_result(self, stage: BuildStage, key: str, **values: Any) -> Mapping[str, Any]:
        """Save the result record of a stage, after all of its files are written; see `load_result`."""
        result = {"key": key, **values}
        stream_jsonl(self._result_file(stage), [result])
        return result

    def _result_file(self, stage: BuildStage) -> Path:
        return self.path / stage / "done.json"
