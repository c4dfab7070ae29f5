"""How fast is a training step on this machine's GPU, how near to its matrix products, and is the plan's memory right?

    python bench/gpu.py                  on a GPU; needs torch and transformers, and installs nothing
    python bench/gpu.py --layers 8       with fewer decoder layers and vision blocks than fit
    python bench/gpu.py                  without a GPU: a small shape, which proves that everything runs

Qwen2.5-VL-7B's widths with random weights, float32 master weights computed with in bfloat16, samples as long as those
of M-MRE with the images of a tweet, forward and backward; no optimizer's step. As many layers as the plan says that the
memory holds. The ways take turns; figures are medians. Prints a JSON document and, on a GPU, writes it to
`bench/results/gpu.json`: for each way tokens a second, operations of the model (none for what is computed again) as a
share of what a large matrix product reaches here, and the peak of tensors beside what `runner plan` reckons.
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
from pathlib import Path
from typing import Any

import torch
from models import IGNORED, IMAGE, Features, Lengths, collated, random_sample
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from plugins.model.qwen2_5_vl_published import PUBLISHED, published_settings  # noqa: E402 the path comes first
from plugins.trainer.activation_memory import (  # noqa: E402 likewise
    ModelProfile,
    SampleLength,
    TrainingSetup,
    flops,
    peak,
    profile_model,
)
from plugins.trainer.loss import AnswerLoss  # noqa: E402 likewise

SEVEN = "Qwen/Qwen2.5-VL-7B-Instruct"
BF16 = 2
"""Bytes of a number that is computed with."""

ROOM = 0.85
"""Share of a GPU's memory that the plan may fill."""

Step = Callable[[Any, Features], torch.Tensor]


@dataclass(frozen=True)
class Technique:
    """A way to compute a step: its loss, and whether layers are computed again."""

    name: str
    loss: Step
    again: bool
    whole_logits: bool


def whole(module: Any, batch: Features) -> torch.Tensor:
    """Transformers' own loss, over the logits of every position."""
    loss: torch.Tensor = module(**batch).loss
    return loss


def at_labels(module: Any, batch: Features) -> torch.Tensor:
    """The trainer's loss, over the logits at label positions."""
    loss: torch.Tensor = AnswerLoss(module)(**batch)
    return loss / (batch["labels"] != IGNORED).sum()


TECHNIQUES = (
    Technique("logits everywhere", whole, again=False, whole_logits=True),
    Technique("logits everywhere, layers computed again", whole, again=True, whole_logits=True),
    Technique("logits at labels", at_labels, again=False, whole_logits=False),
    Technique("logits at labels, layers computed again", at_labels, again=True, whole_logits=False),
)


def settings_of(device: str, layers: int | None) -> dict[str, Any]:
    """The 7B's configuration with so many layers; on a CPU a small one of its architecture."""
    settings = published_settings(PUBLISHED[SEVEN])
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


def lengths_of(device: str, num_samples: int, seed: int) -> list[Lengths]:
    """Draw lengths like those of M-MRE, images of about a megapixel with their segments; small ones on a CPU."""
    drawn = random.Random(seed)
    made = []
    for _ in range(num_samples):
        segments = min(6, 1 + int(drawn.expovariate(0.9)))
        sides = ((27, 37), (37, 27), (32, 32)) if device != "cpu" else ((6, 8), (8, 6), (7, 7))
        most = 12 if device != "cpu" else 3
        grids = (drawn.choice(sides), *((drawn.randint(2, most), drawn.randint(2, most)) for _ in range(segments)))
        made.append(Lengths(drawn.randint(170, 240), grids, max(13, round(drawn.gauss(68, 20))) + 17 + 14 * segments))
    return made


def length_of(sample: Features) -> SampleLength:
    """How long a sample is, as the plan sees it."""
    labels, images = (sample["labels"] != IGNORED).sum(), (sample["input_ids"] == IMAGE).sum()
    return SampleLength(len(sample["input_ids"]), int(images), int(labels))


def planned(profile: ModelProfile, lengths: Sequence[SampleLength], technique: Technique) -> int:
    """What `runner plan` reckons for all samples at once, without an optimizer; whole logits are at every position."""
    most = max(each.total for each in lengths)
    share = [SampleLength(each.total, each.image, most if technique.whole_logits else each.target) for each in lengths]
    return peak(
        profile, share, TrainingSetup("ddp", technique.again, len(share), BF16, limit=0, packed=False), 1, 0.0
    ).total


def model_spec(settings: dict[str, Any]) -> Any:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))  # type: ignore[no-untyped-call]


