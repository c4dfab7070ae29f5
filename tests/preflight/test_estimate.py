"""What `runner plan` tells of a training, with data and hub and without."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from runner.cli.plan_and_preview_display import LITTLE_MEMORY, _memory_table, plan_tables
from runner.errors import RequirementError
from runner.preflight.estimate import ASSUMED_LENGTH, assumed_sample_length, describe_plan
from runner.preflight.resources import check_memory, estimate_disk
from runner.records import CheckpointSchedule, Memory, TrainingEstimate, TrainingVariant
from runner.spec.experiment_spec import ComputeOptions
from runner.spec.load import load_spec

SPECS = Path(__file__).parents[2] / "specs"
A100 = ComputeOptions(workers=4, gpus_per_worker=1, accelerator="A100", gpu_memory="80GB")
GIGABYTE = 10**9


class SilentReporter:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


@pytest.fixture
def offline(monkeypatch):
    """No access to the hub, whatever the network."""

    def offline(name, revision):
        raise RequirementError(f"{name} cannot be had")

    monkeypatch.setattr("plugins.model.chat.find_checkpoint.hub_revision", offline)


def plan_of(*overrides):
    return describe_plan(load_spec(SPECS / "qwen_mmre.yaml", ["data.path=/nowhere", *overrides]), SilentReporter())


WHOLE = ("trainer.strategy=ddp", "trainer.gradient_checkpointing=false")
"""The paper's run with all weights on every GPU."""


def test_four_gpus_hold_the_shipped_spec_of_the_paper(offline):
    told = plan_of()
    assert told["fits"] is True
    assert told["memory"]["strategy"] == "fsdp"
    assert told["advice"] == []


