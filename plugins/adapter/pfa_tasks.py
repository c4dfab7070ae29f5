"""What references answer: the tasks that an evaluation takes as asked for where nobody names them."""

from __future__ import annotations

from collections.abc import Iterable

from plugins.adapter.pfa_options import TASKS, Task
from plugins.adapter.pfa_wording import FINE_MARK, MATCH_MARK, NER_MARK, SUMMARY_MARK
from runner.records import Sample


def tasks_of(references: Iterable[Sample | str]) -> tuple[Task, ...]:
    """List the tasks that at least one sample's own fields, or one written target, answers, in their order."""
    found: set[Task] = set()
    for reference in references:
        found |= _of_sample(reference) if isinstance(reference, Sample) else _of_target(reference)
    return tuple(task for task in TASKS if task in found)


def _of_sample(sample: Sample) -> set[Task]:
    fields: dict[Task, object] = {"summary": sample.summary, "ner": sample.entities, "match": sample.segments}
    return {task for task, field in fields.items() if field}


def _of_target(target: str) -> set[Task]:
    """Look for the markers; those of the second part behind its heading, as a summary may hold `WINNER:`."""
    before, heading, fine = target.partition(FINE_MARK)
    has_summary = SUMMARY_MARK in target
    if not heading:
        fine = "" if has_summary else before
    marks: dict[Task, bool] = {"summary": has_summary, "ner": NER_MARK in fine, "match": MATCH_MARK in fine}
    return {task for task, is_there in marks.items() if is_there}
