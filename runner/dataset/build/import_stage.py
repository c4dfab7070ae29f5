"""Stage 1 of a build: reads the corpus, and again only when its files have changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from runner import __version__
from runner.dataset.answer_files import raise_problems
from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import sample_to_row
from runner.errors import DataError
from runner.files import stream_jsonl
from runner.fingerprint_and_provenance import fingerprint
from runner.records import find_text_problem
from runner.resolved_plan import create_plugin
from runner.spec.dataset_spec import DatasetSpec, Keep
from runner.stages import Options, SkippedEntry, Source, SourceTweet
from runner.stages.registry import find_plugin

UNGROUNDED = "tweet without a box of a tagged entity"
"""The reason why `keep: grounded` leaves out a tweet."""


def import_key(spec: DatasetSpec, work: WorkFolder) -> str:
    """Hash the inputs of the import: options, plugin, and the state of each file that the options name."""
    written_folders = (spec.output, work.path)
    return fingerprint(
        {
            "source": spec.source.as_json(),
            "plugin": find_plugin(spec.source.stage, spec.source.type).distribution,
            "runner": __version__,
            "limit": spec.limit,
            "keep": spec.keep,
            "files": [[str(path), *file_state(path)] for path in _source_files(spec.source.options, written_folders)],
        }
    )


def file_state(path: Path) -> tuple[int, int] | tuple[()]:
    """Return the size in bytes and the modification time in nanoseconds; both are equal for an unchanged file."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_size, stat.st_mtime_ns


def import_corpus(spec: DatasetSpec, work: WorkFolder, key: str) -> dict[str, Any]:
    """Read the corpus and write `WorkFolder.imported_tweets`: the tweets that `keep` selects.

    Returns:
        The stage's result record: `name` and `labels` of the corpus, `number` of tweets, and their `digest`.

    Raises:
        DataError: A file of the corpus is missing or damaged, a text of a sample shows nothing, or no tweet has a box
            and `keep` requires one.
    """
    source: Source = create_plugin(spec.source)
    left_out: list[dict[str, str]] = []
    num_tweets = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal num_tweets
        for tweet in islice(_read_tweets(source, left_out, spec.keep), spec.limit):
            num_tweets += 1
            yield {
                **sample_to_row(tweet.sample, None),
                "split": tweet.split,
                "size": tweet.size,
                "location": tweet.location,
            }

    digest = stream_jsonl(work.imported_tweets, rows())
    if not num_tweets and any(row["reason"] == UNGROUNDED for row in left_out):
        raise DataError(
            f"{source.name}: no tweet has a box of one of its entities; with keep: all, the build uses the other tweets"
        )
    left_out_digest = stream_jsonl(work.left_out("import"), left_out)
    values = {"name": source.name, "labels": list(source.labels), "number": num_tweets}
    return dict(work.save_result("import", key, digest=fingerprint([digest, left_out_digest]), **values))


def _read_tweets(source: Source, left_out: list[dict[str, str]], keep: Keep) -> Iterator[SourceTweet]:
    problems: list[str] = []
    for entry in source.read():
        if isinstance(entry, SkippedEntry):
            left_out.append({"id": entry.id, "reason": entry.reason})
        elif keep == "grounded" and not entry.sample.segments:
            left_out.append({"id": entry.sample.id, "reason": UNGROUNDED})
        elif problem := find_text_problem(entry.sample):
            problems.append(f"{entry.location or source.name}: sample {entry.sample.id!r}: {problem}")
        elif not problems:
            yield entry
    raise_problems(problems)


def _source_files(options: Options, written_folders: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files that the options name, directly or in a folder, except those that the build writes."""
    for path in _paths([getattr(options, name) for name in type(options).model_fields]):
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if not any(file.is_relative_to(folder) for folder in written_folders):
                    yield file
        else:
            yield path


def _paths(values: Iterable[object]) -> Iterator[Path]:
    """Yield the paths among values, also those in lists."""
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, list | tuple):
            yield from _paths(value)
