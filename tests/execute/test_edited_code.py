"""Launching again after an edit of code, and running steps again on purpose."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from runner.files import read_jsonl
from tests.conftest import Workplace


@pytest.fixture
def own_copy(emoji, extension, tmp_path):
    """The experiment `emoji`, with a copy of the extension that the test may edit."""
    site = tmp_path / "site"
    shutil.copytree(extension, site)
    yield Workplace(emoji.folder, {**emoji.environment, "PYTHONPATH": str(site)}), site / "emoji_extension"
    forget_imports()


def forget_imports():
    """Make the next command import the extension again, as a new process does."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "emoji_extension"]:
        del sys.modules[name]


def launch(workplace, *arguments):
    forget_imports()
    done = workplace.run("launch", "emoji.yaml", "--local", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    return trial, done.stderr


def steps_run(trial):
    """The steps that ran, for each launch of the trial in order."""
    events = read_jsonl(Path(trial["run_dir"]) / "events.jsonl")
    return [event["step"] for event in events if event["kind"] == "state" and event["state"] == "started"]


def test_an_edited_metric_scores_anew_and_trains_nothing(own_copy):
    workplace, package = own_copy
    first, _ = launch(workplace)
    source = (package / "answer_length.py").read_text()

    (package / "answer_length.py").write_text(f"# A comment.\n{source}".replace("over the corpus", "of the corpus"))
    unchanged, messages = launch(workplace)
    assert (unchanged["fingerprint"], unchanged["metrics"]) == (first["fingerprint"], first["metrics"])
    assert "nothing was run" in messages

    (package / "answer_length.py").write_text(source.replace('{"words": ', '{"words": 100 + '))
    edited, messages = launch(workplace)
    assert edited["metrics"]["answer_length"] > first["metrics"]["answer_length"]
    changed = {name for name, value in edited["metrics"].items() if value != first["metrics"][name]}
    assert changed == {"answer_length", "published/answer_length"}
    assert steps_run(edited) == ["score"]
    assert f"{edited['name']} has the options of {first['name']}, but does not continue or repeat it" in messages
    assert "the code of emoji_extension.answer_length has changed" in messages

    compared = workplace.run("compare", "emoji", "--json")
    [warning] = [each for each in json.loads(compared.stdout)["warnings"] if "not scored by the same code" in each]
    assert "the code of emoji_extension.answer_length has changed" in warning

    plan = str(Path(first["run_dir"]) / "plan.json")
    refused = workplace.run("launch", plan, "--local")
    assert refused.returncode == 2
    assert "the code of emoji_extension.answer_length has changed" in refused.stderr


def test_a_process_that_imported_the_code_before_its_edit_refuses_to_launch(own_copy):
    workplace, package = own_copy
    launch(workplace)
    module = package / "answer_length.py"
    module.write_text(module.read_text().replace("words /", "2 * words /"))
    done = workplace.run("launch", "emoji.yaml", "--local")
    assert done.returncode == 2
    assert f"{module} was edited after this process imported it" in done.stderr


def test_an_edit_between_the_import_of_a_plugin_and_its_first_launch_is_noticed(own_copy):
    workplace, package = own_copy
    forget_imports()
    assert workplace.run("validate", "emoji.yaml").returncode == 0  # imports the metric with its options
    module = package / "answer_length.py"
    module.write_text(module.read_text().replace("words /", "2 * words /"))
    done = workplace.run("launch", "emoji.yaml", "--local")
    assert done.returncode == 2
    assert f"{module} was edited after this process imported it" in done.stderr


def test_steps_run_again_on_request(own_copy):
    workplace, _ = own_copy
    first, _ = launch(workplace)
    assert steps_run(first) == ["train", "generate", "score"]
    launch(workplace, "--rerun", "score")
    launch(workplace, "--rerun", "generate")
    again, _ = launch(workplace)
    assert steps_run(again) == ["train", "generate", "score", "score", "generate", "score"]
    assert again["metrics"] == first["metrics"]
    trained, _ = launch(workplace, "--rerun", "train")
    assert steps_run(trained) == ["train", "generate", "score"], "the trial starts from nothing"
    assert trained["metrics"] == first["metrics"]
