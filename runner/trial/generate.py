"""Step 2: generates answers to the test split with the trained weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError, StepError
from runner.files import write_jsonl
from runner.prompt_rendering import training_texts
from runner.records import Completion, Rendered, replace_lone_surrogates
from runner.stages import Reporter, StopRequestedError, VisionLanguageModel
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.trial_components import TrialContext, is_main_process, num_processes, process_rank


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
        """Load the model, once. Where nothing trains it and no checkpoint is named, build it with random weights.

        Raises:
            RequirementError: The checkpoint is not available on this machine, or not that of the plan.
        """
        return self._model

    @cached_property
    def _model(self) -> VisionLanguageModel:
        folder = self._saved_folder()
        if folder is not None:
            return self.context.model.load(folder)
        return self.context.model.build(training_texts(self.context.training_examples.distinct), self.context.spec.seed)

    def _saved_folder(self) -> Path | None:
        if self.context.spec.trainer:
            return self.context.run.model
        self.context.check_initial_weights()
        return self.context.model.checkpoint()


class _ShareReporter:
    """Reports the progress of all workers, from the main one; see `Reporter`."""

    def __init__(self, reporter: Reporter, others: Sequence[Path], num_prompts: int) -> None:
        self._reporter, self._others, self._num_prompts = reporter, others, num_prompts
        self._num_other, self._counted_at, self._num_earlier = 0, -math.inf, 0

    def start_pass(self, num_earlier: int) -> None:
        """Count from now on the answers of another pass, after a number of answers in earlier passes."""
        self._num_earlier = num_earlier

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if is_main_process():
            self._reporter.metrics(step, values)

    def progress(self, done: int, total: int, **metrics: float) -> None:
        if is_main_process():
            if time.monotonic() - self._counted_at >= COUNT_SECONDS:
                self._num_other, self._counted_at = sum(map(_num_lines, self._others)), time.monotonic()
            # Answers of an earlier launch with another number of workers may count twice.
            num_done = min(self._num_earlier + done + self._num_other, self._num_prompts)
            self._reporter.progress(num_done, self._num_prompts, **metrics)

    def warn(self, message: str) -> None:
        if is_main_process():
            self._reporter.warn(message)

    def stop_requested(self) -> bool:
        return self._reporter.stop_requested()


COUNT_SECONDS = 1.0
"""How often the answers of the other workers are counted."""

POLL_SECONDS = 0.25
"""How often the main worker looks for the last answers of the others."""


def _num_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def generate(context: TrialContext) -> None:
    """Generate the answers that are missing, and write `predictions.jsonl` in the order of the test split.

    If several workers run this step, each answers the prompts of an equal share of the samples, as their order in the
    test split decides. The main worker waits for the others. In a pipeline, a worker answers its share in several
    passes; see `Regime.prompts_of_pass`.

    Raises:
        DataError: The test split is empty.
        StepError: The generator left out a sample, answered one that it was not given, or gave an answer that is not
            text.
    """
    samples = context.samples("test")
    if not samples:
        raise DataError("the test split holds no samples")
    run, rank, num_workers = context.run, process_rank(), num_processes()
    ids = [prompt.id for prompt in context.test_prompts]
    own_file = run.unfinished_predictions(rank)
    others = [run.unfinished_predictions(other) for other in range(num_workers) if other != rank]
    reporter = _ShareReporter(context.reporter("generate"), others, len(ids))
    num_tasks = len(context.regime.tasks)
    share = [
        prompt
        for start in range(rank * num_tasks, len(ids), num_workers * num_tasks)
        for prompt in context.test_prompts[start : start + num_tasks]
    ]
    # In the files of an earlier launch with another number of workers, a worker may find answers of its share in the
    # file of another one. So no worker removes an answer, and each removes the lines of its own file that are none.
    stored = _all_stored_answers(run, reporter)
    write_jsonl(own_file, list(_stored_answers(own_file, None).values()))
    _answer_in_passes(context, share, stored, reporter)
    if not is_main_process():
        return
    while not (rows := _all_stored_answers(run)).keys() >= set(ids):
        # A worker that fails or is lost ends this one too.
        if reporter.stop_requested():
            raise StopRequestedError
        reporter.start_pass(len(share))
        reporter.progress(0, len(share))
        time.sleep(POLL_SECONDS)
    write_jsonl(run.predictions, [context.regime.answer_row(sample.id, rows) for sample in samples])
    for file in run.all_unfinished_predictions():
        file.unlink()
    context.log.artifact("predictions", run.predictions)


def _answer_in_passes(
    context: TrialContext, share: Sequence[Rendered], stored: Mapping[str, Mapping[str, Any]], reporter: _ShareReporter
) -> None:
    """Answer this worker's prompts that have no stored answer; each pass can show the answers of earlier passes."""
    weights = TrialWeights(context) if context.spec.model else None
    outputs = {prompt.id: stored[prompt.id]["output"] for prompt in share if prompt.id in stored}
    num_earlier = 0
    for number in range(len(context.regime.passes)):
        prompts = context.regime.prompts_of_pass(number, share, outputs)
        reporter.start_pass(num_earlier)
        num_earlier += len(prompts)
        outputs |= _answer(context, weights, prompts, outputs.keys() & {prompt.id for prompt in prompts}, reporter)


def _answer(
    context: TrialContext, weights: TrialWeights | None, prompts: Sequence[Rendered], done: Set[str], reporter: Reporter
) -> dict[str, str]:
    """Answer the prompts that are not done, store each answer at once, and return the answers by id of the prompt."""
    outputs: dict[str, str] = {}
    with context.run.unfinished_predictions(process_rank()).open("a", encoding="utf-8") as file:
        for completion in context.generator.generate(weights, prompts, frozenset(done), reporter):
            row = _row(completion)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            outputs[completion.id] = row["output"]
    different = sorted((outputs.keys() | done) ^ {prompt.id for prompt in prompts})
    if different:
        raise StepError(
            f"the generator's answers do not match the test split: {len(different)} ids differ, "
            f"such as {different[0]!r}"
        )
    return outputs


def _all_stored_answers(run: RunDirectory, reporter: Reporter | None = None) -> dict[str, dict[str, Any]]:
    """Read the answers that the workers of this and of earlier launches have stored, by id."""
    rows: dict[str, dict[str, Any]] = {}
    for file in run.all_unfinished_predictions():
        rows |= _stored_answers(file, reporter)
    return rows


def _stored_answers(file: Path, reporter: Reporter | None) -> dict[str, dict[str, Any]]:
    """Read the answers in a file, by id; a line that cannot be read counts as missing."""
    rows, num_unreadable = {}, 0
    *complete, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    for line in complete:
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("id"), str) and _is_answer(row):
                rows[row["id"]] = row
                continue
        num_unreadable += 1
    if num_unreadable and reporter is not None:
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
