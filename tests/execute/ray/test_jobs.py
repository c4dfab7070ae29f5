"""What is asked of a cluster, as far as no cluster is needed for it."""

import os
import socket
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray._common.utils import try_to_create_directory

from runner.errors import RequirementError
from runner.execute.ray import cluster_and_reservations
from runner.execute.ray.cluster_and_reservations import (
    check_is_node,
    check_reachable,
    check_token_present,
    connect,
    make_token_private,
    token_message,
    uses_token,
)
from runner.execute.ray.jobs import EXPERIMENT, PREFACE, STORAGE, Job, skip_preface

LOG = f"2026-01-01 INFO Runtime env is setting up.\n{PREFACE}tiny-1: exec runner status\n"


@given(st.text(max_size=40), st.lists(st.integers(0, 150), max_size=6))
def test_the_preface_of_ray_is_skipped_wherever_the_log_is_cut(printed, cuts):
    whole = LOG + printed
    ends = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    shown = []
    show = skip_preface(shown.append)
    for start, end in pairwise(ends):
        show(whole[start:end])
    assert "".join(shown) == printed


@pytest.mark.parametrize(
    ("ray_status", "exit_status", "status"),
    [
        ("PENDING", None, "pending"),
        ("RUNNING", None, "running"),
        ("SUCCEEDED", 0, "finished"),
        ("FAILED", 1, "failed"),
        ("FAILED", 130, "interrupted"),
        ("STOPPED", None, "interrupted"),
    ],
)
def test_a_job_has_the_status_words_of_a_trial(ray_status, exit_status, status):
    told = SimpleNamespace(
        submission_id="tiny-1",
        metadata={EXPERIMENT: "tiny", STORAGE: "/shared"},
        status=SimpleNamespace(value=ray_status),
        driver_exit_code=exit_status,
        start_time=1500,
        end_time=None,
    )
    assert Job.from_details(told).as_json() == {
        "name": "tiny-1",
        "experiment": "tiny",
        "storage": "/shared",
        "status": status,
        "started": 1.5,
        "ended": None,
    }


def test_an_invalid_or_silent_address_is_refused_at_once():
    with pytest.raises(RequirementError, match=r"it is no host:port.*head:6379"):
        check_reachable("head")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and takes no connections
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RequirementError, match=rf"no cluster answers at {address} \(.*refused\).*http://head:8265"):
            check_reachable(address)


def test_a_machine_that_is_no_node_is_refused_at_once_with_both_ways_out(monkeypatch):
    monkeypatch.setattr(cluster_and_reservations, "find_node_ids", set)
    detach, join = r"--detach --address http://head:8265", r"ray start --address=head:6379 --num-cpus=0"
    with pytest.raises(RequirementError, match=rf"no node of the cluster at head:6379.*{detach}.*{join}"):
        check_is_node("head:6379")
    check_is_node("auto")
    check_is_node("http://head:8265")
    monkeypatch.setattr(cluster_and_reservations, "find_node_ids", lambda: {"4f"})
    check_is_node("head:6379")


def test_ray_does_not_print_the_logs_of_a_lost_node(capsys):
    """Ray's own function would print the error to standard output, where `--json` promises only the result."""
    errors = iter([(None, {"job_id": None, "error_message": "Raylet is terminated."})])

    def poll():
        for error in errors:
            return error
        raise ConnectionError

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    driver = SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=SimpleNamespace(binary=lambda: b"1"))
    ray._private.worker.listen_error_messages(driver, threading.Event())
    assert capsys.readouterr().out == ""


