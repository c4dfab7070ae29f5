"""What `runner plan` tells of a training, with data and hub and without."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from runner.cli.plan_tables import plan_tables
from runner.errors import RequirementError
from runner.preflight.estimate import ASSUMED, assumed_length, describe_plan
from runner.preflight.resources import USABLE, check_memory, hours
from runner.records import Memory, TrainingEstimate, TrainingWay
from runner.spec.experiment_spec import ComputeOptions
from runner.spec.load import load_spec

SPECS = Path(__file__).parents[2] / "specs"
A100 = ComputeOptions(workers=4, gpus_per_worker=1, accelerator="A100", gpu_memory="80GB")
GIGABYTE = 10**9


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


@pytest.fixture
def away(monkeypatch):
    """No hub, whatever network there is."""

    def away(name, revision):
        raise RequirementError(f"{name} cannot be had")

    monkeypatch.setattr("plugins.model.chat.checkpoint_files.hub_revision", away)


def plan_of(*overrides):
    return describe_plan(load_spec(SPECS / "qwen_mmre.yaml", ["data.path=/nowhere", *overrides]), Silent())


WHOLE = ("trainer.strategy=ddp", "trainer.gradient_checkpointing=false")
"""The paper's run with all weights on every GPU."""


def test_four_gpus_hold_the_papers_run_as_it_is_shipped(away):
    told = plan_of()
    assert told["fits"] is True
    assert told["memory"]["strategy"] == "fsdp"
    assert told["advice"] == []


def test_the_papers_run_is_planned_without_hub_and_data(away):
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
    assert told["hours"]["training"] is None and told["hours"]["seconds_per_step"] > 0
    assert [name for name in ("data set", "cannot be had") if not any(name in line for line in told["unmet"])] == []


def test_the_tables_show_it_within_a_terminal(away):
    console = Console(width=80)
    with console.capture() as shown:
        for table in plan_tables(plan_of(*WHOLE)):
            console.print(table)
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("as it is" in line for line in lines)
    assert any(line.startswith("(1) trainer.strategy=fsdp") for line in lines)


def test_a_sample_is_assumed_as_long_as_the_spec_allows(away):
    told = plan_of("trainer.max_length=4000")
    assert told["tokens"]["longest_sample"] == 4000
    assert told["memory"]["ways"][0]["activations"] > plan_of()["memory"]["ways"][0]["activations"]
    assert assumed_length(None) == ASSUMED
    assert assumed_length(10).image == 0


def test_a_small_run_is_counted_and_not_estimated(tmp_path):
    overrides = [f"data.path={tmp_path}/data", "data.train=12", "data.test=4", "compute.accelerator=A100"]
    told = describe_plan(load_spec(SPECS / "tiny_mmre.yaml", overrides), Silent())
    tokens = told["tokens"]
    assert (
        tokens["text"] + tokens["image"] + tokens["target"]
        == tokens["total"]
        == pytest.approx(12 * tokens["mean_sample"])
    )
    assert not tokens["estimated"] and not tokens["assumed"]
    assert told["num_samples"] == {"train": 12, "test": 4}
    assert told["fits"] is None and told["advice"] == []
    assert told["hours"] == {}  # on the CPU, whatever the accelerator is called


def estimate_training(*gigabytes):
    ways = [
        TrainingWay(f"change{place}" if place else "", "ddp", Memory("step", each * GIGABYTE, 0, 0, 0, 0))
        for place, each in enumerate(gigabytes)
    ]
    return TrainingEstimate(tuple(ways), flops_per_step=1e15, checkpoint=10, num_checkpoints=3, model=5)


def test_what_fits_is_advised_and_else_how_far_off_it_is():
    assert check_memory(estimate_training(70, 50), A100)["advice"] == []
    assert check_memory(estimate_training(70, 50), A100)["fits"] is True
    told = check_memory(estimate_training(200, 77, 60, 40, 30), A100)
    assert told["memory"]["limit"] == USABLE * 80 * GIGABYTE
    assert [line.split(":")[0] for line in told["advice"][1:]] == ["change2", "change3"]
    assert "change1) is 90 GB" in check_memory(estimate_training(200, 90), A100)["advice"][-1]
    assert "90 GB" in check_memory(estimate_training(90), A100)["advice"][-1]


def test_hours_are_operations_over_a_stated_share_of_the_peak():
    told = hours(estimate_training(1), A100, 3600)
    assert told["seconds_per_step"] == pytest.approx(1e15 / (4 * 312e12 * told["share_of_peak"]))
    assert told["training"] == pytest.approx(told["seconds_per_step"])
    assert told["gpu"] == pytest.approx(4 * told["training"])
    assert hours(estimate_training(1), A100, None)["gpu"] is None
    assert hours(estimate_training(1), ComputeOptions(gpus_per_worker=1, accelerator="unheard-of"), 10) == {}
