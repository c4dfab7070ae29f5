"""Runs the commands of a page in a folder, as a reader would."""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import run_in_process
from tests.conftest import ROOT, RUNNER
from tests.docs.broken import ENTRY_POINTS
from tests.docs.transcript import is_printed, read_steps


@dataclass(frozen=True)
class Reader:
    """A folder and an environment in which pages are followed."""

    folder: Path
    environment: dict[str, str]

    def follow(self, page, is_selected):
        """Write the files of a page, and run its selected commands.

        Returns:
            The commands whose output differs from the page, each with its output.
        """
        failures = []
        for step in read_steps(page):
            if step.command.startswith("write "):
                (self.folder / step.command.removeprefix("write ")).write_text(step.expected)
            elif is_selected(step.command):
                output = self.run(step.command)
                if not is_printed(step.expected, output):
                    failures.append(f"$ {step.command}\n{output}")
        return failures

    def run(self, command):
        """Run a shell command and return its output."""
        if command.startswith("runner "):
            words = shlex.split(command)[1:]
            # Launches run without Ray, which is faster and prints the same.
            done = run_in_process([*words, "--local"] if words[0] == "launch" else words, self.folder, self.environment)
            return done.stdout + done.stderr
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path):
    """A reader with a copy of the shipped specs and with the broken plugins installed."""
    site, folder = tmp_path / "site", tmp_path / "work"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copy(Path(__file__).parent / "broken.py", site)
    shutil.copytree(ROOT / "specs", folder / "specs")
    path = f"{RUNNER.parent}{os.pathsep}{os.environ['PATH']}"
    return Reader(folder, {**os.environ, "PATH": path, "PYTHONPATH": str(site), "COLUMNS": "200"})
