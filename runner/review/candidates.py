"""What is under review: samples that wait for a decision, and the log that tells what was decided about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from runner.dataset.review import Decision
from runner.records import Sample
from runner.review.log import ReviewLog

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
class Review:
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
