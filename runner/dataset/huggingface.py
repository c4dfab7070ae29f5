"""Exports a data set as Parquet for Hugging Face `datasets` and its hub, and imports it back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from huggingface_hub import snapshot_download

from runner.dataset.folder import DESCRIPTION, PARQUET, DatasetFolder, row_of, sample_of
from runner.dataset.publish import CARD, UnfinishedDataset, card, exclusive_build, publishing, replacing
from runner.errors import DataError, RequirementError
from runner.records import Sample
from runner.stages import Reporter

ROWS = 50
"""Samples of a row group, which is in memory at once."""
SHARD = 500_000_000
"""Bytes of pictures after which a split goes on in another file."""

FEATURES = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "image": Image(),
        "summary": Value("string"),
        "entities": List({"label": Value("string"), "text": Value("string")}),
        "segments": List(
            {"letter": Value("string"), "image": Image(), "entity": Value("string"), "box": List(Value("int32"))}
        ),
    }
)
"""A line of a data set, pictures in it."""


def write_parquet(folder: Path, split: str, samples: Sequence[Sample], root: Path) -> Iterator[int]:
    """Write a split as `<split>-<number>-of-<number of files>.parquet`, and yield the size of each row group.

    Args:
        folder: Where the files go.
        split: Its name.
        samples: Their pictures lie below `root`.
        root: The data set's folder.

    Raises:
        DataError: A picture lies where none is expected.
    """
    schema, files, room = FEATURES.arrow_schema, list[Path](), 0
    writer: pq.ParquetWriter | None = None
    for start in range(0, len(samples), ROWS):
        rows = [_with_pictures(row_of(sample, root), root) for sample in samples[start : start + ROWS]]
        if writer is None or room <= 0:
            if writer is not None:
                writer.close()
            files.append(folder / f"{split}-{len(files):05}")
            writer, room = pq.ParquetWriter(files[-1], schema), SHARD
        table = pa.Table.from_pylist(rows, schema=schema)
        writer.write_table(table)
        room -= table.nbytes
        yield len(rows)
    if writer is None:  # A split without samples is a split.
        files.append(folder / f"{split}-00000")
        writer = pq.ParquetWriter(files[-1], schema)
    writer.close()
    for file in files:
        file.rename(file.with_name(f"{file.name}-of-{len(files):05}.parquet"))


def _with_pictures(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Put the bytes of pictures, beside their names, in the place of names."""

    def picture(name: str | None) -> dict[str, Any] | None:
        return None if name is None else {"bytes": (root / name).read_bytes(), "path": picture_name(name, row["id"])}

    segments = [{**each, "image": picture(each["image"])} for each in row["segments"]]
    return {**row, "image": picture(row["image"]), "segments": segments}


