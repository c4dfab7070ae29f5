"""The second stage of a build: cuts the segments of each tweet, on all cores, and of none twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from runner import __version__
from runner.dataset.crop import crop_tweet, store_images
from runner.dataset.folder import image_digest
from runner.dataset.importing import state
from runner.dataset.ledger import Ledger
from runner.dataset.publish import UnfinishedDataset
from runner.dataset.rows import row_of, sample_of
from runner.dataset.work import WorkFolder
from runner.errors import DataError
from runner.files import rows_of, write_rows_whole
from runner.fingerprint import canonical_json, fingerprint, identity
from runner.spec.dataset_spec import CropOptions
from runner.stages import Reporter, SourceTweet

SHOWN_IMAGES = 5
AHEAD = 4
"""Tweets a core that are handed out: enough that no core waits, few enough that memory does not grow."""

Row = dict[str, Any]


def crop_key(work: WorkFolder, imported: str, options: CropOptions) -> str:
    """Hash all that decides the crops: the tweets, the options, and the state of each picture."""
    tweets = hashlib.sha256()
    for tweet in rows_of(work.imported):
        tweets.update(_tweet_key(tweet).encode())
    told = {"import": imported, "options": identity(options), "runner": __version__, "tweets": tweets.hexdigest()}
    return fingerprint(told)


def crop_corpus(work: WorkFolder, options: CropOptions, number: int, key: str, reporter: Reporter) -> Row:
    """Cut what is not cut yet, and write `WorkFolder.cropped`.

    Args:
        work: Holds the tweets.
        options: How segments are cut.
        number: Of tweets.
        key: See `crop_key`.
        reporter: Told of the progress.

    Returns:
        The note of the stage: `number` of samples, `digest` of them.

    Raises:
        DataError: Pictures cannot be used and the options refuse that, or no sample is left.
    """
    _begin(work, options)
    with Ledger(work.crops, durable=False) as done:
        kept = number - sum(1 for _ in _wanted(work, done))
        reporter.progress(kept, number)
        for cut, (tweet_key, row) in enumerate(_crop_all(_wanted(work, done), work, options), start=1):
            done.add(tweet_key, row)
            reporter.progress(kept + cut, number)
        return _gather(work, done, options, key)


def _made_with(options: CropOptions) -> str:
    """Hash what decides how a tweet is cut; what becomes of those that cannot be is another matter."""
    cut = {name: value for name, value in identity(options).items() if name != "unusable_images"}
    return fingerprint([cut, __version__])


def _begin(work: WorkFolder, options: CropOptions) -> None:
    """Remove what was cut in another way: its pictures have the same names."""
    note = work.crops.with_name("made_with")
    if not note.is_file() or note.read_text(encoding="utf-8") != _made_with(options):
        shutil.rmtree(work.pictures, ignore_errors=True)
        shutil.rmtree(work.crops.parent, ignore_errors=True)
        note.parent.mkdir(parents=True)
        note.write_text(_made_with(options), encoding="utf-8")


def _tweet_key(tweet: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json([tweet, state(Path(tweet["image"]))]).encode()).hexdigest()


def _wanted(work: WorkFolder, done: Ledger) -> Iterator[tuple[str, Row]]:
    """Yield the tweets that were not cropped, or whose pictures are no longer as they were left."""
    for tweet in rows_of(work.imported):
        key = _tweet_key(tweet)
        if key not in done or any(_size(work.pictures / name) != size for name, size in done[key]["sizes"].items()):
            yield key, tweet


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _crop_all(tweets: Iterable[tuple[str, Row]], work: WorkFolder, options: CropOptions) -> Iterator[tuple[str, Row]]:
    """Crop on all cores, in whatever order: Pillow lets go of Python's lock while it decodes and encodes."""
    pictures, running = _Pictures(work.pictures), set[Future[tuple[str, Row]]]()
    cores = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool:
        warnings.simplefilter("ignore")  # Of damaged metadata, say: what matters is whether there is a picture.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for key, tweet in tweets:
            running.add(pool.submit(_crop, key, tweet, pictures, options))
            if len(running) >= AHEAD * cores:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        yield from (each.result() for each in wait(running).done)


class _Pictures(UnfinishedDataset):
    """Where crops go; the folder may hold some of them already."""

    def __init__(self, path: Path) -> None:
        self.path, self.images, self.segments = path, path / "images", path / "segments"
        for folder in (self.images, self.segments):
            folder.mkdir(parents=True, exist_ok=True)
        self._stored: set[Path] = set()
        self._lock = Lock()

    def store(self, source: Path, target: Path) -> None:
        """Store a main image once, however many tweets show it: nobody sees half of it."""
        with self._lock:
            if target not in self._stored:
                store_images([(source, target)])
                self._stored.add(target)


def _crop(key: str, tweet: Row, pictures: _Pictures, options: CropOptions) -> tuple[str, Row]:
    size = tweet["size"]
    source = SourceTweet(sample_of(tweet, Path()), tweet["split"], (size[0], size[1]) if size else None)
    cropped = crop_tweet(source, pictures, options.min_side)
    left_out = [{"id": each.id, "reason": each.reason} for each in cropped.left_out]
    told: Row = {"sample": None, "unusable": cropped.unusable, "left_out": left_out, "sizes": {}}
    sample = cropped.sample
    if sample is None:
        return key, told
    assert source.sample.image is not None and sample.image is not None
    pictures.store(source.sample.image, sample.image)
    made = [sample.image, *(segment.image for segment in sample.segments if segment.image is not None)]
    sizes = {path.relative_to(pictures.path).as_posix(): path.stat().st_size for path in made}
    row = {**row_of(sample, pictures.path), "split": source.split, "image_sha256": image_digest(sample.image)}
    return key, {**told, "sample": row, "sizes": sizes}


def _gather(work: WorkFolder, done: Ledger, options: CropOptions, key: str) -> Row:
    """Write samples, and what is left out, in the order of the corpus."""
    number, left_out, unusable = 0, list[Row](), list[Row]()

    def samples() -> Iterator[Row]:
        nonlocal number
        for tweet in rows_of(work.imported):
            row = done[_tweet_key(tweet)]
            left_out.extend(row["left_out"])
            if row["unusable"]:
                unusable.append(row["left_out"][-1])
            if row["sample"] is not None:
                number += 1
                yield row["sample"]

    digest = write_rows_whole(work.cropped, samples())
    if options.unusable_images == "refuse":
        _refuse(unusable)
    if not number:
        raise DataError("no sample is left; look at the source's paths and at crop.unusable_images")
    left_digest = write_rows_whole(work.left_out("crop"), left_out)
    return dict(work.note("crop", key, digest=fingerprint([digest, left_digest]), number=number))


def _refuse(unusable: list[Row]) -> None:
    if unusable:
        shown = "; ".join(f"{each['id']}: {each['reason']}" for each in unusable[:SHOWN_IMAGES])
        more = f"; and {len(unusable) - SHOWN_IMAGES} more" if len(unusable) > SHOWN_IMAGES else ""
        raise DataError(
            f"the images of {len(unusable)} tweet(s) cannot be used: {shown}{more}. Mend them, or leave their tweets "
            "out, all listed in left_out.jsonl, with crop.unusable_images: skip"
        )
