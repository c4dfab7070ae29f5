"""The code that made a run is known from its working tree, and files that git does not track stay where they are."""

import subprocess

import pytest

from runner import provenance
from runner.provenance import Provenance, git_state


@pytest.fixture
def tree(tmp_path):
    """A working tree with one commit of `spec.yaml`."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init", "--initial-branch", "work")
    (tmp_path / "spec.yaml").write_text("name: one\n")
    git("add", "spec.yaml")
    git("commit", "-m", "first")
    return tmp_path


def test_an_edit_is_kept_without_passwords_and_without_untracked_files(tree):
    assert (git_state(tree)["branch"], git_state(tree)["edited"]) == ("work", False)
    assert "workspace.diff" not in Provenance.of(tree).diffs
    (tree / "spec.yaml").write_text("name: one\nuri: postgresql://ann:s3cret@host/db\n")
    (tree / ".env").write_text("KEY=topsecret\n")
    (tree / "runs").mkdir()
    found = Provenance.of(tree / "runs")
    assert found.workspace["edited"] and len(found.workspace["commit"]) == 40
    diff = found.diffs["workspace.diff"]
    assert "+uri: postgresql://ann@host/db" in diff
    assert "s3cret" not in diff and "topsecret" not in diff
    assert any(line.startswith("pydantic==") for line in found.packages.splitlines())


def test_a_long_diff_is_cut_and_says_so(tree, monkeypatch):
    monkeypatch.setattr(provenance, "DIFF_BYTES", 500)
    (tree / "spec.yaml").write_text("é" * 100_000)
    diff = Provenance.of(tree).diffs["workspace.diff"]
    assert "cut here: a diff is kept up to 500 bytes" in diff and len(diff) < 600


def test_outside_of_a_working_tree_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert Provenance.of(tmp_path).workspace == {}
