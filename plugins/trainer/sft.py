"""Supervised fine-tuning on accelerate, with the loss on the answers alone."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from transformers import PreTrainedModel

from plugins.trainer.accelerator_and_sharding import (
    Sharding,
    gather_weights,
    layer_classes,
    make_accelerator,
    move_and_convert,
    shard_and_convert,
)
from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.encoded_samples import EncodedSamples, ImageFolder, SampleFiles, apply_length_limit, is_skipped
from plugins.trainer.liger_kernels import apply_liger_kernels
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.throughput import MfuMeter, device_peak_flops
from plugins.trainer.train_loop import TrainLoop
from plugins.trainer.train_step import TrainStep, without_labels
from plugins.trainer.training_estimate import estimate_training
from plugins.trainer.training_history_and_warnings import TrainingHistory
from plugins.trainer.training_schedule import (
    ExamplesByEpoch,
    TrainingSchedule,
    count_target_tokens,
    training_schedule,
)
from plugins.trainer.training_state import TrainingState
from plugins.trainer.validation_split_and_batches import EpochSampler, ValidationSplit, num_validation, split_validation
from runner.errors import SpecError, StepError
from runner.records import ImagePart, Rendered, TrainingBudget, TrainingEstimate
from runner.stages import (
    ExplainsPacking,
    Features,
    FrozenVisionEncoder,
    ModelSpec,
    Optimizer,
    TokenCounts,
    TrainingRun,
    VisionLanguageModel,
)


class SftTrainer:
    """The plugin `sft` of the stage `trainer`."""

    converts_weights = True
    """The trainer converts weights to float32 itself; see `BuildsAsStored`."""

    uses_later_draws = True
    """The trainer uses `TrainingRun.later_draws`."""

    def __init__(self, options: SftOptions) -> None:
        """Take the section's options."""
        self._options = options
        self.target_suffix = options.target_suffix
        self.truncates = options.on_overlength == "truncate"
        self.skips = options.on_overlength == "skip"

    def precision(self) -> str:
        """Return the precision in which the trained weights are saved: `fp32` or `bf16`."""
        return self._options.precision

    def max_sample_tokens(self, model: ModelSpec) -> int | None:
        """Return the maximum number of tokens of a sample: `max_length`, or the model's context length.

        Raises:
            SpecError: `max_length` exceeds the model's context length.
        """
        max_length, context_length = self._options.max_length, model.context_length
        if max_length is not None and context_length is not None and max_length > context_length:
            raise SpecError(
                f"max_length of {max_length:,} tokens exceeds the model's context length of {context_length:,} tokens",
                path=("trainer", "max_length"),
            )
        return max_length or context_length

    def encode(self, model: VisionLanguageModel, rendered: Rendered, *, pixels: bool = True) -> Features:
        """Encode a sample as it is trained on, with its pixels or without; see `Trainer.encode`.

        Raises:
            DataError: The sample is too long, or an image cannot be used.
        """
        features = model.encode(rendered, self.target_suffix, pixels=pixels)
        return apply_length_limit(features, self.max_sample_tokens(model), rendered.id, self._options.on_overlength)

    def training_budget(
        self,
        model: ModelSpec | None,
        counts: Sequence[TokenCounts] | None,
        groups: Sequence[str],
        seed: int,
        tasks: Sequence[str] = (),
    ) -> TrainingBudget:
        """Count steps and tokens of a training; see `Trainer.training_budget`.

        Raises:
            SpecError: `tokens` is set, and no sample that is trained on has any answer tokens; a part of a sequence has
                no samples; or `validation_ratio` is set, and no sample can be held out.
        """
        sampler = self._sampler(self._split(groups, seed), seed)
        tokens = None if model is None or counts is None else self._target_tokens(model, counts)
        return training_schedule(self._options, sampler, tokens, tasks).budget(tokens)

    def _target_tokens(self, model: ModelSpec, counts: Sequence[TokenCounts]) -> list[int]:
        return count_target_tokens(counts, self.max_sample_tokens(model), self._options.on_overlength)

    def _split(self, groups: Sequence[str], seed: int) -> ValidationSplit:
        """Split off the validation samples.

        Raises:
            SpecError: `validation_ratio` is set, and no sample can be held out.
        """
        ratio = self._options.validation_ratio
        self._options.check_num_samples(len(groups))
        split = split_validation(groups, ratio, seed)
        if ratio and not split.validation:
            smallest = min(Counter(groups).values())
            remedy = (
                f"use at least {math.ceil(1000 * smallest / len(groups)) / 1000:g}, or 0 for no validation"
                if smallest < len(groups)
                else "use 0 for no validation"
            )
            raise SpecError(
                f"{ratio:g} of {len(groups):,} training samples holds out no sample, because samples that share a text "
                f"or an image stay together, and the smallest group of them has {smallest:,} samples; {remedy}",
                path=("trainer", "validation_ratio"),
            )
        return split

    def _sampler(self, split: ValidationSplit, seed: int) -> EpochSampler:
        num_samples = len(split.training) + len(split.validation)
        return EpochSampler(split.training, self._epoch_size(num_samples), self._options.global_batch_size, seed)

    def _epoch_size(self, num_samples: int) -> int:
        return num_samples - num_validation(num_samples, self._options.validation_ratio)

    def _schedule(
        self, model: VisionLanguageModel, samples: Sequence[Rendered], split: ValidationSplit, seed: int
    ) -> TrainingSchedule:
        """Compute the schedule; the samples' tokens are counted only if the number of steps depends on them."""
        counts = [model.count(sample) for sample in samples] if self._options.counts_tokens else None
        tokens = None if counts is None else self._target_tokens(model, counts)
        tasks = [sample.task for sample in samples]
        return training_schedule(self._options, self._sampler(split, seed), tokens, tasks)

    def estimate_training(
        self, model: ModelSpec, optimizer: Optimizer, counts: Sequence[TokenCounts], workers: int, *, gpus: bool
    ) -> TrainingEstimate:
        """Estimate memory, disk space and operations; see `Trainer.estimate_training`."""
        limit = self.max_sample_tokens(model) if self.skips else None
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
        """Train, resuming from the last checkpoint if there is one; see `Trainer.train`.

        Raises:
            StopRequestedError: The user asked to stop, and the state was saved.
            SpecError: The batch cannot be divided among the workers, the optimizer's groups do not fit the model, or no
                sample can be held out for validation.
            DivergedError: The loss or its gradient is not finite.
        """
        if self._options.use_liger_kernel:
            apply_liger_kernels(model.module)
        accelerator = make_accelerator(self._options.precision, self._sharding(model.module), self._options.ddp_timeout)
        self._check_workers(accelerator.num_processes)
        set_seed(run.seed, device_specific=True)
        split = self._split(groups, run.seed)
        schedule = self._schedule(model, samples, split, run.seed)
        num_steps = schedule.num_steps
        assert num_steps is not None
        examples = ExamplesByEpoch.of(samples, run)
        vision = model.frozen_vision()
        if vision is not None:
            vision.to(accelerator.device)
        encoder = _Encoder(self, model, vision, accelerator, run)
        files = self._sample_files(model, vision, accelerator, run)
        is_sharded = accelerator.distributed_type is DistributedType.FSDP
        dummy_sample = self._dummy_sample(encoder, samples) if is_sharded else None
        mfu_meter = self._mfu_meter(model, vision, accelerator)
        sharded_loss = self._place_weights(accelerator, model, is_sharded=is_sharded)
        scheduled_optimizers = optimizer.build(model.module, num_steps)
        train_step = TrainStep(
            accelerator, model, scheduled_optimizers, self._options, dummy_sample, sharded_loss, mfu_meter
        )
        optimizer.check(model.module, train_step.optimizers)
        if accelerator.is_main_process:
            self._warn_of_small_validation_split(split, run)
            self._warn_of_padding(model, run)
        history = TrainingHistory(self._options.metric_for_best_model)
        state = TrainingState(
            model.module,
            [wrapped.optimizer for wrapped in train_step.optimizers],
            [scheduled.schedule for scheduled in scheduled_optimizers],
        )
        TrainLoop(
            options=self._options,
            accelerator=accelerator,
            train_step=train_step,
            checkpoints=Checkpoints(
                run.checkpoints,
                self._options.save_total_limit,
                accelerator,
                state,
                history,
                threads=self._options.save_threads,
                is_async=self._options.save_async,
            ),
            history=history,
            encoded=EncodedSamples(examples.all, encoder, files, partial(_passes_check, run.check)),
            examples=examples,
            sampler=schedule.sampler,
            validation=split.validation,
            num_steps=num_steps,
            run=run,
            encoded_bytes=None if files is None else partial(files.missing_bytes, run.encoded_bytes, examples.all),
        ).run_to_end()
        train_step.free_memory()
        dtype = torch.bfloat16 if self._options.precision == "bf16" else torch.float32
        gather_weights(model.module, keep=accelerator.is_main_process, dtype=dtype)
        # A worker that leaves earlier would break off transfers of the others.
        accelerator.wait_for_everyone()
        accelerator.free_memory()
        return model if accelerator.is_main_process else None

    def _place_weights(
        self, accelerator: Accelerator, model: VisionLanguageModel, *, is_sharded: bool
    ) -> AnswerLoss | None:
        """Convert the weights on the device, or shard them; return the model with its loss if it is sharded."""
        autocast = self._options.precision == "bf16"
        if not is_sharded:
            move_and_convert(model.module, accelerator.device, autocast=autocast)
            return None
        sharded_loss = AnswerLoss(model.module)
        shard_and_convert(accelerator, sharded_loss, autocast=autocast)
        return sharded_loss

    def _mfu_meter(
        self, model: VisionLanguageModel, vision: FrozenVisionEncoder | None, accelerator: Accelerator
    ) -> MfuMeter | None:
        """Return the meter of MFU; None if the peak of the device or the parts of the model are not known."""
        peak = device_peak_flops(accelerator.device, self._options.precision)
        if peak is None or not isinstance(model.module, PreTrainedModel):
            return None
        return MfuMeter.of(model.module, peak, caches_features=vision is not None)

    def _sample_files(
        self, model: VisionLanguageModel, vision: FrozenVisionEncoder | None, accelerator: Accelerator, run: TrainingRun
    ) -> SampleFiles | None:
        """Return the files of encoded samples, keyed by everything that the folders' names do not cover."""
        if run.encoded is None:
            return None
        settings = [self.target_suffix, self.max_sample_tokens(model), self._options.on_overlength]
        image_settings: list[object] = []
        if vision is not None:
            image_settings += [vision.digest, self._options.precision, accelerator.device.type]
        images = None if run.encoded_images is None else ImageFolder(run.encoded_images, image_settings)
        warn = run.reporter.warn if accelerator.is_main_process else str
        return SampleFiles(run.encoded, [*settings, *image_settings], warn, images)

    def _dummy_sample(self, encoder: _Encoder, samples: Sequence[Rendered]) -> Features:
        """Return a sample without labels, with an image if any sample has one."""
        images_first = sorted(
            samples, key=lambda sample: not any(isinstance(part, ImagePart) for part in sample.content)
        )
        encoded = (encoder.encode(sample)[0] for sample in images_first)
        return without_labels(next(features for features in encoded if not is_skipped(features)))

    def _sharding(self, module: torch.nn.Module) -> Sharding | None:
        """Return how FSDP shards the model; None for DDP, or if no layer of the model can be sharded.

        Raises:
            SpecError: The options ask for sharding that is not possible with these weights or this number of workers.
        """
        options, num_workers = self._options, int(os.environ.get("WORLD_SIZE", "1"))
        if options.strategy != "fsdp":
            return None
        if any(not parameter.is_floating_point() for parameter in module.parameters()):
            raise SpecError(
                "fsdp cannot shard weights in 4 bits (lora.load_in_4bit); use ddp, as each worker has memory for them",
                path=("trainer", "strategy"),
            )
        if options.dp_shard_size is not None and num_workers % options.dp_shard_size:
            raise SpecError(
                f"{num_workers} worker(s) cannot be divided into groups of {options.dp_shard_size}; dp_shard_size must "
                "divide compute.workers",
                path=("trainer", "dp_shard_size"),
            )
        if options.cpu_offload and num_workers == 1:
            raise SpecError(
                "a single worker shards nothing, so cpu_offload has no effect; use two workers or more, or false",
                path=("trainer", "cpu_offload"),
            )
        layers = tuple(layer_classes(module))
        if not layers:
            return None
        return Sharding(layers, options.dp_shard_size, options.cpu_offload, options.reshard_after_forward)

    def _check_workers(self, num_workers: int) -> None:
        if self._options.global_batch_size % num_workers:
            raise SpecError(
                f"a batch of {self._options.global_batch_size} samples cannot be divided among {num_workers} "
                "workers; global_batch_size counts the samples of an optimizer step over all workers",
                path=("trainer", "global_batch_size"),
            )

    def _warn_of_small_validation_split(self, split: ValidationSplit, run: TrainingRun) -> None:
        num_samples = len(split.training) + len(split.validation)
        requested = num_samples - self._epoch_size(num_samples)
        if len(split.validation) < requested:
            run.reporter.warn(
                f"validation: {len(split.validation)} samples instead of {requested}, because samples that "
                f"share a text or an image stay together; each epoch trains on {num_samples - requested} of the other "
                f"{len(split.training)}, drawn anew for each epoch"
            )

    def _warn_of_padding(self, model: VisionLanguageModel, run: TrainingRun) -> None:
        problem = model.packing_problem() if isinstance(model, ExplainsPacking) else None
        if problem and self._options.packing == "auto":
            run.reporter.warn(problem)


