"""Step 2: answers to the test split."""

from __future__ import annotations

import json

from runner.errors import DataError, StepError
from runner.files import read_lines, write_lines
from runner.steps.context import TrialContext
from runner.steps.rendering import prompts_of
from runner.steps.weights import TrialWeights


def generate(context: TrialContext) -> None:
    """Ask for each answer that is not there yet, and leave `predictions.jsonl` in the order of the split.

    Raises:
        DataError: The test split is empty.
        StepError: The generator left out a sample or answered for one that was not asked about.
    """
    samples = context.samples("test")
    if not samples:
        raise DataError("the test split holds no samples")
    prompts = prompts_of(context, samples)
    unfinished = context.run.unfinished_predictions
    rows = {row["id"]: row for row in read_lines(unfinished)}
    write_lines(unfinished, list(rows.values()))
    weights = TrialWeights(context) if context.spec.model else None
    with unfinished.open("a", encoding="utf-8") as file:
        for completion in context.generator.generate(weights, prompts, frozenset(rows), context.reporter("generate")):
            row = {"id": completion.id, "output": completion.output, "finished": completion.finished}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            rows[completion.id] = row
    ids = [sample.id for sample in samples]
    if rows.keys() != set(ids):
        odd = sorted(rows.keys() ^ set(ids))
        raise StepError(f"the answers do not fit the test split: {len(odd)} ids differ, such as {odd[0]!r}")
    write_lines(context.run.predictions, [rows[each] for each in ids])
    unfinished.unlink()
    context.log.artifact("predictions", context.run.predictions)
