"""What is asked of a cluster, as far as no cluster is needed for it."""

import socket
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RequirementError
from runner.execute.ray.cluster_and_reservations import check_reachable, check_token_present, token_message
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