@dataclass
class _Encoder:
    """Encodes and checks samples; a frozen vision tower also encodes their images. See `SampleEncoder`."""

    trainer: SftTrainer
    model: VisionLanguageModel
    vision: FrozenVisionEncoder | None
    accelerator: Accelerator
    run: TrainingRun
    token_names: Set[str] = frozenset()

    def encode(self, rendered: Rendered, images: Features | None = None) -> tuple[Features, Set[str]]:
        if images is not None or (rendered.images and not self.token_names):
            tokens = self.trainer.encode(self.model, rendered, pixels=False)
            if is_skipped(tokens):
                return tokens, tokens.keys()
            self.token_names = tokens.keys()
            if images is not None:
                features = {**tokens, **images}
                self.run.check(rendered, features)
                return features, self.token_names
        features = self.trainer.encode(self.model, rendered)
        if not is_skipped(features):
            self.run.check(rendered, features)
            if self.vision is not None:
                with self.accelerator.autocast():
                    features = self.vision.replace_pixels(features)
        return features, self.token_names


def _passes_check(check: Callable[[Rendered, Features], object], rendered: Rendered, features: Features) -> bool:
    """Return whether features from a file pass the check of newly encoded ones. Nothing shows that a skip is right."""
    try:
        if is_skipped(features):
            return False
        check(rendered, features)
    except (StepError, LookupError):  # a problem of the sample, or features that lack a tensor
        return False
    return True
