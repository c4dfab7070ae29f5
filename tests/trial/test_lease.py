"""One makes an entry while others wait; who died is followed at once, who is silent after a while."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

import runner.trial.cache_entry
from runner.trial.cache import Cache
from runner.trial.cache_entry import Lease, LeaseHeldError

LEASE = 4.0
"""Seconds after which silence is death, in most of these tests: long enough for a busy machine's signs of life."""
LONG = 3600.0
"""So long that nobody is taken for dead by being silent."""


def _hold(root: str, ready, lease: float) -> None:
    runner.trial.cache_entry.LEASE_SECONDS = lease
    with Lease(Cache(Path(root)).entry("trained", "k"), "x/other").held():
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
    """Another process that holds the claim."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, lease))
    holder.start()
    assert ready.wait(60)
    yield holder
    holder.kill()
    holder.join()


def claimed_within(entry, seconds):
    end = time.monotonic() + seconds
    claim = Lease(entry, "x/mine")
    while True:
        try:
            with claim.held():
                return True
        except LeaseHeldError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)


def test_who_waits_is_told_for_whom(entry, other):
    with pytest.raises(LeaseHeldError, match=f"x/other on {os.uname().nodename}"), Lease(entry, "x/mine").held():
        raise AssertionError("claimed twice")
    # It lives and gives signs of it.
    assert not claimed_within(entry, 2 * LEASE)


@pytest.mark.parametrize("lease", [LONG])
def test_a_dead_ones_claim_is_taken_over_at_once(entry, other):
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert claimed_within(entry, 60)


def test_the_claim_of_one_who_gives_no_sign_is_taken_over_after_a_while(entry, other):
    os.kill(other.pid, signal.SIGSTOP)
    assert claimed_within(entry, 60)


def test_a_claim_ends_however_its_maker_ends(entry):
    for _ in range(2):
        with pytest.raises(ValueError, match="failed"), Lease(entry, "x/mine").held():
            raise ValueError("failed")
    assert list(entry.folder.parent.iterdir()) == []
