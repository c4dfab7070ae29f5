"""What made a run, besides its plan: the code in its working trees, the packages, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from runner import __version__
from runner.secrets import without_passwords

RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "ray",
    "mlflow",
    "pydantic",
    "numpy",
    "pillow",
    "rouge-score",
    "nltk",
)
DIFF_BYTES = 1_000_000
"""The most that is kept of what was edited since a commit; the rest is cut, and the diff says so."""
GIT_SECONDS = 10


@dataclass(frozen=True)
class Provenance:
    """The code and the packages of a launch.

    Attributes:
        code: Of this project: `version`, and in a checkout as `workspace`.
        workspace: Of the working tree that the spec lies in: `folder`, `commit`, `branch`, `edited`; empty outside one.
        diffs: What was edited in them since their commits, by the name of a file; never a file that git does not track.
        packages: Everything installed, a line each, as pip takes it.
    """

    code: Mapping[str, Any]
    workspace: Mapping[str, Any]
    diffs: Mapping[str, str]
    packages: str

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Look at the code and packages of this process, and at the working tree that a folder lies in."""
        trees = {"workspace": git_state(folder), "code": git_state(Path(__file__).parent)}
        edited = {name: tree for name, tree in trees.items() if tree.get("edited")}
        if trees["workspace"] == trees["code"]:
            edited.pop("code", None)
        diffs = {f"{name}.diff": _diff(Path(tree["folder"])) for name, tree in edited.items()}
        return cls({"version": __version__, **trees["code"]}, trees["workspace"], diffs, installed_packages())


def packages() -> dict[str, str]:
    """The versions of what computes a number, as installed, with Python's."""
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def installed_packages() -> str:
    """Everything installed, a line each, as pip takes it."""
    # A distribution's name and version are two readings of its whole description otherwise.
    described = (each.metadata for each in distributions())
    lines = {f"{each['Name']}=={each['Version']}" for each in described}
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def code_hash(package: str) -> str:
    """Hash the Python files of a package or module, by content and place; `missing` if it is not there."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return "missing"
    file = Path(spec.origin)
    folder = file.parent
    files = sorted(folder.rglob("*.py")) if spec.submodule_search_locations else [file]
    digest = hashlib.sha256()
    for each in files:
        digest.update(f"{each.relative_to(folder)}\n".encode() + each.read_bytes())
    return digest.hexdigest()[:12]


def host() -> dict[str, Any]:
    """The machine that this process runs on."""
    return {
        "name": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": sys.executable,
    }


def git_state(folder: Path) -> dict[str, Any]:
    """The working tree that a folder lies in, its commit and branch, and whether it was edited since."""
    try:
        return {
            "folder": _git(folder, "rev-parse", "--show-toplevel"),
            "commit": _git(folder, "rev-parse", "HEAD"),
            "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
            "edited": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=GIT_SECONDS
    )
    return done.stdout.strip()


def _diff(tree: Path) -> str:
    """What was edited in the tracked files of a working tree since its commit, cut at `DIFF_BYTES`."""
    command = ["git", "-C", str(tree), "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        found = process.stdout.read(DIFF_BYTES + 1)
        process.kill()
    kept = without_passwords(found[:DIFF_BYTES].decode("utf-8", errors="replace"))
    return kept if len(found) <= DIFF_BYTES else f"{kept}\n… cut here: a diff is kept up to {DIFF_BYTES:,} bytes\n"
