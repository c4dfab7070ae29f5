"""Writes a data-set folder and its card atomically."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from filelock import FileLock, Timeout

from runner.dataset.dataset_statistics import STATISTIC_NAMES, compute_statistics
from runner.dataset.folder_reader import DESCRIPTION_FILE, PARQUET_FOLDER, content_fingerprint, sample_to_row
from runner.errors import DataError
from runner.files import read_json_object, sync_file, sync_folder, sync_tree
from runner.records import Sample, find_text_problem

CARD_FILE = "README.md"
EXTRA_FILES = ("left_out.jsonl", "annotations.jsonl")
"""Files that a build writes beside the samples; an export and an import copy them unchanged."""
EXPORTED_FILE = re.compile(rf"{PARQUET_FOLDER}/.*\.parquet")
"""The files of an export with samples, relative to its folder."""

SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""The hub's size categories of data sets by their number of samples, below a million."""

CARD_STATISTICS = {
    "characters of a summary": ("summary", "characters"),
    "words of a summary": ("summary", "words"),
    "characters of a text": ("text", "characters"),
    "words of a text": ("text", "words"),
    "entities of a sample": ("entities_per_sample",),
    "segments of a sample": ("segments_per_sample",),
}
"""The rows of the card's table of statistics, and their keys in `statistics` of `dataset.json`."""


