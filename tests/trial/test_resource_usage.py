"""Resource usage is sampled during a block and once at its end, unless sampling is disabled."""

import json
import sys
import time
from types import SimpleNamespace

import pytest

from runner.trial.resource_usage import UsageReader, sample_usage
from runner.trial.run_directory_and_events import EventLog, RunDirectory


def events(run):
    return [json.loads(line) for line in run.events.read_text().splitlines()] if run.events.exists() else []


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path)
    run.record.write_text('{"created": "2026-11-23T10:00:00+00:00"}')
    return run


def test_samples_are_taken_during_the_block_and_at_its_end(run):
    with sample_usage(run, EventLog(run.events), 0.01):
        deadline = time.monotonic() + 30
        while len(events(run)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    samples = events(run)
    assert len(samples) >= 2 and {event["kind"] for event in samples} == {"system"}
    assert samples[-1]["values"]["process_memory_usage_megabytes"] > 1
    assert 0 <= samples[-1]["values"]["system_memory_usage_percentage"] <= 100
    since = samples[-1]["step"] + 1795428000  # seconds of the record's `created`
    assert abs(since - time.time()) < 120
    number = len(samples)
    time.sleep(0.05)
    assert len(events(run)) == number, "sampling has stopped"


def test_a_short_block_has_one_sample_and_errors_propagate(run):
    with pytest.raises(ValueError), sample_usage(run, EventLog(run.events), 3600):
        raise ValueError
    assert len(events(run)) == 1


def test_interval_0_disables_sampling(run):
    with sample_usage(run, EventLog(run.events), 0):
        pass
    assert events(run) == []


@pytest.mark.parametrize(
    ("uses_gpus", "has_nvml", "warns"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_gpus_that_cannot_be_read_are_reported_once(run, monkeypatch, uses_gpus, has_nvml, warns):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml if has_nvml else None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with sample_usage(run, EventLog(run.events), 3600, uses_gpus=uses_gpus):
        pass
    warnings = [event["message"] for event in events(run) if event["kind"] == "warning"]
    assert len(warnings) == warns
    assert not warns or "mmre-runner[gpu]" in warnings[0]


class Nvml:
    """Three GPUs; the second cannot be read."""

    @staticmethod
    def nvmlInit():
        """There is a driver."""

    nvmlDeviceGetCount = staticmethod(lambda: 3)
    nvmlDeviceGetHandleByIndex = staticmethod(lambda number: number)
    nvmlDeviceGetPowerUsage = staticmethod(lambda handle: 250_000)

    @staticmethod
    def nvmlDeviceGetMemoryInfo(handle):
        if handle == 1:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(used=20e9, total=80e9)

    @staticmethod
    def nvmlDeviceGetUtilizationRates(handle):
        return SimpleNamespace(gpu=90 + handle)


@pytest.mark.parametrize(
    ("visible", "workers", "expected"),
    [(None, "1", {0, 2}), ("2", "1", {2}), ("", "1", set()), ("1,2", "2", {2}), ("0,2", "4", {0, 2})],
)
def test_only_visible_gpus_are_read(monkeypatch, visible, workers, expected):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml)
    monkeypatch.setenv("WORLD_SIZE", workers)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    values = UsageReader().read()
    assert {number for number in range(3) if f"gpu_{number}_utilization_percentage" in values} == expected
    if 2 in expected:
        assert values["gpu_2_utilization_percentage"] == 92
        assert values["gpu_2_memory_usage_percentage"] == 25 and values["gpu_2_power_usage_watts"] == 250
