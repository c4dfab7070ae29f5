"""What `runner plan` tells of a sweep before anything is searched."""

import json
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from runner.cli.plan_and_preview_display import plan_tables
from runner.preflight.estimate import describe_plan
from runner.spec.load import load_spec

SPEC = """\
name: told
data: {type: synthetic, path: data, train: 2, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
"""


class SilentReporter:
    def progress(self, done, total, **shown): ...

    def warn(self, message):
        raise AssertionError(message)


@pytest.fixture
def describe(tmp_path):
    def describe(*lines):
        path = tmp_path / "told.yaml"
        path.write_text(SPEC + "".join(f"  {line}\n" for line in lines))
        return json.loads(json.dumps(describe_plan(load_spec(path), SilentReporter())))

    return describe


def test_all_trials_of_a_grid_are_listed(describe):
    told = describe("space: {generator.answer: {grid: [a, b, c]}}", "seeds: [1, 2]")
    assert [each["parameters"] for each in told["trials"]] == [
        {"generator.answer": answer, "seed": seed} for answer in "abc" for seed in (1, 2)
    ]
    assert len({each["fingerprint"] for each in told["trials"]}) == 6
    assert told["sweep"]["num_trials"] == 6
    assert told["sweep"]["space"] == {"generator.answer": "grid a, b, c"}
    assert told["unmet"] == []


def test_arms_are_listed_and_a_budget_ends_the_list(describe):
    told = describe("arms: {a: {}, b: {adapter.tasks: [match]}}", "seeds: [1, 2, 3]")
    assert (len(told["trials"]), told["sweep"]["num_trials"]) == (6, 6)
    assert told["sweep"]["arms"] == {"a": {}, "b": {"adapter.tasks": ["match"]}}
    told = describe("space: {generator.answer: {grid: [a, b, c]}}", "budget: {trials: 2}")
    assert (len(told["trials"]), told["sweep"]["num_trials"]) == (2, 2)


def test_enqueued_points_of_a_search_are_listed(describe):
    lines = ("space: {data.unseen_name_ratio: {uniform: [0, 1]}}", "search: {type: random}", "enqueue: [{}]")
    told = describe(*lines, "budget: {trials: 9}")
    assert [each["parameters"] for each in told["trials"]] == [{"data.unseen_name_ratio": 0.0}]
    assert told["sweep"]["num_trials"] == 9
    assert describe(*lines, "budget: {hours: 9}")["sweep"]["num_trials"] is None


def test_a_sweep_is_shown_as_a_table(describe):
    told = describe(
        "space: {generator.answer: {grid: [a, b, c]}}", "arms: {x: {adapter.images: lettered}}", "seeds: [7]"
    )
    console = Console(file=StringIO(), width=160)
    for table in plan_tables(told):
        console.print(table)
    shown = console.file.getvalue()
    for part in ("at most 3", "grid a, b, c", "arm x", "adapter.images = lettered", "seeds", "7"):
        assert part in shown


def test_neither_validate_nor_plan_imports_optuna(tmp_path):
    path = tmp_path / "told.yaml"
    path.write_text(
        SPEC + "  space: {data.unseen_name_ratio: {uniform: [0, 1]}}\n  search: {type: random}\n  budget: {trials: 2}\n"
    )
    code = "import sys, runner.cli.experiment_commands, runner.preflight.estimate; from pathlib import Path; "
    code += f"from runner.spec.load import load_spec; load_spec(Path({str(path)!r})); print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


TRAINED = """\
name: budgets
data: {type: synthetic, path: data, train: 12, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1.0e-3}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
  arms: {joint: {}, alone: {adapter.tasks: [ner]}}
  space:
    trainer:
      choice:
        steps: {type: sft, epochs: 2, global_batch_size: 4}
        tokens: {type: sft, epochs: null, tokens: 700, global_batch_size: 4}
  seeds: [1, 2]
"""


def test_arms_of_equal_steps_and_of_equal_tokens_are_told_apart(tmp_path):
    (tmp_path / "budgets.yaml").write_text(TRAINED)
    told = json.loads(json.dumps(describe_plan(load_spec(tmp_path / "budgets.yaml"), SilentReporter())))
    found = {}
    for trial in told["trials"]:
        found.setdefault((trial["arm"], trial["parameters"]["trainer"]), []).append(trial)
    assert all(len(members) == 2 for members in found.values())
    for arm in ("joint", "alone"):
        assert {trial["steps"] for trial in found[arm, "steps"]} == {6}
        assert all(
            700 <= trial["trained_tokens"] < 700 + 4 * told["tokens"]["longest_sample"]
            for trial in found[arm, "tokens"]
        )
    # In whole epochs the order does not matter; a task alone is taught by fewer tokens in as many steps.
    joint, alone = ({trial["trained_tokens"] for trial in found[arm, "steps"]} for arm in ("joint", "alone"))
    assert joint == {told["tokens"]["trained"]} == {2 * told["tokens"]["target"]}
    assert max(alone) < min(joint)
    assert min(trial["steps"] for trial in found["alone", "tokens"]) > max(t["steps"] for t in found["joint", "tokens"])
    stream = StringIO()
    for table in plan_tables(told):
        Console(file=stream, width=200).print(table)
    rows = [[cell.strip() for cell in line.split("│")] for line in stream.getvalue().splitlines()]
    assert ["alone", "steps", "2", "6", f"{min(alone):,}", "one prompt for ner"] in [row[1:-1] for row in rows]
