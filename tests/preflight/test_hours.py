"""The estimated time of a trial, and settings that make it shorter."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.cli.plan_and_preview_display import plan_tables
from runner.preflight.hours import ACCELERATORS, ASSUMED_TRANSFER_RATIO, Answers, estimate_hours, find_faster
from runner.records import Memory, TrainingEstimate, TrainingVariant
from runner.spec.experiment_spec import ComputeOptions

A100 = ComputeOptions(workers=4, gpus_per_worker=1, accelerator="A100", gpu_memory="80GB")
GIGABYTE = 10**9


def variant(change, gigabytes, flops, exchanged=0.0):
    return TrainingVariant(change, "fsdp", Memory("step", gigabytes * GIGABYTE, 0, 0, 0, 0), flops, exchanged)


TRAINING = TrainingEstimate(
    (variant("", 30, 1e15),),
    flops_per_step=1e15,
    checkpoint=36 * GIGABYTE,
    num_checkpoints=3,
    model=12 * GIGABYTE,
    exchanged_per_step=21e9,
    faster=(variant("most", 75, 7e14, 21e9), variant("some", 60, 8e14, 21e9), variant("less", 50, 9e14, 21e9)),
)


def test_a_step_takes_its_operations_and_its_exchange_over_each_interconnect():
    told = estimate_hours(TRAINING, A100, 3600, None)
    computing = 1e15 / (4 * 312e12 * told["share_of_peak"])
    nvlink, pcie = told["interconnects"].values()
    assert nvlink["seconds_per_step"] == pytest.approx(computing + 21e9 / (300e9 * ASSUMED_TRANSFER_RATIO))
    assert pcie["seconds_per_step"] == pytest.approx(computing + 21e9 / (32e9 * ASSUMED_TRANSFER_RATIO))
    assert told["training"] == nvlink["training"] == pytest.approx(nvlink["seconds_per_step"])
    assert list(told["interconnects"]) == ["NVLink", "PCIe"]
    one = replace(TRAINING, exchanged_per_step=0)
    assert len(estimate_hours(one, A100.model_copy(update={"workers": 1}), 10, None)["interconnects"]) == 1


def test_a_trial_also_loads_saves_and_answers():
    answers = Answers(number=160, prompt_tokens=1000, answer_tokens=100, concurrent=8, num_parameters=6 * GIGABYTE)
    told = estimate_hours(TRAINING, A100, 301, answers)
    assert told["loading"] == pytest.approx(36 / 3600)
    # 500 tokens one after another on each worker: 15 ms to launch a step, and 12 GB to read from the GPU's memory.
    decoding = 500 * (0.015 + 12e9 / (2039e9 * ASSUMED_TRANSFER_RATIO))
    reading = 2 * 6e9 * 160 * 1000 / (4 * 312e12 * told["share_of_peak"])
    assert told["answers"] == pytest.approx((decoding + reading) / 3600)
    parts = ("training", "loading", "answers")
    assert told["total"] == pytest.approx(sum(told[part] for part in parts))
    assert told["gpu"] == pytest.approx(4 * told["total"])


def test_hours_that_are_not_known_are_null_or_missing():
    told = estimate_hours(TRAINING, A100, None, None)
    assert told["training"] is told["answers"] is told["total"] is told["gpu"] is None
    unknown = ComputeOptions(gpus_per_worker=1, accelerator="unheard-of")
    assert estimate_hours(TRAINING, unknown, 10, None) == {}
    assert find_faster(TRAINING, unknown, 80 * GIGABYTE) is None


@given(st.integers(1, 100) | st.none())
def test_the_fastest_variant_that_fits_is_found(gigabytes):
    limit = None if gigabytes is None else gigabytes * GIGABYTE
    told = find_faster(TRAINING, A100, limit)
    fitting = [each for each in TRAINING.faster if limit is not None and each.memory.total <= limit]
    assert (told and told["change"]) == (fitting[0].change if fitting else None)
    if told:
        assert told["total"] <= limit and told["seconds_per_step"]["NVLink"] < told["seconds_per_step"]["PCIe"]


def test_every_accelerator_names_its_fastest_interconnect_first():
    for accelerator in ACCELERATORS.values():
        speeds = list(accelerator.interconnects.values())
        assert speeds == sorted(speeds, reverse=True) and "PCIe" in accelerator.interconnects


def test_the_plan_shows_the_times_with_each_interconnect():
    answers = Answers(160, 1000, 100, 8, 6 * GIGABYTE)
    names = ("sweep", "fingerprint", "steps_per_trial", "where", "disk", "host_memory", "memory", "parameters")
    empty = dict.fromkeys(names)
    description = {
        **empty,
        "trials": [],
        "num_samples": {},
        "tokens": {},
        "hours": estimate_hours(TRAINING, A100, 3600, answers),
        "faster": find_faster(TRAINING, A100, 70 * GIGABYTE),
    }
    console = Console(width=200)
    with console.capture() as shown:
        for table in plan_tables(description):
            console.print(table)
    text = shown.get()
    assert "2.10 (NVLink), 2.94 (PCIe), at 40% of the A100's peak" in text
    assert "each GPU sends and receives 21.0 GB" in text
    assert "some: 1.70 (NVLink), 2.54 (PCIe) seconds per step, and 60.0 GB of memory" in text
    [row] = [line for line in text.splitlines() if "time of a trial" in line]
    assert "(NVLink)" in row and "(PCIe)" in row
