"""Provenance: the working tree of a run is recorded, but never the content of untracked files."""

import subprocess
from importlib.metadata import Distribution

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import fingerprint_and_provenance as provenance
from runner.fingerprint_and_provenance import Provenance, git_state


def run_git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path):
    """Create a working tree with one commit of `spec.yaml`."""

    def git(*arguments):
        run_git(tmp_path, *arguments)

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


@pytest.fixture
def marker(tmp_path):
    """A command that a configuration of git can name, and the file that the command would create."""
    file = tmp_path / "started"
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\ntouch {file}\ncat\n")
    command.chmod(0o755)
    return command, file


@pytest.mark.parametrize(
    "key",
    [
        "core.fsmonitor",
        "filter.odd.clean",
        "filter.odd.process",
        "filter.a=b.c.clean",
        "diff.odd.command",
        "diff.odd.textconv",
        "diff.external",
        "core.hooksPath",
        "core.pager",
        "pager.diff",
    ],
)
def test_a_launch_starts_no_program_that_the_configuration_of_the_folder_names(tree, marker, key):
    command, started = marker
    (tree / "hooks").mkdir()
    for hook in ("post-index-change", "fsmonitor-watchman"):
        (tree / "hooks" / hook).symlink_to(command)
    run_git(tree, "config", key, str(tree / "hooks" if key == "core.hooksPath" else command))
    name = key.split(".", 1)[1].rpartition(".")[0] or "odd"
    run_git(tree, "config", f"filter.{name}.required", "true")
    (tree / ".git" / "info" / "attributes").write_text(f"* filter={name} diff=odd\n")
    (tree / "spec.yaml").write_text("name: two\n")
    collected = Provenance.collect(tree)
    assert not started.exists()
    assert collected.workspace["edited"]
    assert "+name: two" in collected.diffs["workspace.diff"]


def test_submodules_are_not_entered(tree, marker, tmp_path):
    command, started = marker
    inner = tree / "inner"
    inner.mkdir()
    run_git(inner, "init")
    (inner / "file").write_text("x")
    run_git(inner, "add", "file")
    run_git(inner, "commit", "-m", "first")
    run_git(tree, "add", "inner")
    run_git(tree, "commit", "-m", "with submodule")
    run_git(inner, "config", "core.fsmonitor", str(command))
    assert git_state(tree)["edited"] is False
    assert not started.exists()


def test_a_tree_whose_files_lie_elsewhere_counts_as_none(tree, tmp_path):
    clone = tree / "clone"
    clone.mkdir()
    run_git(clone, "init")
    run_git(clone, "commit", "--allow-empty", "-m", "first")
    assert git_state(clone)["folder"] == str(clone)
    run_git(clone, "config", "core.worktree", str(tree))
    assert git_state(clone) == {}


@pytest.mark.parametrize("kind", ["file", "link", "common folder"])
def test_a_repository_that_lies_elsewhere_is_not_shown(tree, tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp("given")
    if kind == "file":
        (folder / ".git").write_text(f"gitdir: {tree / '.git'}\n")
    elif kind == "link":
        (folder / ".git").symlink_to(tree / ".git")
    else:
        run_git(folder, "init", "--initial-branch", "work")
        (folder / ".git" / "commondir").write_text(str(tree / ".git"))
    diff = Provenance.collect(folder).diffs["workspace.diff"]
    assert "does not name this folder" in diff
    assert "name: one" not in diff


def test_a_linked_working_tree_is_shown(tree, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked") / "tree"
    run_git(tree, "worktree", "add", linked, "-b", "other")
    (linked / "spec.yaml").write_text("name: two\n")
    assert "+name: two" in Provenance.collect(linked).diffs["workspace.diff"]


def test_variables_of_git_in_the_environment_do_not_name_another_tree(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert git_state(tree)["folder"] == str(tree)


SECRETS = [
    ".env",
    "deploy/.env.local",
    "prod.env",
    "server.PEM",
    "tls.key",
    "id_rsa",
    "aws_credentials.json",
    ".pgpass",
]


def test_files_of_passwords_and_keys_stay_out_of_the_diff_and_are_named(tree):
    for name in SECRETS:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("nothing yet")
    run_git(tree, "add", "--force", ".")
    run_git(tree, "commit", "-m", "tracked")
    for name in SECRETS:
        (tree / name).write_text("topsecret")
    (tree / "spec.yaml").write_text("name: two\n")
    diff = Provenance.collect(tree).diffs["workspace.diff"]
    assert "topsecret" not in diff
    assert "+name: two" in diff
    assert all(f"passwords or keys: {name}\n" in diff for name in SECRETS)


def test_a_repository_that_git_cannot_compare_does_not_stop_a_launch(tree):
    (tree / "spec.yaml").write_text("name: two\n")
    for file in (tree / ".git" / "objects").glob("??/*"):
        name = file.parent.name + file.name
        kind = subprocess.run(["git", "-C", tree, "cat-file", "-t", name], capture_output=True, check=False)
        if kind.stdout.strip() == b"tree":
            file.unlink()
    diffs = Provenance.collect(tree).diffs
    assert all("git cannot show the changes" in diff for name, diff in diffs.items() if name == "workspace.diff")


class WrittenPackage(Distribution):
    """An installed package of which only the metadata exist."""

    def __init__(self, text):
        self._text = text

    def read_text(self, filename):
        return self._text if filename == "METADATA" else None

    def locate_file(self, path):
        raise NotImplementedError


HEADERS = ["Metadata-Version: 2", "Name: a", "version: 1.0+cpu", "Author: Name: x", "Summary: ", "\tVersion: 2", "text"]


@given(
    headers=st.lists(st.sampled_from(HEADERS), max_size=6),
    name=st.from_regex(r"[A-Za-z0-9._-]+", fullmatch=True),
    body=st.text(max_size=20),
)
def test_name_and_version_are_those_that_the_metadata_library_reads(headers, name, body):
    package = WrittenPackage("\n".join([*headers, f"Name: {name}", "Version: 3.1", "", body]))
    expected = (str(package.metadata["Name"]), str(package.metadata["Version"]))
    assert provenance._name_and_version(package) == expected


def test_usual_metadata_are_not_parsed_whole(monkeypatch):
    monkeypatch.setattr(WrittenPackage, "metadata", property(lambda _: pytest.fail("parsed whole")))
    package = WrittenPackage("Metadata-Version: 2.4\nName: a-package\nVersion: 1.0+cpu\nSummary: a\n")
    monkeypatch.setattr(provenance, "distributions", lambda: [package])
    assert provenance.installed_packages() == "a-package==1.0+cpu\n"
