"""`runner status`, `logs` and `stop` on folders, as a user sees them."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

EVENTS = [
    {"kind": "state", "step": "train", "state": "started"},
    {"kind": "progress", "stage": "train", "done": 1, "total": 20, "shown": {}},
    {"kind": "metrics", "step": 1, "values": {"train/loss": 3.25, "train/grad_norm": None}},
    {"kind": "progress", "stage": "train", "done": 2, "total": 20, "shown": {}},
    {"kind": "warning", "message": "a [strange] thing"},
    {"kind": "state", "step": "train", "state": "failed", "detail": "it broke"},
]


@pytest.fixture
def runs(workplace):
    moment = datetime.now(UTC) - timedelta(hours=3)
    for name, status in (("trial-aa000001", "failed"), ("trial-ab000002", "finished")):
        folder = workplace.folder / "runs" / "tiny" / name
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text("{}")
        (folder / "record.json").write_text(json.dumps({"status": status}))
        lines = (json.dumps({"time": moment.isoformat(timespec="milliseconds"), **event}) for event in EVENTS)
        (folder / "events.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "output.log").write_text("what the worker printed\n")
    return workplace


def test_status_is_a_table_or_one_document(runs):
    done = runs.run("status")
    assert "tiny: 1 failed, 1 finished" in done.stdout
    assert "training 2/20" in done.stdout
    assert "3.0 h ago" in done.stdout
    told = json.loads(runs.run("status", "tiny/aa", "--json").stdout)
    [experiment] = told["experiments"]
    assert [trial["name"] for trial in experiment["trials"]] == ["trial-aa000001"]
    assert experiment["trials"][0]["metrics"]["train/loss"] == 3.25


def test_where_nothing_ran_that_is_what_is_said(workplace):
    assert workplace.run("status").stdout == "no runs here yet\n"
    assert json.loads(workplace.run("status", "--json").stdout) == {"experiments": []}


def test_logs_are_what_a_trial_told_and_its_workers_printed(runs):
    lines = runs.run("logs", "ab", "--follow").stdout.splitlines()
    told = [line.partition("  ")[2] for line in lines[:5]]
    assert told == [
        "training started",
        "step 1  train/loss 3.25",
        "training 2/20",
        "warning: a [strange] thing",
        "training failed: it broke",
    ]
    assert lines[5:] == ["--- output.log", "what the worker printed"]


def test_what_cannot_be_is_an_error_of_one_line(runs):
    for arguments, told in [
        (("logs", "a"), "can be 2 trials"),
        (("stop", "aa"), "does not run: it is failed"),
        (("stop", "tiny"), "no launch of tiny runs"),
        (("status", "tinny"), "did you mean 'tiny'"),
        (("launch", "x.yaml", "--detach"), "x.yaml"),
    ]:
        done = runs.run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_to_look_needs_neither_torch_nor_ray(runs):
    code = (
        "import sys; from runner.cli.main import app; app(['status', '--json'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'ray', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
