"""Runs the commands of pages again and compares their output with the pages."""

import json

import pytest

from tests.conftest import ROOT
from tests.docs.transcript import is_printed, read_steps

MISTAKES = (ROOT / "docs" / "mistakes.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
OWN_SAMPLES = (ROOT / "docs" / "own_samples.md").read_text()
TRAINED_MODEL = (ROOT / "docs" / "trained_model.md").read_text()
VALIDATION_COMMANDS = ("runner init", "runner validate", "sed ")
COMMANDS_WITHOUT_TRAINING = (*VALIDATION_COMMANDS, "runner plan", "runner preview")


@pytest.mark.parametrize("page", [MISTAKES, TUTORIAL], ids=["mistakes", "tutorial"])
def test_commands_that_only_read_the_spec(reader, page):
    assert sum(step.command.startswith(VALIDATION_COMMANDS) for step in read_steps(page)) >= 2
    failures = reader.follow(page, lambda command: command.startswith(VALIDATION_COMMANDS))
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_plan_and_preview_of_the_tutorial(reader):
    """The launches and their comparison take minutes of training and are not run again."""
    failures = reader.follow(TUTORIAL, lambda command: command.startswith(COMMANDS_WITHOUT_TRAINING))
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_every_mistake_is_reported_as_on_the_page(reader):
    failures = reader.follow(MISTAKES, lambda command: True)
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_own_samples_are_built_and_trained_and_the_model_answers_as_in_the_launch(reader):
    """The script of the second page prints the prediction of the launch for the same sample."""
    for page in (OWN_SAMPLES, TRAINED_MODEL):
        failures = reader.follow(page, lambda command: not command.startswith("runner launch specs/"))
        assert not failures, "\n\n".join(failures)
    [run] = (reader.folder / "runs" / "mine").glob("trial-*")
    prediction = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    rows = [json.loads(line) for line in (reader.folder / "data" / "mine" / "test.jsonl").read_text().splitlines()]
    [row] = [row for row in rows if row["id"] == prediction["id"]]
    script = (reader.folder / "ask.py").read_text().replace("Bo in Rome, number 0", row["text"])
    script = script.replace("mine/0.png", f"mine/{row['id']}.png").replace("segments/0-", f"segments/{row['id']}-")
    (reader.folder / "ask.py").write_text(script)
    assert f"{prediction['output']}\n" in reader.run("python ask.py")


def test_expected_lines_that_are_not_printed_are_detected():
    assert is_printed("a … c\nd\n", "x\na b  c\nd\n")
    assert not is_printed("d\na\n", "a\nd\n")
    assert not is_printed("a\n", "ab\n")