def most_layers(device: str, lengths: Sequence[SampleLength]) -> int:
    """How many layers the plan says that this GPU holds in the most demanding way."""
    room = ROOM * torch.cuda.get_device_properties(device).total_memory
    for layers in range(32, 1, -1):
        profile = profile_model(model_spec(settings_of(device, layers)), BF16)
        if max(planned(profile, lengths, technique) for technique in TECHNIQUES) <= room:
            return layers
    return 1


def allocated(run: Callable[[], object], device: str) -> int:
    """The most bytes of tensors while something runs, those that are there already counted."""
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
    live = most = 0
    for _, change in sorted(changes):
        live += change
        most = max(most, live)
    return most


def seconds_of(run: Callable[[], object], device: str) -> float:
    """How long something takes, the GPU's work included."""
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matmul_rate(device: str) -> float:
    """Operations a second of a large bfloat16 matrix product, the best of several."""
    side = 8192 if device != "cpu" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    return 2 * side**3 / min(seconds_of(lambda: left @ right, device) for _ in range(10))


class Bench:
    """A model on its device with a batch, and the ways to compute its gradient."""

    def __init__(self, device: str, layers: int | None, num_samples: int, seed: int) -> None:
        """Make the model and the samples."""
        self.device = device
        drawn = torch.Generator().manual_seed(seed)
        drafts = lengths_of(device, num_samples, seed)
        words = settings_of(device, layers)["text_config"]["vocab_size"]
        samples = [random_sample(each, words, drawn, with_answer=True) for each in drafts]
        self.lengths = [length_of(each) for each in samples]
        on_gpu = layers is None and device != "cpu"
        self.settings = settings_of(device, most_layers(device, self.lengths) if on_gpu else layers)
        self.profile = profile_model(model_spec(self.settings), BF16)
        self.batch = {name: each.to(device) for name, each in collated(samples, "right").items()}
        del self.batch["attention_mask"]  # causal attention never looks at padding on the right
        torch.manual_seed(seed)
        with torch.device(device):
            self.module = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**self.settings))  # type: ignore[no-untyped-call]
        self.module.train()

    def step(self, technique: Technique) -> float:
        """Compute the gradient once; returns the loss."""
        if technique.again:
            self.module.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.module.gradient_checkpointing_disable()
        self.module.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            loss = technique.loss(self.module, self.batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss)

    def weights(self) -> int:
        """Bytes of the weights, which are there before a step begins."""
        return sum(each.nbytes for each in self.module.parameters())

    def measured(self, repeats: int) -> dict[str, Any]:
        """Figures of every way, taking turns."""
        losses = {each.name: self.step(each) for each in TECHNIQUES}  # also warms everything up
        times: dict[str, list[float]] = {each.name: [] for each in TECHNIQUES}
        for _ in range(repeats):
            for each in TECHNIQUES:
                times[each.name].append(seconds_of(lambda each=each: self.step(each), self.device))  # type: ignore[misc]
        rate = matmul_rate(self.device)
        work = sum(flops(self.profile, each, again=False) for each in self.lengths)
        return {
            "matmul_teraflops": rate / 1e12,
            "ways": {each.name: self._figures(each, times[each.name], work / rate, losses) for each in TECHNIQUES},
        }

    def _figures(
        self, technique: Technique, times: Sequence[float], least: float, losses: dict[str, float]
    ) -> dict[str, float]:
        self.module.zero_grad(set_to_none=True)
        taken = allocated(lambda: self.step(technique), self.device)
        tensors = taken + (self.weights() if self.device == "cpu" else 0)
        reckoned = planned(self.profile, self.lengths, technique)
        seconds = statistics.median(times)
        return {
            "tokens_per_second": sum(each.total for each in self.lengths) / seconds,
            "share_of_matmul": least / seconds,
            "peak_gigabytes": tensors / 1e9,
            "planned_gigabytes": reckoned / 1e9,
            "planned_over_peak": reckoned / tensors,
            "loss": losses[technique.name],
        }


def main() -> None:
    """Measure, print, and on a GPU write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="decoder layers and vision blocks, at most")
    parser.add_argument("--samples", type=int, default=4, help="computed at once")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = Bench(device, asked.layers, asked.samples, seed=0)
    text, vision = bench.settings["text_config"], bench.settings["vision_config"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    told = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
        "shape": {"width": text["hidden_size"], "layers": text["num_hidden_layers"], "blocks": vision["depth"]},
        "tokens": [each.total for each in bench.lengths],
        **bench.measured(asked.repeats),
    }
    written = json.dumps(told, indent=2)
    print(written)
    if device == "cuda":
        results = ROOT / "bench" / "results" / "gpu.json"
        results.parent.mkdir(exist_ok=True)
        results.write_text(written + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
