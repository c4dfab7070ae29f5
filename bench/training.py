"""Compares speed and memory of this project's trainer with Hugging Face's `Trainer`.

    python bench/training.py                     both models, about half an hour on an idle core
    python bench/training.py --steps 8 --repeats 1 --models balanced
    python bench/training.py --frozen-vision     three epochs with a frozen vision tower

Prints a JSON document. For each model and variant it has CPU seconds per sample, peak memory, and their ratios to
Hugging Face's trainer (medians over repeats, in which the variants alternate). It also has the largest difference of a
step's loss, which must stay below 1e-3. All variants train on the same samples in the same batches, in float32, on one
thread, with the same optimizer, each in its own process. Hugging Face's `Trainer` runs with the usual collator: a batch
is padded to its longest sample, and logits are computed at all positions. Memory is the peak of the process above its
memory before training. It is reported with and without gradients and the two moments of AdamW, which every variant
needs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from models import SHAPES, Features, collate_samples, mmre_lengths, random_model, random_sample
from transformers import Trainer, TrainerCallback, TrainingArguments

from plugins.model.chat.batching import pack_samples
from plugins.model.chat.precomputed_image_features import FrozenVisionTower, to_encoder_outputs
from plugins.model.chat.vision_tower import prepare_attention
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.validation_split_and_batches import EpochSampler
from runner.records import Rendered
from runner.stages import TrainingRun

BATCH_SIZE = 4

THEIRS = "Hugging Face's trainer"
VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "without packing": {"packing": "off"},
}
"""Variants of this project's trainer, by its options."""

MAX_LOSS_DIFFERENCE = 1e-3
"""Two trainings count as different if the losses of a step differ by this or more."""

LEARNING_RATE = 1e-4


@dataclass
class RandomModel:
    """A model with random weights and prepared samples, as the trainer sees a model."""

    module: Any
    samples: dict[str, Features]
    context_length: int | None = None
    supports_packing: bool = field(init=False)

    def __post_init__(self) -> None:
        self.supports_packing = prepare_attention(self.module)

    def encode(self, rendered: Rendered, target_suffix: str = "", *, pixels: bool = True) -> Features:
        """Return the prepared sample."""
        return self.samples[rendered.id]

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack; causal attention needs no mask for padding on the right."""
        stacked = collate_samples(batch, padding_side)
        del stacked["attention_mask"]
        return to_encoder_outputs(stacked, self.module.config.get_text_config().hidden_size)

    def frozen_vision(self) -> FrozenVisionTower | None:
        """Return the frozen vision tower, if it is frozen."""
        vision = FrozenVisionTower(self.module)
        return vision if vision.is_cacheable else None

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Concatenate samples."""
        return pack_samples(batch, self.module)


class Meter:
    """Measures from the end of the first step on, as that step also creates the optimizer state."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._state_bytes = 3 * sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
        self._initial_bytes = _resident_bytes()
        self._times: list[float] = []

    def step(self) -> None:
        """Record the end of a step."""
        self._times.append(time.process_time())

    def result(self, losses: Sequence[float], batches: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the measurements."""
        num_samples = sum(len(batch) for batch in batches[1:])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "cpu_seconds_a_sample": (self._times[-1] - self._times[0]) / num_samples,
            "peak_bytes": peak - self._initial_bytes,
            "peak_bytes_beyond_state": peak - self._initial_bytes - self._state_bytes,
            "losses": list(losses),
        }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@dataclass
class LossRecorder:
    """A reporter that records losses and step times."""

    meter: Meter
    losses: list[float] = field(default_factory=list)

    def metrics(self, step: int, values: Any) -> None:
        """Record the loss of a step."""
        self.losses.append(values["train/loss"])
        self.meter.step()

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Print the warning."""
        print(message, file=sys.stderr)

    def stop_requested(self) -> bool:
        """Never stop."""
        return False


@dataclass(frozen=True)
class Task:
    """The training that every variant runs: a model, its samples and their batches."""

    name: str
    steps: int
    seed: int
    frozen: bool = False

    @property
    def epochs(self) -> int:
        """Number of epochs: 1, or with a frozen vision tower the paper's 3."""
        return 3 if self.frozen else 1

    @property
    def num_samples(self) -> int:
        """Number of samples; they fill the batches of an epoch."""
        return self.steps // self.epochs * BATCH_SIZE

    def samples(self) -> dict[str, Features]:
        """Create the samples: one batch for each step of an epoch."""
        generator = torch.Generator().manual_seed(self.seed)
        lengths = mmre_lengths(self.num_samples, self.seed)
        words = SHAPES[self.name].words
        samples = (random_sample(length, words, generator, with_answer=True) for length in lengths)
        return {str(index): sample for index, sample in enumerate(samples)}

    def batches(self) -> list[list[int]]:
        """Return the sample indices of each step, in the order of this project's trainer."""
        sampler = EpochSampler(tuple(range(self.num_samples)), self.num_samples, BATCH_SIZE, self.seed)
        return [batch for _, batch in sampler.batches(0, self.epochs * sampler.steps_per_epoch)]

    def optimizer(self, model: torch.nn.Module) -> AdamWOptimizer:
        """Return AdamW with one learning rate for all trainable parameters."""
        frozen = {"vision": {"match": "*visual*", "frozen": True}} if self.frozen else {}
        optimizer = AdamWOptimizer(AdamWOptions(groups={**frozen, "rest": {"match": "*", "lr": LEARNING_RATE}}))  # type: ignore[arg-type]
        optimizer.prepare(model, self.seed)
        return optimizer

    def train_ours(self, options: dict[str, Any]) -> dict[str, Any]:
        """Train with this project's trainer."""
        samples, model = self.samples(), random_model(self.name, self.seed)
        rendered = [Rendered(key, ()) for key in samples]
        settings = SftOptions(epochs=self.epochs, global_batch_size=BATCH_SIZE, precision="fp32", **options)
        keys, optimizer = list(samples), self.optimizer(model)
        with tempfile.TemporaryDirectory() as folder:
            recorder = LossRecorder(Meter(model))
            run = TrainingRun(Path(folder), self.seed, recorder, encoded=Path(folder, "encoded", "samples"))
            SftTrainer(settings).train(RandomModel(model, samples), optimizer, rendered, keys, run)  # type: ignore[arg-type]
        return recorder.meter.result(recorder.losses, self.batches())

    def train_theirs(self) -> dict[str, Any]:
        """Train with Hugging Face's trainer."""
        samples, model = list(self.samples().values()), random_model(self.name, self.seed)
        (scheduled,) = self.optimizer(model).build(model, len(self.batches()))
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH_SIZE,
                num_train_epochs=1,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            )
            meter = Meter(model)
            trainer = Trainer(
                model,
                arguments,
                data_collator=lambda batch: collate_samples(batch, "right"),
                train_dataset=[samples[index] for batch in self.batches() for index in batch],  # type: ignore[arg-type]
                optimizers=(scheduled.optimizer, scheduled.schedule),
                callbacks=[StepCallback(meter)],
            )
            trainer.train()
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        return meter.result(losses, self.batches())


