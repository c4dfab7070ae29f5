"""How much faster, and in how much less memory, does the trainer learn than a plain loop of Hugging Face's trainer?

    python bench/training.py                     both models, about half an hour on an idle core
    python bench/training.py --steps 8 --repeats 1 --models balanced
    python bench/training.py --frozen-vision     three epochs in which nothing of the vision part learns

Prints a JSON document: for each model and way CPU seconds a sample and peak memory, the ratios to Hugging Face's
trainer (medians over repeats, in which the ways take turns), and the largest difference of a step's loss, which must
stay below 1e-3. All ways see the same samples in the same batches, float32, on one thread, with the same optimizer;
each runs in a process of its own. Hugging Face's way is its `Trainer` with the usual collator: a batch padded to its
longest sample, logits everywhere. Memory is the process's peak above what it held before training; that with gradients
and the two averages of AdamW, which no way can spare, and that beyond them.
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
from models import SHAPES, Features, collated, mmre_lengths, random_model, random_sample
from transformers import Trainer, TrainerCallback, TrainingArguments

from plugins.model.chat.batching import FrozenFeatures, as_encoded, packed, prepare_packing
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.batches import EpochSampler
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.records import Rendered
from runner.stages import TrainingRun

BATCH_SIZE = 4

THEIRS = "Hugging Face's trainer"
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "without packing": {"packing": "off"},
}
"""Our ways, by the trainer's options."""

NOT_ALIKE = 1e-3
"""Difference of a step's loss from which two trainings are not the same."""

RATE = 1e-4


@dataclass
class RandomModel:
    """A model with random weights and prepared samples, as the trainer sees a model."""

    module: Any
    samples: dict[str, Features]
    context_length: int | None = None
    supports_packing: bool = field(init=False)

    def __post_init__(self) -> None:
        self.supports_packing = prepare_packing(self.module)

    def encode(self, rendered: Rendered, target_suffix: str = "") -> Features:
        """Look a sample up."""
        return self.samples[rendered.id]

    def collate(self, batch: Sequence[Features], padding_side: Literal["left", "right"]) -> Features:
        """Pad and stack; causal attention needs no mask on the right."""
        stacked = collated(batch, padding_side)
        del stacked["attention_mask"]
        return as_encoded(stacked, self.module.config.get_text_config().hidden_size)

    def frozen_vision(self) -> FrozenFeatures | None:
        """What looks at images, where nothing of it learns."""
        vision = FrozenFeatures(self.module)
        return vision if vision.is_cacheable else None

    def pack(self, batch: Sequence[Features]) -> dict[str, Any]:
        """Lay samples in a row."""
        return packed(batch, self.module)


class Meter:
    """Takes the time from the end of the first step on, as that one also makes the optimizer's state."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._state = 3 * sum(each.nbytes for each in module.parameters() if each.requires_grad)
        self._held_before = _resident_bytes()
        self._times: list[float] = []

    def step(self) -> None:
        """A step has ended."""
        self._times.append(time.process_time())

    def result(self, losses: Sequence[float], batches: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What was measured."""
        num_samples = sum(len(batch) for batch in batches[1:])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "cpu_seconds_a_sample": (self._times[-1] - self._times[0]) / num_samples,
            "peak_bytes": peak - self._held_before,
            "peak_bytes_beyond_state": peak - self._held_before - self._state,
            "losses": list(losses),
        }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@dataclass
