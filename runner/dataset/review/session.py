"""The state of one open review page: its filter, its position and the reviewer's actions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from runner.dataset.review.box_flags import WRONG_BOX
from runner.dataset.review.decisions import Decision, DecisionConflictError, Verdict, utc_now
from runner.dataset.review.queue import STATE_FILTERS, ReviewItem, ReviewQueue, StateFilter, decision_state
from runner.records import Segment, is_blank, replace_lone_surrogates

NO_FLAG_FILTER, ANY_FLAG = "", "any flag"
"""Values of the flag filter: samples with or without flags; samples with at least one flag."""

CONFLICT_MESSAGE = "Another reviewer has just decided about this sample. Please check it again."


class Session:
    """The state of one page of one reviewer.

    The actions `accept`, `edit`, `reject`, `toggle_box` and `undo` return None, or a message if they were not carried
    out.

    Attributes:
        reviewer: The name of the reviewer.
        state_filter: The state of the samples to show.
        flag_filter: The flag of the samples to show, or `NO_FLAG_FILTER` or `ANY_FLAG`.
        position: The index of the current sample in the queue; None if no sample is left.
    """

    def __init__(
        self, review: ReviewQueue, reviewer: str, *, state_filter: str = "", flag_filter: str = "", start: str = ""
    ) -> None:
        """Start with the values of an address; values that do not fit the data set are replaced by the defaults.

        Args:
            review: The queue.
            reviewer: The name of the reviewer.
            state_filter: One of `STATE_FILTERS`; by default `undecided`.
            flag_filter: A flag, `NO_FLAG_FILTER` or `ANY_FLAG`; by default `NO_FLAG_FILTER`.
            start: The id of the first sample, even if it does not match the filters.
        """
        self._review, self.reviewer = review, reviewer
        self.state_filter: StateFilter = next((state for state in STATE_FILTERS if state == state_filter), "undecided")
        self.flag_filter = flag_filter if flag_filter in (ANY_FLAG, WRONG_BOX, *review.flags) else NO_FLAG_FILTER
        self.position = self._find_position(start)
        if self.position is None:
            self.position = next(self._matching_after(-1), None)

    @property
    def current(self) -> ReviewItem | None:
        """The current sample."""
        return None if self.position is None else self._review.review_items[self.position]

    @property
    def decision(self) -> Decision | None:
        """The current decision about the current sample."""
        return None if self.current is None else self._review.current_decision(self.current)

    @property
    def state(self) -> StateFilter:
        """The review state of the current sample."""
        return decision_state(self.decision)

    @property
    def summary(self) -> str | None:
        """The current summary of the current sample: the reviewer's after an edit, else the annotator's."""
        decision = self.decision
        if decision is not None and decision.decision == "edit":
            return decision.summary
        return None if self.current is None else self.current.sample.summary

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of the current sample."""
        return () if self.current is None else self._review.item_flags(self.current)

    def is_wrong_box(self, segment: Segment) -> bool:
        """Return whether a box of the current sample is flagged as wrong."""
        return self.current is not None and self._review.boxes.flag_of(self.current.sample.id, segment) is not None

    @property
    def version(self) -> str:
        """A token that changes with the current sample and its decisions.

        The browser returns it with each action, so that an action for an outdated page is detected.
        """
        if self.current is None:
            return ""
        sample = self.current.sample.id
        return f"{self.position}:{self._review.log.revision(sample)}:{self._review.boxes.revision(sample)}"

    def upcoming(self, number: int) -> list[ReviewItem]:
        """Return the next samples, whose images can be preloaded."""
        indices = () if self.position is None else self._matching_after(self.position)
        return [self._review.review_items[index] for index in islice(indices, number)]

    @property
    def near_duplicates(self) -> list[ReviewItem]:
        """The samples with nearly the same image as the current sample."""
        return [] if self.current is None else self._review.near_duplicates(self.current)

    def set_filters(self, state_filter: StateFilter, flag_filter: str) -> None:
        """Change the filters; the current sample becomes the next one that matches, starting with itself."""
        self.state_filter, self.flag_filter = state_filter, flag_filter
        start = 0 if self.position is None else self.position
        self.position = next(chain(self._matching_after(start - 1), self._matching_before(start)), None)

    def forward(self) -> bool:
        """Go to the next sample; return False if there is none."""
        return self._go_to(next(self._matching_after(-1 if self.position is None else self.position), None))

    def backward(self) -> bool:
        """Go to the previous sample; return False if there is none."""
        end = len(self._review.review_items)
        return self._go_to(next(self._matching_before(end if self.position is None else self.position), None))

    def accept(self) -> str | None:
        """Accept the current summary and go to the next sample."""
        if self.current is not None and self.summary is None:
            return "There is no summary to accept. Write one, or reject the sample."
        return self._accept_text(self.summary or "")

    def edit(self, text: str) -> str | None:
        """Accept another text as the summary, joined into one line, and go to the next sample."""
        summary = " ".join(replace_lone_surrogates(text).split())
        if is_blank(summary):
            return "A summary needs at least one word. To leave out the sample, reject it."
        return self._accept_text(summary)

    def reject(self) -> str | None:
        """Reject the current sample and go to the next one."""
        return self._decide("reject")

    def toggle_box(self, letter: str) -> str | None:
        """Flag a box of the current sample as wrong, or take the flag back; the sample stays current.

        Args:
            letter: The letter of its segment.
        """
        sample = None if self.current is None else self.current.sample
        segment = next((each for each in (sample.segments if sample else ()) if each.letter == letter), None)
        if sample is None or segment is None:
            return "There is no such box."
        boxes = self._review.boxes
        try:
            boxes.toggle(sample.id, segment, self.reviewer, utc_now(), expected_revision=boxes.revision(sample.id))
        except DecisionConflictError:
            return CONFLICT_MESSAGE
        return None

    def undo(self) -> str | None:
        """Revoke the reviewer's last decision and show its sample."""
        try:
            revoked = self._review.log.undo(self.reviewer)
        except DecisionConflictError:
            return CONFLICT_MESSAGE
        if revoked is None:
            return f"{self.reviewer} has no decision to undo."
        position = self._find_position(revoked.sample)
        self.position = self.position if position is None else position
        return None

    def _accept_text(self, summary: str) -> str | None:
        """Accept a text; it counts as an edit if it differs from the annotator's summary."""
        is_unchanged = self.current is not None and summary == self.current.sample.summary
        return self._decide("accept") if is_unchanged else self._decide("edit", summary)

    def _decide(self, verdict: Verdict, summary: str | None = None) -> str | None:
        """Write a decision to the log and go to the next sample; return a message on a conflict."""
        if self.current is None:
            return "There is no sample to decide about."
        sample = self.current.sample.id
        decision = Decision(sample, verdict, self.current.annotation, summary, self.reviewer, utc_now())
        try:
            self._review.log.add(decision, expected_revision=self._review.log.revision(sample))
        except DecisionConflictError:
            return CONFLICT_MESSAGE
        self._advance()
        return None

    def _advance(self) -> None:
        """Go to the next matching sample.

        With the filter `undecided`, skipped samples follow after the last one, and then no sample is current. With
        other filters, the last sample stays current.
        """
        assert self.position is not None
        skipped = self._matching_after(-1) if self.state_filter == "undecided" else ()
        next_position = next(chain(self._matching_after(self.position), skipped), None)
        if next_position is not None or self.state_filter == "undecided":
            self.position = next_position

    def _find_position(self, sample_id: str) -> int | None:
        """Return the index of a sample; None if it does not exist."""
        items = enumerate(self._review.review_items)
        return next((index for index, item in items if item.sample.id == sample_id), None)

    def _go_to(self, position: int | None) -> bool:
        if position is not None:
            self.position = position
        return position is not None

    def _matching_after(self, position: int) -> Iterator[int]:
        return (index for index in range(position + 1, len(self._review.review_items)) if self._matches(index))

    def _matching_before(self, position: int) -> Iterator[int]:
        return (index for index in range(position - 1, -1, -1) if self._matches(index))

    def _matches(self, index: int) -> bool:
        item = self._review.review_items[index]
        if self.state_filter not in ("all", self._review.state(item)):
            return False
        if self.flag_filter == NO_FLAG_FILTER:
            return True
        flags = self._review.item_flags(item)
        return bool(flags) if self.flag_filter == ANY_FLAG else self.flag_filter in flags
