"""Writes a data-set folder and its card atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from runner.dataset.dataset_statistics import SPREAD, statistics
from runner.dataset.folder import DESCRIPTION, content_fingerprint, row_of
from runner.errors import DataError
from runner.records import Sample

CARD = "README.md"

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""How the hub sorts data sets by their number of samples, up to a million."""

MEASURED = {
    "characters of a summary": ("summary", "characters"),
    "words of a summary": ("summary", "words"),
    "characters of a text": ("text", "characters"),
    "words of a text": ("text", "words"),
    "entities of a sample": ("entities_per_sample",),
    "segments of a sample": ("segments_per_sample",),
}
"""What the card tells of `statistics`, and where it stands there."""


def card(description: Mapping[str, Any], files: Mapping[str, str] | None = None) -> str:
    """Write the card.

    Args:
        description: What `dataset.json` says.
        files: By split, the pattern of its Parquet files beside the card; None where the card stands in a data-set
            folder of JSON lines.
    """
    header = yaml.safe_dump(_header(description, files), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{header}---",
        f"# {description['name']}",
        "Each sample is an image with its text, the entities that the text names, segments cut from the image, each "
        "of which shows one of them, and, where somebody wrote it, a summary of the image (mutual reinforcement in "
        "multimodal information extraction, arXiv 2504.17353).",
        _table(["split", "samples"], [[split, f"{number:,}"] for split, number in description["num_samples"].items()]),
        f"Labels: {', '.join(description['labels'])}.",
        *_figures(description.get("statistics") or {}),
        "## Where it comes from",
        *_origin(description),
        "## How it is used",
        _use(exported=files is not None),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(description: Mapping[str, Any], files: Mapping[str, str] | None) -> dict[str, Any]:
    total = sum(description["num_samples"].values())
    told: dict[str, Any] = {"pretty_name": description["name"]}
    if description.get("license"):
        told["license"] = description["license"]
    told["task_categories"] = ["image-text-to-text", "token-classification"]
    told["tags"] = ["multimodal-information-extraction", "m-mre"]
    told["size_categories"] = [next((name for size, name in SIZES.items() if total < size), "n>1M")]
    if files is not None:
        patterns = [{"split": split, "path": pattern} for split, pattern in files.items()]
        told["configs"] = [{"config_name": "default", "data_files": patterns}]
    return told


def _figures(statistics: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, place in MEASURED.items():
        found: Any = statistics
        for key in place:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found:
            rows.append([name, *(f"{found[figure]:,.6g}" for figure in SPREAD)])
    entities = statistics.get("entities") or {}
    told = ", ".join(f"{number:,} × {label}" for label, number in entities.items())
    return [_table(["", *SPREAD], rows) if rows else "", f"Entities: {told}." if told else ""]


def _origin(description: Mapping[str, Any]) -> list[str]:
    provenance = description.get("provenance") or {}
    license_ = description.get("license")
    told = yaml.safe_dump(dict(provenance), sort_keys=False, allow_unicode=True)
    return [
        f"Made by mmre-runner from: {provenance['source']}." if provenance.get("source") else "",
        f"Licence: {license_}." if license_ else "No licence is declared: the terms of its sources hold.",
        f"Fingerprint over its content: `{description['fingerprint']}`.",
        f"~~~yaml\n{told}~~~" if provenance else "",
    ]


def _use(*, exported: bool) -> str:
    if exported:
        return (
            "`datasets.load_dataset` reads it. `runner import` makes of it the folder that a spec's "
            "`data: {type: mmre, path: …}` names, with the same fingerprint."
        )
    return (
        "A spec names this folder: `data: {type: mmre, path: …}`. `runner stats` shows it in figures, and "
        "`runner export` writes it as Parquet for the Hugging Face hub."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


class UnfinishedDataset:
    """A data set that is being made beside its final place.

    Attributes:
        path: Where its files go: pictures below `images` and `segments`.
    """

    def __init__(self, path: Path) -> None:
        """Begin in an empty folder."""
        self.path = path
        self.images, self.segments = path / "images", path / "segments"
        for folder in (self.images, self.segments):
            folder.mkdir(parents=True)

    def describe(
        self,
        name: str,
        labels: Sequence[str],
        splits: Mapping[str, Sequence[Sample]],
        provenance: Mapping[str, Any],
        license_: str | None = None,
    ) -> dict[str, Any]:
        """Write the splits, `dataset.json` and the card, and return what `dataset.json` says.

        Args:
            name: The data set's name.
            labels: In their order.
            splits: Samples whose images lie in this folder.
            provenance: How it was made, as plain data.
            license_: Its identifier; None where none is declared.
        """
        for split, samples in splits.items():
            write_rows(self.path / f"{split}.jsonl", (row_of(sample, self.path) for sample in samples))
        description = {
            "name": name,
            "labels": list(labels),
            "num_samples": {split: len(samples) for split, samples in splits.items()},
            **({"license": license_} if license_ else {}),
            "fingerprint": content_fingerprint(labels, splits),
            "provenance": dict(provenance),
            "statistics": statistics(*splits.values()),
        }
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (self.path / DESCRIPTION).write_text(text, encoding="utf-8")
        (self.path / CARD).write_text(card(description), encoding="utf-8")
        return description


@contextmanager
def exclusive_build(path: Path, waits: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let one process at a time look whether a data set is there, and make it; others wait their turn.

    Args:
        path: The data set's folder.
        waits: Called where another process has its turn.

    Raises:
        DataError: The folder around it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be made a folder for data sets: {error.strerror}") from error
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waits()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def publishing(path: Path) -> Iterator[UnfinishedDataset]:
    """Write a data set beside its final place and move it there at the end, replacing an earlier one.

    Wrap it in `exclusive_build`.

    Raises:
        DataError: Something else stands at that place.
    """
    with replacing(path) as unfinished:
        yield UnfinishedDataset(unfinished)


@contextmanager
def replacing(path: Path, mark: str = DESCRIPTION, what: str = "data set") -> Iterator[Path]:
    """Make a folder beside its place and move it there at the end, in place of an earlier one of its kind.

    Args:
        path: Its place.
        mark: What is in every folder of its kind.
        what: Its kind.

    Raises:
        DataError: Something else stands there.
    """
    refuse_other(path, mark, what)
    unfinished, before = (path.with_name(f".{path.name}.{what}") for what in ("unfinished", "before"))
    _put_back(before, path)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if path.exists():
            path.rename(before)
        unfinished.rename(path)
    finally:
        _put_back(before, path)
        shutil.rmtree(unfinished, ignore_errors=True)


def refuse_other(path: Path, mark: str = DESCRIPTION, what: str = "data set") -> None:
    """Raise a DataError where something of another kind stands, so that nothing else is ever written over."""
    if path.exists() and not (path / mark).exists():
        raise DataError(f"{path}: is there already and is no {what}; name another place, or remove it")


def _put_back(before: Path, path: Path) -> None:
    """Remove the earlier data set, or put it back where a kill came before the new one was in its place."""
    if before.exists() and not path.exists():
        before.rename(path)
    shutil.rmtree(before, ignore_errors=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
