"""The samples under review and their states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import sample_from_row
from runner.dataset.review.box_flags import WRONG_BOX, BoxFlagLog
from runner.dataset.review.decisions import Decision, ReviewLog
from runner.errors import DataError
from runner.files import iter_jsonl
from runner.records import Sample
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.load import load

StateFilter = Literal["undecided", "accepted", "edited", "rejected", "all"]
"""The review state of a sample, or `all` as a filter for every state."""
STATE_FILTERS: tuple[StateFilter, ...] = get_args(StateFilter)
STATE_OF_VERDICT: Mapping[str, StateFilter] = {"accept": "accepted", "edit": "edited", "reject": "rejected"}


@dataclass(frozen=True)
class ReviewItem:
    """A sample under review.

    Attributes:
        sample: The sample, with absolute image paths.
        flags: What a reviewer should check, for example `refused`.
        annotation: The key of its summary; decisions about another summary do not apply.
        near: The ids of the samples with nearly the same image, if the spec says `near_images`.
    """

    sample: Sample
    flags: tuple[str, ...]
    annotation: str
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReviewQueue:
    """A data set under review; all pages of a server share it.

    Attributes:
        path: The work folder of the build.
        name: The name of the data set.
        image_root: The folder that contains all images.
        review_items: The samples in review order.
        log: The decisions.
        boxes: The boxes that reviewers flagged as wrong.
    """

    path: Path
    name: str
    image_root: Path
    review_items: Sequence[ReviewItem]
    log: ReviewLog
    boxes: BoxFlagLog

    @property
    def num_lines(self) -> int:
        """Number of decisions and flags read so far; it grows with every action of any process."""
        return self.log.num_lines + self.boxes.num_lines

    def catch_up(self) -> None:
        """Read what other processes have written.

        Raises:
            DataError: A line is invalid.
        """
        self.log.catch_up()
        self.boxes.catch_up()

    @cached_property
    def _item_of(self) -> Mapping[str, ReviewItem]:
        return {item.sample.id: item for item in self.review_items}

    def near_duplicates(self, item: ReviewItem) -> list[ReviewItem]:
        """Return the samples with nearly the same image as a sample."""
        return [self._item_of[name] for name in item.near if name in self._item_of]

    def current_decision(self, item: ReviewItem) -> Decision | None:
        """Return the current decision about a sample."""
        return self.log.current_decision(item.sample.id, item.annotation)

    def state(self, item: ReviewItem) -> StateFilter:
        """Return the review state of a sample."""
        return decision_state(self.current_decision(item))

    def count_states(self) -> dict[StateFilter, int]:
        """Count the samples in each state, and all samples under `all`."""
        counts = Counter(self.state(item) for item in self.review_items)
        return {state: len(self.review_items) if state == "all" else counts[state] for state in STATE_FILTERS}

    def item_flags(self, item: ReviewItem) -> tuple[str, ...]:
        """Return the flags of a sample, with `WRONG_BOX` if a reviewer flagged one of its boxes."""
        has_wrong_box = any(self.boxes.flag_of(item.sample.id, segment) for segment in item.sample.segments)
        return (*item.flags, *([WRONG_BOX] if has_wrong_box else []))

    @property
    def flags(self) -> Mapping[str, int]:
        """The number of samples with each flag, the most frequent flag first."""
        return dict(Counter(flag for item in self.review_items for flag in self.item_flags(item)).most_common())

    def as_json(self) -> dict[str, object]:
        """Return the JSON form of `review --json`; see docs/interface.md."""
        decisions = {state: number for state, number in self.count_states().items() if state != "all"}
        return {
            "path": str(self.path),
            "num_samples": len(self.review_items),
            "decisions": decisions,
            "flags": dict(self.flags),
            "wrong_boxes": [
                {
                    "sample": sample.id,
                    "letter": segment.letter,
                    "entity": segment.entity,
                    "box": list(segment.box),
                    "who": flag.who,
                    "when": flag.when,
                }
                for sample, segment, flag in self.boxes.wrong_boxes(item.sample for item in self.review_items)
            ],
        }


def decision_state(decision: Decision | None) -> StateFilter:
    """Return the review state that a decision leads to; `undecided` for None."""
    return "undecided" if decision is None else STATE_OF_VERDICT[decision.decision]


def open_review(dataset: Path) -> ReviewQueue:
    """Read the annotated samples of a build and the decisions about them.

    Args:
        dataset: The spec of the data set, its folder (which need not exist yet), or the work folder of its build.

    Raises:
        SpecError: The spec is invalid.
        DataError: There are no samples to review, or the decisions cannot be read.
    """
    work, name = _find_work_folder(dataset)
    if not work.annotated_samples.is_file():
        raise DataError(
            f"{dataset}: there are no samples to review ({work.annotated_samples} is missing). "
            "`runner build DATASET_SPEC` creates it. To review a data set, name its spec, its folder, or the folder "
            "`<data set>.build` beside it"
        )
    near = {}
    if work.near_duplicates.is_file():
        near = {row["sample"]: tuple(row["near"]) for row in iter_jsonl(work.near_duplicates)}
    items = [
        ReviewItem(
            sample_from_row(row, work.image_root), tuple(row["flags"]), row["annotation"], near.get(row["id"], ())
        )
        for row in iter_jsonl(work.annotated_samples)
    ]
    return ReviewQueue(work.path, name, work.image_root, items, ReviewLog(work.decisions), BoxFlagLog(work.box_flags))


def _find_work_folder(dataset: Path) -> tuple[WorkFolder, str]:
    """Return the work folder of the build, and the name of the data set."""
    if dataset.is_file():
        spec = load(dataset, DatasetSpec).spec
        return WorkFolder.for_dataset(spec.output), spec.name
    folder = dataset.resolve()
    if folder.suffix == WorkFolder.for_dataset(folder).path.suffix:
        return WorkFolder(folder), folder.stem
    return WorkFolder.for_dataset(folder), folder.name
