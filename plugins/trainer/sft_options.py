"""Options of the trainer `sft`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from plugins.trainer.validation_split_and_batches import num_validation
from runner.errors import SpecError
from runner.records import CheckpointSchedule
from runner.stages import Options, OutsideFingerprint, SelectionMetric, TrainerOptions

Count = Annotated[int, Field(gt=0)]

VALIDATION_LOSS = "validation/loss"
"""The metric of the validation samples that needs no generated answers."""


class SequencePart(Options):
    """A part of a training that trains on some of the tasks; exactly one of `epochs`, `tokens` and `steps` is set."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """The tasks whose examples this part trains on."""

    epochs: Count | None = None
    """Number of passes over these examples."""

    tokens: Count | None = None
    """Number of target tokens to train on; see `trainer.tokens`."""

    steps: Count | None = None
    """Number of optimizer steps."""

    @model_validator(mode="after")
    def _one_length(self) -> SequencePart:
        lengths = [name for name in ("epochs", "tokens", "steps") if getattr(self, name) is not None]
        if len(lengths) != 1:
            found = " and ".join(lengths) if lengths else "none"
            raise ValueError(f"needs exactly one of epochs, tokens and steps, not {found}; such as epochs: 3")
        return self


class SftOptions(TrainerOptions):
    """Supervised fine-tuning with cross-entropy on the targets; `optimizer` selects the parameters to train."""

    former_names: ClassVar[Mapping[str, str]] = {
        "batch_size": "global_batch_size",
        "trailing": "target_suffix",
        "overlong": "on_overlength",
        "validation": "validation_ratio",
        "evaluate_every": "eval_steps",
        "generate_every": "eval_generate_steps",
        "generate_samples": "eval_generate_samples",
        "checkpoint_every": "save_steps",
        "keep_checkpoints": "save_total_limit",
        "final": "load_best_model_at_end: true",
        "best_by": "metric_for_best_model",
        "early_stopping": "early_stopping_patience",
    }

    epochs: Count | None = 3
    """Number of passes over the training samples. Default: 3, as in the paper. Write null if `tokens`, `steps` or
    `sequence` sets the length of the training."""

    tokens: Count | None = None
    """Alternative to `epochs`: number of target tokens to train on, including end tokens. Training ends with the step
    that reaches this number. Use `tokens` to give the same amount of training to runs with targets of different length,
    such as runs with one task and with three tasks. The number of steps is computed from the sample lengths before
    training."""

    steps: Count | None = None
    """Alternative to `epochs`: number of optimizer steps. Use `steps` to give as many steps to runs whose epochs have
    different numbers of examples, such as runs with one prompt for all tasks and with one for each task."""

    sequence: Annotated[tuple[SequencePart, ...] | None, Field(min_length=1)] = None
    """Alternative to `epochs`: trains on tasks one after the other. Each part has its own tasks and length, such as
    `[{tasks: [summary], epochs: 3}, {tasks: [ner, match], epochs: 3}]`. Weights, optimizer moments and learning-rate
    schedule go on from part to part; the schedule covers the whole training. Needs `regime.prompts: per_task`."""

    max_steps: Count | None = None
    """Maximum number of optimizer steps. Training ends at this step, even if its length is not reached. The
    learning-rate schedule then also ends at this step. Default: no limit."""

    global_batch_size: Count = 4
    """Number of samples per optimizer step, over all workers and micro-batches. It must be a multiple of the number of
    workers. The last step of an epoch has the remaining samples. Default: 4, as in the paper."""

    micro_batch_size: Annotated[Count | None, OutsideFingerprint()] = None
    """Number of samples that a worker computes at once. Gradients accumulate, so a step has the gradient of the whole
    batch. Default: as many samples of similar length as fit into 8,192 positions on a GPU or 1,024 on a CPU, padding
    included."""

    packing: Annotated[Literal["auto", "off"], OutsideFingerprint()] = "auto"
    """`auto`: the samples of a micro-batch are concatenated, without padding, if the model supports this; the Qwen-VL
    families do, except with `eager` attention. For other models, and with `off`, samples of similar length are
    padded. The two ways give equal results except for rounding."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several workers share a training. `ddp` keeps all weights, gradients and optimizer moments on each worker: 16
    bytes per trainable weight with AdamW. `fsdp` (FSDP2) shards weights, gradients and moments over the workers, and
    gathers the weights of each layer before the layer computes. With `precision: bf16`, `fsdp` gathers bfloat16
    weights, so its results differ from those of `ddp` by rounding. A single worker shards nothing."""

    dp_shard_size: Annotated[int | None, Field(ge=2)] = None
    """With `fsdp`: number of workers that share one copy of the weights (hybrid sharding, HSDP). Each group of so many
    workers, such as those of one node, has a whole copy, and only gradients are exchanged between the groups. Workers
    are grouped in the order of their nodes. The number must divide the number of workers. `runner plan` does not know
    this option: it prints the memory of shards over all workers. Default: all workers share one copy."""

    cpu_offload: bool = False
    """With `fsdp`: each worker's weights, gradients and optimizer moments are in main memory, and the CPU updates the
    weights; only the layers that compute are on the GPU. This needs little GPU memory and is much slower. Main memory
    holds 16 bytes per trainable weight with AdamW, over all workers of a copy. `runner plan` does not know this option:
    the memory that it prints is what a training without the option needs. At least two workers are needed."""

    reshard_after_forward: Annotated[bool, OutsideFingerprint()] = True
    """Whether `fsdp` frees the gathered weights of a layer after its forward pass, and gathers them again for the
    backward pass. If false, workers exchange a quarter less, and each needs memory for all weights in the compute
    precision."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format. `fp32`: float32 everywhere. `bf16`: computes in bfloat16 with float32 master weights, and saves
    bfloat16. Frozen weights of linear layers whose values are bfloat16, as in most checkpoints, stay bfloat16.
    Default: `bf16`. The paper trains in bfloat16; the float32 master weights are our choice."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Maximum L2 norm of the gradient over all parameters. A larger gradient is scaled down to this norm. Default: 1.0,
    as in Hugging Face's trainer; 2U1 does not change this value."""

    target_suffix: str = ""
    """Text after the target's end token that the model is also trained to write. Default: no text. To train as 2U1
    does, set this option to `"\\n"`, a line break."""

    max_length: Count | None = None
    """Maximum number of tokens of a sample, including its images and its target. Default: the model's context
    length."""

    on_overlength: Literal["refuse", "truncate", "skip"] = "refuse"
    """How to treat samples longer than `max_length`. `refuse`: stop with an error before training. `truncate`: cut off
    the end of the target, never the prompt or an image; a truncated target has no end token, so the model does not
    learn to stop early. `skip`: leave the sample out. The loss of the step is then the mean over the other
    samples of the batch. If all samples of a batch are left out, the step does not change the model."""

    validation_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the training samples that is held out for validation. Samples that share a text or an image, also
    through other samples, are either all held out or all trained on. A fraction that rounds to no sample is an
    error."""

    eval_steps: Count | None = None
    """Number of optimizer steps between two computations of the validation loss. The loss is also computed after the
    last step. Default: once per epoch."""

    eval_generate_steps: Count | None = None
    """Number of optimizer steps between two evaluations of generated answers to the validation samples. There is also
    an evaluation after the last step. The answers are generated, parsed and scored like answers to the test split
    (`validation/ner_f1` and so on). With this option and `fsdp`, each worker needs memory for the whole model. Default:
    no answers are generated during training."""

    eval_generate_samples: Count | None = None
    """Maximum number of validation samples for which answers are generated; the first samples are used. Default: all
    validation samples."""

    early_stopping_patience: Count | None = None
    """Training ends early after this number of consecutive evaluations in which `metric_for_best_model` does not
    improve. Default: no early stopping."""

    load_best_model_at_end: bool = False
    """If true, the result of the training is the best model by `metric_for_best_model`; if false, the last model. If
    true, the best checkpoint is kept in addition to the newest checkpoints."""

    metric_for_best_model: SelectionMetric = SelectionMetric(metric=VALIDATION_LOSS, mode="min")
    """Metric by which `load_best_model_at_end` and `early_stopping_patience` compare models."""

    save_minutes: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, OutsideFingerprint()] = 20.0
    """Minutes between two checkpoints. A checkpoint is also written at the end of an epoch, if at least half of this
    time has passed since the last checkpoint. An interrupted training resumes from the last checkpoint. Null: only
    `save_steps` counts."""

    save_steps: Annotated[Count | None, OutsideFingerprint()] = None
    """Number of optimizer steps between two checkpoints, in addition to `save_minutes`. Default: the number of steps
    does not matter."""

    save_total_limit: Annotated[Count, OutsideFingerprint()] = 2
    """Number of newest checkpoints to keep. If the newest one is damaged, the training resumes from the one before.
    With AdamW, a checkpoint has three times the size of the trainable float32 weights."""

    save_async: Annotated[bool, OutsideFingerprint()] = True
    """If true, the training continues while a checkpoint is written. The workers first copy the checkpoint to the main
    memory; together, they need main memory for a whole checkpoint. If false, the training waits until the checkpoint is
    on the disk."""

    save_threads: Annotated[Count, OutsideFingerprint()] = 2
    """Number of threads with which each worker writes its part of a checkpoint, each to a file of its own."""

    ddp_timeout: Annotated[Count, OutsideFingerprint()] = 3600
    """Seconds that a worker waits for the other workers of its trial: until they start training, while the first worker
    checks the samples, and in each exchange of tensors. A longer wait counts as a lost worker. Default: 3600, because
    the checks of a large data set take long; Hugging Face's trainer waits 1800 seconds."""

    gradient_checkpointing: Annotated[bool, OutsideFingerprint()] = False
    """If true, activations are not stored, but computed again in the backward pass. This needs less memory, and about a
    third more time."""

    use_liger_kernel: bool = False
    """If true, the norms and feed-forward blocks of the model compute with Liger's kernels, which save memory and time
    on a GPU. Needs a CUDA GPU and the package liger-kernel; no test runs these kernels. The results differ by
    rounding."""

    profile_steps: Annotated[Count | None, OutsideFingerprint()] = None
    """Number of optimizer steps of the first worker to profile with torch.profiler, after two other steps of the
    launch. The trace is written to `profile/trace.json.gz` in the run directory; open it in https://ui.perfetto.dev or
    in chrome://tracing. A trace of one step of a large model takes some 100 MB before compression, so a few steps are
    enough. A training that is reused from the cache has no trace; `runner launch --rerun train` repeats the
    training. Default: no profile."""

    @model_validator(mode="after")
    def _one_length(self) -> SftOptions:
        lengths = [name for name in ("epochs", "tokens", "steps", "sequence") if getattr(self, name) is not None]
        if len(lengths) != 1:
            state = f"{' and '.join(lengths)} are" if lengths else "none is"
            raise ValueError(
                "exactly one of `epochs`, `tokens`, `steps` and `sequence` sets the length of training, but "
                f"{state} set; to use another one than `epochs`, write `epochs: null`"
            )
        return self

    @model_validator(mode="after")
    def _saves_checkpoints(self) -> SftOptions:
        if self.save_minutes is None and self.save_steps is None:
            raise ValueError(
                "save_minutes and save_steps are both null, so an interrupted training would start from the beginning; "
                "set one of them, such as save_minutes: 20"
            )
        return self

    @model_validator(mode="after")
    def _sharding_if_needed(self) -> SftOptions:
        options = {
            "dp_shard_size": self.dp_shard_size is not None,
            "cpu_offload": self.cpu_offload,
            "reshard_after_forward": not self.reshard_after_forward,
        }
        name = next((name for name, is_set in options.items() if is_set), None)
        if self.strategy != "fsdp" and name is not None:
            raise ValueError(f"{name} has no effect with strategy: {self.strategy}; set strategy: fsdp")
        return self

    @model_validator(mode="after")
    def _validation_if_needed(self) -> SftOptions:
        if not self.validation_ratio and (
            self.early_stopping_patience or self.load_best_model_at_end or self.eval_generate_steps
        ):
            raise ValueError(
                "early_stopping_patience, load_best_model_at_end and eval_generate_steps need a validation split; set "
                "validation_ratio, the fraction of the training samples to hold out, such as 0.05"
            )
        if self.eval_generate_samples and not self.eval_generate_steps:
            raise ValueError(
                "eval_generate_samples has no effect unless answers are generated; set eval_generate_steps"
            )
        return self

    @model_validator(mode="after")
    def _selection_metric_is_used(self) -> SftOptions:
        if (
            self.metric_for_best_model != type(self).model_fields["metric_for_best_model"].default
            and self.selection_metric is None
        ):
            raise ValueError(
                "metric_for_best_model has no effect; set load_best_model_at_end or early_stopping_patience"
            )
        if self.metric_for_best_model == SelectionMetric(metric=VALIDATION_LOSS, mode="max"):
            raise ValueError(f"metric_for_best_model: a lower {VALIDATION_LOSS} is better; set its mode to min")
        return self

    @property
    def counts_tokens(self) -> bool:
        """Whether the number of steps depends on the numbers of tokens of the samples."""
        return self.tokens is not None or any(part.tokens is not None for part in self.sequence or ())

    @property
    def sequence_tasks(self) -> Sequence[Sequence[str]]:
        """The tasks of each part of `sequence`."""
        return [part.tasks for part in self.sequence or ()]

    @property
    def validation_metrics(self) -> Sequence[str]:
        """The validation loss, if there is a validation split."""
        return (VALIDATION_LOSS,) if self.validation_ratio else ()

    @property
    def generates_validation(self) -> bool:
        """Whether answers to validation samples are generated during training."""
        return self.eval_generate_steps is not None

    @property
    def selection_metric(self) -> SelectionMetric | None:
        """The metric that selects the best model; None if none is selected."""
        return self.metric_for_best_model if self.early_stopping_patience or self.load_best_model_at_end else None

    def checkpoint_schedule(self, steps_per_epoch: int) -> CheckpointSchedule:
        """Return when checkpoints are written, given the optimizer steps of an epoch."""
        best_steps = None
        if self.load_best_model_at_end:
            uses_loss = self.metric_for_best_model.metric == VALIDATION_LOSS
            best_steps = (self.eval_steps if uses_loss else self.eval_generate_steps) or steps_per_epoch
        seconds = None if self.save_minutes is None else 60 * self.save_minutes
        return CheckpointSchedule(seconds, self.save_steps, steps_per_epoch, best_steps)

    def check_num_samples(self, num_samples: int) -> None:
        """Refuse a validation split without samples; see `TrainerOptions.check_num_samples`."""
        if self.validation_ratio and not num_validation(num_samples, self.validation_ratio):
            remedy = f"at least {1 / num_samples:.2g}" if num_samples > 1 else "more training samples"
            raise SpecError(
                f"{self.validation_ratio:g} of {num_samples:,} training sample(s) rounds to no validation sample, so "
                f"no validation metric could be measured; use {remedy}, or 0 for no validation",
                path=("trainer", "validation_ratio"),
            )

    def smoke(self) -> Mapping[str, Any]:
        """Train two steps with a checkpoint after each; the smoke model has its own tokens and length limit.

        A smoke run has one worker, which shards nothing. A validation split is at least half of the few samples. The
        validation loss selects the best model, because other metrics may be undefined on so few samples.
        """
        return {
            "validation_ratio": max(self.validation_ratio, 0.5) if self.validation_ratio else 0.0,
            "metric_for_best_model": type(self).model_fields["metric_for_best_model"].default.model_dump(),
            "epochs": None if self.sequence else 1,
            "tokens": None,
            "steps": None,
            "sequence": self.sequence and [{"tasks": part.tasks, "steps": 1} for part in self.sequence],
            "max_steps": 2,
            "global_batch_size": min(self.global_batch_size, 4),
            "micro_batch_size": None,
            "precision": "fp32",
            "max_length": None,
            "save_steps": 1,
            "gradient_checkpointing": False,
            "dp_shard_size": None,
            "cpu_offload": False,
            "use_liger_kernel": False,
        }

    def with_less_memory(self, workers: int) -> Mapping[str, Any]:
        """Reshard weights or halve the micro-batch; for a single sample, recompute activations, then shard fully.

        If the size of the micro-batch is not set, it is half of the worker's part of the batch.
        """
        if not self.reshard_after_forward:
            return {"reshard_after_forward": True}
        size = self.micro_batch_size or self.global_batch_size // workers
        if size > 1:
            return {"micro_batch_size": size // 2}
        if not self.gradient_checkpointing:
            return {"gradient_checkpointing": True}
        if self.dp_shard_size is not None and self.dp_shard_size < workers:
            return {"dp_shard_size": None}
        return {"strategy": "fsdp"} if self.strategy == "ddp" and workers > 1 else {}
