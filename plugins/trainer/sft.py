"""Supervised fine-tuning on accelerate, with the loss on the answers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed

from plugins.trainer.batches import Division, Order, divide, num_validation
from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.course import Course
from plugins.trainer.encoded import EncodedSamples, is_skipped, within_limit
from plugins.trainer.extent import answer_tokens, extent
from plugins.trainer.forecast import forecast
from plugins.trainer.history import History
from plugins.trainer.learner import Learner, make_accelerator, unlabelled
from plugins.trainer.sample_files import SampleFiles
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.sharding import gather, layer_classes
from plugins.trainer.state import TrainingState
from runner.errors import SpecError
from runner.records import Extent, Forecast, ImagePart, Rendered
from runner.stages import Features, FrozenVision, Optimizer, Outline, TokenCount, TrainingRun, VisionLanguageModel


class SftTrainer:
    """The plugin `sft` of the stage `trainer`."""

    def __init__(self, options: SftOptions) -> None:
        """Take the section's options."""
        self._options = options
        self.trailing = options.trailing
        self.truncates = options.overlong == "truncate"
        self.skips = options.overlong == "skip"

    def precision(self) -> str:
        """The precision the trained weights are saved in: `fp32` or `bf16`."""
        return self._options.precision

    def limit(self, model: Outline) -> int | None:
        """The most tokens of a sample: the option, else what the model was configured for.

        Raises:
            SpecError: The option is beyond what the model was configured for.
        """
        asked, possible = self._options.max_length, model.context_length
        if asked is not None and possible is not None and asked > possible:
            raise SpecError(
                f"samples of {asked:,} tokens are more than the {possible:,} that the model was configured for",
                path=("trainer", "max_length"),
            )
        return asked or possible

    def encode(self, model: VisionLanguageModel, rendered: Rendered) -> Features:
        """Encode a sample as it is trained on; see `Trainer.encode`.

        Raises:
            DataError: It is too long, or an image cannot be used.
        """
        features = model.encode(rendered, self.trailing)
        return within_limit(features, self.limit(model), rendered.id, self._options.overlong)

    def extent(
        self, model: Outline | None, counts: Sequence[TokenCount] | None, groups: Sequence[str], seed: int
    ) -> Extent:
        """Count steps and tokens of a training; see `Trainer.extent`.

        Raises:
            SpecError: So many tokens are asked for, and no sample that is trained on has any.
        """
        order = self._order(divide(groups, self._options.validation, seed), seed)
        tokens = None if model is None or counts is None else self._tokens(model, counts)
        return extent(self._options, order, tokens)

    def _tokens(self, model: Outline, counts: Sequence[TokenCount]) -> list[int]:
        return answer_tokens(counts, self.limit(model), self._options.overlong)

    def _order(self, division: Division, seed: int) -> Order:
        num_samples = len(division.training) + len(division.validation)
        return Order(division.training, self._epoch_size(num_samples), self._options.batch_size, seed)

    def _epoch_size(self, num_samples: int) -> int:
        return num_samples - num_validation(num_samples, self._options.validation)

    def _num_steps(self, model: VisionLanguageModel, samples: Sequence[Rendered], order: Order) -> int:
        """Count the steps, and the samples' tokens only where steps depend on them."""
        tokens = self._tokens(model, [model.count(each) for each in samples]) if self._options.tokens else None
        steps = extent(self._options, order, tokens).steps
        assert steps is not None
        return steps

    def forecast(
        self, model: Outline, optimizer: Optimizer, counts: Sequence[TokenCount], workers: int, *, gpus: bool
    ) -> Forecast:
        """Work out memory, disk and operations; see `Trainer.forecast`."""
        limit = self.limit(model) if self.skips else None
        trained = [count for count in counts if limit is None or count.text + count.image + count.target <= limit]
        return forecast(self._options, model, optimizer, trained or counts, workers, gpus=gpus)

    def train(
        self,
        model: VisionLanguageModel,
        optimizer: Optimizer,
        samples: Sequence[Rendered],
        groups: Sequence[str],
        run: TrainingRun,
    ) -> VisionLanguageModel | None:
        """Train, continuing the last checkpoint if there is one; see `Trainer.train`.

        Raises:
            StopRequestedError: The user asked to stop, and the state was saved.
            SpecError: The workers do not divide the batch, or the optimizer's groups do not fit the model.
            StepError: The loss or its gradient is no longer a number.
        """
        divided = layer_classes(model.module) if self._options.strategy == "fsdp" else ()
        accelerator = make_accelerator(self._options.precision, divided)
        self._check_workers(accelerator.num_processes)
        set_seed(run.seed, device_specific=True)
        division = divide(groups, self._options.validation, run.seed)
        order = self._order(division, run.seed)
        num_steps = self._num_steps(model, samples, order)
        built = optimizer.build(model.module, num_steps)
        vision = model.frozen_vision()
        encode = self._encoding(model, vision, accelerator, run)
        files = self._files(model, vision, accelerator, run)
        company = self._company(encode, samples) if accelerator.distributed_type is DistributedType.FSDP else None
        learner = Learner(accelerator, model, built, self._options, company)
        optimizer.check(model.module, learner.optimizers)
        if accelerator.is_main_process:
            self._warn_of_large_groups(division, run)
        history = History(self._options.best_by)
        state = TrainingState(
            model.module, [each.optimizer for each in learner.optimizers], [each.schedule for each in built]
        )
        Course(
            options=self._options,
            accelerator=accelerator,
            learner=learner,
            checkpoints=Checkpoints(run.checkpoints, self._options.keep_checkpoints, accelerator, state, history),
            history=history,
            encoded=EncodedSamples(samples, encode, files),
            order=order,
            validation=division.validation,
            num_steps=num_steps,
            run=run,
        ).complete()
        gather(model.module, keep=accelerator.is_main_process)
        # One that left earlier would break off what another still sends or receives.
        accelerator.wait_for_everyone()
        accelerator.free_memory()
        return model if accelerator.is_main_process else None

    def _encoding(
        self, model: VisionLanguageModel, vision: FrozenVision | None, accelerator: Accelerator, run: TrainingRun
    ) -> Callable[[Rendered], Features]:
        """What encodes a sample, checks it, and looks at its images where that is the same at every step."""
        if vision is not None:
            vision.to(accelerator.device)

        def encode(rendered: Rendered) -> Features:
            features = self.encode(model, rendered)
            if is_skipped(features):
                return features
            run.check(rendered, features)
            if vision is None:
                return features
            with accelerator.autocast():
                return vision.replace_pixels(features)

        return encode

    def _files(
        self, model: VisionLanguageModel, vision: FrozenVision | None, accelerator: Accelerator, run: TrainingRun
    ) -> SampleFiles | None:
        """The files of encoded samples, where any are kept: they go by all that the folder's name does not say."""
        if run.encoded is None:
            return None
        made_by = [self.trailing, self.limit(model), self._options.overlong]
        if vision is not None:
            made_by += [vision.digest, self._options.precision, accelerator.device.type]
        return SampleFiles(run.encoded, made_by, run.reporter.warn if accelerator.is_main_process else str)

    def _company(self, encode: Callable[[Rendered], Features], samples: Sequence[Rendered]) -> Features:
        """A sample to compute along with others: one with an image if there is any, and without labels."""
        pictured_first = sorted(samples, key=lambda each: not any(isinstance(part, ImagePart) for part in each.content))
        encoded = (encode(each) for each in pictured_first)
        return unlabelled(next(each for each in encoded if not is_skipped(each)))

    def _check_workers(self, num_workers: int) -> None:
        if self._options.batch_size % num_workers:
            raise SpecError(
                f"a batch of {self._options.batch_size} samples cannot be divided among {num_workers} "
                "workers; batch_size counts the samples of an optimizer step over all workers",
                path=("trainer", "batch_size"),
            )

    def _warn_of_large_groups(self, division: Division, run: TrainingRun) -> None:
        num_samples = len(division.training) + len(division.validation)
        wanted = num_samples - self._epoch_size(num_samples)
        if len(division.validation) < wanted:
            run.reporter.warn(
                f"validation: {len(division.validation)} samples instead of {wanted}, because samples that "
                f"share an image stay together; each epoch trains on {num_samples - wanted} of the "
                f"{len(division.training)} others, another choice each time"
            )
