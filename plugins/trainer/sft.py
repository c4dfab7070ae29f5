"""Supervised fine-tuning on accelerate, with the loss on the answers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed

from plugins.trainer.batches import EpochSampler, ValidationSplit, num_validation, split_validation
from plugins.trainer.checkpoint import Checkpoints, TrainingState
from plugins.trainer.distributed import gather, layer_classes, make_accelerator
from plugins.trainer.encoded_samples import EncodedSamples, SampleFiles, is_skipped, within_limit
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_loop import TrainLoop
from plugins.trainer.train_step import TrainStep, unlabelled
from plugins.trainer.training_estimate import answer_tokens, estimate_training, training_budget
from plugins.trainer.training_history import History
from runner.errors import SpecError
from runner.records import ImagePart, Rendered, TrainingBudget, TrainingEstimate
from runner.stages import Features, FrozenVision, ModelSpec, Optimizer, TokenCounts, TrainingRun, VisionLanguageModel


class SftTrainer:
    """The plugin `sft` of the stage `trainer`."""

    def __init__(self, options: SftOptions) -> None:
        """Take the section's options."""
        self._options = options
        self.target_suffix = options.target_suffix
        self.truncates = options.on_overlength == "truncate"
        self.skips = options.on_overlength == "skip"

    def precision(self) -> str:
        """The precision the trained weights are saved in: `fp32` or `bf16`."""
        return self._options.precision

    def limit(self, model: ModelSpec) -> int | None:
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
        features = model.encode(rendered, self.target_suffix)
        return within_limit(features, self.limit(model), rendered.id, self._options.on_overlength)

    def training_budget(
        self, model: ModelSpec | None, counts: Sequence[TokenCounts] | None, groups: Sequence[str], seed: int
    ) -> TrainingBudget:
        """Count steps and tokens of a training; see `Trainer.training_budget`.

        Raises:
            SpecError: So many tokens are asked for, and no sample that is trained on has any.
        """
        order = self._order(split_validation(groups, self._options.validation_ratio, seed), seed)
        tokens = None if model is None or counts is None else self._tokens(model, counts)
        return training_budget(self._options, order, tokens)

    def _tokens(self, model: ModelSpec, counts: Sequence[TokenCounts]) -> list[int]:
        return answer_tokens(counts, self.limit(model), self._options.on_overlength)

    def _order(self, division: ValidationSplit, seed: int) -> EpochSampler:
        num_samples = len(division.training) + len(division.validation)
        return EpochSampler(division.training, self._epoch_size(num_samples), self._options.global_batch_size, seed)

    def _epoch_size(self, num_samples: int) -> int:
        return num_samples - num_validation(num_samples, self._options.validation_ratio)

    def _num_steps(self, model: VisionLanguageModel, samples: Sequence[Rendered], order: EpochSampler) -> int:
        """Count the steps, and the samples' tokens only where steps depend on them."""
        tokens = self._tokens(model, [model.count(each) for each in samples]) if self._options.tokens else None
        steps = training_budget(self._options, order, tokens).steps
        assert steps is not None
        return steps

    def estimate_training(
        self, model: ModelSpec, optimizer: Optimizer, counts: Sequence[TokenCounts], workers: int, *, gpus: bool
    ) -> TrainingEstimate:
        """Work out memory, disk and operations; see `Trainer.estimate_training`."""
        limit = self.limit(model) if self.skips else None
        trained = [count for count in counts if limit is None or count.text + count.image + count.target <= limit]
        return estimate_training(self._options, model, optimizer, trained or counts, workers, gpus=gpus)

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
        division = split_validation(groups, self._options.validation_ratio, run.seed)
        order = self._order(division, run.seed)
        num_steps = self._num_steps(model, samples, order)
        built = optimizer.build(model.module, num_steps)
        vision = model.frozen_vision()
        encode = self._encoding(model, vision, accelerator, run)
        files = self._files(model, vision, accelerator, run)
        dummy_sample = (
            self._dummy_sample(encode, samples) if accelerator.distributed_type is DistributedType.FSDP else None
        )
        train_step = TrainStep(accelerator, model, built, self._options, dummy_sample)
        optimizer.check(model.module, train_step.optimizers)
        if accelerator.is_main_process:
            self._warn_of_large_groups(division, run)
        history = History(self._options.metric_for_best_model)
        state = TrainingState(
            model.module, [each.optimizer for each in train_step.optimizers], [each.schedule for each in built]
        )
        TrainLoop(
            options=self._options,
            accelerator=accelerator,
            train_step=train_step,
            checkpoints=Checkpoints(run.checkpoints, self._options.save_total_limit, accelerator, state, history),
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
        made_by = [self.target_suffix, self.limit(model), self._options.on_overlength]
        if vision is not None:
            made_by += [vision.digest, self._options.precision, accelerator.device.type]
        return SampleFiles(run.encoded, made_by, run.reporter.warn if accelerator.is_main_process else str)

    def _dummy_sample(self, encode: Callable[[Rendered], Features], samples: Sequence[Rendered]) -> Features:
        """A sample to compute along with others: one with an image if there is any, and without labels."""
        pictured_first = sorted(samples, key=lambda each: not any(isinstance(part, ImagePart) for part in each.content))
        encoded = (encode(each) for each in pictured_first)
        return unlabelled(next(each for each in encoded if not is_skipped(each)))

    def _check_workers(self, num_workers: int) -> None:
        if self._options.global_batch_size % num_workers:
            raise SpecError(
                f"a batch of {self._options.global_batch_size} samples cannot be divided among {num_workers} "
                "workers; global_batch_size counts the samples of an optimizer step over all workers",
                path=("trainer", "global_batch_size"),
            )

    def _warn_of_large_groups(self, division: ValidationSplit, run: TrainingRun) -> None:
        num_samples = len(division.training) + len(division.validation)
        wanted = num_samples - self._epoch_size(num_samples)
        if len(division.validation) < wanted:
            run.reporter.warn(
                f"validation: {len(division.validation)} samples instead of {wanted}, because samples that "
                f"share an image stay together; each epoch trains on {num_samples - wanted} of the "
                f"{len(division.training)} others, another choice each time"
            )
