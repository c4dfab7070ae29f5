"""Only one process holds a lease. A dead holder is replaced at once, a silent one after the lease time."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

import runner.trial.cache_entry
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_entry import Lease, LeaseHeldError
from tests.permissions import permissions_apply

LEASE = 4.0
"""The lease time in most of these tests, in seconds: long enough for heartbeats on a busy machine."""
LONG = 3600.0
"""A lease time that no test reaches."""


def _hold(root: str, ready, lease: float) -> None:
    runner.trial.cache_entry.LEASE_SECONDS = lease
    with Lease(Cache(Path(root)).entry("trained", "k"), "x/other").acquire():
        ready.set()
        time.sleep(600)


@pytest.fixture
def entry(tmp_path, monkeypatch, lease):
    monkeypatch.setattr(runner.trial.cache_entry, "LEASE_SECONDS", lease)
    return Cache(tmp_path).entry("trained", "k")


@pytest.fixture
def lease():
    return LEASE


@pytest.fixture
def other(tmp_path, lease):
    """Another process that holds the lease."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, lease))
    holder.start()
    assert ready.wait(60)
    yield holder
    holder.kill()
    holder.join()


def acquired_within(entry, seconds):
    end = time.monotonic() + seconds
    own_lease = Lease(entry, "x/mine")
    while True:
        try:
            with own_lease.acquire():
                return True
        except LeaseHeldError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)


def test_the_error_names_the_holder(entry, other):
    with pytest.raises(LeaseHeldError, match=f"x/other on {os.uname().nodename}"), Lease(entry, "x/mine").acquire():
        raise AssertionError("acquired twice")
    # The holder is alive and sends heartbeats.
    assert not acquired_within(entry, 2 * LEASE)


@pytest.mark.parametrize("lease", [LONG])
def test_the_lease_of_a_dead_process_is_free_at_once(entry, other):
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert acquired_within(entry, 60)


def test_the_lease_of_a_silent_process_expires(entry, other):
    os.kill(other.pid, signal.SIGSTOP)
    assert acquired_within(entry, 60)


def test_a_lease_ends_if_the_block_raises(entry):
    for _ in range(2):
        with pytest.raises(ValueError, match="failed"), Lease(entry, "x/mine").acquire():
            raise ValueError("failed")
    assert list(entry.folder.parent.iterdir()) == []


def test_an_unreadable_lease_of_another_user_is_no_reason_to_wait(tmp_path):
    entry = Cache(tmp_path).entry("trained", "k")
    with Lease(entry, "x/other").acquire():
        claim = entry.folder.with_name(".k.claim")
        claim.chmod(0o200)
        with permissions_apply(), pytest.raises(PermissionError, match="claim"), Lease(entry, "x/mine").acquire():
            pass
        claim.chmod(0o600)
