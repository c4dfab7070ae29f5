"""Step 2: generates answers to the test split with the trained weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError, StepError
from runner.files import write_jsonl
from runner.prompt_rendering import training_texts
from runner.records import Completion, replace_lone_surrogates
from runner.stages import Reporter, VisionLanguageModel
from runner.trial.trial_components import TrialContext


@dataclass(frozen=True)
class TrialWeights:
    """The weights that the trial trained, or the checkpoint with `trainer: none`. See `runner.stages.Weights`."""

    context: TrialContext

    def folder(self) -> Path:
        """Return the folder of the trained model or of the checkpoint.

        Raises:
            RequirementError: The checkpoint is not available on this machine, or not that of the plan.
            SpecError: The weights are random and untrained, so no folder holds them.
        """
        folder = self._saved_folder()
        if folder is None:
            raise SpecError(
                "has random weights, and no folder holds them for another program to load; name a checkpoint, or "
                "train the model",
                path=("model",),
            )
        return folder

    def load(self) -> VisionLanguageModel:
        """Load the model. Where nothing trains it and no checkpoint is named, build it with random weights.

        Raises:
            RequirementError: The checkpoint is not available on this machine, or not that of the plan.
        """
        folder = self._saved_folder()
        if folder is not None:
            return self.context.model.load(folder)
        adapter, samples = self.context.adapter, self.context.samples("train")
        texts = training_texts([adapter.render_training(sample) for sample in samples])
        return self.context.model.build(texts, self.context.spec.seed)

    def _saved_folder(self) -> Path | None:
        if self.context.spec.trainer:
            return self.context.run.model
        self.context.check_initial_weights()
        return self.context.model.checkpoint()


def generate(context: TrialContext) -> None:
    """Generate the answers that are missing, and write `predictions.jsonl` in the order of the test split.

    Raises:
        DataError: The test split is empty.
        StepError: The generator left out a sample, answered one that it was not given, or gave an answer that is not
            text.
    """
    samples = context.samples("test")
    if not samples:
        raise DataError("the test split holds no samples")
    unfinished = context.run.unfinished_predictions
    reporter = context.reporter("generate")
    rows = _stored_answers(unfinished, reporter)
    write_jsonl(unfinished, list(rows.values()))
    weights = TrialWeights(context) if context.spec.model else None
    with unfinished.open("a", encoding="utf-8") as file:
        completions = context.generator.generate(weights, context.test_prompts, frozenset(rows), reporter)
        for completion in completions:
            row = _row(completion)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            rows[completion.id] = row
    ids = [sample.id for sample in samples]
    if rows.keys() != set(ids):
        different = sorted(rows.keys() ^ set(ids))
        raise StepError(
            f"the generator's answers do not match the test split: {len(different)} ids differ, "
            f"such as {different[0]!r}"
        )
    write_jsonl(context.run.predictions, [rows[sample_id] for sample_id in ids])
    unfinished.unlink()
    context.log.artifact("predictions", context.run.predictions)


def _stored_answers(file: Path, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Read the answers that an interrupted launch has stored, by id; a line that cannot be read counts as missing."""
    rows, num_unreadable = {}, 0
    *complete, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    for line in complete:
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("id"), str) and _is_answer(row):
                rows[row["id"]] = row
                continue
        num_unreadable += 1
    if num_unreadable:
        reporter.warn(f"{file}: {num_unreadable:,} lines are no answers; these answers are generated again")
    return rows


def _is_answer(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("output"), str) and isinstance(row.get("finished"), bool)


def _row(completion: Completion) -> dict[str, Any]:
    """Return the line of an answer, which can be read again.

    Raises:
        StepError: The answer is not text. It is not stored, so the next launch requests it again.
    """
    row = {"id": completion.id, "output": completion.output, "finished": completion.finished}
    if not _is_answer(row):
        raise StepError(
            f"generator: sample {completion.id}: the plugin returned {ascii(row)[:200]}; `output` must be text, and "
            "`finished` true or false. The answer is not stored"
        )
    return {**row, "output": replace_lone_surrogates(completion.output)}
