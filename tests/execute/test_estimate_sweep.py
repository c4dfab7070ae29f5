"""What `runner plan` tells of a sweep before anything is searched."""

import json
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from runner.execute.estimate import describe_plan
from runner.spec.load import load_spec
from runner.terminal.plan import plan_tables

SPEC = """\
name: told
data: {type: synthetic, path: data, train: 2, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: fixed}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
"""


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message):
        raise AssertionError(message)


@pytest.fixture
def told_of(tmp_path):
    def told_of(*lines):
        path = tmp_path / "told.yaml"
        path.write_text(SPEC + "".join(f"  {line}\n" for line in lines))
        return json.loads(json.dumps(describe_plan(load_spec(path), Silent())))

    return told_of


def test_a_grid_is_listed_whole_with_its_seeds(told_of):
    told = told_of("space: {generator.answer: {grid: [a, b, c]}}", "seeds: [1, 2]")
    assert [each["parameters"] for each in told["trials"]] == [
        {"generator.answer": answer, "seed": seed} for answer in "abc" for seed in (1, 2)
    ]
    assert len({each["fingerprint"] for each in told["trials"]}) == 6
    assert told["sweep"]["num_trials"] == 6
    assert told["sweep"]["space"] == {"generator.answer": "grid a, b, c"}
    assert told["unmet"] == []


def test_arms_are_listed_and_a_budget_ends_the_list(told_of):
    told = told_of("arms: {a: {}, b: {adapter.tasks: [match]}}", "seeds: [1, 2, 3]")
    assert (len(told["trials"]), told["sweep"]["num_trials"]) == (6, 6)
    assert told["sweep"]["arms"] == {"a": {}, "b": {"adapter.tasks": ["match"]}}
    told = told_of("space: {generator.answer: {grid: [a, b, c]}}", "budget: {trials: 2}")
    assert (len(told["trials"]), told["sweep"]["num_trials"]) == (2, 2)


def test_of_a_search_what_is_tried_first_is_known(told_of):
    lines = ("space: {data.new_names: {uniform: [0, 1]}}", "search: {type: random}", "first: [{}]")
    told = told_of(*lines, "budget: {trials: 9}")
    assert [each["parameters"] for each in told["trials"]] == [{"data.new_names": 0.0}]
    assert told["sweep"]["num_trials"] == 9
    assert told_of(*lines, "budget: {hours: 9}")["sweep"]["num_trials"] is None


def test_it_is_shown_as_a_table(told_of):
    told = told_of(
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
        SPEC + "  space: {data.new_names: {uniform: [0, 1]}}\n  search: {type: random}\n  budget: {trials: 2}\n"
    )
    code = "import sys, runner.cli.begin, runner.execute.estimate; from pathlib import Path; "
    code += f"from runner.spec.load import load_spec; load_spec(Path({str(path)!r})); print('optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
