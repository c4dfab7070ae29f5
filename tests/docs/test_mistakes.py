"""The mistakes of docs/mistakes.md are made, and the runner says what the page says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, RUNNER
from tests.docs.broken import ENTRY_POINTS
from tests.docs.transcript import is_printed, steps

PAGE = (ROOT / "docs" / "mistakes.md").read_text()
QUICK = ("write ", "runner validate")


@pytest.fixture
def shell(tmp_path):
    """Runs a line of the page in a folder with the shipped specs, where the broken plugins are installed."""
    site = tmp_path / "site"
    (site / "broken-1.0.dist-info").mkdir(parents=True)
    (site / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (site / "broken-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copy(Path(__file__).parent / "broken.py", site)
    shutil.copytree(ROOT / "specs", tmp_path / "work" / "specs")
    path = f"{RUNNER.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(site), "COLUMNS": "200"}

    def shell(command):
        if command.startswith("runner launch"):
            command += " --local"  # In one process, which is quicker; what is printed is the same.
        done = subprocess.run(
            command, shell=True, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    return shell, tmp_path / "work"


def follow(page, shell, chosen):
    run, folder = shell
    missed = []
    for step in steps(page):
        if step.command.startswith("write "):
            (folder / step.command.removeprefix("write ")).write_text(step.shown)
        elif chosen(step.command):
            output = run(step.command)
            print(f"$ {step.command}")
            if not is_printed(step.shown, output):
                missed.append(f"$ {step.command}\n{output}")
    return missed


def test_what_the_spec_alone_tells(shell):
    assert sum(step.command.startswith("runner validate") for step in steps(PAGE)) >= 2
    assert not follow(PAGE, shell, lambda command: command.startswith(QUICK))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_mistake_is_told_as_the_page_says(shell):
    missed = follow(PAGE, shell, lambda command: True)
    assert not missed, "\n\n".join(missed)


def test_a_page_that_shows_what_is_not_printed_is_found_out():
    assert is_printed("a … c\nd\n", "x\na b  c\nd\n")
    assert not is_printed("d\na\n", "a\nd\n")
    assert not is_printed("a\n", "ab\n")
