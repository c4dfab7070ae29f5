"""Launches are noted while they run, and stopped as Ctrl-C stops them."""

import json
import platform
import subprocess
import sys

import pytest

from runner.errors import RequirementError
from runner.status import process_registry as underway
from runner.status.process_registry import JOB_VARIABLE, LaunchRecord, launch_records, registered_launch

POLITE = """
import signal, sys, time
from pathlib import Path
from runner.status.process_registry import registered_launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background processes ignore
try:
    with registered_launch(Path(sys.argv[1])):
        print("noted", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""
DEAF = POLITE.replace("signal.default_int_handler", "signal.SIG_IGN")


def begun(script, folder):
    process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "noted\n"
    return process


def test_a_launch_is_noted_as_long_as_it_runs(tmp_path, monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, "emoji-12345678")
    folder = tmp_path / "runs" / "emoji"
    with registered_launch(folder):
        [note] = launch_records(folder)
        assert note.alive and note.here
        assert note.job == "emoji-12345678"
    assert launch_records(folder) == []
    assert list(folder.iterdir()) == []


def test_a_launch_elsewhere_is_stopped_by_a_signal_and_removes_its_note(tmp_path):
    process = begun(POLITE, tmp_path)
    [note] = launch_records(tmp_path)
    assert (note.pid, note.alive) == (process.pid, True)
    note.stop(now=False)
    assert process.wait() == 130
    assert launch_records(tmp_path) == []


def test_one_that_does_not_hear_is_killed_only_when_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "STOP_SECONDS", 1.0)
    process = begun(DEAF, tmp_path)
    [note] = launch_records(tmp_path)
    note.stop(now=False)
    assert process.poll() is None
    note.stop(now=True)
    assert process.wait() == -9
    # The note of a killed launch stays, and is known for what it is until the next launch removes it.
    assert [each.alive for each in launch_records(tmp_path)] == [False]
    with registered_launch(tmp_path):
        assert [each.alive for each in launch_records(tmp_path)] == [True]


def test_another_process_of_the_same_number_is_not_the_launch(tmp_path):
    with registered_launch(tmp_path):
        [note] = launch_records(tmp_path)
        told = {**vars(note), "born": note.born - 3600}
        assert not LaunchRecord(**told).alive


def test_a_launch_on_another_machine_is_believed_and_not_stopped_from_here(tmp_path):
    told = {"host": "far", "pid": 1, "born": 0.0, "started": "2026-01-01T00:00:00+00:00", "job": "emoji-12345678"}
    (tmp_path / ".launch-far-1.json").write_text(json.dumps(told))
    [note] = launch_records(tmp_path)
    assert note.alive
    assert note.host != platform.node()
    with pytest.raises(RequirementError, match=r"far \(process 1 as job emoji-12345678\).*runner stop emoji-12345678"):
        note.stop(now=False)
