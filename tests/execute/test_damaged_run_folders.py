"""A launch and `runner sync` name a run whose files are damaged, and go on with the others."""

import json

import pytest

from runner.errors import DataError
from runner.sweep.sweep_folder import SweepFolder
from runner.sweep.trial_source import FixedTrials
from runner.tracking import destination
from runner.tracking.uploader import tracker_state
from tests.execute.test_sync import sync
from tests.permissions import permissions_apply

CONTENTS = [b"", b'{"status": ', b"[1]", b"null", b"[" * 100_000]


@pytest.fixture
def launched(launcher, monkeypatch):
    """An experiment of which two trials have finished."""
    monkeypatch.setattr(destination, "create_plugin", lambda section, storage: launcher.tracker.of(None))
    launcher.launch(FixedTrials(launcher.trials(1, 2)), {})
    return launcher


def path(launcher, name):
    return launcher.folder / "runs" / "many" / name


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("file", ["record.json", "metrics.json"])
def test_a_launch_fails_only_the_trial_with_a_damaged_file(launched, file, content):
    damaged = path(launched, "trial-1") / file
    damaged.write_bytes(content)
    results, executor, _ = launched.launch(FixedTrials(launched.trials(1, 2, 3)), {})
    assert {name: result.status for name, result in results.items()} == {
        "trial-1": "failed",
        "trial-2": "finished",
        "trial-3": "finished",
    }
    assert str(results["trial-1"].error).startswith(f"{damaged}: the file is damaged")
    assert isinstance(results["trial-1"].error, DataError)
    assert [trial.run.path.name for trial in executor.started] == ["trial-3"]
    assert damaged.read_bytes() == content


@pytest.mark.parametrize("file", ["events.jsonl", ".lock", ".stop"])
def test_a_launch_does_not_write_through_a_link(launched, tmp_path, file):
    private = tmp_path / "private"
    private.write_text("private")
    link = path(launched, "trial-1") / file
    link.unlink(missing_ok=True)
    link.symlink_to(private)
    path(launched, "trial-1/record.json").unlink()
    results, executor, _ = launched.launch(FixedTrials(launched.trials(1, 2, 3)), {})
    assert {name: result.status for name, result in results.items()} == {
        "trial-1": "failed",
        "trial-2": "finished",
        "trial-3": "finished",
    }
    assert str(results["trial-1"].error).startswith(f"{link}: is a link")
    assert [trial.run.path.name for trial in executor.started] == ["trial-3"]
    assert private.read_text() == "private"


def test_a_removed_record_lets_the_trial_run_again(launched):
    path(launched, "trial-1/record.json").unlink()
    results, executor, _ = launched.launch(FixedTrials(launched.trials(1, 2)), {})
    assert {result.status for result in results.values()} == {"finished"}
    assert [trial.run.path.name for trial in executor.started] == ["trial-1"]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_plan_of_another_trial_does_not_matter(launched, content):
    path(launched, "trial-2/plan.json").write_bytes(content)
    results, _, _ = launched.launch(FixedTrials(launched.trials(3)), {})
    assert results["trial-3"].status == "finished"


@pytest.mark.parametrize("content", [*CONTENTS, b'{"run_id": 3, "delivered": "x"}'])
def test_a_damaged_tracker_state_uploads_the_run_again(launched, content):
    path(launched, "trial-1/tracker.json").write_bytes(content)
    assert tracker_state(path(launched, "trial-1")) == {}
    results, _, _ = launched.launch(FixedTrials(launched.trials(1, 2)), {})
    assert {result.status for result in results.values()} == {"finished"}
    assert tracker_state(path(launched, "trial-1"))["complete"]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_sweep_file_is_an_error_that_names_it(launched, content):
    file = path(launched, "sweep/sweep.json")
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"sweep\.json: the file is damaged .* remove it"):
        SweepFolder(file.parent, launched.plan).begin("", None)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("file", ["trial-1/record.json", "trial-1/plan.json", "sweep/sweep.json"])
def test_sync_names_a_damaged_run_and_uploads_the_others(launched, file, content):
    path(launched, file).write_bytes(content)
    path(launched, "trial-2/tracker.json").unlink()
    runs, storage_sync = sync(launched)
    assert not storage_sync.refused
    assert [str(path(launched, file)) in (run.error or "") for run in runs.values()].count(True) == 1
    assert runs["trial-2"].delivered
    assert runs["trial-2"].error is None


@pytest.mark.parametrize("file", ["trial-1/plan.json", "sweep/plan.json"])
def test_sync_names_a_plan_without_pins_and_uploads_the_others(launched, file):
    plan = path(launched, file)
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"pinned": None}))
    path(launched, "trial-1/record.json").write_text("{}")
    path(launched, "trial-2/tracker.json").unlink()
    runs, _ = sync(launched)
    assert [f"{plan} is not the plan of a run" in (run.error or "") for run in runs.values()].count(True) == 1
    assert runs["trial-2"].delivered


@pytest.mark.parametrize("content", CONTENTS)
def test_sync_refuses_only_the_experiment_with_a_damaged_record_of_a_launch(launched, content):
    file = path(launched, ".launch-there-1.json")
    file.write_bytes(content)
    runs, storage_sync = sync(launched)
    assert not runs
    assert str(file) in storage_sync.refused["many"]


@pytest.mark.parametrize(
    "private", ["", "trial-1", "trial-1/record.json", "trial-1/plan.json", "sweep", "sweep/sweep.json"]
)
def test_sync_names_a_run_of_another_user_and_uploads_the_others(launched, private):
    path(launched, "trial-2/tracker.json").unlink()
    mode = path(launched, private).stat().st_mode
    path(launched, private).chmod(0)
    with permissions_apply():
        runs, storage_sync = sync(launched)
    path(launched, private).chmod(mode)
    told = [run.error for run in runs.values() if run.error] + list(storage_sync.refused.values())
    assert len(told) == 1
    assert str(path(launched, private)) in told[0]
    assert "Permission denied" in told[0]
    assert [run.delivered for run in runs.values() if run.name == "trial-2"] == ([True] if private else [])


@pytest.mark.parametrize("private", ["trial-1", "trial-1/record.json"])
def test_a_launch_fails_only_the_trial_of_another_user(launched, private):
    mode = path(launched, private).stat().st_mode
    path(launched, private).chmod(0)
    with permissions_apply():
        results, _, _ = launched.launch(FixedTrials(launched.trials(1, 2, 3)), {})
    path(launched, private).chmod(mode)
    assert {name: result.status for name, result in results.items()} == {
        "trial-1": "failed",
        "trial-2": "finished",
        "trial-3": "finished",
    }
    assert str(path(launched, private)) in str(results["trial-1"].error)
