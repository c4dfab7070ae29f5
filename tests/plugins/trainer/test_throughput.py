"""Tokens per second count the optimizer; MFU compares the operations of a step with the peak of the GPUs."""

import gzip
import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer import train_step as module
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.model_profile import FLOAT32_BYTES, profile_model
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.step_memory import SampleLength, flops
from plugins.trainer.step_profiler import TRACE_FILE, profile_steps
from plugins.trainer.throughput import MfuMeter, device_peak_flops, peak_flops, wait_for_device
from plugins.trainer.train_step import LocalBatch, TrainStep
from runner.preflight.hours import ACCELERATORS

PEAK = 1e12


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A1000", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_is_that_of_the_driver_s_name(name, peak):
    assert peak_flops(name) == (ACCELERATORS[peak].flops if peak else None)


def test_only_known_gpus_in_bf16_have_a_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert device_peak_flops(torch.device("cuda", 0), "bf16") == ACCELERATORS["H100"].flops
    assert device_peak_flops(torch.device("cuda", 0), "fp32") is None
    assert device_peak_flops(torch.device("cpu"), "bf16") is None


@pytest.fixture
def make_meter(build_smoke):
    """A function that makes the meter of a smoke-sized model."""

    def make_meter(module=None, *, caches_features=False):
        module = module or build_smoke().module
        return MfuMeter.of(module, PEAK, caches_features=caches_features)

    return make_meter


@pytest.fixture
def meter(make_meter):
    return make_meter()


@given(seconds=st.floats(1e-3, 1e3), num_workers=st.integers(1, 64), share=st.floats(0.01, 1))
def test_mfu_is_the_share_of_the_peak_of_all_workers(seconds, num_workers, share):
    meter = MfuMeter(1.0, 1.0, 1.0, -1, PEAK)
    assert meter.utilization(share * PEAK * num_workers * seconds, seconds, num_workers) == pytest.approx(share)


def test_operations_are_those_of_the_plan(build_smoke, colour_samples, meter):
    model = build_smoke()
    profile = profile_model(model.module, FLOAT32_BYTES)
    counts = [model.count(sample) for sample in colour_samples[3:7]]
    expected = sum(
        flops(profile, SampleLength(each.text + each.image + each.target, each.image, each.target), recompute=False)
        for each in counts
    )
    assert meter.flops([model.encode(sample) for sample in colour_samples[3:7]]) == pytest.approx(expected)


def test_cached_features_and_frozen_weights_need_fewer_operations(build_smoke, colour_samples, make_meter):
    module = build_smoke().module
    with_image, text_only = ([build_smoke().encode(colour_samples[index])] for index in (0, 5))
    trained, cached = make_meter(module), make_meter(module, caches_features=True)
    assert cached.flops(with_image) < trained.flops(with_image)
    assert cached.flops(text_only) == trained.flops(text_only)
    module.requires_grad_(False)
    frozen = make_meter(module)
    # Forward pass and gradients of the hidden states; nothing is trained before the vision tower.
    assert frozen.per_token == pytest.approx(trained.per_token * 2 / 3)
    assert frozen.per_image_token == pytest.approx(trained.per_image_token / 3)


def test_a_step_is_measured_until_the_device_has_updated_the_weights(build_smoke, colour_samples, meter, monkeypatch):
    model = build_smoke()
    built = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-3}})).build(model.module, 20)
    options = SftOptions(precision="fp32")
    train_step = TrainStep(make_accelerator("fp32"), model, built, options, mfu_meter=meter)
    batch = LocalBatch([model.encode(sample) for sample in colour_samples[:2]], 0)
    calls = []
    # A GPU returns from the update before it has computed it.
    monkeypatch.setattr(TrainStep, "update", lambda self: calls.append("update"))
    monkeypatch.setattr(module, "wait_for_device", lambda device: calls.append("wait") or time.sleep(0.5))
    metrics = train_step.run(0, ["a", "b"], batch)
    assert calls == ["update", "wait"]
    num_tokens = sum(len(sample["input_ids"]) for sample in batch.samples)
    assert 0 < metrics["train/tokens_per_second"] < num_tokens / 0.5
    assert metrics["train/mfu"] == pytest.approx(
        metrics["train/tokens_per_second"] / num_tokens * meter.flops(batch.samples) / PEAK
    )


def test_only_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for name in ("cpu", "cuda"):
        wait_for_device(torch.device(name))
    assert waited == [torch.device("cuda")]


@pytest.mark.parametrize(
    ("num_profiled", "num_remaining", "num_run", "profiled"),
    [(2, 9, 9, {2, 3}), (2, 3, 3, {1, 2}), (5, 2, 2, {0, 1}), (3, 9, 4, {2, 3}), (1, 1, 1, {0})],
)
def test_steps_after_two_others_are_profiled_if_there_are_as_many(
    tmp_path, num_profiled, num_remaining, num_run, profiled
):
    with profile_steps(tmp_path / "profile", num_profiled, num_remaining) as end_step:
        for _ in range(num_run):
            torch.ones(2).add(1)
            end_step()
    trace = json.loads(gzip.decompress((tmp_path / "profile" / TRACE_FILE).read_bytes()))
    prefix = "ProfilerStep#"
    names = {event.get("name", "") for event in trace["traceEvents"]}
    # A step that was begun and not ended is in the trace too.
    steps = {int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)}
    assert profiled <= steps <= {*profiled, max(profiled) + 1}
