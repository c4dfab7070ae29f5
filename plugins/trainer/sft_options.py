"""Options of the trainer `sft`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from runner.stages import OutsideFingerprint, SelectionMetric, TrainerOptions

Count = Annotated[int, Field(gt=0)]

LOSS = "validation/loss"
"""The figure of the samples kept aside that needs no answers."""


class SftOptions(TrainerOptions):
    """Supervised fine-tuning: cross-entropy on the answers, every trainable part of the model."""

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
    """Passes over the training samples (the paper's 3); null where `tokens` says how long training lasts."""

    tokens: Count | None = None
    """In place of `epochs`: trained tokens after which training ends, with the step that reaches them. Those of the
    answers count, each with its end token, as they carry the loss: runs whose answers differ in length, such as one
    task and three, are then taught equally much. The number of steps is worked out from the lengths beforehand."""

    max_steps: Count | None = None
    """Optimizer steps after which training ends even if epochs are left. The learning rates fall to their end
    by then."""

    global_batch_size: Count = 4
    """Samples an optimizer step, over all workers and micro-batches (the paper's 4); the number of workers
    must divide it. The last step of an epoch takes what is left."""

    micro_batch_size: Annotated[Count | None, OutsideFingerprint()] = None
    """Samples that a worker computes at once; gradients of a step add up to those of the whole batch. By
    default as many, of like length, as stay within 8,192 positions with their padding, 1,024 on a CPU."""

    packing: Annotated[Literal["auto", "off"], OutsideFingerprint()] = "auto"
    """`auto` lays the samples of a micro-batch one after the other, so that no padding is computed, where the model
    keeps them apart: the Qwen-VL families, with `sdpa` or flash attention. Elsewhere, and with `off`, samples of like
    length are padded. The numbers are the same but for rounding."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several workers share the work. `ddp` keeps all weights, gradients and moments on each: 16 bytes a weight
    that learns. `fsdp` (FSDP2) divides them among the workers and gathers a layer when it computes; in bf16 it
    gathers bfloat16 weights, whose rounding differs from that of `ddp`. One worker has nothing to divide."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """`bf16` (the paper's) computes in bfloat16 over float32 master weights and saves bfloat16."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Norm over all gradients above which they are scaled down (the default of Hugging Face's trainer, which
    2U1 keeps)."""

    target_suffix: str = ""
    """Text trained after the answer's end token; 2U1 trains a line break there."""

    max_length: Count | None = None
    """Tokens that a sample may have, its images and its answer included; by default as many as the model was
    configured for."""

    on_overlength: Literal["refuse", "truncate", "skip"] = "refuse"
    """What becomes of a longer sample. `refuse` stops before training. `truncate` cuts the end of its answer,
    never the prompt or an image; an answer that is cut has no end token, so that the model does not learn to stop
    early. `skip` leaves it out of its batch, whose other samples weigh the more; a step that has no other sample
    changes no weight."""

    validation_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training samples kept aside for a validation loss; those of one image stay together."""

    eval_steps: Count | None = None
    """Optimizer steps from one validation loss to the next, by default an epoch; the last has one too."""

    eval_generate_steps: Count | None = None
    """Optimizer steps from one time that the samples kept aside are answered, read and scored as the test split will be
    (`validation/ner_f1` and so on) to the next; the last has it too. By default they are not answered. With `fsdp`
    each worker needs room for the whole weights then."""

    eval_generate_samples: Count | None = None
    """At most how many of the samples kept aside are answered, the first of them; by default all."""

    early_stopping_patience: Count | None = None
    """Evaluations in a row that were no better than the best, by `metric_for_best_model`, after which training ends; by
    default it does not."""

    load_best_model_at_end: bool = False
    """Whether the result is the best model by `metric_for_best_model`; else it is the last. The best checkpoint is kept
    beside the newest."""

    metric_for_best_model: SelectionMetric = SelectionMetric(metric=LOSS, mode="min")
    """What `load_best_model_at_end` and `early_stopping_patience` go by."""

    save_steps: Annotated[Count, OutsideFingerprint()] = 100
    """Optimizer steps between checkpoints that an interrupted training continues from."""

    save_total_limit: Annotated[Count, OutsideFingerprint()] = 1
    """How many of the newest checkpoints stay on the disk; each is three times the float32 weights that learn."""

    gradient_checkpointing: Annotated[bool, OutsideFingerprint()] = False
    """Whether activations are computed again in the backward pass instead of being kept: less memory, about a
    third more time."""

    @model_validator(mode="after")
    def _one_length(self) -> SftOptions:
        if (self.epochs is None) == (self.tokens is None):
            told = "neither is" if self.epochs is None else "both are"
            raise ValueError(
                f"either `epochs` or `tokens` says how long training lasts, and {told} given; "
                "where it is `tokens`, write `epochs: null`"
            )
        return self

    @model_validator(mode="after")
    def _validation_where_it_decides(self) -> SftOptions:
        if not self.validation_ratio and (
            self.early_stopping_patience or self.load_best_model_at_end or self.eval_generate_steps
        ):
            raise ValueError(
                "early_stopping_patience, load_best_model_at_end and eval_generate_steps need a validation split; set "
                "validation_ratio, the share of the training samples to hold out, such as 0.05"
            )
        if self.eval_generate_samples and not self.eval_generate_steps:
            raise ValueError("eval_generate_samples would be ignored, as nothing is answered; set eval_generate_steps")
        return self

    @model_validator(mode="after")
    def _measure_that_is_used(self) -> SftOptions:
        if (
            self.metric_for_best_model != type(self).model_fields["metric_for_best_model"].default
            and self.selection_metric is None
        ):
            raise ValueError(
                "metric_for_best_model would be ignored; set load_best_model_at_end, or early_stopping_patience"
            )
        if self.metric_for_best_model == SelectionMetric(metric=LOSS, mode="max"):
            raise ValueError(f"metric_for_best_model: the lower {LOSS}, the better: its mode is min")
        return self

    @property
    def own_metrics(self) -> Sequence[str]:
        """The validation loss, where samples are kept aside."""
        return (LOSS,) if self.validation_ratio else ()

    @property
    def generates_validation(self) -> bool:
        """Whether samples kept aside are answered."""
        return self.eval_generate_steps is not None

    @property
    def selection_metric(self) -> SelectionMetric | None:
        """What decides, where something is decided."""
        return self.metric_for_best_model if self.early_stopping_patience or self.load_best_model_at_end else None

    def smoke(self) -> Mapping[str, Any]:
        """Two steps with a checkpoint after each; the tiny twin's tokens are others, so their limit is its own."""
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
        """Half the micro-batch: of its own size, or of a worker's share of the batch where that is not set."""
        size = self.micro_batch_size or self.global_batch_size // workers
        return {"micro_batch_size": size // 2} if size > 1 else {}