def rows_of_parquet(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that `write_parquet` wrote, a row group in memory at once.

    Raises:
        DataError: It is broken, or holds other columns.
    """
    schema = FEATURES.arrow_schema
    try:
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                yield from opened.read_row_group(group, columns=schema.names).cast(schema).to_pylist()
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DataError(f"{file}: is not as `runner export` writes it: {error}") from error


def lacks_something(value: Any) -> bool:
    """Whether a row, or anything in it, is null that may not be: a summary and an image may, but not half of one."""
    if isinstance(value, dict):
        told = (each for key, each in value.items() if each is not None or key not in {"summary", "image"})
        return any(lacks_something(each) for each in told)
    return any(lacks_something(each) for each in value) if isinstance(value, list) else value is None


def picture_name(name: str | None, sample: str) -> str:
    """Check the name of a picture, which is its path in the data set.

    Raises:
        DataError: It leads out, or lies beside `dataset.json`, where another file may have that name.
    """
    path = PurePosixPath(name or "")
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise DataError(f"sample {sample}: the picture {name!r} is in no folder of the data set, such as images/")
    return str(path)


SPLIT_FORM = r"\w+(\.\w+)*"
"""What `datasets` takes as the name of a split."""
BESIDE = ("left_out.jsonl", "annotations.jsonl")
"""What a build leaves beside the samples; it goes along as it is."""


def export_dataset(dataset: Path, target: Path, reporter: Reporter) -> dict[str, int]:
    """Write a data set's export, whole or not at all, in the place of an earlier one.

    Args:
        dataset: Its folder.
        target: The folder to make: card, `dataset.json` and `data/<split>-….parquet`.
        reporter: Told of the progress.

    Returns:
        The number of samples by split.

    Raises:
        DataError: The data set is missing or broken, or something else stands at the target.
    """
    folder = DatasetFolder(dataset.resolve())
    splits = folder.splits()
    _check_names(dataset, splits)
    total = sum(len(samples) for samples in splits.values())
    with exclusive_build(target), replacing(target, PARQUET, "export") as unfinished:
        (unfinished / PARQUET).mkdir()
        written = 0
        for split, samples in splits.items():
            for number in write_parquet(unfinished / PARQUET, split, samples, folder.path):
                written += number
                reporter.progress(written, total)
        for name in (DESCRIPTION, *(each for each in BESIDE if (folder.path / each).is_file())):
            shutil.copyfile(folder.path / name, unfinished / name)
        files = {split: f"{PARQUET}/{split}-*.parquet" for split in splits}
        (unfinished / CARD).write_text(card(folder.description, files), encoding="utf-8")
    return {split: len(samples) for split, samples in splits.items()}


def import_dataset(place: str, target: Path, reporter: Reporter) -> dict[str, Any]:
    """Make a data-set folder of an export, whole or not at all, in the place of an earlier one.

    Args:
        place: The export's folder, or its name on the hub.
        target: The folder to make.
        reporter: Told of the progress, and where the content is not what `dataset.json` was written for.

    Returns:
        What the folder's `dataset.json` says.

    Raises:
        DataError: There is no export, it is broken, or something else stands at the target.
        UnmetError: The hub cannot be reached or does not have it.
    """
    source = Path(place).expanduser() if Path(place).expanduser().is_dir() else _downloaded(place)
    described = DatasetFolder(source, with_images=False).description
    _check_names(source, described["num_samples"])
    if not (source / PARQUET).is_dir():
        raise DataError(f"{source}: holds no {PARQUET}/ with Parquet files; `runner export` writes them")
    if (target / PARQUET).exists():
        raise DataError(f"{target}: is an export; name another place for the data set")
    with exclusive_build(target), publishing(target) as unfinished:
        splits = dict(_read(source, described["num_samples"], unfinished, reporter))
        description = unfinished.describe(
            described["name"],
            described["labels"],
            splits,
            described.get("provenance") or {},
            described.get("license"),
        )
        DatasetFolder(unfinished.path).splits()  # What is wrong with a line is told now, not when it is used.
        for name in (each for each in BESIDE if (source / each).is_file()):
            shutil.copyfile(source / name, unfinished.path / name)
    if description["fingerprint"] != described.get("fingerprint"):
        reporter.warn(f"{place}: its content is not what its {DESCRIPTION} was written for; that was written anew")
    return description


def _check_names(place: Path, splits: Iterable[str]) -> None:
    """Refuse names of splits that Hugging Face does not take; those of a stranger's export name files here, too."""
    for split in splits:
        if not re.fullmatch(SPLIT_FORM, split):
            raise DataError(f"{place}: Hugging Face takes no split called {split!r}: letters, digits and _ alone")


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:  # The hub's client, and what it is built on, fail in many ways.
        reason = str(error).strip().splitlines()[0]
        raise RequirementError(f"{name!r} is no folder here, and cannot be had from the hub ({reason})") from error


def _read(
    source: Path, num_samples: Mapping[str, int], unfinished: UnfinishedDataset, reporter: Reporter
) -> Iterator[tuple[str, list[Sample]]]:
    total, done = sum(number for number in num_samples.values() if isinstance(number, int)), 0
    for split in num_samples:
        files = sorted((source / PARQUET).glob(f"{split}-*.parquet"))
        if not files:
            raise DataError(f"{source / PARQUET}: holds no {split}-….parquet, although {DESCRIPTION} names this split")
        samples = []
        for row in (row for file in files for row in rows_of_parquet(file)):
            samples.append(_stored(row, unfinished.path))
            done += 1
            reporter.progress(done, total)
        yield split, samples


def _stored(row: dict[str, Any], root: Path) -> Sample:
    """Write a row's pictures under their names, and make a sample of it."""
    if lacks_something(row):
        raise DataError(f"sample {row['id']}: lacks a value where only summary and images may be null")

    def name(picture: Mapping[str, Any] | None) -> str | None:
        if picture is None:
            return None
        path = picture_name(picture["path"], row["id"])
        file = root / path
        if file.is_file() and file.read_bytes() != picture["bytes"]:
            raise DataError(f"sample {row['id']}: another picture is called {path!r} too")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture["bytes"])
        return path

    segments = [{**each, "image": name(each["image"])} for each in row["segments"]]
    return sample_of({**row, "image": name(row["image"]), "segments": segments}, root)
