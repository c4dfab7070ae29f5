"""Finds the files of a checkpoint, locally or on the hub, and identifies their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

from runner.errors import RequirementError

SMALL_FILES = ("*.json", "*.txt", "*.jinja")
"""Configuration, tokenizer, template and processor: all that planning needs."""

CONTENT_FILES = (*SMALL_FILES, "*.safetensors", "*.model")
"""The files whose content decides what a checkpoint computes."""

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub before looking into the local cache."""


def local_folder(path: str) -> Path:
    """Make sure that a folder holds a checkpoint.

    Raises:
        UnmetError: It is missing or holds none.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "is no folder"
        raise RequirementError(
            f"model.checkpoint: {folder} {what}; name a folder written by save_pretrained, or a hub name"
        )
    return folder


def local_revision(folder: Path) -> str:
    """Hash a local checkpoint.

    Returns:
        `sha256:` and a digest over names and contents of the files that matter.
    """
    digest = hashlib.sha256()
    for file in sorted({file for pattern in CONTENT_FILES for file in folder.glob(pattern)}):
        with file.open("rb") as content:
            inner = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name}\0{inner}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def hub_revision(name: str, revision: str) -> str:
    """Ask the hub which commit a revision stands for; where it cannot be reached, ask the local cache.

    Raises:
        UnmetError: Neither knows.
    """
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT).sha
    # The client's network errors have no base of their own that would hold across its versions.
    except Exception as error:
        cached = _cached_commit(name, revision)
        if cached is None:
            raise _unmet(name, revision, error) from error
        return cached
    assert commit is not None
    return commit


def _cached_commit(name: str, revision: str) -> str | None:
    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no possible name of a repository
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def hub_folder(name: str, commit: str, *, weights: bool) -> Path:
    """Get the folder with a commit's files, downloading what is not there yet.

    Args:
        name: The repository on the hub.
        commit: As `hub_revision` gives it.
        weights: Whether the weights are needed, or the small files alone.

    Raises:
        UnmetError: They are neither in the local cache nor to be downloaded.
    """
    patterns = CONTENT_FILES if weights else SMALL_FILES
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except Exception as error:  # as in `hub_revision`
        raise _unmet(name, commit, error) from error


def _unmet(name: str, revision: str, error: Exception) -> RequirementError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return RequirementError(
        f"model.checkpoint: {name!r} at revision {revision!r} cannot be had on this machine ({reason}); "
        "name a local folder with its files instead, or use --smoke"
    )
