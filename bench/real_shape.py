"""Trains, saves, loads and asks a model of Qwen2.5-VL-3B's shape on the CPU, and measures memory and time.

    python bench/real_shape.py                       the shape of the 3B: 8 GB of disk twice, 20 GB of memory, an hour
    python bench/real_shape.py --shape small --pixels 50000      a small model, a minute

The checkpoint has random weights in bfloat16, in the files and with the names that the hub has. The tokenizer is the
real one: npm downloads it (`--tokenizer` names a folder with another one). The samples are as large as those of M-MRE:
an image of a megapixel, one to four segments, a tweet, and a summary of about 53 words. `runner launch` trains LoRA
adapters of the language model, saves the model, loads the saved model, and generates answers.

Prints a JSON document: for each part of the run, its seconds and the peak memory of all processes; and what `runner
plan` said before. `pss_gb` counts shared pages once; `own_gb` leaves out the pages of files, which the kernel can free.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from process_memory import MemorySampler, Sample, peak_between
from random_checkpoint import SHAPES, TOKENIZER_FILES, fetch_tokenizer, write_checkpoint
from safetensors import safe_open

from runner.dataset.folder_writer import publish_atomically
from runner.records import Entity, Segment, segment_letters
from runner.records import Sample as DataSample

RUNNER = Path(sys.executable).parent / "runner"

SPEC = """\
name: real_shape
seed: 1
data: {{type: mmre, path: data}}
adapter: {{type: pfa, tasks: [summary, ner, match]}}
model: {{type: qwen2_5_vl, checkpoint: ./checkpoint}}
optimizer:
  type: adamw
  groups:
    language: {{match: "*language_model.layers*", lr: 1e-4, lora: {{rank: 16}}}}
    others: {{match: "*", frozen: true}}
trainer: {{type: sft, epochs: 1, precision: bf16, global_batch_size: {batch}, micro_batch_size: 1,
          gradient_checkpointing: true}}
