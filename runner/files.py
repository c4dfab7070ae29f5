"""Atomic writes, JSON lines, hard links in place of copies, and sizes of files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from uuid import uuid4

from runner.errors import DataError

T = TypeVar("T")


def user_cache_dir(name: str) -> Path | None:
    """Return a folder in the user's cache, for data that can be created again (XDG Base Directory Specification).

    Returns:
        The folder; None for a user without a home directory, as in some containers. Nothing is cached then.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmre-runner" / name
    except RuntimeError:
        return None


def cached_json(file: Path, compute: Callable[[], T], *, keep: Callable[[T], bool], max_files: int) -> T:
    """Read plain data from a file of a cache, or compute the data and store them in this file.

    Args:
        file: The file, named after everything that the data depend on. Without a writable folder, nothing is stored.
        compute: Computes the data.
        keep: Whether computed data may be stored.
        max_files: Number of files in the folder; the newest are kept.
    """
    with suppress(OSError, ValueError):
        return cast("T", json.loads(file.read_text(encoding="utf-8")))
    data = compute()
    if keep(data):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            # A file that a loss of power damages is computed again, so that no write has to wait for the disk.
            write_text(file, json.dumps(data), durable=False)
            files = list(file.parent.glob("*.json"))
            if len(files) > max_files:
                for old in sorted(files, key=lambda cached: cached.stat().st_mtime)[:-max_files]:
                    old.unlink(missing_ok=True)
    return data


def resolve_path(name: str | Path, folder: Path) -> Path:
    """Expand `~`, and make a path absolute and free of links; the file need not exist.

    Args:
        name: The path.
        folder: The folder that a relative path refers to.

    Raises:
        ValueError: The path names an unknown user, goes through a loop of links, or has a null character.
    """
    try:
        return (folder / Path(name).expanduser()).resolve()
    except (RuntimeError, ValueError) as error:  # pathlib of Python 3.11 raises a RuntimeError for users and loops
        raise ValueError(f"{str(name)!r} cannot be a path: {str(error).removesuffix('.')}") from error


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link to a file, which needs no more disk space, or a copy if hard links are not possible.

    Raises:
        FileNotFoundError: The source does not exist.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without hard links, or a file of another user
        shutil.copyfile(source, target)  # The umask decides the permissions, not the owner of the source.


@contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Add the name of a file to errors of the operating system; a write to an open file fails without the name."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON lines file atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically: readers see the old or the new content, and if durable, also after a loss of power.

    Raises:
        OSError: The file cannot be written.
    """
    # mkstemp would create a private file, but the umask decides who may read and write a run directory.
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with name_file_in_errors(path), unfinished.open("x", encoding="utf-8") as file:
            file.write(text)
            if durable:
                sync_file(file)
        unfinished.replace(path)
    except BaseException:  # a full disk, for example
        unfinished.unlink(missing_ok=True)
        raise


def sync_file(file: IO[Any]) -> None:
    """Write the content of an open file to the disk; a rename can otherwise reach the disk before the content."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write the names of the files in a folder to the disk. Not every file system can do this for folders."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Write all files of a folder and of its subfolders to the disk, before the folder is renamed into place."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def check_is_file(path: Path, remedy: str) -> None:
    """Check that a path, if it exists, is a regular file; at a pipe, a reader would wait forever.

    Args:
        path: The path.
        remedy: What to do about something else, for the error.

    Raises:
        DataError: It is something else, or this user may not look it up.
    """
    try:
        is_other = path.exists() and not path.is_file()
    except PermissionError as error:
        raise DataError(unreadable_message(error)) from error
    if is_other:
        raise DataError(f"{path}: the file is damaged (it is not a regular file). {remedy}")


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        remedy: What to do about a damaged file, for the error.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file cannot be read, or is empty, cut or otherwise damaged.
    """
    check_is_file(path, remedy)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise DataError(unreadable_message(error)) from error
    except OSError as error:  # a defect of the disk, or a folder in its place
        raise DataError(f"{path}: the file cannot be read ({error.strerror}). {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the file is damaged ({error}). {remedy}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: the file is damaged (it must contain a JSON object). {remedy}")
    return value


def unreadable_message(error: OSError) -> str:
    """Say which file or folder of another user cannot be read, and what to do."""
    return f"{error.filename}: cannot be read ({error.strerror}). Ask its owner for the permission"


def apply_umask(*files: Path) -> None:
    """Give files in a folder the permissions of a new file there; some libraries always create private files."""
    for folder in {file.parent for file in files}:
        probe = folder / f".{uuid4().hex}"
        probe.touch(exist_ok=False)
        mode = probe.stat().st_mode
        probe.unlink()
        for file in files:
            if file.parent == folder:
                file.chmod(mode)


def describe_decode_error(error: UnicodeDecodeError) -> tuple[int, int, str]:
    """Describe where bytes are not UTF-8.

    Returns:
        Line and column of the first wrong byte, counted from 1, and a message with a remedy.
    """
    before = error.object[: error.start]
    line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
    return line, column, f"is not UTF-8 text: byte 0x{error.object[error.start]:02x}; save the file as UTF-8"


def describe_json_error(error: ValueError | RecursionError) -> str:
    """Say why `json.loads` refused a text or bytes."""
    if isinstance(error, UnicodeDecodeError):
        return describe_decode_error(error)[2]
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error}"
    return "is nested too deeply" if isinstance(error, RecursionError) else "has a number with too many digits"


MAGIC_NUMBERS = {
    b"PAR1": "is a Parquet file",
    b"\x1f\x8b": "is compressed with gzip; unpack the file first",
    b"PK\x03\x04": "is a ZIP archive; unpack the file first",
    b"\xff\xfe": "is UTF-16 text; save the file as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save the file as UTF-8",
}
"""The first bytes of files that are given by mistake in place of JSON lines, and what to say about these files."""


def other_format(head: bytes) -> str | None:
    """Say what a file contains in place of JSON lines, and how to convert the file; None if nothing is recognised.

    Args:
        head: The first kilobytes of the file.
    """
    for magic, problem in MAGIC_NUMBERS.items():
        if head.startswith(magic):
            return f"{problem}. Expected: JSON lines, one object per line"
    first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if first[:1] not in {b"[", b"{"} or (first[:1] == b"{" and first.strip() != b"{"):
        return None
    with suppress(ValueError, RecursionError):
        value = json.loads(first)
        if rest.strip() or not (value and all(isinstance(item, dict) for item in value)):
            return None  # The error message of this line says more.
    kind, filter_ = ("a JSON array", ".[]") if first[:1] == b"[" else ("one JSON object over several lines", ".")
    return f"is {kind}. Expected: JSON lines, one object per line. Convert the file: jq -c '{filter_}' FILE > NEW.jsonl"


HEAD_BYTES = 65_536
"""Number of bytes that `other_format` needs."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON lines file, without a last line that was only partly written; empty if there is no file.

    Raises:
        DataError: The path is not a regular file.
    """
    check_is_file(path, "Restore the file from a copy")
    if not path.exists():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.split("\n") if line]


def stream_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write JSON lines from an iterator, atomically and without holding all of them in memory.

    Returns:
        SHA-256 of the file's content, in hexadecimal.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, unfinished = hashlib.sha256(), path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
        sync_file(file)
    unfinished.replace(path)
    return digest.hexdigest()


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON lines file one at a time; the file must be complete, as `stream_jsonl` writes it."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


SIZE_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(text: str) -> int:
    """Convert a size such as `1.5GB` to bytes.

    Raises:
        ValueError: The text is not a number of at most nine digits with one of the units kB, MB, GB and TB.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?) ?([kMGT]B)", text)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 500MB or 1.5GB")
    return int(float(match[1]) * SIZE_UNITS[match[2]])
