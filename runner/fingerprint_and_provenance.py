"""Identity and provenance of a run: the fingerprint of a plan, and the code, packages and machine behind it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
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
    lines = {"==".join(_name_and_version(distribution)) for distribution in distributions()}
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


_NAME_AND_VERSION = re.compile(
    r"(?:(?!Name:|Version:)[a-z-]+:[^\r\n]*\n)*Name: ([^\s]+)\nVersion: ([^\s]+)\n(?![ \t])", re.IGNORECASE
)
"""The first lines of the metadata that build tools write: other headers, then name and version."""


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    """Return name and version of a package; to parse all its metadata would take ten times as long."""
    match = _NAME_AND_VERSION.match(distribution.read_text("METADATA") or "")
    if match:
        return match[1], match[2]
    metadata = distribution.metadata
    return str(metadata["Name"]), str(metadata["Version"])


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
    """Return folder, commit, branch and `edited` of the working tree that contains a folder; empty outside one.

    The tree is that of the nearest folder with `.git`. A tree whose configuration says that its files lie elsewhere
    counts as none, as its files may be private files of this user.
    """
    try:
        git = _Git.for_folder(folder)
        tree = Path(git.ask("rev-parse", "--show-toplevel"))
        roots = (parent for parent in (folder.resolve(), *folder.resolve().parents) if (parent / ".git").exists())
        if tree.resolve() != next(roots, None):
            return {}
        return {
            "folder": str(tree),
            "commit": git.ask("rev-parse", "HEAD"),
            "branch": git.ask("rev-parse", "--abbrev-ref", "HEAD"),
            "edited": bool(git.ask("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


_NO_COMMANDS = {"core.fsmonitor": "false", "core.hooksPath": os.devnull, "protocol.allow": "never"}
"""Git configuration without programs that git would start: a file monitor, hooks, and transports to remotes."""
_FILTER = re.compile(r"(filter\..*)\.(clean|smudge|process|required)", re.DOTALL)
_KEPT_VARIABLES = {"GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM"}


@dataclass(frozen=True)
class _Git:
    """Git for a folder whose own configuration, perhaps a stranger's, must not start programs.

    Attributes:
        folder: The folder.
        environment: The environment of git; its configuration overrides that of the folder.
    """

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def for_folder(cls, folder: Path) -> Self:
        """Override all settings of the folder with which git starts programs; reading the settings starts none."""
        names = cls(folder, _git_environment(_NO_COMMANDS)).ask("config", "--list", "--name-only", "-z").split("\0")
        # An empty command switches a filter off. Git lists no filters for attributes, so each configured one is set.
        filters = {f"{match[1]}.{key}": "" for name in names if (match := _FILTER.fullmatch(name)) for key in _FILTERS}
        required = {name: "false" for name in filters if name.endswith(".required")}
        return cls(folder, _git_environment({**_NO_COMMANDS, **filters, **required}))

    def ask(self, *arguments: str) -> str:
        """Return the output of a git command.

        Raises:
            OSError: Git is not installed.
            subprocess.SubprocessError: Git fails, or takes longer than `GIT_SECONDS`.
        """
        command = self._command(*arguments)
        answer = subprocess.run(
            command,
            capture_output=True,
            check=True,
            timeout=GIT_SECONDS,
            env=self.environment,
            stdin=subprocess.DEVNULL,
        )
        return answer.stdout.decode("utf-8", errors="replace").strip()

    def read(self, *arguments: str, limit: int) -> bytes:
        """Return the first bytes of a git command's output, as far as it comes within `GIT_SECONDS`."""
        with subprocess.Popen(
            self._command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        ) as process:
            assert process.stdout is not None
            timer = Timer(GIT_SECONDS, process.kill)
            timer.start()
            try:
                return process.stdout.read(limit)
            finally:
                timer.cancel()
                process.kill()

    def _command(self, *arguments: str) -> list[str]:
        return ["git", "--no-optional-locks", "--no-pager", "-C", str(self.folder), *arguments]


_FILTERS = ("clean", "smudge", "process", "required")


def _git_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with settings for git, which override all configuration files, and without other ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT_VARIABLES}
    environment = {
        **kept,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_TERMINAL_PROMPT": "0",
    }
    for index, (name, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{index}": name, f"GIT_CONFIG_VALUE_{index}": value}
    return environment


SECRET_FILES = (
    ".env",
    ".env.*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.kdbx",
    "*.jks",
    "*.keystore",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".my.cnf",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".git-credentials",
    "*credentials*",
    "*secret*",
)
"""Names of files that hold passwords and keys, in upper or lower case; their changes are not stored."""


def _names_tree(git: _Git, tree: Path) -> bool:
    """Return whether a repository names a folder as its working tree.

    The file `.git` of a folder from somebody else may name a private repository of this user. Its files are missing in
    the folder, so that their text would be in the diff.
    """
    listed = git.ask("worktree", "list", "--porcelain").splitlines()
    trees = {Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")}
    # A submodule, whose repository lies in that of the main project, is not listed, but configured.
    configured = git.ask("config", "--default", "", "--get", "core.worktree")
    if configured:
        trees.add(Path(git.ask("rev-parse", "--absolute-git-dir")) / configured)
    return tree.resolve() in {each.resolve() for each in trees}


def _diff(tree: Path) -> str:
    """Return the uncommitted changes of a working tree's tracked files, cut off after `DIFF_BYTES`.

    Changes of `SECRET_FILES` are left out; the text names these files.
    """
    diff = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=all", "HEAD")
    secret_names = (f":(glob,icase)**/{name}" for name in SECRET_FILES)
    try:
        git = _Git.for_folder(tree)
        if not _names_tree(git, tree):
            return "… left out: the repository does not name this folder as its working tree (core.worktree)\n"
        left_out = git.ask(*diff, "--name-only", "--", *secret_names).splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return f"… git cannot show the changes: {error}\n"
    secret = (f":(exclude,glob,icase)**/{name}" for name in SECRET_FILES)
    output = git.read(*diff, "--", ".", *secret, limit=DIFF_BYTES + 1)
    text = redact_passwords(output[:DIFF_BYTES].decode("utf-8", errors="replace"))
    if len(output) > DIFF_BYTES:
        text += f"\n… cut off: a diff is stored up to {DIFF_BYTES:,} bytes\n"
    return text + "".join(f"\n… left out, as it may hold passwords or keys: {name}\n" for name in left_out)
