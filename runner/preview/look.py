"""Encodes the samples of a spec as a launch would, without weights, and looks at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from runner.errors import DataError, RunnerError, SpecError, UnmetError
from runner.plan import implement
from runner.preview.pieces import Cutter
from runner.preview.sample import ShownSample, pictures_of
from runner.proof.inspection import Inspector
from runner.records import Rendered, Sample
from runner.spec.models import ExperimentSpec
from runner.stages import Adapter, Features, Reporter
from runner.steps.few_shot import with_examples
from runner.steps.rendering import training_texts

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Preview:
    """The samples of one split, to be looked at one after the other.

    Attributes:
        samples: Of the split.
        adapter: The spec's.
        inspector: Of the model and of who trains it.
        prompts: What is asked about each sample; None where the split is trained on.
        max_new_tokens: The most tokens of an answer; None where the generator sets no limit.
    """

    samples: Sequence[Sample]
    adapter: Adapter
    inspector: Inspector
    prompts: Sequence[Rendered] | None
    max_new_tokens: int | None

    def shown(self, number: int | None) -> Iterator[ShownSample]:
        """Yield the first samples of the split; None for all.

        Raises:
            DataError: The adapter cannot render a sample.
        """
        cutter = Cutter(self.inspector.model)
        if self.prompts is None:
            yield from (self._trained_on(sample, cutter) for sample in self.samples[:number])
            return
        for sample, prompt in zip(self.samples[:number], self.prompts[:number], strict=True):
            yield self._asked_about(sample, prompt, cutter)

    def _trained_on(self, sample: Sample, cutter: Cutter) -> ShownSample:
        rendered, limit = self.adapter.render_training(sample), self.inspector.limit
        features, refused = self._encoded(rendered)
        pictures = pictures_of(sample, rendered, ())
        shown = ShownSample(sample.id, pictures, (), rendered.target, "", False, limit, refused)
        if features is None:
            return shown
        skipped = not len(features["input_ids"])
        if skipped:
            features = self.inspector.encode_whole(rendered)
        # What was refused, or is left out, for its length is told already.
        inspector = replace(self.inspector, limit=None) if refused or skipped else self.inspector
        found = inspector.inspect(rendered, features, inspector.prompt_ids(rendered))
        pieces = cutter.pieces(*_tokens(features))
        return replace(
            shown,
            pictures=pictures_of(sample, rendered, pieces),
            pieces=pieces,
            trained_text="" if skipped else found.trained_text,
            truncated=found.truncated,
            skipped=skipped,
            problems=(*refused, *found.problems, *_turn_problems(inspector, rendered)),
        )

    def _encoded(self, rendered: Rendered) -> tuple[Features | None, tuple[str, ...]]:
        """Encode a sample as it is trained on; what the trainer refuses for its length is encoded whole."""
        try:
            return self.inspector.encode(rendered), ()
        except RunnerError as error:
            refused = (str(error),)
        try:
            return self.inspector.encode_whole(rendered), refused
        except RunnerError:
            return None, refused

    def _asked_about(self, sample: Sample, prompt: Rendered, cutter: Cutter) -> ShownSample:
        model = self.inspector.model
        target, limit = _right_answer(self.adapter, sample), model.context_length
        try:
            features = model.encode(prompt)
        except RunnerError as error:
            pictures = pictures_of(sample, prompt, ())
            return ShownSample(sample.id, pictures, (), target, "", False, limit, (str(error),))
        pieces = cutter.pieces(*_tokens(features))
        problems = (
            *replace(self.inspector, limit=None).inspect_prompt(prompt, features),
            *_without_room(limit, len(features["input_ids"]), self.max_new_tokens),
        )
        return ShownSample(sample.id, pictures_of(sample, prompt, pieces), pieces, target, "", False, limit, problems)


def open_preview(spec: ExperimentSpec, split: Split, reporter: Reporter) -> Preview:
    """Get data, adapter and tokenizer of a spec ready; no weights are loaded.

    Args:
        spec: As loaded.
        split: `train`, as it is trained on, or `test`, as it is asked about.
        reporter: Told of the progress of data that are made on the way.

    Raises:
        DataError: The data set is missing or broken, or the split is empty.
        UnmetError: The model's tokenizer and processor cannot be had on this machine.
        SpecError: The options do not fit one another, or there is no model to encode with.
    """
    if spec.model is None:
        raise SpecError(
            f"there is no model whose tokens could be shown: the generator {spec.generator.type!r} answers elsewhere",
            path=("model",),
        )
    data = implement(spec.data)
    adapter = implement(spec.adapter, data.prepare(reporter).labels)
    rendered = [adapter.render_training(sample) for sample in data.load("train")]
    try:
        model = implement(spec.model).outline(training_texts(rendered))
    except UnmetError as error:
        advice = "" if "--smoke" in str(error) else "; or look at the model's tiny twin with --smoke"
        raise UnmetError(f"{error}{advice}") from error
    samples = data.load(split)
    if not samples:
        raise DataError(f"the {split} split holds no samples")
    trainer = implement(spec.trainer) if spec.trainer else None
    options, prompts = spec.generator_options, None
    if split == "test":
        prompts = with_examples(adapter, samples, data.load("train"), options.examples, spec.seed)
    return Preview(samples, adapter, Inspector.of(model, trainer), prompts, options.answer_limit)


def _tokens(features: Features) -> tuple[list[int], list[int]]:
    return features["input_ids"].tolist(), features["labels"].tolist()


def _right_answer(adapter: Adapter, sample: Sample) -> str | None:
    """The answer that a test sample is measured against, where it has one."""
    try:
        return adapter.render_training(sample).target
    except RunnerError:
        return None


def _turn_problems(inspector: Inspector, rendered: Rendered) -> tuple[str, ...]:
    try:
        return inspector.inspect_turn(rendered)
    except RunnerError as error:
        return (str(error),)


def _without_room(limit: int | None, length: int, max_new_tokens: int | None) -> Iterator[str]:
    if limit is not None and length + (max_new_tokens or 1) > limit:
        yield f"{length:,} tokens leave no room in {limit:,} for an answer of {max_new_tokens or 1:,}"