class StepCallback(TrainerCallback):
    """Records the steps of Hugging Face's trainer with a meter."""

    def __init__(self, meter: Meter) -> None:
        """Create a callback that records with this meter."""
        self._meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the end of a step."""
        self._meter.step()


def measure(task: Task, repeats: int) -> dict[str, Any]:
    """Train with all variants in turn, each in its own process.

    Raises:
        SystemExit: A step's losses differ by `MAX_LOSS_DIFFERENCE` or more.
    """
    measurements: dict[str, list[dict[str, Any]]] = {variant: [] for variant in (THEIRS, *VARIANTS)}
    for repeat in range(repeats):
        for variant, results in measurements.items():
            results.append(_run_in_process(task, variant))
            seconds, peak = results[-1]["cpu_seconds_a_sample"], results[-1]["peak_bytes"]
            progress = f"{repeat + 1}/{repeats}, {variant}"
            print(f"{progress}: {seconds:.3f} CPU s per sample, {peak / 2**20:,.0f} MiB", file=sys.stderr)
    differences = {
        variant: _max_loss_difference(measurements[THEIRS][0], measurements[variant][0]) for variant in VARIANTS
    }
    if max(differences.values()) >= MAX_LOSS_DIFFERENCE:
        sys.exit(f"{task.name}: losses differ: {differences}")
    return {
        "cpu_seconds_a_sample": {
            variant: _median(results, "cpu_seconds_a_sample") for variant, results in measurements.items()
        },
        "peak_mebibytes": {
            variant: round(_median(results, "peak_bytes") / 2**20) for variant, results in measurements.items()
        },
        "times_faster": {
            variant: 1 / _median_ratio(measurements, variant, "cpu_seconds_a_sample") for variant in VARIANTS
        },
        "share_of_memory": {variant: _median_ratio(measurements, variant, "peak_bytes") for variant in VARIANTS},
        "share_of_memory_beyond_state": {
            variant: _median_ratio(measurements, variant, "peak_bytes_beyond_state") for variant in VARIANTS
        },
        "largest_difference_of_loss": differences,
    }


def _run_in_process(task: Task, variant: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--task", json.dumps(asdict(task)), "--variant", variant]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def _median(results: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(result[name] for result in results)


def _median_ratio(measurements: dict[str, list[dict[str, Any]]], variant: str, name: str) -> float:
    """Return the median ratio to Hugging Face's trainer within each repeat, under the same load of the machine."""
    pairs = zip(measurements[variant], measurements[THEIRS], strict=True)
    return statistics.median(ours[name] / theirs[name] for ours, theirs in pairs)


def _max_loss_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    return max(abs(one - other) for one, other in zip(theirs["losses"], ours["losses"], strict=True))


def main() -> None:
    """Run all measurements and print them; with `--variant`, run one training and print its measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frozen-vision", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=(THEIRS, *VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # Threads that wait for each other would count as CPU time.
    variant = arguments.variant
    if variant:
        task = Task(**arguments.task)
        print(json.dumps(task.train_theirs() if variant == THEIRS else task.train_ours(VARIANTS[variant])))
        return
    results: dict[str, Any] = {"batch_size": BATCH_SIZE, "steps": arguments.steps, "repeats": arguments.repeats}
    results["frozen_vision"] = arguments.frozen_vision
    for name in arguments.models:
        print(name, file=sys.stderr)
        task = Task(name, arguments.steps, arguments.seed, arguments.frozen_vision)
        results[name] = measure(task, arguments.repeats)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
