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
    assert "3 h ago" in done.stdout
    [experiment] = json.loads(runs.run("status", "tiny/aa", "--json").stdout)["experiments"]
    assert [trial["name"] for trial in experiment["trials"]] == ["trial-aa000001"]
    assert experiment["trials"][0]["metrics"]["train/loss"] == 3.25
    for name in ("eta_seconds", "trial_eta_seconds", "resumed_from_step", "gpu_utilization"):
        assert experiment["trials"][0][name] is None


def test_a_folder_without_runs_says_so(workplace):
    assert workplace.run("status").stdout == "no runs here yet\n"
    assert json.loads(workplace.run("status", "--json").stdout) == {"experiments": []}


def test_logs_are_the_events_of_a_trial_and_the_output_of_its_workers(runs):
    lines = runs.run("logs", "ab", "--follow").stdout.splitlines()
    texts = [line.partition("  ")[2] for line in lines[:5]]
    assert texts == [
        "training started",
        "step 1  train/loss 3.25",
        "training 2/20",
        "warning: a [strange] thing",
        "training failed: it broke",
    ]
    assert lines[5:] == ["--- output.log", "what the worker printed"]


def test_invalid_requests_are_errors_of_one_line(runs):
    for arguments, message in [
        (("logs", "a"), "matches 2 trials"),
        (("stop", "aa"), "is not running: it is failed"),
        (("stop", "tiny"), "no launch of tiny is running"),
        (("status", "tinny"), "did you mean 'tiny'"),
        (("launch", "x.yaml", "--detach"), "x.yaml"),
    ]:
        done = runs.run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_status_imports_neither_torch_nor_ray(runs):
    code = (
        "import sys; from runner.cli.main import app; app(['status', '--json'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'ray', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
