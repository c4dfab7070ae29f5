"""Step 2: generates answers to the test split; and, during training, answers to validation samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import DataError, SpecError, StepError
from runner.files import read_lines, write_lines
from runner.preflight.check_samples import Progress, check_prompts
from runner.records import Rendered, Sample
from runner.rendering import training_texts
from runner.stages import Counts, Reporter, VisionLanguageModel
from runner.trial.context import TrialContext, main_process
from runner.trial.score import count, reduce


@dataclass(frozen=True)
class TrialWeights:
    """What the trial trained; with `trainer: none`, the model as it is. See `runner.stages.Weights`."""

    context: TrialContext

    def folder(self) -> Path:
        """Find the folder of the trained model, or of the checkpoint.

        Raises:
            UnmetError: The checkpoint cannot be had here.
            SpecError: The weights are random and were never trained.
        """
        found = self._found()
        if found is None:
            raise SpecError(
                "has random weights, which stand in no folder that another program could load; name a checkpoint, "
                "or train",
                path=("model",),
            )
        return found

    def load(self) -> VisionLanguageModel:
        """Load the model; random weights that nothing trains are made.

        Raises:
            UnmetError: The checkpoint cannot be had here.
        """
        found = self._found()
        if found is not None:
            return self.context.model.load(found)
        adapter, samples = self.context.adapter, self.context.samples("train")
        texts = training_texts([adapter.render_training(sample) for sample in samples])
        return self.context.model.build(texts, self.context.spec.seed)

    def _found(self) -> Path | None:
        return self.context.run.model if self.context.spec.trainer else self.context.model.checkpoint()


def generate(context: TrialContext) -> None:
    """Ask for each answer that is not there yet, and leave `predictions.jsonl` in the order of the split.

    Raises:
        DataError: The test split is empty.
        StepError: The generator left out a sample or answered for one that was not asked about.
    """
    samples = context.samples("test")
    if not samples:
        raise DataError("the test split holds no samples")
    prompts = context.prompts(samples)
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


STAGE = "validate"
"""Under which its progress is shown."""


@dataclass(frozen=True)
class LiveWeights:
    """A model in memory; see `runner.stages.Weights`."""

    model: VisionLanguageModel

    def folder(self) -> Path:
        """There is none.

        Raises:
            SpecError: Always.
        """
        raise SpecError(
            "the generator reads weights from a folder, and those of a model that is being trained stand in none",
            path=("trainer", "eval_generate_steps"),
        )

    def load(self) -> VisionLanguageModel:
        """The model itself."""
        return self.model


class MainRankReporter:
    """Passes on what one worker tells, a warning only once; every worker hears that it is to stop."""

    def __init__(self, reporter: Reporter) -> None:
        """Take whom to tell."""
        self._reporter = reporter
        self._told: set[str] = set()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""
        if main_process():
            self._reporter.metrics(step, values)

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell how far it is."""
        if main_process():
            self._reporter.progress(done, total, **shown)

    def warn(self, message: str) -> None:
        """Warn of what was not warned of before."""
        if main_process() and message not in self._told:
            self._told.add(message)
            self._reporter.warn(message)

    def stop_requested(self) -> bool:
        """Whether the user asked to stop."""
        return self._reporter.stop_requested()


class ValidationGenerator:
    """The evaluator of a trial, with its generator, adapter and metrics; see `runner.stages.AnswerEvaluator`."""

    def __init__(self, context: TrialContext, samples: Sequence[Sample]) -> None:
        """Take the trial and its training split."""
        self._context, self._samples = context, samples
        self._reporter = MainRankReporter(context.reporter(STAGE))
        self._prompts: dict[int, Rendered] = {}

    def prepare(self, model: VisionLanguageModel, places: Sequence[int]) -> None:
        """Render the questions and prove that answers find room.

        Raises:
            SpecError: An answer finds no room behind a prompt, or there are too few samples to show.
            DataError: A prompt alone is too long.
        """
        context = self._context
        prompts = context.prompts([self._samples[place] for place in places], of_test=False)
        self._prompts = dict(zip(places, prompts, strict=True))
        progress = Progress(self._reporter, len(prompts))
        check_prompts(model, prompts, context.spec.generator_options.answer_limit, progress)

    def evaluate(self, model: VisionLanguageModel, places: Sequence[int]) -> list[Counts]:
        """Have this worker's samples answered, and count.

        Raises:
            StopRequestedError: The user asked to stop.
            StepError: The generator left out a sample.
        """
        if not places:
            return []
        prompts = [self._prompts[place] for place in places]
        told = self._context.generator.generate(LiveWeights(model), prompts, frozenset(), self._reporter)
        outputs = {completion.id: completion.output for completion in told}
        return [self._counts(self._samples[place], outputs) for place in places]

    def _counts(self, sample: Sample, outputs: Mapping[str, str]) -> Counts:
        if sample.id not in outputs:
            raise StepError(f"the generator gave no answer to sample {sample.id}")
        adapter = self._context.adapter
        prediction = adapter.parse(outputs[sample.id], adapter.parse_modes[0])
        return count(self._context.metrics, prediction.answer, adapter.reference(sample))

    def figures(self, counts: Sequence[Counts]) -> dict[str, float | None]:
        """Reduce counts to the figures of all metrics."""
        return reduce(self._context.metrics, counts)
