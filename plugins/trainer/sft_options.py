"""Options of the trainer `sft`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.stages import OutsideFingerprint, SelectionMetric, TrainerOptions

Count = Annotated[int, Field(gt=0)]

VALIDATION_LOSS = "validation/loss"
"""The metric of the validation samples that needs no generated answers."""


class SftOptions(TrainerOptions):
    """Supervised fine-tuning: cross-entropy on the answers, all trainable parts of the model."""

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
    """Number of passes over the training samples. Default: the paper's 3. Null if `tokens` sets the length."""

    tokens: Count | None = None
    """Alternative to `epochs`: number of answer tokens, end tokens included, to train on; training ends with the step
    that reaches it. Use it to give runs with answers of different length, such as one task and three, the same amount
    of training. The number of steps is computed from the sample lengths before training."""

    max_steps: Count | None = None
    """Maximum number of optimizer steps, even if epochs are left. The learning-rate schedule ends there too. Default:
    no limit."""

    global_batch_size: Count = 4
    """Samples per optimizer step, over all workers and micro-batches; must be a multiple of the number of workers. The
    last step of an epoch has the remaining samples. Default: the paper's 4."""

    micro_batch_size: Annotated[Count | None, OutsideFingerprint()] = None
    """Samples that a worker computes at once. Gradients accumulate, so the result is that of the whole batch. Default:
    as many samples of similar length as fit into 8,192 positions with padding, 1,024 on a CPU."""

    packing: Annotated[Literal["auto", "off"], OutsideFingerprint()] = "auto"
    """`auto` concatenates the samples of a micro-batch, without padding, if the model supports it: the Qwen-VL families
    with `sdpa` or flash attention. Otherwise, and with `off`, samples of similar length are padded. Results are equal
    except for rounding."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several workers share a training. `ddp` keeps all weights, gradients and optimizer moments on each worker: 16
    bytes per trainable weight. `fsdp` (FSDP2) shards them over the workers and gathers each layer when it computes; in
    bf16 it gathers bfloat16 weights, whose rounding differs from that of `ddp`. A single worker shards nothing."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """`bf16` computes in bfloat16 with float32 master weights, and saves bfloat16. Default: the paper's."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Maximum L2 norm of the gradient over all parameters; larger gradients are scaled down to it. Default: that of
    Hugging Face's trainer, which 2U1 keeps."""

    target_suffix: str = ""
    """Text trained after the answer's end token. Default: none; 2U1 trains a line break there."""

    max_length: Count | None = None
    """Maximum tokens of a sample, with its images and its answer. Default: the model's context length."""

    on_overlength: Literal["refuse", "truncate", "skip"] = "refuse"
    """How to treat samples longer than `max_length`. `refuse` stops before training. `truncate` cuts the end of the
    answer, never the prompt or an image; a truncated answer has no end token, so the model does not learn to stop
    early. `skip` leaves the sample out of its batch, whose other samples then weigh more; a step without any other
    sample changes no weight."""

    validation_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the training samples held out for validation; samples that share an image stay together."""

    eval_steps: Count | None = None
    """Optimizer steps between validation losses; the last step always has one. Default: once per epoch."""

    eval_generate_steps: Count | None = None
    """Optimizer steps between evaluations of generated answers to the validation samples; the last step always has one.
    They are generated, parsed and scored like those of the test split (`validation/ner_f1` and so on). With `fsdp`,
    each worker then needs memory for the whole model. Default: no answers are generated."""

    eval_generate_samples: Count | None = None
    """Maximum number of validation samples to generate answers for, the first ones. Default: all."""

    early_stopping_patience: Count | None = None
    """Number of consecutive evaluations without improvement of `metric_for_best_model` after which training ends.
    Default: no early stopping."""

    load_best_model_at_end: bool = False
    """Whether the result is the best model by `metric_for_best_model` instead of the last one. The best checkpoint is
    kept beside the newest."""

    metric_for_best_model: SelectionMetric = SelectionMetric(metric=VALIDATION_LOSS, mode="min")
    """Metric of `load_best_model_at_end` and `early_stopping_patience`."""

    save_steps: Annotated[Count, OutsideFingerprint()] = 100
    """Optimizer steps between checkpoints, from which an interrupted training resumes."""

    save_total_limit: Annotated[Count, OutsideFingerprint()] = 1
    """Number of newest checkpoints to keep; each is three times the size of the trainable float32 weights."""

    gradient_checkpointing: Annotated[bool, OutsideFingerprint()] = False
    """Whether to compute activations again in the backward pass instead of storing them: less memory, about a third
    more time."""

    @model_validator(mode="after")
    def _one_length(self) -> SftOptions:
        if (self.epochs is None) == (self.tokens is None):
            state = "neither is" if self.epochs is None else "both are"
            raise ValueError(
                f"exactly one of `epochs` and `tokens` sets the length of training, but {state} set; "
                "to use `tokens`, write `epochs: null`"
            )
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

    def smoke(self) -> Mapping[str, Any]:
        """Train two steps with a checkpoint after each; the smoke model has its own tokens and length limit."""
        return {
            "epochs": 1,
            "tokens": None,
            "max_steps": 2,
            "global_batch_size": min(self.global_batch_size, 4),
            "micro_batch_size": None,
            "precision": "fp32",
            "max_length": None,
            "save_steps": 1,
            "gradient_checkpointing": False,
        }

    def with_less_memory(self, workers: int) -> Mapping[str, Any]:
        """Halve the micro-batch; if its size is not set, start from the worker's part of the batch."""
        size = self.micro_batch_size or self.global_batch_size // workers
        return {"micro_batch_size": size // 2} if size > 1 else {}
