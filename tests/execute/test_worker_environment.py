"""The processes that train have what they compute with in their environment, and no key to the tracker."""

import os
from pathlib import Path

import pytest

from runner.execute.fork_executor import server_environment
from runner.execute.fork_server import start_server


@pytest.mark.parametrize(("with_cloud", "keys"), [(False, ()), (True, ("CHAT_KEY",))])
def test_a_fork_server_is_started_without_the_keys_that_it_does_not_need(monkeypatch, with_cloud, keys):
    for name in (
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "CHAT_KEY",
    ):
        monkeypatch.setenv(name, f"secret of {name}")
    server, _ = start_server([], server_environment(os.environ, 2, with_cloud=with_cloud, keys=keys))
    try:
        # The system shows none of it in the moment in which the process becomes another program.
        while not (told := Path(f"/proc/{server.pid}/environ").read_bytes().decode()):
            assert server.poll() is None
    finally:
        server.stdin.close()
        server.wait(120)
    assert "OMP_NUM_THREADS=2" in told and "HF_TOKEN=secret" in told
    assert "MLFLOW_TRACKING" not in told and "PGPASSWORD" not in told
    assert ("AWS_SECRET_ACCESS_KEY" in told) == with_cloud
    assert "OPENAI_API_KEY" not in told
    assert ("CHAT_KEY" in told) == bool(keys)
