"""Measures on one GPU what the training and generation of a 7B need: a line of JSON after each measurement.

    python bench/gpu.py                           on a GPU, in ten minutes; installs nothing
    python bench/gpu.py --only vision decoding    some measurements
    python bench/gpu.py                           without a GPU: a small model, to check that everything runs

Needs torch (2.11), transformers (5.17) and accelerate, no other package of the project. Each measurement runs in a
process that is forked after all imports, as trials are. So a failure, such as memory that runs out, costs one line. A
line is printed as soon as its measurement has ended and, on a GPU, also appended to `bench/results/gpu.jsonl`. The
measurements run in this order:

- `fork`: whether a process that is forked after the imports can use the GPU, and how soon; the versions.
- `training_step`: a step of full training with FSDP2 and one NCCL rank, packed, with AdamW: seconds, MFU, memory beside
  that of `runner plan`, and the share of the time in which the GPU computes. The model has the widths and the vision
  tower of Qwen2.5-VL-7B, random weights, and 14 layers or as many as fit by the plan.
- `vision`: the vision tower alone, with a call for each window, a call for windows of equal length, and one call.
- `checkpointing`: gradient checkpointing on and off, at several lengths.
- `decoding`: tokens per second of transformers' `generate` for several batch sizes.
- `precision`: loss and gradient in bfloat16 beside those in float32.
- `checkpoint`: gigabytes per second of a checkpoint, written and read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

# A check for GPUs must not open them: a process that is forked afterwards could not use them.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import accelerate
import torch
import torch.distributed.checkpoint as dcp
import transformers
from models import END, IGNORED, IMAGE, Features, Lengths, random_sample
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from plugins.model.chat import segment_attention  # noqa: E402 the path comes first
from plugins.model.chat.vision_tower import prepare_attention  # noqa: E402
from plugins.model.qwen2_5_vl_published_sizes import PUBLISHED_SIZES, published_config  # noqa: E402
from plugins.trainer.accelerator_and_sharding import Sharding, layer_classes, make_accelerator  # noqa: E402
from plugins.trainer.loss import AnswerLoss  # noqa: E402
from plugins.trainer.model_profile import ModelProfile, profile_model  # noqa: E402
from plugins.trainer.step_memory import (  # noqa: E402
    SampleLength,
    TrainingSetup,
    flops,
    peak_memory,
)

CHECKPOINT = "Qwen/Qwen2.5-VL-7B-Instruct"

BYTES_PER_VALUE = 2
"""Bytes of a value in the compute precision, bfloat16."""

ADAMW_BYTES = 8
"""Bytes per weight of AdamW's state: two float32 values."""

PEAK_FLOPS = {"A100": 312e12, "B200": 2250e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 FLOP/s with float32 accumulation, as in `runner.preflight.hours`, whose packages this script must not
need."""

MAX_MEMORY_RATIO = 0.85
"""Fraction of a GPU's memory that the plan may fill."""


@dataclass(frozen=True)
class Scale:
    """The sizes of all measurements on a device."""

    layers: int
    num_samples: int
    repeats: int
    lengths: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    prompt: int
    new_tokens: int
    checkpoint_bytes: int
    matmul_side: int


SCALES = {
    "cuda": Scale(14, 4, 5, (600, 1500, 4000), (8, 32, 64), 1500, 64, 8 * 10**9, 8192),
    "cpu": Scale(3, 2, 2, (60, 150, 400), (2, 4), 60, 4, 20 * 10**6, 512),
}


def create_settings(device: str, layers: int) -> dict[str, Any]:
    """Return the 7B's configuration with fewer layers; on a CPU a small one of its architecture."""
    settings = published_config(PUBLISHED_SIZES[CHECKPOINT])
    text, vision = settings["text_config"], settings["vision_config"]
    text |= {"num_hidden_layers": layers}
    if device == "cpu":
        text |= {"vocab_size": 4000, "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
        text |= {"intermediate_size": 768}
        vision |= {"hidden_size": 96, "num_heads": 4, "intermediate_size": 256, "out_hidden_size": 256, "depth": 2}
        vision["fullatt_block_indexes"] = [1]
    ids = {"image_token_id": IMAGE, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
    return settings | ids


def model_spec(settings: dict[str, Any]) -> Any:
    """Create the model on the meta device."""
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))  # type: ignore[no-untyped-call]


def create_model(device: str, layers: int, dtype: torch.dtype = torch.float32) -> Any:
    """Create the model with random weights on its device, prepared as the model plugin does."""
    torch.manual_seed(0)
    with torch.device(device):
        settings = create_settings(device, layers)
        module = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))  # type: ignore[no-untyped-call]
    module = module.to(dtype)
    prepare_attention(module)
    return module


