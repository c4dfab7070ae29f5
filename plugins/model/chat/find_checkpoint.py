"""Finds the files of a checkpoint, locally or on the hub, and identifies their content."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

from runner.errors import RequirementError
from runner.files import cached_json, user_cache_dir

SMALL_FILES = ("*.json", "*.txt", "*.jinja")
"""Configuration, tokenizer, template and processor: the files needed for planning."""

CONTENT_FILES = (*SMALL_FILES, "*.safetensors", "*.model")
"""Files whose content affects the outputs of a checkpoint, without weights in the pickle format."""

PICKLED_FILES = ("*.bin",)
"""Weights in the pickle format of torch, which a checkpoint has instead of the safetensors format."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files from which `from_pretrained` of transformers 5.23 loads weights: the first one that exists."""

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which transformers recognises an adapter of PEFT. It then loads the weights of another checkpoint."""

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub before the local cache is used."""


def local_folder(path: str) -> Path:
    """Check that a folder contains a checkpoint, and return it.

    Raises:
        RequirementError: The folder does not exist or contains no checkpoint, or only an adapter.
    """
    folder = Path(path)
    check_no_adapter(folder)
    if not (folder / "config.json").is_file():
        problem = "contains no config.json" if folder.is_dir() else "is not a folder"
        raise RequirementError(
            f"model.checkpoint: {folder} {problem}; set a folder written by save_pretrained, or a hub name"
        )
    return folder


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter, because transformers would load weights that are not in the folder.

    Raises:
        RequirementError: The folder contains the configuration of an adapter.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise RequirementError(
            f"model.checkpoint: {folder} contains an adapter ({ADAPTER_CONFIG}) for another checkpoint; merge both "
            "with `merge_and_unload()` of peft, save model and processor with `save_pretrained`, and set that folder"
        )


def weight_files(folder: Path, *, pickled: bool) -> list[Path]:
    """List the files from which transformers loads the weights of a folder.

    Args:
        folder: The folder of a checkpoint.
        pickled: Whether files in the pickle format may be loaded.

    Returns:
        The file with the weights; or the index of a checkpoint in several files, followed by these files, which may be
        outside the folder. Empty if the folder has no weights.

    Raises:
        RequirementError: Only pickled weights exist and they may not be loaded, a file that an index names is missing,
            or a file does not contain the JSON that is expected.
    """
    config = folder / "config.json"
    named = read_json(config).get("transformers_weights")
    if named is not None:
        _check_file_names(config, "transformers_weights", [named])
    first = next((folder / name for name in ([named] if named else WEIGHTS) if (folder / name).is_file()), None)
    if first is None:
        return []
    files = [first, *_indexed_files(first)]
    if not pickled and any(file.suffix != ".safetensors" for file in files if file.suffix != ".json"):
        raise RequirementError(
            f"model.checkpoint: {folder} has its weights only in the pickle format ({first.name}); convert them with "
            "`save_pretrained` of transformers, or, if you trust their author, set model.pickled_weights: true"
        )
    return files


def _indexed_files(file: Path) -> list[Path]:
    """Return the files that an index names; empty for a file with weights."""
    if file.suffix != ".json":
        return []
    weight_map = read_json(file).get("weight_map", {})
    names = list(weight_map.values()) if isinstance(weight_map, dict) else [weight_map]
    _check_file_names(file, "weight_map", names)
    if not names:
        raise RequirementError(
            f"model.checkpoint: {file} names no files with weights (`weight_map`); copy the file again"
        )
    parts = [file.parent / name for name in sorted(set(names))]
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise RequirementError(
            f"model.checkpoint: {missing[0]} is missing, which {file.name} names ({len(missing)} of {len(parts)} files "
            "with weights are missing); copy the whole checkpoint"
        )
    return parts


def _check_file_names(file: Path, key: str, names: Sequence[Any]) -> None:
    """Check the names of files in a JSON file of a checkpoint.

    Raises:
        RequirementError: A name is not the name of a file.
    """
    for name in names:
        parts = name.encode("utf-8", "replace").split(b"/") if isinstance(name, str) else []
        if not name or not parts or b"\0" in b"".join(parts) or max(map(len, parts)) > MAX_NAME_BYTES:
            raise RequirementError(
                f"model.checkpoint: {file}: {key!r} contains {ascii(name)[:80]}, which is not the name of a file; copy "
                "the file again"
            )


