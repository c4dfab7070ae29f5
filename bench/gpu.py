"""Measures speed and memory of a training step on this machine's GPU, and compares the memory with `runner plan`.

    python bench/gpu.py                  on a GPU; needs torch and transformers, and installs nothing
    python bench/gpu.py --layers 8       with at most 8 decoder layers and vision blocks
    python bench/gpu.py                  without a GPU: a small model, to check that everything runs

The model has the widths of Qwen2.5-VL-7B, random float32 master weights, and as many layers as fit into the memory by
the plan. Forward and backward pass compute in bfloat16, without an optimizer step. Samples are as long as those of
M-MRE with the images of a tweet. The techniques alternate, and the results are medians.

Prints a JSON document and, on a GPU, writes it to `bench/results/gpu.json`. For each technique it has tokens per
second, the model's operations (without recomputation) as a fraction of the rate of a large matrix product, and the peak
memory of tensors beside the estimate of `runner plan`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from models import IGNORED, IMAGE, Features, Lengths, collate_samples, random_sample
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from plugins.model.qwen2_5_vl_published_sizes import PUBLISHED_SIZES, published_config  # noqa: E402
from plugins.trainer.loss import AnswerLoss  # noqa: E402 the path comes first
from plugins.trainer.model_profile import ModelProfile, profile_model  # noqa: E402 the path comes first
from plugins.trainer.step_memory import (  # noqa: E402 the path comes first
    SampleLength,
    TrainingSetup,
    flops,
    peak_memory,
)

CHECKPOINT = "Qwen/Qwen2.5-VL-7B-Instruct"
BYTES_PER_VALUE = 2
"""Bytes of a value in the compute precision, bfloat16."""

MAX_MEMORY_FRACTION = 0.85
"""Fraction of a GPU's memory that the plan may fill."""

Step = Callable[[Any, Features], torch.Tensor]


@dataclass(frozen=True)
class Technique:
    """A technique to compute a step: its loss, and whether activations are recomputed."""

    name: str
    loss: Step
    recompute: bool
    whole_logits: bool


def loss_everywhere(module: Any, batch: Features) -> torch.Tensor:
    """Transformers' own loss, over the logits of every position."""
    loss: torch.Tensor = module(**batch).loss
    return loss


def loss_at_labels(module: Any, batch: Features) -> torch.Tensor:
    """The trainer's loss, over the logits at label positions."""
    loss: torch.Tensor = AnswerLoss(module)(**batch)
    return loss / (batch["labels"] != IGNORED).sum()


TECHNIQUES = (
    Technique("logits everywhere", loss_everywhere, recompute=False, whole_logits=True),
    Technique("logits everywhere, layers computed again", loss_everywhere, recompute=True, whole_logits=True),
    Technique("logits at labels", loss_at_labels, recompute=False, whole_logits=False),
    Technique("logits at labels, layers computed again", loss_at_labels, recompute=True, whole_logits=False),
)


def create_settings(device: str, layers: int | None) -> dict[str, Any]:
    """Return the 7B's configuration with at most `layers` layers; on a CPU a small one of its architecture."""
    settings = published_config(PUBLISHED_SIZES[CHECKPOINT])
    text, vision = settings["text_config"], settings["vision_config"]
    ids = {"image_token_id": IMAGE, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
    if device == "cpu":
        text |= {"vocab_size": 4000, "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
        text |= {"intermediate_size": 768, "num_hidden_layers": 3}
        vision |= {"hidden_size": 96, "num_heads": 4, "intermediate_size": 256, "out_hidden_size": 256, "depth": 2}
        vision["fullatt_block_indexes"] = [1]
    if layers is not None:
        text["num_hidden_layers"] = min(layers, text["num_hidden_layers"])
        vision["depth"] = min(layers, vision["depth"])
    return settings | ids


def draw_lengths(device: str, num_samples: int, seed: int) -> list[Lengths]:
    """Draw lengths like those of M-MRE, images of about a megapixel with their segments; small ones on a CPU."""
    rng = random.Random(seed)
    lengths = []
    for _ in range(num_samples):
        segments = min(6, 1 + int(rng.expovariate(0.9)))
        sides = ((27, 37), (37, 27), (32, 32)) if device != "cpu" else ((6, 8), (8, 6), (7, 7))
        most = 12 if device != "cpu" else 3
        grids = (rng.choice(sides), *((rng.randint(2, most), rng.randint(2, most)) for _ in range(segments)))
        lengths.append(Lengths(rng.randint(170, 240), grids, max(13, round(rng.gauss(68, 20))) + 17 + 14 * segments))
    return lengths


def sample_length(sample: Features) -> SampleLength:
    """Return the length of a sample, as the plan counts it."""
    labels, images = (sample["labels"] != IGNORED).sum(), (sample["input_ids"] == IMAGE).sum()
    return SampleLength(len(sample["input_ids"]), int(images), int(labels))


def planned_memory(profile: ModelProfile, lengths: Sequence[SampleLength], technique: Technique) -> int:
    """Return the memory by `runner plan` for all samples at once, without an optimizer."""
    # With whole logits, every position of the padded batch has logits.
    longest = max(length.total for length in lengths)
    samples = [
        SampleLength(length.total, length.image, longest if technique.whole_logits else length.target)
        for length in lengths
    ]
    setup = TrainingSetup("ddp", technique.recompute, len(samples), BYTES_PER_VALUE, max_positions=0, packed=False)
    return peak_memory(profile, samples, setup, workers=1, state=0.0).total


def model_spec(settings: dict[str, Any]) -> Any:
    """Create the model on the meta device."""
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))  # type: ignore[no-untyped-call]


