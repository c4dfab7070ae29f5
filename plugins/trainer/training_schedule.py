"""Which samples a training uses when, and how many steps and tokens it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from plugins.trainer.encoded_samples import OnOverlength
from plugins.trainer.sft_options import SequencePart, SftOptions
from plugins.trainer.validation_split_and_batches import EpochSampler, SequenceSampler
from runner.errors import SpecError, SpecPath
from runner.records import Rendered, TrainingBudget
from runner.stages import TokenCounts, TrainingRun


def count_target_tokens(counts: Sequence[TokenCounts], limit: int | None, on_overlength: OnOverlength) -> list[int]:
    """Count the trained tokens of each sample's answer, with its end token and without `target_suffix`.

    Args:
        counts: Lengths of the samples.
        limit: Maximum tokens of a sample; None for no limit.
        on_overlength: How longer samples are treated; one that will be refused counts in full.
    """
    return [_count_target_tokens(count, limit, on_overlength) for count in counts]


def _count_target_tokens(count: TokenCounts, limit: int | None, on_overlength: OnOverlength) -> int:
    prompt = count.text + count.image
    if limit is None or prompt + count.target <= limit or on_overlength == "refuse":
        return count.target
    return max(0, limit - prompt) if on_overlength == "truncate" else 0


@dataclass(frozen=True)
class TrainingSchedule:
    """Which samples a training uses when, and how long it is.

    Attributes:
        sampler: Chooses the samples of each step.
        num_steps: Number of optimizer steps; None if it depends on token counts that are unknown.
    """

    sampler: EpochSampler | SequenceSampler
    num_steps: int | None

    def budget(self, tokens: Sequence[int] | None) -> TrainingBudget:
        """Count steps and tokens; see `Trainer.training_budget`."""
        if self.num_steps is None or tokens is None:
            return TrainingBudget(self.num_steps, None)
        return TrainingBudget(self.num_steps, self.sampler.num_tokens(tokens, self.num_steps))


def training_schedule(
    options: SftOptions, sampler: EpochSampler, tokens: Sequence[int] | None, tasks: Sequence[str] = ()
) -> TrainingSchedule:
    """Compute the schedule of a training.

    Args:
        options: The trainer's options.
        sampler: Chooses the samples of each step if all are trained on together.
        tokens: Trained tokens of each sample, by index (`count_target_tokens`); None if they are unknown.
        tasks: The task of each sample; needed for a sequence only.

    Raises:
        SpecError: `tokens` is set, and no sample that is trained on has any answer tokens; or a part of a sequence has
            no samples.
    """
    schedule = TrainingSchedule(sampler, _num_steps(options, sampler, tokens, ("trainer",)))
    if options.sequence:
        schedule = _sequence_schedule(options.sequence, sampler, tokens, tasks)
    if schedule.num_steps is None or options.max_steps is None:
        return schedule
    return replace(schedule, num_steps=min(schedule.num_steps, options.max_steps))


def _sequence_schedule(
    parts: Sequence[SequencePart], sampler: EpochSampler, tokens: Sequence[int] | None, tasks: Sequence[str]
) -> TrainingSchedule:
    sampled: list[tuple[EpochSampler, int | None]] = []
    for number, part in enumerate(parts):
        path = ("trainer", "sequence", number)
        training = tuple(index for index in sampler.training if tasks[index] in part.tasks)
        if not training:
            raise SpecError(f"no example has one of the tasks {', '.join(part.tasks)}", path=(*path, "tasks"))
        size = max(1, round(len(training) * sampler.epoch_size / len(sampler.training)))
        part_sampler = replace(sampler, training=training, epoch_size=size, seed=sampler.seed + number)
        sampled.append((part_sampler, _num_steps(part, part_sampler, tokens, path)))
    known = tuple((part_sampler, steps) for part_sampler, steps in sampled if steps is not None)
    total = sum(steps for _, steps in known) if len(known) == len(sampled) else None
    return TrainingSchedule(SequenceSampler(known, sampler.batch_size), total)


def _num_steps(
    length: SftOptions | SequencePart, sampler: EpochSampler, tokens: Sequence[int] | None, path: SpecPath
) -> int | None:
    if length.epochs is not None:
        return length.epochs * sampler.steps_per_epoch
    if length.tokens is None:
        return length.steps
    if tokens is None:
        return None
    if not any(tokens[index] for index in sampler.training):
        raise SpecError(
            f"cannot train on {length.tokens:,} answer tokens: no sample within the length limit has any; "
            "raise trainer.max_length, or use smaller images (model.max_pixels)",
            path=(*path, "tokens"),
        )
    return sampler.steps_for_tokens(tokens, length.tokens)


@dataclass(frozen=True)
class ExamplesByEpoch:
    """All examples of a training: those of each draw of a context, and those of the validation loss.

    Attributes:
        all: The examples, draw after draw, then the plain ones if they are others.
        size: Number of examples of a draw.
        num_draws: Number of draws, which the epochs use in turn.
    """

    all: Sequence[Rendered]
    size: int
    num_draws: int

    @classmethod
    def of(cls, samples: Sequence[Rendered], run: TrainingRun) -> ExamplesByEpoch:
        """Collect the examples of a training; see `TrainingRun.later_draws` and `TrainingRun.plain`."""
        draws = (samples, *run.later_draws)
        return cls([example for draw in (*draws, run.plain or ()) for example in draw], len(samples), len(draws))

    def index(self, number: int, epoch: int) -> int:
        """Return the index in `all` of an example as an epoch trains on it."""
        return epoch % self.num_draws * self.size + number

    def plain_index(self, number: int) -> int:
        """Return the index in `all` of an example as the validation loss uses it."""
        has_plain = len(self.all) > self.num_draws * self.size
        return self.num_draws * self.size + number if has_plain else number
