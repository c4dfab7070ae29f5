"""Finds the files of a checkpoint, locally or on the hub, and identifies their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

from runner.errors import RequirementError

SMALL_FILES = ("*.json", "*.txt", "*.jinja")
"""Configuration, tokenizer, template and processor: the files needed for planning."""

CONTENT_FILES = (*SMALL_FILES, "*.safetensors", "*.model")
"""Files whose content affects the outputs of a checkpoint."""

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub before the local cache is used."""


def local_folder(path: str) -> Path:
    """Check that a folder contains a checkpoint, and return it.

    Raises:
        RequirementError: The folder does not exist or contains no checkpoint.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        problem = "contains no config.json" if folder.is_dir() else "is not a folder"
        raise RequirementError(
            f"model.checkpoint: {folder} {problem}; set a folder written by save_pretrained, or a hub name"
        )
    return folder


def local_revision(folder: Path) -> str:
    """Hash a local checkpoint.

    Returns:
        `sha256:` and a digest over names and contents of `CONTENT_FILES`.
    """
    digest = hashlib.sha256()
    for file in sorted({file for pattern in CONTENT_FILES for file in folder.glob(pattern)}):
        with file.open("rb") as content:
            content_digest = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name}\0{content_digest}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def hub_revision(name: str, revision: str) -> str:
    """Resolve a revision to a commit, on the hub or, if it cannot be reached, in the local cache.

    Raises:
        RequirementError: Neither has the revision.
    """
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT).sha
    # The client's network errors have no common base class that is stable across versions.
    except Exception as error:
        cached = _cached_commit(name, revision)
        if cached is None:
            raise _checkpoint_error(name, revision, error) from error
        return cached
    assert commit is not None
    return commit


def _cached_commit(name: str, revision: str) -> str | None:
    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # not a valid repository name
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def hub_folder(name: str, commit: str, *, weights: bool) -> Path:
    """Return the folder with a commit's files; download missing files.

    Args:
        name: The repository on the hub.
        commit: The commit, as returned by `hub_revision`.
        weights: Whether to include the weights, not only the small files.

    Raises:
        RequirementError: The files are not in the local cache and cannot be downloaded.
    """
    patterns = CONTENT_FILES if weights else SMALL_FILES
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except Exception as error:  # as in `hub_revision`
        raise _checkpoint_error(name, commit, error) from error


def _checkpoint_error(name: str, revision: str, error: Exception) -> RequirementError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return RequirementError(
        f"model.checkpoint: {name!r} at revision {revision!r} is not available on this machine ({reason}); "
        "set a local folder with its files instead, or use --smoke"
    )