def max_layers(device: str, lengths: Sequence[SampleLength]) -> int:
    """Return the number of layers that fit on this GPU by the plan, with the technique that needs most memory."""
    available = MAX_MEMORY_FRACTION * torch.cuda.get_device_properties(device).total_memory
    for layers in range(32, 1, -1):
        profile = profile_model(model_spec(create_settings(device, layers)), BYTES_PER_VALUE)
        if max(planned_memory(profile, lengths, technique) for technique in TECHNIQUES) <= available:
            return layers
    return 1


def measure_peak_bytes(run: Callable[[], object], device: str) -> int:
    """Return the peak bytes of tensors during a call, existing ones included."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    changes, events = [], list(profiled.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    current = peak = 0
    for _, change in sorted(changes):
        current += change
        peak = max(peak, current)
    return peak


def measure_seconds(run: Callable[[], object], device: str) -> float:
    """Return the duration of a call, including the GPU's work."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matmul_rate(device: str) -> float:
    """Return the operations per second of a large bfloat16 matrix product, the best of several."""
    side = 8192 if device != "cpu" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    return 2 * side**3 / min(measure_seconds(lambda: left @ right, device) for _ in range(10))


class Bench:
    """A model on its device with a batch, and the techniques to compute its gradient."""

    def __init__(self, device: str, layers: int | None, num_samples: int, seed: int) -> None:
        """Create the model and the samples."""
        self.device = device
        generator = torch.Generator().manual_seed(seed)
        drafts = draw_lengths(device, num_samples, seed)
        words = create_settings(device, layers)["text_config"]["vocab_size"]
        samples = [random_sample(draft, words, generator, with_answer=True) for draft in drafts]
        self.lengths = [sample_length(sample) for sample in samples]
        on_gpu = layers is None and device != "cpu"
        self.settings = create_settings(device, max_layers(device, self.lengths) if on_gpu else layers)
        self.profile = profile_model(model_spec(self.settings), BYTES_PER_VALUE)
        self.batch = {name: tensor.to(device) for name, tensor in collate_samples(samples, "right").items()}
        del self.batch["attention_mask"]  # causal attention needs no mask for padding on the right
        torch.manual_seed(seed)
        with torch.device(device):
            self.module = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**self.settings))  # type: ignore[no-untyped-call]
        self.module.train()

    def step(self, technique: Technique) -> float:
        """Compute the gradient once, and return the loss."""
        if technique.recompute:
            self.module.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.module.gradient_checkpointing_disable()
        self.module.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            loss = technique.loss(self.module, self.batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss)

    def weight_bytes(self) -> int:
        """Return the bytes of the weights, which exist before a step begins."""
        return sum(parameter.nbytes for parameter in self.module.parameters())

    def measure(self, repeats: int) -> dict[str, Any]:
        """Measure all techniques, alternating between them."""
        losses = {technique.name: self.step(technique) for technique in TECHNIQUES}  # also a warm-up
        times: dict[str, list[float]] = {technique.name: [] for technique in TECHNIQUES}
        for _ in range(repeats):
            for technique in TECHNIQUES:
                times[technique.name].append(measure_seconds(partial(self.step, technique), self.device))
        rate = matmul_rate(self.device)
        operations = sum(flops(self.profile, length, recompute=False) for length in self.lengths)
        return {
            "matmul_teraflops": rate / 1e12,
            "ways": {
                technique.name: self._results(technique, times[technique.name], operations / rate, losses)
                for technique in TECHNIQUES
            },
        }

    def _results(
        self, technique: Technique, times: Sequence[float], min_seconds: float, losses: dict[str, float]
    ) -> dict[str, float]:
        self.module.zero_grad(set_to_none=True)
        measured = measure_peak_bytes(lambda: self.step(technique), self.device)
        tensors = measured + (self.weight_bytes() if self.device == "cpu" else 0)
        planned = planned_memory(self.profile, self.lengths, technique)
        seconds = statistics.median(times)
        return {
            "tokens_per_second": sum(length.total for length in self.lengths) / seconds,
            "share_of_matmul": min_seconds / seconds,
            "peak_gigabytes": tensors / 1e9,
            "planned_gigabytes": planned / 1e9,
            "planned_over_peak": planned / tensors,
            "loss": losses[technique.name],
        }


def main() -> None:
    """Measure and print; on a GPU also write the results to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="maximum number of decoder layers and of vision blocks")
    parser.add_argument("--samples", type=int, default=4, help="samples per batch")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = Bench(device, arguments.layers, arguments.samples, seed=0)
    decoder, vision = bench.settings["text_config"], bench.settings["vision_config"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    results = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
        "shape": {"width": decoder["hidden_size"], "layers": decoder["num_hidden_layers"], "blocks": vision["depth"]},
        "tokens": [length.total for length in bench.lengths],
        **bench.measure(arguments.repeats),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if device == "cuda":
        file = ROOT / "bench" / "results" / "gpu.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