class Listener:
    """A reporter that keeps losses and tells the meter of steps."""

    meter: Meter
    losses: list[float] = field(default_factory=list)

    def metrics(self, step: int, values: Any) -> None:
        """Keep a step's loss."""
        self.losses.append(values["train/loss"])
        self.meter.step()

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignored."""

    def warn(self, message: str) -> None:
        """Told all the same."""
        print(message, file=sys.stderr)

    def stop_requested(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class Task:
    """What every way is to learn: a model's samples in the batches of so many steps."""

    name: str
    steps: int
    seed: int
    frozen: bool = False

    @property
    def epochs(self) -> int:
        """How often each sample comes: once, or where vision is frozen as often as in the paper's run."""
        return 3 if self.frozen else 1

    @property
    def num_samples(self) -> int:
        """Samples, which fill the batches of an epoch."""
        return self.steps // self.epochs * BATCH_SIZE

    def samples(self) -> dict[str, Features]:
        """Make the samples: one batch a step of an epoch."""
        drawn = torch.Generator().manual_seed(self.seed)
        lengths = mmre_lengths(self.num_samples, self.seed)
        words = SHAPES[self.name].words
        return {str(place): random_sample(each, words, drawn, with_answer=True) for place, each in enumerate(lengths)}

    def batches(self) -> list[list[int]]:
        """The samples of each step, as our trainer orders them."""
        order = EpochSampler(tuple(range(self.num_samples)), self.num_samples, BATCH_SIZE, self.seed)
        return [batch for _, batch in order.batches(0, self.epochs * order.steps_per_epoch)]

    def optimizer(self, model: torch.nn.Module) -> AdamWOptimizer:
        """AdamW at one rate, the same for all that learns."""
        frozen = {"vision": {"match": "*visual*", "frozen": True}} if self.frozen else {}
        optimizer = AdamWOptimizer(AdamWOptions(groups={**frozen, "rest": {"match": "*", "lr": RATE}}))  # type: ignore[arg-type]
        optimizer.prepare(model, self.seed)
        return optimizer

    def ours(self, options: dict[str, Any]) -> dict[str, Any]:
        """Train our way."""
        samples, model = self.samples(), random_model(self.name, self.seed)
        rendered = [Rendered(key, ()) for key in samples]
        settings = SftOptions(epochs=self.epochs, global_batch_size=BATCH_SIZE, precision="fp32", **options)
        keys, optimizer = list(samples), self.optimizer(model)
        with tempfile.TemporaryDirectory() as folder:
            listener = Listener(Meter(model))
            run = TrainingRun(Path(folder), self.seed, listener, encoded=Path(folder, "encoded", "samples"))
            SftTrainer(settings).train(RandomModel(model, samples), optimizer, rendered, keys, run)  # type: ignore[arg-type]
        return listener.meter.result(listener.losses, self.batches())

    def theirs(self) -> dict[str, Any]:
        """Train with Hugging Face's trainer."""
        samples, model = list(self.samples().values()), random_model(self.name, self.seed)
        (built,) = self.optimizer(model).build(model, len(self.batches()))
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
                data_collator=lambda batch: collated(batch, "right"),
                train_dataset=[samples[place] for batch in self.batches() for place in batch],  # type: ignore[arg-type]
                optimizers=(built.optimizer, built.schedule),
                callbacks=[StepCallback(meter)],
            )
            trainer.train()
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        return meter.result(losses, self.batches())


class StepCallback(TrainerCallback):
    """Tells a meter of steps."""

    def __init__(self, meter: Meter) -> None:
        """Take the meter."""
        self._meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Pass it on."""
        self._meter.step()


def measured(task: Task, repeats: int) -> dict[str, Any]:
    """Let the ways train in turns, each in a process of its own.

    Raises:
        SystemExit: A step's losses differ by `NOT_ALIKE` or more.
    """
    told: dict[str, list[dict[str, Any]]] = {way: [] for way in (THEIRS, *WAYS)}
    for repeat in range(repeats):
        for way, results in told.items():
            results.append(_in_a_process(task, way))
            took, peak = results[-1]["cpu_seconds_a_sample"], results[-1]["peak_bytes"]
            print(f"{repeat + 1}/{repeats}, {way}: {took:.3f} CPU s a sample, {peak / 2**20:,.0f} MiB", file=sys.stderr)
    differences = {way: _difference(told[THEIRS][0], told[way][0]) for way in WAYS}
    if max(differences.values()) >= NOT_ALIKE:
        sys.exit(f"{task.name}: losses differ: {differences}")
    return {
        "cpu_seconds_a_sample": {way: _median(results, "cpu_seconds_a_sample") for way, results in told.items()},
        "peak_mebibytes": {way: round(_median(results, "peak_bytes") / 2**20) for way, results in told.items()},
        "times_faster": {way: 1 / _ratio(told, way, "cpu_seconds_a_sample") for way in WAYS},
        "share_of_memory": {way: _ratio(told, way, "peak_bytes") for way in WAYS},
        "share_of_memory_beyond_state": {way: _ratio(told, way, "peak_bytes_beyond_state") for way in WAYS},
        "largest_difference_of_loss": differences,
    }


def _in_a_process(task: Task, way: str) -> dict[str, Any]:
    asked = json.dumps(asdict(task))
    command = [sys.executable, __file__, "--task", asked, "--way", way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _median(results: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(each[name] for each in results)


def _ratio(told: dict[str, list[dict[str, Any]]], way: str, name: str) -> float:
    """A way's figure over theirs, repeat by repeat, so that both met the same machine."""
    return statistics.median(ours[name] / theirs[name] for ours, theirs in zip(told[way], told[THEIRS], strict=True))


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    return max(abs(one - other) for one, other in zip(theirs["losses"], ours["losses"], strict=True))


def main() -> None:
    """Measure and print; with `--way`, train in that way and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--frozen-vision", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=(THEIRS, *WAYS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)  # Threads that wait for each other would count as work.
    if given.setup:
        task = Task(**given.task)
        print(json.dumps(task.theirs() if given.setup == THEIRS else task.ours(WAYS[given.setup])))
        return
    told: dict[str, Any] = {"batch_size": BATCH_SIZE, "steps": given.steps, "repeats": given.repeats}
    told["frozen_vision"] = given.frozen_vision
    for name in given.models:
        print(name, file=sys.stderr)
        told[name] = measured(Task(name, given.steps, given.seed, given.frozen_vision), given.repeats)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
