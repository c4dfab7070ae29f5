"""The lines of a data set as Parquet with their pictures in them, in the features of Hugging Face's `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from runner.dataset.rows import row_of
from runner.errors import DataError
from runner.records import Sample

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
