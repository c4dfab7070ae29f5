"""A folder in which the commands of a page are run as a reader would."""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import run_here
from tests.conftest import ROOT, RUNNER
from tests.docs.broken import ENTRY_POINTS
from tests.docs.transcript import is_printed, steps


@dataclass(frozen=True)
class Reader:
    """Somebody who follows a page."""

    folder: Path
    environment: dict[str, str]

    def follow(self, page, chosen):
        """Write the files of a page, and run those of its commands that are chosen.

        Returns:
            The commands that did not print what the page shows, each with what it printed.
        """
        missed = []
        for step in steps(page):
            if step.command.startswith("write "):
                (self.folder / step.command.removeprefix("write ")).write_text(step.shown)
            elif chosen(step.command):
                printed = self._run(step.command)
                if not is_printed(step.shown, printed):
                    missed.append(f"$ {step.command}\n{printed}")
        return missed

    def _run(self, command):
        if command.startswith("runner "):
            words = shlex.split(command)[1:]
            # Without Ray, which is quicker; what is printed is the same.
            done = run_here([*words, "--local"] if words[0] == "launch" else words, self.folder, self.environment)
            return done.stdout + done.stderr
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path):
    """Has the shipped specs at hand, and the broken plugins installed."""
    site, folder = tmp_path / "site", tmp_path / "work"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copy(Path(__file__).parent / "broken.py", site)
    shutil.copytree(ROOT / "specs", folder / "specs")
    path = f"{RUNNER.parent}{os.pathsep}{os.environ['PATH']}"
    return Reader(folder, {**os.environ, "PATH": path, "PYTHONPATH": str(site), "COLUMNS": "200"})