generator: {{type: transformers, max_new_tokens: {new_tokens}, batch_size: {batch}}}
metrics: [{{type: ner_f1}}, {{type: rouge}}]
tracker: {{type: mlflow}}
"""

SENTENCE = (
    "several people are standing in front of a large old building at night while the crowd near the stage is holding "
    "blue and red flags and a woman with children watches the first match of the new city team from the market square"
)
"""Texts consist of its words, in random order."""

NAMES = ("Amara", "Kestrel", "Borough", "Lindqvist", "Okafor", "Meridian", "Valparaiso", "Hawthorne", "Quillon")
LABELS = ("person", "location", "organization", "other")
SEGMENT_AREA = 0.12
"""A segment's part of the area of its image, about the median of Twitter GMNER's boxes."""


def write_data(folder: Path, num_train: int, num_test: int, pixels: int, seed: int) -> None:
    """Write a data set of random photographs and texts, as long as those of M-MRE."""
    rng = random.Random(seed)
    with publish_atomically(folder) as writer:
        samples = [
            _make_sample(f"s{number}", 1 + number % 4, pixels, writer.path, rng)
            for number in range(num_train + num_test)
        ]
        splits = {"train": samples[:num_train], "test": samples[num_train:]}
        writer.write_dataset("real_shape", LABELS, splits, {"source": "random"})


def _make_sample(name: str, num_segments: int, pixels: int, folder: Path, rng: random.Random) -> DataSample:
    width = round((pixels * 4 / 3) ** 0.5)
    height = round(pixels / width)
    picture = _photograph(width, height, rng)
    picture.save(folder / "images" / f"{name}.jpg", quality=90)
    entities = [Entity(rng.choice(LABELS), entity) for entity in rng.sample(NAMES, num_segments)]
    segments = []
    for letter, entity in zip(segment_letters(), entities, strict=False):
        side = (SEGMENT_AREA * rng.uniform(0.5, 1.5)) ** 0.5
        box_width, box_height = round(width * side), round(height * side)
        left, top = rng.randint(0, width - box_width), rng.randint(0, height - box_height)
        box = (left, top, left + box_width, top + box_height)
        file = folder / "segments" / f"{name}{letter}.jpg"
        picture.crop(box).save(file, quality=90)
        segments.append(Segment(letter, file, entity.text, box))
    text = [*rng.choices(SENTENCE.split(), k=16), *(entity.text for entity in entities)]
    rng.shuffle(text)
    summary = f"This image shows {' '.join(rng.choices(SENTENCE.split(), k=50))}."
    return DataSample(
        name, " ".join(text), folder / "images" / f"{name}.jpg", summary, tuple(entities), tuple(segments)
    )


def _photograph(width: int, height: int, rng: random.Random) -> Image.Image:
    """Return a smooth random picture with noise."""
    generator = np.random.default_rng(rng.getrandbits(32))
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = generator.integers(-12, 13, smooth.shape, dtype=np.int16)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


Event = Mapping[str, Any]


def _is_state(event: Event, step: str, state: str) -> bool:
    return event["kind"] == "state" and (event["step"], event["state"]) == (step, state)


def _is_loss(event: Event) -> bool:
    return event["kind"] == "metrics" and "train/loss" in event["values"]


MILESTONES: Sequence[tuple[str, Callable[[Event], bool]]] = (
    ("start of the launch", lambda event: _is_state(event, "train", "started")),
    ("load the checkpoint, add adapters", lambda event: event["kind"] == "parameters"),
    ("check the samples", lambda event: event["kind"] == "preflight"),
    ("first step, with image features", _is_loss),
    ("other steps", _is_loss),
    ("checkpoint, merge adapters, save", lambda event: event["kind"] == "artifact" and event["name"] == "model"),
    ("end of the training", lambda event: _is_state(event, "generate", "started")),
    ("load the saved model, generate", lambda event: _is_state(event, "generate", "finished")),
    ("score", lambda event: _is_state(event, "score", "finished")),
)
"""The parts of the run, each with the event that ends it. A part ends with the last event of its kind before the next
part, except that the first step ends with its first event."""


def find_parts(events: Sequence[Event], start: float) -> Iterator[tuple[str, float, float]]:
    """Yield the parts of a run: name, start and end. A part whose event is missing is left out.

    Args:
        events: The events in the order of their times.
        start: When the launch was started.
    """
    for name, ends in MILESTONES:
        times = [_time(event) for event in events if ends(event) and _time(event) > start]
        if times:
            # Further steps end with the last one.
            end = max(times) if name == "other steps" else times[0]
            yield name, start, end
            start = end


def _time(event: Event) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def describe_parts(events: Sequence[Event], samples: Sequence[Sample], start: float) -> dict[str, Any]:
    """Return seconds and peak memory of each part."""
    return {
        name: {"seconds": round(end - begin, 1), **peak_between(samples, begin, end)}
        for name, begin, end in find_parts(events, start)
    }


def run_command(*arguments: str, folder: Path) -> tuple[str, float, list[Sample]]:
    """Run a command of the runner; return its output, its start, and samples of its memory.

    Raises:
        SystemExit: The command failed.
    """
    start = time.time()
    with (
        subprocess.Popen([str(RUNNER), *arguments], cwd=folder, stdout=subprocess.PIPE, text=True) as process,
        MemorySampler(process.pid, 1.0) as sampler,
    ):
        output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"runner {arguments[0]} failed with exit status {process.returncode}: {output[-2000:]}")
    return output, start, sampler.samples


def compare_weights(before: Path, after: Path) -> dict[str, int]:
    """Count the weights that a saved model shares with its checkpoint, and those that the training changed."""
    counts = {"equal": 0, "changed": 0}
    saved = {name: file for file in after.glob("*.safetensors") for name in _names(file)}
    for file in before.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                with safe_open(saved[name], framework="pt") as opened:
                    is_equal = stored.get_tensor(name).equal(opened.get_tensor(name))
                counts["equal" if is_equal else "changed"] += 1
    return counts


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make checkpoint and data, plan, launch, and describe the run."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    if arguments.tokenizer is None:
        fetch_tokenizer(checkpoint)
    else:
        for name in TOKENIZER_FILES:
            shutil.copyfile(arguments.tokenizer / name, checkpoint / name)
    started = time.time()
    num_weights = write_checkpoint(checkpoint, arguments.shape, arguments.seed, arguments.shard_bytes)
    seconds = round(time.time() - started, 1)
    print(f"checkpoint with {num_weights:,} weights written in {seconds} s", file=sys.stderr)
    write_data(folder / "data", arguments.samples, arguments.answers, arguments.pixels, arguments.seed)
    spec = SPEC.format(batch=arguments.samples // arguments.steps, new_tokens=arguments.new_tokens)
    (folder / "real_shape.yaml").write_text(spec)
    plan = json.loads(run_command("plan", "real_shape.yaml", "--json", folder=folder)[0])
    print(json.dumps(_summarize_plan(plan)), file=sys.stderr)
    _, start, samples = run_command("launch", "real_shape.yaml", "--json", folder=folder)
    [run] = folder.glob("runs/real_shape/*/events.jsonl")
    events = [json.loads(line) for line in run.read_text().splitlines()]
    end = _time(events[-1])
    losses = [event["values"]["train/loss"] for event in events if _is_loss(event)]
    answers = [json.loads(line) for line in (run.parent / "predictions.jsonl").read_text().splitlines()]
    return {
        "shape": arguments.shape,
        "num_weights": num_weights,
        "checkpoint_gb": round(2 * num_weights / 1e9, 2),
        "seconds_to_write_the_checkpoint": seconds,
        "plan": _summarize_plan(plan),
        "parts": describe_parts(events, samples, start),
        "whole_launch": {"seconds": round(end - start, 1), **peak_between(samples, start, end)},
        "losses": losses,
        "num_answers": len(answers),
        "weights_of_saved_model": compare_weights(checkpoint, run.parent / "model"),
    }


def _summarize_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tokens": {name: plan["tokens"][name] for name in ("total", "longest_sample", "mean_sample")},
        "memory": {name: plan["memory"][name] for name in ("moment", "weights", "activations", "total")},
        "host_memory": plan["host_memory"],
        "disk": {name: plan["disk"][name] for name in ("checkpoint", "model", "encoded_samples")},
        "trainable": sum(group["num_trainable"] for group in plan["parameters"]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--samples", type=int, default=8, help="training samples, all in one epoch (default: 8)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=1_000_000, help="area of an image (default: a megapixel)")
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=16, help="maximum tokens of an answer (default: 16)")
    parser.add_argument("--tokenizer", type=Path, help=f"folder with {' and '.join(TOKENIZER_FILES)}; default: npm")
    parser.add_argument("--shard-bytes", type=int, default=4 * 10**9)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder with all files")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(json.dumps(measure(Path(folder), arguments), indent=2))


if __name__ == "__main__":
    main()
