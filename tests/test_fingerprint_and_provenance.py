"""Provenance: the working tree of a run is recorded, but never the content of untracked files."""

import subprocess

import pytest

from runner import fingerprint_and_provenance as provenance
from runner.fingerprint_and_provenance import Provenance, git_state


@pytest.fixture
def tree(tmp_path):
    """Create a working tree with one commit of `spec.yaml`."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init", "--initial-branch", "work")
    (tmp_path / "spec.yaml").write_text("name: one\n")
    git("add", "spec.yaml")
    git("commit", "-m", "first")
    return tmp_path


def test_diff_has_no_passwords_and_no_untracked_files(tree):
    assert (git_state(tree)["branch"], git_state(tree)["edited"]) == ("work", False)
    assert "workspace.diff" not in Provenance.collect(tree).diffs
    (tree / "spec.yaml").write_text("name: one\nuri: postgresql://ann:s3cret@host/db\n")
    (tree / ".env").write_text("KEY=topsecret\n")
    (tree / "runs").mkdir()
    collected = Provenance.collect(tree / "runs")
    assert collected.workspace["edited"] and len(collected.workspace["commit"]) == 40
    diff = collected.diffs["workspace.diff"]
    assert "+uri: postgresql://ann@host/db" in diff
    assert "s3cret" not in diff and "topsecret" not in diff
    assert any(line.startswith("pydantic==") for line in collected.packages.splitlines())


def test_long_diff_is_cut_off_and_says_so(tree, monkeypatch):
    monkeypatch.setattr(provenance, "DIFF_BYTES", 500)
    (tree / "spec.yaml").write_text("é" * 100_000)
    diff = Provenance.collect(tree).diffs["workspace.diff"]
    assert "cut off: a diff is stored up to 500 bytes" in diff and len(diff) < 600


def test_workspace_is_empty_outside_a_working_tree(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert Provenance.collect(tmp_path).workspace == {}