def draw_lengths(device: str, num_samples: int) -> list[Lengths]:
    """Draw lengths like those of M-MRE, images of about a megapixel with their segments; small ones on a CPU."""
    rng = random.Random(0)
    sides, most = (((27, 37), (37, 27), (32, 32)), 12) if device == "cuda" else (((6, 8), (8, 6), (7, 7)), 3)
    lengths = []
    for _ in range(num_samples):
        segments = min(6, 1 + int(rng.expovariate(0.9)))
        grids = (rng.choice(sides), *((rng.randint(2, most), rng.randint(2, most)) for _ in range(segments)))
        lengths.append(Lengths(rng.randint(170, 240), grids, max(13, round(rng.gauss(68, 20))) + 17 + 14 * segments))
    return lengths


def draw_samples(device: str, lengths: Sequence[Lengths], layers: int) -> list[Features]:
    """Create samples of random tokens and pixels."""
    words = create_settings(device, layers)["text_config"]["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    return [random_sample(length, words, generator, with_answer=True) for length in lengths]


def sample_length(sample: Features) -> SampleLength:
    """Return the length of a sample, as the plan counts it."""
    labels, images = (sample["labels"] != IGNORED).sum(), (sample["input_ids"] == IMAGE).sum()
    return SampleLength(len(sample["input_ids"]), int(images), int(labels))


def pack(samples: Sequence[Features], module: Any) -> dict[str, Any]:
    """Pack samples into one row without padding, on the device of the model, as the trainer does."""
    base, positions = module.base_model, []
    for sample in samples:
        ids, types = sample["input_ids"][None], sample["mm_token_type_ids"][None]
        positions.append(base.get_rope_index(ids, types, image_grid_thw=sample["image_grid_thw"])[0])
    labels = [sample["labels"].clone().index_fill_(0, torch.tensor([0]), IGNORED) for sample in samples]
    row = {
        "input_ids": torch.cat([sample["input_ids"] for sample in samples])[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat(positions, dim=-1),
        "pixel_values": torch.cat([sample["pixel_values"] for sample in samples]),
        "image_grid_thw": torch.cat([sample["image_grid_thw"] for sample in samples]),
    }
    on_device = {name: tensor.to(module.device) for name, tensor in row.items()}
    return {**on_device, "sample_lengths": [len(sample["input_ids"]) for sample in samples]}


def planned_memory(device: str, layers: int, lengths: Sequence[SampleLength], strategy: Any) -> dict[str, Any]:
    """Return the memory of a packed step by `runner plan`, in bytes by part."""
    setup = TrainingSetup(strategy, True, len(lengths), BYTES_PER_VALUE, max_positions=0, packed=True)
    profile = profile_of(device, layers)
    state = ADAMW_BYTES * sum(weight.numel() for weight in model_spec(create_settings(device, layers)).parameters())
    memory = peak_memory(profile, lengths, setup, workers=1, state=float(state))
    return {**asdict(memory), "total": memory.total}


def profile_of(device: str, layers: int) -> ModelProfile:
    """Profile the model without weights."""
    return profile_model(model_spec(create_settings(device, layers)), BYTES_PER_VALUE)


def fitting_layers(device: str, lengths: Sequence[SampleLength], most: int) -> int:
    """Return the number of layers whose training step fits into the memory by the plan."""
    if device == "cpu":
        return most
    available = MAX_MEMORY_RATIO * torch.cuda.get_device_properties(0).total_memory
    fits = (n for n in range(most, 1, -1) if planned_memory(device, n, lengths, "fsdp")["total"] <= available)
    return next(fits, 1)


def synchronize(device: str) -> None:
    """Wait until the GPU has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_seconds(run: Callable[[], object], device: str) -> float:
    """Return the duration of a call, including the GPU's work."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def median_seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Return the median duration of a call after one call to warm up."""
    run()
    return statistics.median(measure_seconds(run, device) for _ in range(repeats))


def matmul_rate(device: str, side: int) -> float:
    """Return the operations per second of a large bfloat16 matrix product, the best of several."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    return 2 * side**3 / min(measure_seconds(lambda: left @ right, device) for _ in range(10))


@contextmanager
def peak_gigabytes(device: str) -> Iterator[dict[str, float]]:
    """Fill a dictionary with the peak memory during a block: of tensors, and reserved; empty on a CPU."""
    peak: dict[str, float] = {}
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield peak
    if device == "cuda":
        peak["allocated_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        peak["reserved_gigabytes"] = torch.cuda.max_memory_reserved() / 1e9


def covered(intervals: Sequence[tuple[int, int]]) -> int:
    """Return the length that intervals cover together, where they overlap once."""
    total, end = 0, -sys.maxsize
    for start, stop in sorted(intervals):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def busy_ratio(run: Callable[[], object], device: str) -> float | None:
    """Return the fraction of a call's time in which the GPU computes or copies; None on a CPU."""
    if device == "cpu":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        seconds = measure_seconds(run, device)
    results = profiled.profiler.kineto_results
    events = [event for event in results.events() if event.device_type() == torch.autograd.DeviceType.CUDA]
    return covered([(event.start_ns(), event.start_ns() + event.duration_ns()) for event in events]) / 1e9 / seconds


Lines = Iterator[dict[str, Any]]


def measure_fork(device: str, scale: Scale, started: float) -> Lines:
    """Use the GPU in a forked process, and name the versions."""
    torch.ones(1, device=device).add_(1).cpu()
    seconds = time.time() - started
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    yield {
        "seconds_until_first_result": seconds,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "commit": commit.stdout.strip() or None,
        "has_varlen_attention": segment_attention.has_varlen_attention(),
        "matmul_teraflops": matmul_rate(device, scale.matmul_side) / 1e12,
    }


def measure_training_step(device: str, scale: Scale, started: float) -> Lines:
    """Measure a packed step of full training with FSDP2 and one rank; on a CPU without FSDP2."""
    drafts = draw_lengths(device, scale.num_samples)
    lengths = [sample_length(sample) for sample in draw_samples(device, drafts, 2)]
    layers = fitting_layers(device, lengths, scale.layers)
    if device == "cuda":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update({**group, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
    module = create_model(device, layers).train()
    row = pack(draw_samples(device, drafts, layers), module)
    module.gradient_checkpointing_enable({"use_reentrant": False})
    accelerator = make_accelerator("bf16", Sharding(tuple(layer_classes(module))) if device == "cuda" else None)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
    loss_module, optimizer = accelerator.prepare(AnswerLoss(module), optimizer)
    num_labels = sum(length.target for length in lengths)

    def step() -> None:
        accelerator.backward(loss_module(**row) / num_labels)
        accelerator.clip_grad_norm_(loss_module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    with peak_gigabytes(device) as peak:
        seconds = median_seconds(step, device, scale.repeats)
    profile, strategy = profile_of(device, layers), "fsdp" if device == "cuda" else "ddp"
    operations = sum(flops(profile, length, recompute=False) for length in lengths)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    data_sheet = next((rate for card, rate in PEAK_FLOPS.items() if card in name), None)
    yield {
        "layers": layers,
        "strategy": str(accelerator.distributed_type),
        "tokens": [length.total for length in lengths],
        "seconds_per_step": seconds,
        "tokens_per_second": sum(length.total for length in lengths) / seconds,
        "mfu": operations / seconds / data_sheet if data_sheet else None,
        "share_of_matmul": operations / seconds / matmul_rate(device, scale.matmul_side),
        **peak,
    }
    plan = planned_memory(device, layers, lengths, strategy)
    ratio = plan["total"] / 1e9 / peak["allocated_gigabytes"] if peak else None
    yield {"planned_gigabytes": plan["total"] / 1e9, "planned_over_allocated": ratio, "planned_bytes": plan}
    yield {"gpu_busy_ratio": busy_ratio(step, device)}


def measure_vision(device: str, scale: Scale, started: float) -> Lines:
    """Measure forward and backward pass of the vision tower alone, in each form of its attention."""
    module = create_model(device, 2)
    tower = module.base_model.visual
    [sample] = draw_samples(device, draw_lengths(device, 1), 2)
    pixels, grid = sample["pixel_values"].to(device), sample["image_grid_thw"].to(device)

    def run() -> None:
        tower.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            tower(pixels, grid_thw=grid).pooler_output.float().sum().backward()

    def form(attention: str, *, has_varlen: bool) -> dict[str, Any]:
        module.set_attn_implementation({"vision_config": attention})
        with (
            patch.object(segment_attention, "has_varlen_attention", lambda: has_varlen),
            patch.object(segment_attention, "is_flash_attn_2_available", lambda: False),
            peak_gigabytes(device) as peak,
        ):
            return {"patches": len(pixels), "seconds": median_seconds(run, device, scale.repeats), **peak}

    packed = segment_attention.VISION_ATTENTION
    yield {"form": "a call for each window", **form("sdpa", has_varlen=False)}
    yield {"form": "a call for windows of equal length", **form(packed, has_varlen=False)}
    if device == "cuda" and segment_attention.has_varlen_attention():
        yield {"form": "one call", **form(packed, has_varlen=True)}
    else:
        yield {"form": "one call", "skipped": "needs a GPU and torch's attention for variable lengths"}


def measure_checkpointing(device: str, scale: Scale, started: float) -> Lines:
    """Measure forward and backward pass of one sample with and without gradient checkpointing, at several lengths."""
    module = create_model(device, scale.layers).train()
    loss_module = AnswerLoss(module)
    for length in scale.lengths:
        side = max(2, int((length / 2) ** 0.5))  # half of the tokens are those of an image
        draft = Lengths(length - side * side - 2 - length // 8, ((side, side),), length // 8)
        row = pack(draw_samples(device, [draft], scale.layers), module)

        def run(row: dict[str, Any] = row) -> None:
            module.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = loss_module(**row)
            loss.backward()

        for recompute in (True, False):
            if recompute:
                module.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                module.gradient_checkpointing_disable()
            case = {"tokens": length, "gradient_checkpointing": recompute}
            try:
                with peak_gigabytes(device) as peak:
                    seconds = median_seconds(run, device, scale.repeats)
            except torch.OutOfMemoryError as error:
                yield {**case, "error": str(error).splitlines()[0]}
            else:
                yield {**case, "seconds": seconds, "tokens_per_second": length / seconds, **peak}


def measure_decoding(device: str, scale: Scale, started: float) -> Lines:
    """Measure `generate` with prompts of text; the time of one token more is the difference of two lengths."""
    module = create_model(device, scale.layers, torch.bfloat16).eval()
    module.set_attn_implementation("sdpa")
    words = module.config.text_config.vocab_size
    for size in scale.batch_sizes:
        prompts = torch.randint(6, words, (size, scale.prompt), device=device)

        def generate(number: int, prompts: torch.Tensor = prompts) -> None:
            with torch.inference_mode():
                module.generate(
                    input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=False, pad_token_id=END,
                    mm_token_type_ids=torch.zeros_like(prompts), min_new_tokens=number, max_new_tokens=number,
                )  # fmt: skip

        try:
            generate(2)
            with peak_gigabytes(device) as peak:
                first = measure_seconds(lambda: generate(1), device)
                all_tokens = measure_seconds(lambda: generate(1 + scale.new_tokens), device)
        except torch.OutOfMemoryError as error:
            yield {"batch_size": size, "error": str(error).splitlines()[0]}
        else:
            per_token = (all_tokens - first) / scale.new_tokens
            rate = size / per_token
            seconds = {"prompt_seconds": first, "seconds_per_token": per_token, "tokens_per_second": rate}
            yield {"batch_size": size, "prompt_tokens": scale.prompt, **seconds, **peak}


def measure_precision(device: str, scale: Scale, started: float) -> Lines:
    """Compare loss and gradient in bfloat16 with those in float32, at full width and two layers."""
    module = create_model(device, 2).train()
    loss_module, losses = AnswerLoss(module), []
    row = pack(draw_samples(device, draw_lengths(device, 2), 2), module)
    exact: dict[str, torch.Tensor] = {}
    squares = {"difference": 0.0, "gradient": 0.0}
    for enabled in (False, True):
        module.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            loss = loss_module(**row)
        loss.backward()
        losses.append(float(loss.detach()))
        for name, weight in module.named_parameters():
            if enabled and weight.grad is not None:
                squares["difference"] += float((weight.grad - exact[name]).square().sum())
                squares["gradient"] += float(exact[name].square().sum())
            elif weight.grad is not None:
                exact[name] = weight.grad.clone()
    yield {
        "loss_float32": losses[0],
        "loss_bfloat16": losses[1],
        "relative_loss_difference": abs(losses[1] - losses[0]) / losses[0],
        "relative_gradient_difference": (squares["difference"] / squares["gradient"]) ** 0.5,
    }


def measure_checkpoint(device: str, scale: Scale, started: float) -> Lines:
    """Write and read tensors with `torch.distributed.checkpoint`, with one thread and with several."""
    number = 8
    size = scale.checkpoint_bytes // 4 // number
    state = {f"weight_{index}": torch.randn(size, device=device) for index in range(number)}
    gigabytes = number * size * 4 / 1e9
    for threads in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            writer = dcp.FileSystemWriter(folder, thread_count=threads, sync_files=True)
            write = measure_seconds(lambda writer=writer: dcp.save(state, storage_writer=writer, no_dist=True), device)
            reader = dcp.FileSystemReader(folder)
            read = measure_seconds(lambda reader=reader: dcp.load(state, storage_reader=reader, no_dist=True), device)
        rates = {"write_gigabytes_per_second": gigabytes / write, "read_gigabytes_per_second": gigabytes / read}
        yield {"threads": threads, "gigabytes": gigabytes, **rates}


MEASUREMENTS: dict[str, Callable[[str, Scale, float], Lines]] = {
    "fork": measure_fork,
    "training_step": measure_training_step,
    "vision": measure_vision,
    "checkpointing": measure_checkpointing,
    "decoding": measure_decoding,
    "precision": measure_precision,
    "checkpoint": measure_checkpoint,
}


REPORTED = 1
"""Exit status of a forked process that has reported its error."""


def run_forked(measure: Callable[[], Lines], seconds: float) -> Lines:
    """Run a measurement in a forked process, and yield its lines as they come.

    The last line has the entry `error` if the process fails, is killed, or takes longer than `seconds`.
    """
    receiver, sender = os.pipe()
    process = os.fork()
    if process == 0:
        os._exit(_send_lines(measure, sender))
    os.close(sender)
    is_late = False

    def end(*_: object) -> None:
        nonlocal is_late
        is_late = True
        _kill_group(process)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    status = None
    try:
        with os.fdopen(receiver) as lines:
            for text in lines:
                with suppress(ValueError):  # half of a line of a process that was killed
                    yield json.loads(text)
        _, status = os.waitpid(process, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _kill_group(process)
        if status is None:  # the caller wants no more lines
            os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if is_late:
        yield {"error": f"took longer than {seconds:.0f} seconds"}
    elif code not in (0, REPORTED):
        yield {"error": f"the process ended with exit status {code}"}


def _send_lines(measure: Callable[[], Lines], sender: int) -> int:
    """Write the lines of a measurement to a pipe, and return the exit status of the forked process."""
    os.setsid()
    with os.fdopen(sender, "w") as output:
        try:
            for line in measure():
                print(json.dumps(line), file=output, flush=True)
        except BaseException as error:
            traceback.print_exc()
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), file=output, flush=True)
            return REPORTED
    return 0


def _kill_group(process: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def main() -> None:
    """Measure, and print a line after each measurement; on a GPU also write the lines to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), help="measurements")
    parser.add_argument("--seconds", type=float, default=600, help="limit of all measurements together")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    deadline = time.monotonic() + arguments.seconds
    file = ROOT / "bench" / "results" / "gpu.jsonl" if device == "cuda" else Path(os.devnull)
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as output:
        for name in (name for name in MEASUREMENTS if name in arguments.only):
            started = time.time()
            measure, remaining = MEASUREMENTS[name], deadline - time.monotonic()
            for line in run_forked(partial(measure, device, SCALES[device], started), remaining):
                text = json.dumps({"measurement": name, **line})
                print(text, flush=True)
                print(text, file=output, flush=True)


if __name__ == "__main__":
    main()