def test_a_required_token_that_is_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(RequirementError, match=str(tmp_path / "token")):
        check_token_present()
    (tmp_path / "token").write_text("secret")
    check_token_present()
    assert "does not accept this machine's token" in token_message("head:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    check_token_present()
    assert "set RAY_AUTH_MODE=token" in token_message("head:1")


ANSWER = """
import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from runner.execute.ray.cluster_and_reservations import uses_token
expected = [uses_token(), uses_token(of_own_ray=True)]
at_an_address = is_token_auth_enabled()

def end(*arguments, **options):
    # Ray has decided, and would start its processes now.
    print(expected == [at_an_address, is_token_auth_enabled()], *expected)
    raise SystemExit

ray._private.node.Node = end
ray.init(address="local", include_dashboard=False)
"""


@pytest.mark.parametrize("mode", [None, "token", "disabled", "Token"])
def test_what_is_expected_of_ray_is_what_the_installed_version_does(tmp_path, mode):
    """A process each, as Ray reads the variable once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), **({} if mode is None else {"RAY_AUTH_MODE": mode})}
    done = subprocess.run([sys.executable, "-c", ANSWER], env=environment, capture_output=True, text=True, check=False)
    is_right, *expected = done.stdout.split() or [done.stderr]
    assert is_right == "True"
    if mode is not None:
        assert expected == [str(mode.lower() == "token")] * 2


@pytest.mark.parametrize(
    ("version", "sends_by_default", "has_switch", "expected"),
    [("2.58", False, False, (False, False)), ("2.59", False, True, (False, True)), ("2.61", True, True, (True, True))],
)
def test_without_a_mode_ray_is_asked_for_its_default(
    ray_home, monkeypatch, version, sends_by_default, has_switch, expected
):
    monkeypatch.setattr(cluster_and_reservations, "is_token_auth_enabled", lambda: sends_by_default)
    setup = SimpleNamespace(**({cluster_and_reservations.OWN_RAY_SWITCH: None} if has_switch else {}))
    monkeypatch.setattr(cluster_and_reservations, "authentication_token_setup", setup)
    monkeypatch.setattr(ray, "__version__", version)
    assert (uses_token(), uses_token(of_own_ray=True)) == expected
    if sends_by_default:
        with pytest.raises(RequirementError, match=rf"Ray {version} sends a token by default.*RAY_AUTH_MODE=disabled"):
            check_token_present()
    else:
        check_token_present()
    make_token_private()
    assert ray_home.exists() == expected[1]


@pytest.fixture
def ray_home(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray"


def test_a_token_of_ray_on_this_machine_can_be_read_by_its_user_alone(ray_home, monkeypatch):
    monkeypatch.setattr(cluster_and_reservations, "uses_token", lambda *, of_own_ray: of_own_ray)
    make_token_private()
    file = ray_home / "auth_token"
    token = file.read_text()
    assert len(token) == 64
    assert (file.stat().st_mode & 0o777, ray_home.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in ray_home.iterdir()] == ["auth_token"]
    file.chmod(0o644)  # as Ray itself leaves it
    make_token_private()
    assert (file.read_text(), file.stat().st_mode & 0o777) == (token, 0o600)


@pytest.mark.parametrize("variable", ["RAY_AUTH_MODE=disabled", "RAY_AUTH_TOKEN=x", "RAY_AUTH_TOKEN_PATH=/none/token"])
def test_no_token_is_created_where_ray_uses_none_or_another_one(ray_home, monkeypatch, variable):
    monkeypatch.setenv(*variable.split("="))
    make_token_private()
    assert not ray_home.exists()


def test_no_other_user_reaches_the_folder_of_ray_on_this_machine(ray_home, monkeypatch):
    def start(*, _temp_dir, **_options):
        try_to_create_directory(_temp_dir)  # as `ray.init` does; all users may then read and write this folder
        started_in.extend([_temp_dir, os.getcwd()])

    started_in = []
    monkeypatch.setattr(ray, "init", start)
    connect(None)
    assert len(started_in) == 2
    for folder in map(Path, started_in):
        modes = [
            parent.stat().st_mode & 0o077 for parent in (folder, *folder.parents) if parent.name.startswith("runner-")
        ]
        assert 0 in modes