def test_the_spec_of_the_paper_is_planned_without_hub_and_data(offline):
    told = json.loads(json.dumps(plan_of(*WHOLE)))
    groups = {row["group"]: row["num_parameters"] for row in told["parameters"]}
    assert groups == {"merger": 44_574_464, "vision": 631_975_680, "language": 7_615_616_512}
    assert told["fits"] is False
    assert any("trainer.strategy=fsdp" in line and "fits" in line for line in told["advice"])
    memory = told["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "logits")
    for way in (memory, *memory["ways"]):
        assert way["total"] == sum(way[part] for part in parts)
    # Float32 weights, gradients and two moments of all of it, on every GPU.
    assert memory["total"] > 16 * sum(groups.values())
    divided = next(way for way in memory["ways"] if way["strategy"] == "fsdp")
    assert divided["fits"] and divided["optimizer"] == pytest.approx(8 * sum(groups.values()) / 4, rel=1e-6)
    assert told["tokens"]["assumed"] and told["tokens"]["longest_sample"] == 1500
    assert told["disk"]["checkpoint"] == 12 * sum(groups.values())
    assert told["disk"]["encoded_samples"] is None
    assert told["hours"]["training"] is None and told["hours"]["seconds_per_step"] > 0
    assert [name for name in ("data set", "cannot be had") if not any(name in line for line in told["unmet"])] == []


def test_main_memory_of_the_papers_run_is_advised_and_compared(offline):
    told = plan_of()
    host, num_weights = told["host_memory"], sum(row["num_parameters"] for row in told["parameters"])
    assert host["load"] == host["save"] == host["processes"] + 2 * num_weights
    assert host["training"] == host["total"] == host["processes"] + 12 * num_weights
    assert host["advice"] == "set compute.memory=27GB, which reserves it"
    assert plan_of("trainer.save_async=false")["host_memory"]["training"] == host["processes"]
    reserved = plan_of("compute.memory=20GB")
    assert reserved["host_memory"]["fits"] is False
    console = Console(width=200)
    with console.capture() as shown:
        for table in plan_tables(reserved):
            console.print(table)
    row = "107.5 GB for all workers: load 24.6, training 107.5 (a copy of a checkpoint has 99.5), save 24.6"
    assert f"{row}; compute.memory=20GB reserves too little; set 27GB" in shown.get()


def test_the_tables_fit_into_a_terminal(offline):
    console = Console(width=80)
    with console.capture() as shown:
        for table in plan_tables(plan_of(*WHOLE)):
            console.print(table)
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("this spec" in line for line in lines)
    assert any(line.startswith("(1) trainer.strategy=fsdp") for line in lines)


def test_a_small_model_is_shown_without_settings_that_save_memory(offline):
    memory = plan_of(*WHOLE)["memory"]
    for total, num_columns in ((LITTLE_MEMORY, 2), (LITTLE_MEMORY + 1, 2 + len(memory["ways"]))):
        table = _memory_table({**memory, "total": total})
        assert len(table.columns) == num_columns
        assert bool(table.caption) == (num_columns > 2)


def test_the_assumed_sample_is_as_long_as_the_spec_allows(offline):
    told = plan_of("trainer.max_length=4000")
    assert told["tokens"]["longest_sample"] == 4000
    assert told["memory"]["ways"][0]["activations"] > plan_of()["memory"]["ways"][0]["activations"]
    assert assumed_sample_length(None) == ASSUMED_LENGTH
    assert assumed_sample_length(10).image == 0


def test_tokens_of_an_available_model_are_counted(tmp_path):
    overrides = [f"data.path={tmp_path}/data", "data.train=12", "data.test=4", "compute.accelerator=A100"]
    told = describe_plan(load_spec(SPECS / "tiny_mmre.yaml", overrides), SilentReporter())
    tokens = told["tokens"]
    assert (
        tokens["text"] + tokens["image"] + tokens["target"]
        == tokens["total"]
        == pytest.approx(12 * tokens["mean_sample"])
    )
    assert not tokens["estimated"] and not tokens["assumed"]
    assert told["num_samples"] == {"train": 12, "test": 4}
    disk = told["disk"]
    assert disk["encoded_samples"] > 12 * 10_000  # one file for each sample, with the pixels of its images
    assert disk["total"] == disk["num_checkpoints"] * disk["checkpoint"] + disk["model"] + disk["encoded_samples"]
    assert told["fits"] is None and told["advice"] == []
    assert told["hours"] == {}  # on the CPU, whatever the accelerator is called


def estimate_training(*gigabytes):
    ways = [
        TrainingVariant(f"change{place}" if place else "", "ddp", Memory("step", each * GIGABYTE, 0, 0, 0, 0))
        for place, each in enumerate(gigabytes)
    ]
    return TrainingEstimate(tuple(ways), flops_per_step=1e15, checkpoint=10, num_checkpoints=3, model=5)


def test_the_advice_names_what_fits_or_the_least_possible_memory():
    assert check_memory(estimate_training(70, 50), A100)["advice"] == []
    assert check_memory(estimate_training(70, 50), A100)["fits"] is True
    told = check_memory(estimate_training(200, 71, 70, 40, 30), A100)
    # 8 % of the memory for gaps, and 3 GB for CUDA and NCCL.
    assert told["memory"]["limit"] == pytest.approx((80 * 0.92 - 3) * GIGABYTE)
    assert [line.split(":")[0] for line in told["advice"][1:]] == ["change2", "change3"]
    assert "at least 90 GB (change1)" in check_memory(estimate_training(200, 90), A100)["advice"][-1]
    assert "90 GB" in check_memory(estimate_training(90), A100)["advice"][-1]


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (2 * 10**8, "checkpoints of 0.000, the model, and 0.2 of encoded training samples"),
        (0, "checkpoints of 0.000 and the model "),
        (None, "checkpoints of 0.000 and the model, without encoded samples"),
    ],
)
def test_the_disk_row_names_the_encoded_samples(offline, encoded, text):
    disk = estimate_disk(replace(estimate_training(1), encoded=encoded or 0), assumed=encoded is None)
    assert disk["total"] == 35 + (encoded or 0) and disk["encoded_samples"] == encoded
    console = Console(width=300)
    with console.capture() as shown:
        for table in plan_tables({**plan_of(), "disk": disk}):
            console.print(table)
    [row] = [line for line in shown.get().splitlines() if line.startswith("│ disk")]
    assert text in row


def test_the_plan_says_what_a_whole_trial_writes(offline):
    schedule = CheckpointSchedule(seconds=1200, steps=None, steps_per_epoch=967)
    estimate = replace(estimate_training(1), checkpoint=100 * GIGABYTE, encoded=7, schedule=schedule)
    disk = estimate_disk(estimate, num_steps=2901, seconds_per_step=0.83)
    assert (disk["checkpoints_written"], disk["written"]) == (2, 200 * GIGABYTE + 5 + 7)
    assert disk["write_minutes"] == pytest.approx(200 / 60)
    console = Console(width=300)
    with console.capture() as shown:
        for table in plan_tables({**plan_of(), "disk": disk}):
            console.print(table)
    assert "200.0 GB in the whole trial, with 2 checkpoints; takes" in shown.get()


def test_what_is_written_is_unknown_without_the_time_that_decides_it():
    by_time = replace(estimate_training(1), schedule=CheckpointSchedule(1200, None, 10))
    by_steps = replace(estimate_training(1), schedule=CheckpointSchedule(None, 5, 10))
    assert estimate_disk(by_time, num_steps=100)["written"] is None
    assert estimate_disk(by_steps, num_steps=100)["checkpoints_written"] == 19
    assert estimate_disk(by_steps)["written"] is None
    assert estimate_disk(estimate_training(1), num_steps=100, seconds_per_step=1)["written"] is None
