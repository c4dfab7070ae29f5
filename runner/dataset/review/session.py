"""The state of one open review page: its filter, its position and the reviewer's actions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from runner.dataset.review.decisions import Decision, OvertakenError, Verdict, now
from runner.dataset.review.queue import SHOWS, Candidate, ReviewQueue, Show, state_of

ANY_SAMPLE, ANY_FLAG = "", "any flag"
"""Of the flags: no matter whether there are any; at least one."""

OVERTAKEN = "somebody else decided about this sample just now: look again"


class Session:
    """One page, of one reviewer.

    Attributes:
        who: The reviewer's name.
        show: Which decisions it goes through.
        flag: Which flag; `ANY_SAMPLE` or `ANY_FLAG`.
        position: The candidate that is shown; None where none is left.
    """

    def __init__(self, review: ReviewQueue, who: str, *, show: str = "", flag: str = "", start: str = "") -> None:
        """Begin as an address says, as far as it fits the data set.

        Args:
            review: What is reviewed.
            who: The reviewer's name.
            show: One of `SHOWS`; by default what is undecided.
            flag: A flag, `ANY_SAMPLE` or `ANY_FLAG`.
            start: The id of the sample to begin with, whether the filter lets it through or not.
        """
        self._review, self.who = review, who
        self.show: Show = next((each for each in SHOWS if each == show), "undecided")
        self.flag = flag if flag in (ANY_FLAG, *review.flags) else ANY_SAMPLE
        self.position = self._place(start)
        if self.position is None:
            self.position = next(self._ahead(-1), None)

    @property
    def current(self) -> Candidate | None:
        """What is shown."""
        return None if self.position is None else self._review.candidates[self.position]

    @property
    def decision(self) -> Decision | None:
        """What holds about the sample that is shown."""
        return None if self.current is None else self._review.standing(self.current)

    @property
    def state(self) -> Show:
        """The same as a word."""
        return state_of(self.decision)

    @property
    def summary(self) -> str | None:
        """The summary as it stands: as it was edited, else as it was written."""
        decision = self.decision
        if decision is not None and decision.decision == "edit":
            return decision.summary
        return None if self.current is None else self.current.sample.summary

    @property
    def mark(self) -> str:
        """What tells this sample, as decided so far, from any other; a page sends it along with what is done to it."""
        if self.current is None:
            return ""
        return f"{self.position}:{self._review.log.revision(self.current.sample.id)}"

    def upcoming(self, number: int) -> list[Candidate]:
        """The next candidates, whose pictures may be loaded beforehand."""
        ahead = () if self.position is None else self._ahead(self.position)
        return [self._review.candidates[index] for index in islice(ahead, number)]

    def filter(self, show: Show, flag: str) -> None:
        """Go through other samples, from here on."""
        self.show, self.flag = show, flag
        start = 0 if self.position is None else self.position
        self.position = next(chain(self._ahead(start - 1), self._back(start)), None)

    def forward(self) -> bool:
        """Show the next sample; False where there is none."""
        return self._to(next(self._ahead(-1 if self.position is None else self.position), None))

    def backward(self) -> bool:
        """Show the sample before; False where there is none."""
        end = len(self._review.candidates)
        return self._to(next(self._back(end if self.position is None else self.position), None))

    def accept(self) -> str | None:
        """Accept the summary that is shown, and go on; see `_decide`."""
        if self.current is not None and self.summary is None:
            return "there is no summary to accept: write one, or reject the sample"
        return self._decide_text(self.summary or "")

    def edit(self, text: str) -> str | None:
        """Accept another text as the summary, in one line, and go on; see `_decide`."""
        told = " ".join(_characters(text).split())
        return self._decide_text(told) if told else "a summary needs a word at least; to drop the sample, reject it"

    def reject(self) -> str | None:
        """Leave the sample out, and go on; see `_decide`."""
        return self._decide("reject")

    def undo(self) -> str | None:
        """Take back the reviewer's last decision and show its sample; returns why not, where it cannot be."""
        try:
            undone = self._review.log.undo(self.who)
        except OvertakenError:
            return OVERTAKEN
        if undone is None:
            return f"there is nothing of {self.who} to undo"
        place = self._place(undone.sample)
        self.position = self.position if place is None else place
        return None

    def _decide_text(self, summary: str) -> str | None:
        """Accept a text, which is an edit where the annotator wrote another one; see `_decide`."""
        is_own = self.current is not None and summary == self.current.sample.summary
        return self._decide("accept") if is_own else self._decide("edit", summary)

    def _decide(self, verdict: Verdict, summary: str | None = None) -> str | None:
        """Write down what was decided, and go on; returns why not, where somebody else was faster."""
        if self.current is None:
            return "there is nothing to decide here"
        sample = self.current.sample.id
        decision = Decision(sample, verdict, self.current.annotation, summary, self.who, now())
        try:
            self._review.log.add(decision, seen=self._review.log.revision(sample))
        except OvertakenError:
            return OVERTAKEN
        self._go_on()
        return None

    def _go_on(self) -> None:
        """Show the next sample; where the filter has none ahead, one that was passed by; else none of what it wants."""
        assert self.position is not None
        here = self.position
        passed = () if self.show != "undecided" else self._ahead(-1)
        found = next(chain(self._ahead(here), passed), None)
        if found is not None or self.show == "undecided":
            self.position = found

    def _place(self, name: str) -> int | None:
        """Where a sample stands; None for one that is no longer there."""
        return next((index for index, each in enumerate(self._review.candidates) if each.sample.id == name), None)

    def _to(self, position: int | None) -> bool:
        if position is not None:
            self.position = position
        return position is not None

    def _ahead(self, position: int) -> Iterator[int]:
        return (index for index in range(position + 1, len(self._review.candidates)) if self._wanted(index))

    def _back(self, position: int) -> Iterator[int]:
        return (index for index in range(position - 1, -1, -1) if self._wanted(index))

    def _wanted(self, index: int) -> bool:
        candidate = self._review.candidates[index]
        flagged = self.flag == ANY_SAMPLE or self.flag in candidate.flags or (self.flag == ANY_FLAG and candidate.flags)
        return bool(flagged) and self.show in ("all", self._review.state(candidate))


def _characters(text: str) -> str:
    """Put U+FFFD for half of a surrogate pair, which is no text and could not be written."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