def dataset_card(description: Mapping[str, Any], files: Mapping[str, str] | None = None) -> str:
    """Format the data-set card.

    Args:
        description: The content of `dataset.json`.
        files: The pattern of the Parquet files beside the card, by split; None for a folder of JSON lines.
    """
    header = yaml.safe_dump(_card_header(description, files), sort_keys=False, allow_unicode=True)
    num_samples = [[_escape(split), f"{number:,}"] for split, number in description["num_samples"].items()]
    parts = [
        f"---\n{header}---",
        f"# {_escape(description['name'])}",
        "Each sample consists of an image, its text, and the entities that the text names. Segments are cut from the "
        "image, and each shows one of the entities. A sample may also have a summary of the image (mutual "
        "reinforcement in multimodal information extraction, arXiv 2504.17353).",
        _markdown_table(["split", "samples"], num_samples),
        f"Labels: {', '.join(map(_escape, description['labels']))}.",
        *_card_statistics(description.get("statistics") or {}),
        "## Source",
        *_card_source(description),
        "## Usage",
        _card_usage(exported=files is not None),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _card_header(description: Mapping[str, Any], files: Mapping[str, str] | None) -> dict[str, Any]:
    total = sum(description["num_samples"].values())
    header: dict[str, Any] = {"pretty_name": description["name"]}
    if description.get("license"):
        header["license"] = description["license"]
    header["task_categories"] = ["image-text-to-text", "token-classification"]
    header["tags"] = ["multimodal-information-extraction", "m-mre"]
    header["size_categories"] = [next((name for size, name in SIZE_CATEGORIES.items() if total < size), "n>1M")]
    if files is not None:
        data_files = [{"split": split, "path": pattern} for split, pattern in files.items()]
        header["configs"] = [{"config_name": "default", "data_files": data_files}]
    return header


def _card_statistics(statistics: Mapping[str, Any]) -> list[str]:
    rows = []
    for title, keys in CARD_STATISTICS.items():
        values: Any = statistics
        for key in keys:
            values = values.get(key) if isinstance(values, Mapping) else None
        # The file may be somebody else's: other content has no row.
        if isinstance(values, Mapping) and all(_is_number(values.get(name)) for name in STATISTIC_NAMES):
            rows.append([title, *(f"{values[name]:,.6g}" for name in STATISTIC_NAMES)])
    entities = statistics.get("entities")
    numbers = entities.items() if isinstance(entities, Mapping) else ()
    counts = ", ".join(f"{number:,} × {_escape(label)}" for label, number in numbers if _is_number(number))
    return [
        _markdown_table(["", *STATISTIC_NAMES], rows) if rows else "",
        f"Entities: {counts}." if counts else "",
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_STATISTIC


MAX_STATISTIC = 10**15
"""A larger number is no statistic of a data set; a number with hundreds of digits could not be formatted."""


def _card_source(description: Mapping[str, Any]) -> list[str]:
    provenance = description.get("provenance") or {}
    license_ = description.get("license")
    provenance_yaml = yaml.safe_dump(dict(provenance), sort_keys=False, allow_unicode=True)
    return [
        f"Made by mmre-runner from: {_escape(provenance['source'])}." if provenance.get("source") else "",
        f"Licence: {_escape(license_)}." if license_ else "No licence is declared: the terms of its sources apply.",
        f"Fingerprint of the content: `{description['fingerprint']}`.",
        # An indented block holds any text; the end of a fenced one could be part of the text.
        "".join(f"    {line}\n" for line in provenance_yaml.splitlines()) if provenance else "",
    ]


def _escape(text: object) -> str:
    """Escape the Markdown and HTML in a text, and its control characters, so that a card shows the text."""
    line = " ".join(str(text).split())
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
    return re.sub(r"[\\`*_\[\]<>|#&~]", r"\\\g<0>", shown)


def _card_usage(*, exported: bool) -> str:
    if exported:
        return (
            "Read it with `datasets.load_dataset`. `runner import` converts it to a folder for "
            "`data: {type: mmre, path: …}` in a spec, with the same fingerprint."
        )
    return (
        "Use this folder in a spec: `data: {type: mmre, path: …}`. `runner stats` prints its statistics, and "
        "`runner export` writes it as Parquet for the Hugging Face hub."
    )


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


class DatasetWriter:
    """Writes a data set into a folder that is still unfinished.

    Attributes:
        path: The unfinished folder.
        images: Its subfolder for main images.
        segments: Its subfolder for segment images.
    """

    def __init__(self, path: Path) -> None:
        """Create the subfolders in an empty folder."""
        self.path = path
        self.images, self.segments = path / "images", path / "segments"
        for folder in (self.images, self.segments):
            folder.mkdir(parents=True)

    def write_dataset(
        self,
        name: str,
        labels: Sequence[str],
        splits: Mapping[str, Sequence[Sample]],
        provenance: Mapping[str, Any],
        license_: str | None = None,
    ) -> dict[str, Any]:
        """Write the splits, `dataset.json` and the card, and return the content of `dataset.json`.

        Args:
            name: The name of the data set.
            labels: The entity labels, in order.
            splits: Samples whose images are in this folder, by split.
            provenance: How the data set was made, as plain data.
            license_: The identifier of the licence; None if none is declared.

        Raises:
            DataError: A text of a sample cannot be used; see `find_text_problem`.
        """
        for split, samples in splits.items():
            for sample in samples:
                if problem := find_text_problem(sample):
                    raise DataError(f"{name}, split {split}: sample {sample.id!r}: {problem}")
            write_rows(self.path / f"{split}.jsonl", (sample_to_row(sample, self.path) for sample in samples))
        description = {
            "name": name,
            "labels": list(labels),
            "num_samples": {split: len(samples) for split, samples in splits.items()},
            **({"license": license_} if license_ else {}),
            "fingerprint": content_fingerprint(labels, splits),
            "provenance": dict(provenance),
            "statistics": compute_statistics(*splits.values()),
        }
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (self.path / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
        (self.path / CARD_FILE).write_text(dataset_card(description), encoding="utf-8")
        return description


@contextmanager
def exclusive_build(path: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Lock a data set, so that one process at a time checks for it and builds it.

    Args:
        path: The folder of the data set.
        on_wait: Called if another process holds the lock.

    Raises:
        DataError: The parent folder cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: the folder cannot be created: {error.strerror}") from error
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class NewContent:
    """What a folder is to be replaced by, to decide whether this is allowed.

    Attributes:
        name: The name of the data set.
        source: The name of the corpus that the data set was made from; None if it is not known yet.
        replace: Whether the user allows that another data set, or files of the user, are deleted.
    """

    name: str
    source: str | None = None
    replace: bool = False


@contextmanager
def publish_atomically(path: Path, new: NewContent | None = None) -> Iterator[DatasetWriter]:
    """Write a data set beside its final path and move it there at the end, replacing an earlier one.

    Use it inside `exclusive_build`.

    Args:
        path: The final path.
        new: Describes the new data set; None if the path is a cache, in which any data set may be replaced.

    Raises:
        DataError: The path exists and may not be replaced; see `check_replaceable`.
    """
    with replace_folder(path, new) as unfinished:
        yield DatasetWriter(unfinished)


@contextmanager
def replace_folder(
    path: Path, new: NewContent | None = None, marker: str = DESCRIPTION_FILE, kind: str = "a data set"
) -> Iterator[Path]:
    """Create a folder beside its final path and move it there at the end, replacing an earlier one of its kind.

    All files are on the disk before the move, except in a cache, whose data sets can be created again.

    Args:
        path: The final path.
        new: As for `publish_atomically`.
        marker: The name of a file or folder that every folder of this kind contains.
        kind: The kind with its article, for the error message.

    Raises:
        DataError: The path exists and may not be replaced; see `check_replaceable`.
    """
    check_replaceable(path, new, marker, kind)
    unfinished, previous = (path.with_name(f".{path.name}.{suffix}") for suffix in ("unfinished", "before"))
    _restore_previous(previous, path)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if new is not None:
            sync_tree(unfinished)
        if path.exists():
            path.rename(previous)
        unfinished.rename(path)
        sync_folder(path.parent)  # The earlier folder is deleted next.
    finally:
        _restore_previous(previous, path)
        shutil.rmtree(unfinished, ignore_errors=True)


def check_replaceable(
    path: Path, new: NewContent | None = None, marker: str = DESCRIPTION_FILE, kind: str = "a data set"
) -> None:
    """Check that a folder may be replaced, so that no other data set and no file of the user is deleted.

    Args:
        path: The folder, which need not exist.
        new: As for `publish_atomically`.
        marker: As for `replace_folder`.
        kind: As for `replace_folder`.

    Raises:
        DataError: The path is of another kind; or, unless `new.replace` is set, it holds another data set, or files
            that are not part of the data set.
    """
    if not path.exists():
        return
    if not (path / marker).exists():
        raise DataError(f"{path}: already exists and is not {kind}. Choose another path, or remove it")
    if new is None or new.replace:
        return
    remedy = "Choose another path, or replace the folder with --replace"
    try:
        old = read_json_object(path / DESCRIPTION_FILE, remedy)
    except FileNotFoundError as error:
        raise DataError(f"{path}: holds no {DESCRIPTION_FILE} that says which data set it is. {remedy}") from error
    if old.get("name") != new.name:
        raise DataError(f"{path}: holds the data set {old.get('name')!r}, and the new one is {new.name!r}. {remedy}")
    provenance = old.get("provenance")
    source = provenance.get("source") if isinstance(provenance, dict) else None
    if source is not None and new.source is not None and source != new.source:
        raise DataError(
            f"{path}: holds a data set {new.name!r} of another source ({source!r}, and the new one is made from "
            f"{new.source!r}). {remedy}"
        )
    _check_foreign_files(path, old)


def _check_foreign_files(path: Path, description: Mapping[str, Any]) -> None:
    """Raise a DataError if a folder holds files that are not part of its data set or export."""
    known = {DESCRIPTION_FILE, CARD_FILE, *EXTRA_FILES}
    splits = description.get("num_samples")
    for split in splits if isinstance(splits, dict) else ():
        known.add(f"{split}.jsonl")
        known.update(_image_names(path / f"{split}.jsonl"))
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir() or file.is_symlink())
    is_export = (path / PARQUET_FOLDER).is_dir()
    foreign = sorted(name for name in names if name not in known and not (is_export and EXPORTED_FILE.fullmatch(name)))
    if foreign:
        more = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        raise DataError(
            f"{path}: holds files that are not part of the data set, such as {foreign[0]}{more}. Move them "
            "to another folder, or delete them with --replace"
        )


def _image_names(file: Path) -> Iterator[str]:
    """Yield the images that a split names; a damaged line names none."""
    lines = file.read_bytes().splitlines() if file.is_file() else []
    for line in lines:
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            row = json.loads(line)
            for holder in (row, *(row.get("segments") or ())):
                if isinstance(name := holder.get("image"), str):
                    yield PurePosixPath(name).as_posix()


def _restore_previous(previous: Path, path: Path) -> None:
    """Remove the previous folder, or restore it if a kill prevented the new one from replacing it."""
    if previous.exists() and not path.exists():
        previous.rename(path)
    shutil.rmtree(previous, ignore_errors=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        sync_file(file)
