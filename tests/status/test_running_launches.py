"""Launches are registered while they run, and stopped as Ctrl-C stops them."""

import json
import platform
import subprocess
import sys

import psutil
import pytest

from runner.errors import RequirementError
from runner.status import running_launches as module
from runner.status.running_launches import JOB_VARIABLE, LaunchRecord, launch_records, registered_launch

RESPONSIVE = """
import signal, sys, time
from pathlib import Path
from runner.status.running_launches import registered_launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background processes ignore
try:
    with registered_launch(Path(sys.argv[1])):
        print("registered", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
UNRESPONSIVE = RESPONSIVE.replace("signal.default_int_handler", "signal.SIG_IGN")


def start_process(script, folder):
    process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "registered\n"
    return process


def test_a_launch_is_registered_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, "emoji-12345678")
    folder = tmp_path / "runs" / "emoji"
    with registered_launch(folder):
        [launch] = launch_records(folder)
        assert launch.is_alive and launch.is_local
        assert launch.job == "emoji-12345678"
    assert launch_records(folder) == []
    assert list(folder.iterdir()) == []


def test_a_launch_of_another_process_is_stopped_by_a_signal_and_removes_its_record(tmp_path):
    process = start_process(RESPONSIVE, tmp_path)
    [launch] = launch_records(tmp_path)
    assert (launch.pid, launch.is_alive) == (process.pid, True)
    launch.stop(now=False)
    assert process.wait() == 130
    assert launch_records(tmp_path) == []


def test_a_launch_that_ignores_the_signal_is_killed_only_with_now(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 1.0)
    process = start_process(UNRESPONSIVE, tmp_path)
    [launch] = launch_records(tmp_path)
    launch.stop(now=False)
    assert process.poll() is None
    launch.stop(now=True)
    assert process.wait() == -9
    # The record of a killed launch remains, with is_alive False, until the next launch removes it.
    assert [launch.is_alive for launch in launch_records(tmp_path)] == [False]
    with registered_launch(tmp_path):
        assert [launch.is_alive for launch in launch_records(tmp_path)] == [True]


def test_another_process_with_the_same_id_is_not_the_launch(tmp_path):
    with registered_launch(tmp_path):
        [launch] = launch_records(tmp_path)
        earlier = {**vars(launch), "born": launch.born - 3600}
        assert not LaunchRecord(**earlier).is_alive


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ("emoji-12345678", "runner stop emoji-12345678 --address …"),
        ("slurm-7", "runner stop slurm-7`"),
        (None, "there"),
    ],
)
def test_a_launch_on_another_machine_counts_as_alive_and_is_not_stopped_from_here(tmp_path, job, command):
    record = {"host": "far", "pid": 1, "born": 0.0, "started": "2026-01-01T00:00:00+00:00", "job": job}
    (tmp_path / ".launch-far-1.json").write_text(json.dumps(record))
    [launch] = launch_records(tmp_path)
    assert launch.is_alive
    assert launch.host != platform.node()
    named = f" as job {job}" if job else ""
    with pytest.raises(RequirementError, match=rf"far \(process 1{named}\).*{command}"):
        launch.stop(now=False)


def record_of(folder, process, **changes):
    """Write a record that names a process, as another user of a shared folder can."""
    record = {
        **{"host": platform.node(), "pid": process.pid, "born": psutil.Process(process.pid).create_time()},
        **{"started": "2026-01-01T00:00:00+00:00", "job": None},
    }
    folder.mkdir(exist_ok=True)
    file = folder / f".launch-{platform.node()}-{process.pid}.json"
    file.write_text(json.dumps({**record, **changes}))
    return file


@pytest.mark.parametrize("now", [False, True])
def test_a_process_that_is_no_launch_is_not_stopped(tmp_path, now):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        file = record_of(tmp_path, process)
        [launch] = launch_records(tmp_path)
        with pytest.raises(RequirementError, match=f"{file}: names process {process.pid}, which is not the launch"):
            launch.stop(now=now)
        assert process.poll() is None
    finally:
        process.communicate(b"\n")
    assert process.returncode == 0


@pytest.mark.parametrize(
    "place", [lambda link, record: link.symlink_to(record), lambda link, record: link.hardlink_to(record)]
)
def test_a_record_in_another_folder_does_not_stop_a_launch_of_this_user(tmp_path, place):
    (tmp_path / "theirs").mkdir()
    process = start_process(RESPONSIVE, tmp_path / "mine")
    [own] = launch_records(tmp_path / "mine")
    place(tmp_path / "theirs" / own.file.name, own.file)
    [launch] = launch_records(tmp_path / "theirs")
    with pytest.raises(RequirementError, match="not the launch of this record"):
        launch.stop(now=True)
    assert process.poll() is None
    own.stop(now=True)
    assert process.wait() == 130


@pytest.mark.parametrize("pid", [0, -1, 2**70])
def test_a_number_that_is_no_process_id_stops_nothing(tmp_path, monkeypatch, pid):
    with registered_launch(tmp_path / "here"):
        [own] = launch_records(tmp_path / "here")
    monkeypatch.setattr("os.kill", lambda *arguments: pytest.fail("a signal was sent"))
    launch = LaunchRecord(**{**vars(own), "pid": pid})
    assert not launch.is_alive
    launch.stop(now=True)
