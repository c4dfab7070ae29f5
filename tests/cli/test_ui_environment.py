"""The process that `runner ui` starts has no API keys in its environment."""

import os

from runner.cli.plugins_schema_and_ui_commands import ui


def test_the_pages_get_no_api_keys(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    ui(port=5123)
    [(program, command, environment)] = started
    assert program == command[0]
    assert "OPENAI_API_KEY" not in environment
    assert environment["MLFLOW_TRACKING_TOKEN"] == "token"
