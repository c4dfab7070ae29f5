"""The samples under review and their states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder import sample_of
from runner.dataset.review.decisions import Decision, ReviewLog
from runner.errors import DataError
from runner.files import rows_of
from runner.records import Sample
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.load import load

Show = Literal["undecided", "accepted", "edited", "rejected", "all"]
"""Which samples a page goes through, by what was decided about them."""
SHOWS: tuple[Show, ...] = get_args(Show)
STATES: Mapping[str, Show] = {"accept": "accepted", "edit": "edited", "reject": "rejected"}


@dataclass(frozen=True)
class Candidate:
    """A sample that waits for a reviewer.

    Attributes:
        sample: With pictures that exist.
        flags: What is to be looked at, such as `refused`.
        annotation: Which summary it has: a decision about another one does not hold.
    """

    sample: Sample
    flags: tuple[str, ...]
    annotation: str


@dataclass(frozen=True)
class ReviewQueue:
    """A data set under review, which all pages share.

    Attributes:
        path: The folder of its build.
        name: Of the data set.
        pictures: The folder that holds its pictures.
        candidates: In the order in which they are gone through.
        log: What was decided.
    """

    path: Path
    name: str
    pictures: Path
    candidates: Sequence[Candidate]
    log: ReviewLog

    def standing(self, candidate: Candidate) -> Decision | None:
        """The decision that holds about a candidate."""
        return self.log.standing(candidate.sample.id, candidate.annotation)

    def state(self, candidate: Candidate) -> Show:
        """`undecided`, or what was decided."""
        return state_of(self.standing(candidate))

    def states(self) -> dict[Show, int]:
        """How many candidates there are of each state; of `all` too."""
        counted = Counter(self.state(candidate) for candidate in self.candidates)
        return {show: len(self.candidates) if show == "all" else counted[show] for show in SHOWS}

    @cached_property
    def flags(self) -> Mapping[str, int]:
        """How many candidates have each flag, the most frequent first."""
        counted = Counter(flag for candidate in self.candidates for flag in candidate.flags)
        return dict(counted.most_common())

    def as_json(self) -> dict[str, object]:
        """How far the review is, as docs/interface.md's `review --json` holds it."""
        decisions = {show: number for show, number in self.states().items() if show != "all"}
        return {
            "path": str(self.path),
            "num_samples": len(self.candidates),
            "decisions": decisions,
            "flags": dict(self.flags),
        }


def state_of(decision: Decision | None) -> Show:
    """A decision as a word; none is `undecided`."""
    return "undecided" if decision is None else STATES[decision.decision]


def open_review(dataset: Path) -> ReviewQueue:
    """Read what a build left for review.

    Args:
        dataset: The spec of the data set, its folder (which need not be published yet), or the folder of its build.

    Raises:
        SpecError: The spec is wrong.
        DataError: There is nothing to review, or what was decided cannot be read.
    """
    work, name = _work(dataset)
    if not work.annotated.is_file():
        raise DataError(
            f"{dataset}: nothing waits for a review (it would lie in {work.annotated}); `runner build DATASET_SPEC` "
            "makes it. To review a data set, name its spec, its folder, or the folder `<data set>.build` beside it"
        )
    candidates = [
        Candidate(sample_of(row, work.pictures), tuple(row["flags"]), row["annotation"])
        for row in rows_of(work.annotated)
    ]
    return ReviewQueue(work.path, name, work.pictures, candidates, ReviewLog(work.decisions))


def _work(dataset: Path) -> tuple[WorkFolder, str]:
    """The folder of the build, and the data set's name."""
    if dataset.is_file():
        spec = load(dataset, DatasetSpec).spec
        return WorkFolder.of(spec.output), spec.name
    folder = dataset.resolve()
    if folder.suffix == WorkFolder.of(folder).path.suffix:
        return WorkFolder(folder), folder.stem
    return WorkFolder.of(folder), folder.name
