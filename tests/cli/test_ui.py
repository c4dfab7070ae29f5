"""`runner ui` in a real browser: the run's page shows what was logged."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def served(emoji):
    """A finished run, its tracker's pages, and their address."""
    launched = json.loads(emoji.run("launch", "emoji.yaml", "--local", "--json").stdout)
    port = free_port()
    server = emoji.start("ui", "emoji.yaml", "--port", port)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        yield launched["trials"][0], f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=600)


def _wait_for(address, server, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


def test_the_runs_page_shows_metrics_parameters_and_data_set(served, tmp_path):
    trial, address = served
    page = f"{address}/#/experiments/1/runs/{trial['mlflow_run_id']}?workflowType=machine_learning"
    # A browser that got no answer in its time shows an empty frame; on a busy machine the next one has more luck.
    arguments = [*QUIET, f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=30000", "--dump-dom", page]
    for _ in range(3):
        done = subprocess.run([CHROMIUM, *arguments], capture_output=True, text=True, timeout=600, check=False)
        if trial["name"] in done.stdout:
            break
    assert trial["name"] in done.stdout
    for shown in ("train/loss", "Finished", "adapter.tasks", "emoji"):
        assert shown in done.stdout, shown
