"""Stage 1 of a build: reads the corpus, and again only when its files have changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runner import __version__
from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder import row_of
from runner.files import write_rows_whole
from runner.fingerprint import fingerprint
from runner.plan import implement
from runner.spec.dataset_spec import DatasetSpec
from runner.stages import LeftOut, Options, Source, SourceTweet
from runner.stages.registry import find


def import_key(spec: DatasetSpec, work: WorkFolder) -> str:
    """Hash all that decides what is imported: options, plugin, and the state of each file that the options name."""
    options = spec.source.options
    own = (spec.output, work.path)
    return fingerprint(
        {
            "source": spec.source.as_json(),
            "plugin": find(spec.source.stage, spec.source.type).distribution,
            "runner": __version__,
            "limit": spec.limit,
            "files": [[str(path), *state(path)] for path in _files(options, own)],
        }
    )


def state(path: Path) -> tuple[int, int] | tuple[()]:
    """Size in bytes and time of the last change in nanoseconds: what tells that a file was not touched."""
    try:
        told = path.stat()
    except OSError:
        return ()
    return told.st_size, told.st_mtime_ns


def import_corpus(spec: DatasetSpec, work: WorkFolder, key: str) -> dict[str, Any]:
    """Read the corpus into `WorkFolder.imported`.

    Returns:
        The note of the stage: `name` and `labels` of the corpus, `number` of tweets, `digest` of them.

    Raises:
        DataError: A file of the corpus is missing or broken.
    """
    source: Source = implement(spec.source)
    left_out: list[dict[str, str]] = []
    number = 0

    def tweets() -> Iterator[dict[str, Any]]:
        nonlocal number
        for tweet in islice(_tweets(source, left_out), spec.limit):
            number += 1
            yield {**row_of(tweet.sample, None), "split": tweet.split, "size": tweet.size}

    digest = write_rows_whole(work.imported, tweets())
    left_digest = write_rows_whole(work.left_out("import"), left_out)
    told = {"name": source.name, "labels": list(source.labels), "number": number}
    return dict(work.note("import", key, digest=fingerprint([digest, left_digest]), **told))


def _tweets(source: Source, left_out: list[dict[str, str]]) -> Iterator[SourceTweet]:
    for entry in source.read():
        if isinstance(entry, LeftOut):
            left_out.append({"id": entry.id, "reason": entry.reason})
        else:
            yield entry


def _files(options: Options, own: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files that options name, and those below folders that they name, less what the build itself writes."""
    for value in (getattr(options, name) for name in type(options).model_fields):
        if isinstance(value, Path) and value.is_dir():
            inside = sorted(value.rglob("*"))
            yield from (each for each in inside if not any(each.is_relative_to(folder) for folder in own))
        elif isinstance(value, Path):
            yield value
