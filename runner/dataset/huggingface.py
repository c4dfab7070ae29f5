"""Exports a data set as Parquet for Hugging Face `datasets` and its hub, and imports it back."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value
from huggingface_hub import snapshot_download

from runner.dataset.folder_reader import DESCRIPTION_FILE, PARQUET_FOLDER, DatasetFolder, sample_from_row, sample_to_row
from runner.dataset.folder_writer import (
    CARD_FILE,
    EXTRA_FILES,
    DatasetWriter,
    NewContent,
    dataset_card,
    exclusive_build,
    publish_atomically,
    replace_folder,
)
from runner.errors import DataError, RequirementError
from runner.images import read_image_file
from runner.records import Sample
from runner.stages import Reporter

ROW_GROUP_SIZE = 50
"""Samples per row group; one row group is in memory at once."""
MAX_SHARD_BYTES = 500_000_000
"""Once a file holds this many bytes of image data, the split continues in the next file."""

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
"""The columns of an export: the keys of a data set's lines, with images embedded."""


def write_parquet(folder: Path, split: str, samples: Sequence[Sample], root: Path) -> Iterator[int]:
    """Write a split as `<split>-<number>-of-<number of files>.parquet`, and yield the size of each row group.

    Args:
        folder: The folder of the files.
        split: The name of the split.
        samples: Samples whose images lie below `root`.
        root: The folder of the data set.

    Raises:
        DataError: An image is in an unsupported location.
    """
    schema, files, bytes_left = FEATURES.arrow_schema, list[Path](), 0
    writer: pq.ParquetWriter | None = None
    for start in range(0, len(samples), ROW_GROUP_SIZE):
        chunk = samples[start : start + ROW_GROUP_SIZE]
        rows = [_embed_images(sample_to_row(sample, root), root) for sample in chunk]
        if writer is None or bytes_left <= 0:
            if writer is not None:
                writer.close()
            files.append(folder / f"{split}-{len(files):05}")
            writer, bytes_left = pq.ParquetWriter(files[-1], schema), MAX_SHARD_BYTES
        table = pa.Table.from_pylist(rows, schema=schema)
        writer.write_table(table)
        bytes_left -= table.nbytes
        yield len(rows)
    if writer is None:  # An empty split needs a file, too.
        files.append(folder / f"{split}-00000")
        writer = pq.ParquetWriter(files[-1], schema)
    writer.close()
    for file in files:
        file.rename(file.with_name(f"{file.name}-of-{len(files):05}.parquet"))