MAX_NAME_BYTES = 255
"""Maximum length of the name of a file, on Linux."""


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        RequirementError: The file cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequirementError(f"model.checkpoint: {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RequirementError(f"model.checkpoint: {file} is not valid JSON ({error}); copy the file again") from error
    if not isinstance(content, dict):
        raise RequirementError(f"model.checkpoint: {file} must contain a JSON object; copy the file again")
    return content


def read_image_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a checkpoint's image processor from the file that transformers 5.23 reads.

    Raises:
        RequirementError: The folder has no such file, or the file is damaged.
    """
    processor, images = folder / "processor_config.json", folder / "preprocessor_config.json"
    nested = read_json(processor).get("image_processor") if processor.is_file() else None
    if isinstance(nested, dict):
        return nested
    return read_json(images)


def local_revision(folder: Path, *, pickled: bool) -> str:
    """Hash a local checkpoint.

    Args:
        folder: The folder of the checkpoint.
        pickled: See `weight_files`.

    Returns:
        `sha256:` and a digest over names and contents of `CONTENT_FILES`, of additional chat templates, and of the
        files with weights.

    Raises:
        RequirementError: See `weight_files`; also if the folder has no weights.
    """
    weights = weight_files(folder, pickled=pickled)
    if not weights:
        raise _no_weights(folder)
    patterns = (*CONTENT_FILES, "additional_chat_templates/*.jinja")
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    files |= set(weights)
    digest = hashlib.sha256()
    # The index may name files outside the folder: below it, beside it (`../`), or by an absolute path.
    for name, file in sorted((file.as_posix().removeprefix(f"{folder.as_posix()}/"), file) for file in files):
        digest.update(f"{name}\0{_content_digest(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


SETTLED_SECONDS = 5.0
"""A file that changed less long ago may change once more without a new time, so that its digest is not cached."""
MAX_CACHED_DIGESTS = 1000
"""Number of files whose digests the user's cache holds."""


def _content_digest(file: Path) -> str:
    """Return the SHA-256 of a file. It is cached by place, inode, size and times, as gigabytes take seconds to read."""
    status = file.stat()
    identity = [str(file.resolve()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    def compute() -> str:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    folder = user_cache_dir("checkpoints")
    # No program can set the time of the last change of a file's content or attributes (`st_ctime`).
    if folder is None or time.time() - status.st_ctime < SETTLED_SECONDS:
        return compute()
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return cached_json(folder / f"{key}.json", compute, keep=lambda _: True, max_files=MAX_CACHED_DIGESTS)


def hub_revision(name: str, revision: str) -> str:
    """Resolve a revision to a commit, on the hub or, if it cannot be reached, in the local cache.

    A full commit is not looked up on the hub if the local cache has it.

    Raises:
        RequirementError: Neither has the revision.
    """
    if re.fullmatch("[0-9a-f]{40}", revision) and _cached_commit(name, revision):
        return revision
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


def hub_folder(name: str, commit: str, *, weights: bool, pickled: bool) -> Path:
    """Return the folder with a commit's files; download missing files.

    Args:
        name: The repository on the hub.
        commit: The commit, as returned by `hub_revision`.
        weights: Whether to include the weights, not only the small files.
        pickled: Whether the weights may be in the pickle format; see `weight_files`.

    Raises:
        RequirementError: The files are not in the local cache and cannot be downloaded, are an adapter, or have no
            weights that may be loaded.
    """
    folder = _download(name, commit, CONTENT_FILES if weights else SMALL_FILES)
    check_no_adapter(folder)
    if not weights or weight_files(folder, pickled=pickled):
        return folder
    # Many repositories have both formats, so pickled weights are downloaded only where there are no others.
    if pickled:
        folder = _download(name, commit, (*CONTENT_FILES, *PICKLED_FILES))
    if not weight_files(folder, pickled=pickled):
        raise _no_weights(folder)
    return folder


def _no_weights(folder: Path) -> RequirementError:
    return RequirementError(
        f"model.checkpoint: {folder} has no weights (model.safetensors, or an index of several such files); copy the "
        "whole checkpoint, or, if it has only pickled weights and you trust their author, set model.pickled_weights: "
        "true"
    )


def _download(name: str, commit: str, patterns: Sequence[str]) -> Path:
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
