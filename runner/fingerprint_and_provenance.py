"""Identity and provenance of a run: the fingerprint of a plan, and the code, packages and machine behind it."""

from __future__ import annotations

import hashlib
import json
import math
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

from pydantic import BaseModel

from runner import __version__
from runner.errors import PluginError
from runner.redaction import redact_passwords
from runner.stages import OutsideFingerprint


def fingerprint(value: Any) -> str:
    """Hash a value of plain data.

    Returns:
        SHA-256 over its canonical JSON, in hexadecimal.

    Raises:
        PluginError: The value contains something without a stable serialisation, such as a set or NaN.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Serialise plain data as canonical JSON: sorted keys, no white space, no NaN; see `fingerprint`."""
    return json.dumps(_check_plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprinted_options(options: BaseModel) -> dict[str, Any]:
    """Return the options that can change a result: all except those marked `OutsideFingerprint`.

    The order of a mapping can matter (optimizer groups are matched in order), so mappings become lists of pairs.
    """
    return {
        name: _identity_value(getattr(options, name))
        for name, field in type(options).model_fields.items()
        if not any(isinstance(marker, OutsideFingerprint) for marker in field.metadata)
    }


def _identity_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return fingerprinted_options(value)
    if isinstance(value, Mapping):
        return [[key, _identity_value(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_identity_value(item) for item in value]
    return value


def _check_plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_check_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _check_plain(item, f"{path}.{key}") for key, item in value.items()}
    raise PluginError(
        f"{path} is {value!r} of type {type(value).__name__}, which has no stable serialisation; "
        "an option must be text, a finite number, true or false, or lists and mappings of those"
    )


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
"""Maximum size of a stored diff; a longer diff is cut off and says so."""
GIT_SECONDS = 10


@dataclass(frozen=True)
class Provenance:
    """The code and the packages of a launch.

    Attributes:
        code: The `version` of this project and, in a git checkout, the same keys as `workspace`.
        workspace: The git working tree of the spec: `folder`, `commit`, `branch`, `edited`; empty outside a tree.
        diffs: Uncommitted changes of tracked files in both trees, by file name of the diff.
        packages: All installed packages in the format of `pip freeze`.
    """

    code: Mapping[str, Any]
    workspace: Mapping[str, Any]
    diffs: Mapping[str, str]
    packages: str

    @classmethod
    def collect(cls, folder: Path) -> Self:
        """Collect the code and packages of this process, and the working tree that contains a folder."""
        trees = {"workspace": git_state(folder), "code": git_state(Path(__file__).parent)}
        edited = {name: tree for name, tree in trees.items() if tree.get("edited")}
        if trees["workspace"] == trees["code"]:
            edited.pop("code", None)
        diffs = {f"{name}.diff": _diff(Path(tree["folder"])) for name, tree in edited.items()}
        return cls({"version": __version__, **trees["code"]}, trees["workspace"], diffs, installed_packages())


def package_versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that compute results."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def installed_packages() -> str:
    """Return all installed packages in the format of `pip freeze`."""
    # `name` and `version` of a distribution would each parse its whole metadata.
    metadata = (distribution.metadata for distribution in distributions())
    lines = {f"{package['Name']}=={package['Version']}" for package in metadata}
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def code_hash(package: str) -> str:
    """Hash the Python files of a package or module by path and content; `missing` if it is not installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return "missing"
    file = Path(spec.origin)
    folder = file.parent
    files = sorted(folder.rglob("*.py")) if spec.submodule_search_locations else [file]
    digest = hashlib.sha256()
    for source_file in files:
        digest.update(f"{source_file.relative_to(folder)}\n".encode() + source_file.read_bytes())
    return digest.hexdigest()[:12]


def host_info() -> dict[str, Any]:
    """Describe the machine that this process runs on."""
    return {
        "name": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": sys.executable,
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Return folder, commit, branch and `edited` of the working tree that contains a folder; empty outside one."""
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
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()


def _diff(tree: Path) -> str:
    """Return the uncommitted changes of a working tree's tracked files, cut off after `DIFF_BYTES`."""
    command = ["git", "-C", str(tree), "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        output = process.stdout.read(DIFF_BYTES + 1)
        process.kill()
    diff = redact_passwords(output[:DIFF_BYTES].decode("utf-8", errors="replace"))
    return diff if len(output) <= DIFF_BYTES else f"{diff}\n… cut off: a diff is stored up to {DIFF_BYTES:,} bytes\n"