def _embed_images(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Replace each image name in a row by the name and the bytes of the image."""

    def embed(name: str | None) -> dict[str, Any] | None:
        if name is None:
            return None
        return {"bytes": read_image_file(root / name), "path": check_image_name(name, row["id"])}

    segments = [{**segment, "image": embed(segment["image"])} for segment in row["segments"]]
    return {**row, "image": embed(row["image"]), "segments": segments}


def read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that `write_parquet` wrote; one row group is in memory at once.

    Raises:
        DataError: The file is damaged, or has other columns.
    """
    schema = FEATURES.arrow_schema
    try:
        with pq.ParquetFile(file) as parquet:
            for index in range(parquet.num_row_groups):
                batch_size = _check_row_group(file, parquet.metadata.row_group(index))
                for batch in parquet.iter_batches(batch_size, row_groups=[index], columns=schema.names):
                    for row in pa.Table.from_batches([batch]).cast(schema).to_pylist():
                        _check_text_lengths(file, row)
                        yield row
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:  # Arrow reports damaged pages as OSError.
        raise DataError(f"{file}: is not a Parquet file written by `runner export`: {error}") from error


MAX_CHARACTERS = 1_000_000
"""Maximum length of a text in Parquet."""
MAX_ITEMS = 1_000
"""Maximum number of entities, or of segments, of a sample in Parquet, on average over a row group."""
MAX_BATCH_BYTES = 1_000_000_000
"""Maximum size of the rows that are in memory at once. A file stores equal values once, so that a small file can
describe more than the memory holds."""


def _check_row_group(file: Path, group: pq.RowGroupMetaData) -> int:
    """Return the number of rows that may be read at once.

    Raises:
        DataError: A column has too many values, or more bytes than may be in memory at once.
    """
    columns = [group.column(index) for index in range(group.num_columns)]
    for column in columns:
        if column.num_values > MAX_ITEMS * max(1, group.num_rows):
            raise DataError(f"{file}: {column.path_in_schema} has more than {MAX_ITEMS:,} values for each sample")
        if column.total_uncompressed_size > MAX_BATCH_BYTES:
            raise DataError(f"{file}: {column.path_in_schema} has more than {MAX_BATCH_BYTES:,} bytes in a row group")
    largest = max((column.total_uncompressed_size for column in columns), default=0)
    return int(max(1, min(ROW_GROUP_SIZE, MAX_BATCH_BYTES // max(1, largest))))


def _check_text_lengths(file: Path, row: Mapping[str, Any]) -> None:
    texts = [row["id"], row["text"], row["summary"]]
    texts += [text for entity in row["entities"] or () for text in (entity or {}).values()]
    texts += [segment["entity"] for segment in row["segments"] or () if segment]
    for text in texts:
        if text is not None and len(text) > MAX_CHARACTERS:
            raise DataError(
                f"{file}: sample {str(row['id'])[:100]}: a text has {len(text):,} characters; a text may have "
                f"{MAX_CHARACTERS:,}"
            )


def has_missing_values(value: Any) -> bool:
    """Return True if a row contains a null other than a whole summary or a whole image."""
    if isinstance(value, dict):
        required = (item for key, item in value.items() if item is not None or key not in {"summary", "image"})
        return any(has_missing_values(item) for item in required)
    return any(has_missing_values(item) for item in value) if isinstance(value, list) else value is None


def check_image_name(name: str | None, sample_id: str) -> str:
    """Check the name of an image, which is its path in the data set, and return it.

    Raises:
        DataError: The path leaves the data set, or has no folder, where another file may have that name.
    """
    path = PurePosixPath(name or "")
    is_in_subfolder = len(path.parts) >= 2 and not path.parts[0].endswith((".jsonl", ".json", ".md"))
    if path.is_absolute() or ".." in path.parts or not is_in_subfolder:
        raise DataError(f"sample {sample_id}: the image {name!r} is not in a subfolder of the data set such as images/")
    return str(path)


SPLIT_NAME_PATTERN = r"\w+(\.\w+)*"
"""The names of splits that `datasets` accepts."""


def export_dataset(dataset: Path, target: Path, reporter: Reporter, *, replace: bool = False) -> dict[str, int]:
    """Export a data set atomically, replacing an earlier export of it.

    Args:
        dataset: The folder of the data set.
        target: The folder to create: card, `dataset.json` and `data/<split>-….parquet`.
        reporter: Receives the progress.
        replace: Whether an export of another data set, or files of the user, may be deleted.

    Returns:
        The number of samples by split.

    Raises:
        DataError: The data set is missing or invalid, or the target exists and may not be replaced.
    """
    folder = DatasetFolder(dataset.resolve())
    splits = folder.load_splits()
    _check_split_names(dataset, splits)
    total = sum(len(samples) for samples in splits.values())
    new = _new_content(folder.description, replace=replace)
    with exclusive_build(target), replace_folder(target, new, PARQUET_FOLDER, "an export") as unfinished:
        (unfinished / PARQUET_FOLDER).mkdir()
        num_written = 0
        for split, samples in splits.items():
            for num_rows in write_parquet(unfinished / PARQUET_FOLDER, split, samples, folder.path):
                num_written += num_rows
                reporter.progress(num_written, total)
        for name in (DESCRIPTION_FILE, *EXTRA_FILES):
            _copy_own_file(folder.path, unfinished, name)
        files = {split: f"{PARQUET_FOLDER}/{split}-*.parquet" for split in splits}
        (unfinished / CARD_FILE).write_text(dataset_card(folder.description, files), encoding="utf-8")
    return {split: len(samples) for split, samples in splits.items()}


def _new_content(description: Mapping[str, Any], *, replace: bool) -> NewContent:
    return NewContent(description["name"], (description.get("provenance") or {}).get("source"), replace)


def import_dataset(export: str, target: Path, reporter: Reporter, *, replace: bool = False) -> dict[str, Any]:
    """Convert an export to a data-set folder atomically, replacing an earlier one of the same data set.

    Args:
        export: The folder of the export, or its name on the hub.
        target: The folder to create.
        reporter: Receives the progress, and a warning if the content differs from the fingerprint in `dataset.json`.
        replace: Whether another data set, or files of the user, may be deleted.

    Returns:
        The content of the new `dataset.json`.

    Raises:
        DataError: The export is missing or invalid, or the target exists and may not be replaced.
        RequirementError: The hub cannot be reached, or has no such data set.
    """
    if _is_file(Path(export).expanduser()):
        raise DataError(f"{export}: is a file; name the folder that `runner export` wrote")
    source = Path(export).expanduser() if Path(export).expanduser().is_dir() else _download(export)
    if (source / DESCRIPTION_FILE).exists():
        _check_own_file(source / DESCRIPTION_FILE, source)
    original = DatasetFolder(source, with_images=False).description
    _check_split_names(source, original["num_samples"])
    if not (source / PARQUET_FOLDER).is_dir():
        raise DataError(f"{source}: there is no folder {PARQUET_FOLDER}/ with Parquet files; `runner export` writes it")
    if (target / PARQUET_FOLDER).exists():
        raise DataError(f"{target}: is an export. Choose another path for the data set")
    with exclusive_build(target), publish_atomically(target, _new_content(original, replace=replace)) as writer:
        splits = dict(_read_splits(source, original["num_samples"], writer, reporter))
        description = writer.write_dataset(
            original["name"],
            original["labels"],
            splits,
            original.get("provenance") or {},
            original.get("license"),
        )
        DatasetFolder(writer.path).load_splits()  # Invalid lines are reported now, not when they are used.
        for name in EXTRA_FILES:
            _copy_own_file(source, writer.path, name)
    if description["fingerprint"] != original.get("fingerprint"):
        reporter.warn(
            f"{export}: the content does not match the fingerprint in its {DESCRIPTION_FILE}; "
            "a new fingerprint was computed"
        )
    return description


def _copy_own_file(source: Path, target: Path, name: str) -> None:
    """Copy a file of a data set, if it exists, to a folder that may be published.

    Raises:
        DataError: The file is not a regular file of the data set; see `_check_own_file`.
    """
    file = source / name
    if file.exists() or file.is_symlink():
        _check_own_file(file, source)
        shutil.copyfile(file, target / name)


def _check_own_file(file: Path, folder: Path) -> None:
    """Check that a file is a regular file in a folder. A link could lead to a private file of the user.

    In the cache of the hub's client, the files of a snapshot are links to the folder `blobs/` of their repository.

    Raises:
        DataError: It is not.
    """
    root, actual = folder.resolve(), file.resolve()
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    if not (actual.is_relative_to(root) or actual.is_relative_to(blobs)) or not actual.is_file():
        raise DataError(f"{file}: is not a regular file, or is a link out of the folder; replace it by a copy")


def _check_split_names(dataset: Path, splits: Iterable[str]) -> None:
    """Reject split names that Hugging Face does not accept; an untrusted export's split names become file names."""
    for split in splits:
        if not re.fullmatch(SPLIT_NAME_PATTERN, split):
            raise DataError(
                f"{dataset}: Hugging Face does not accept the split name {split!r}. Use letters, digits and _ only"
            )


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:  # The hub's client and its dependencies raise many types.
        reason = str(error).strip().splitlines()[0]
        raise RequirementError(f"{name!r} is not a local folder and cannot be downloaded ({reason})") from error


def _read_splits(
    source: Path, num_samples: Mapping[str, int], writer: DatasetWriter, reporter: Reporter
) -> Iterator[tuple[str, list[Sample]]]:
    total, num_read = sum(number for number in num_samples.values() if isinstance(number, int)), 0
    for split in num_samples:
        pattern = re.compile(rf"{re.escape(split)}-.*\.parquet", re.IGNORECASE)
        files = sorted(file for file in (source / PARQUET_FOLDER).iterdir() if pattern.fullmatch(file.name))
        if not files:
            raise DataError(
                f"{source / PARQUET_FOLDER}: {split}-….parquet is missing, but {DESCRIPTION_FILE} lists this split"
            )
        for file in files:
            _check_own_file(file, source)
        samples = []
        for row in (row for file in files for row in read_parquet(file)):
            samples.append(_extract_images(row, writer.path))
            num_read += 1
            reporter.progress(num_read, total)
        yield split, samples


PATH_ERRORS = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL, errno.EILSEQ, errno.ELOOP}
"""Numbers of system errors that an unsuitable path causes, unlike those of a full disk or a missing permission."""


def _is_file(path: Path) -> bool:
    """Return whether a path is a file; a path that the system refuses is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _extract_images(row: dict[str, Any], root: Path) -> Sample:
    """Write the images of a row to files, and convert the row to a sample."""
    if has_missing_values(row):
        raise DataError(f"sample {row['id']}: a value is missing. Only the summary and images may be null")

    def extract(image: Mapping[str, Any] | None) -> str | None:
        if image is None:
            return None
        name = check_image_name(image["path"], row["id"])
        file = root / name
        if _is_file(file) and file.read_bytes() != image["bytes"]:
            raise DataError(f"sample {row['id']}: another image has the name {name!r}, too")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image["bytes"])
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in PATH_ERRORS:
                raise
            raise DataError(
                f"sample {row['id']}: the image path {name[:80]!r} cannot be a file of the data set: {error}. "
                "Write a path such as images/1.jpg"
            ) from error
        return name

    segments = [{**segment, "image": extract(segment["image"])} for segment in row["segments"]]
    return sample_from_row({**row, "image": extract(row["image"]), "segments": segments}, root)
