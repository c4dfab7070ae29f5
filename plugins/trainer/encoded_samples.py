"""Encodes samples on first use and shares them between processes as memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Literal
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runner.errors import DataError
from runner.records import IGNORED, Rendered
from runner.stages import Features

ABANDONED = 3600.0
"""Seconds after which an unfinished file is taken to be left over from a kill; writing one takes a fraction of one."""


class SampleFiles:
    """A folder with a file for each encoded sample.

    A file is there whole or not at all: it is written under another name first, so two workers who encode one sample at
    once do no harm, nor does a kill. It is read by mapping it into memory, where the operating system keeps it once for
    all processes and lets go of it when others need the room. An image of a megapixel takes 24 MB.

    This folder and those beside it take no more than half of what is free without them: checkpoints need the rest.
    """

    def __init__(self, folder: Path, made_by: Sequence[object], warn: Callable[[str], object]) -> None:
        """Take the folder, and measure what there is.

        Args:
            folder: For samples of one data set as one model encodes them; made where it is missing.
            made_by: What else decides what becomes of a sample, as plain data.
            warn: Told once when the disk has no room for a sample.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._made_by, self._warn = folder, made_by, warn
        _remove_abandoned(folder)
        held = sum(_sizes(folder.parent))
        self._least = (shutil.disk_usage(folder).free + held) / 2
        self._full = False

    def read(self, sample: Rendered) -> Features | None:
        """A sample as it was written; None where it was not, or where its file is torn."""
        try:
            return load_file(self._file(sample))
        except (FileNotFoundError, SafetensorError):
            return None

    def write(self, sample: Rendered, features: Features) -> None:
        """Keep a sample, where there is room for it."""
        self._folder.mkdir(parents=True, exist_ok=True)  # Somebody may have cleared the cache.
        size = sum(each.nbytes for each in features.values())
        if shutil.disk_usage(self._folder).free - size < self._least:
            self._tell_full()
            return
        target = self._file(sample)
        unfinished = target.with_name(f".{uuid4().hex}")
        save_file({name: tensor.contiguous() for name, tensor in features.items()}, unfinished)
        with suppress(FileNotFoundError):  # cleared just now
            unfinished.chmod(0o644)  # safetensors makes files private; a storage is shared.
            unfinished.replace(target)

    def _file(self, sample: Rendered) -> Path:
        """The file of a sample, named by what it says; the bytes of its images are the folder's business."""
        told = json.dumps([self._made_by, asdict(sample)], sort_keys=True, default=lambda path: path.name)
        return self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.safetensors"

    def _tell_full(self) -> None:
        if not self._full:
            self._full = True
            self._warn(
                f"{self._folder.parent} takes half of what is free on its disk, so that further samples are encoded "
                "again in every epoch; remove folders of earlier experiments there, or name another compute.storage"
            )


def _remove_abandoned(folder: Path) -> None:
    for file in folder.glob(".*"):
        with suppress(FileNotFoundError):  # another worker removed it
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()


def _sizes(folder: Path) -> Iterator[int]:
    for file in folder.glob("*/*.safetensors"):
        with suppress(FileNotFoundError):  # removed meanwhile
            yield file.stat().st_size


Overlong = Literal["refuse", "truncate", "skip"]
"""What becomes of a sample beyond the limit; see `SftOptions.overlong`."""


def is_skipped(features: Features) -> bool:
    """Whether a sample was beyond the limit and is left out: it has no tokens."""
    return not len(features["input_ids"])


def within_limit(features: Features, limit: int | None, sample: str, overlong: Overlong) -> Features:
    """Cut an encoded sample to a limit, leave it out, or refuse it.

    What is cut off is the end of what is trained: an answer that is not whole has no end token. Prompt and images stay
    whole, and at least one token of the answer is left.

    Args:
        features: Tensors of shape (length,) hold a value a token; the others are left as they are.
        limit: The most tokens; None for any number.
        sample: Its id, for the error.
        overlong: What becomes of it beyond the limit.

    Returns:
        The sample; one that is left out without any token or image.

    Raises:
        DataError: It may not be cut, or its prompt alone leaves no room for an answer.
    """
    length = len(features["input_ids"])
    if limit is None or length <= limit:
        return features
    if overlong == "skip":
        return {name: features[name][:0] for name in ("input_ids", "labels")}
    prompt = length - int((features["labels"] != IGNORED).sum())
    told = f"sample {sample}: {length:,} tokens ({prompt:,} of the prompt with its images) are more than {limit:,}"
    if overlong == "refuse":
        raise DataError(
            f"{told}; show images with fewer pixels (model.max_pixels), raise trainer.max_length where the model "
            "allows it, or set trainer.on_overlength to `truncate` (cuts the answer) or `skip` (leaves the sample out)"
        )
    if prompt >= limit:
        raise DataError(
            f"{told}, and an answer alone may be cut; show images with fewer pixels (model.max_pixels), or raise "
            "trainer.max_length where the model allows it"
        )
    return {name: tensor[:limit] if tensor.shape == (length,) else tensor for name, tensor in features.items()}


class EncodedSamples:
    """Training samples as the model takes them, by their place in the split.

    A sample is encoded where there is no file of it: one that was written had passed its check.
    """

    def __init__(
        self, samples: Sequence[Rendered], encode: Callable[[Rendered], Features], files: SampleFiles | None
    ) -> None:
        """Take rendered samples and what encodes one; nothing is encoded yet.

        Args:
            samples: The split.
            encode: Also checks what it encodes.
            files: Where they are kept; None to encode a sample each time that it is needed.
        """
        self._samples = samples
        self._encode = encode
        self._files = files
        # Tokenizers do not bear two threads at once.
        self._lock = Lock()

    def id(self, place: int) -> str:
        """The id of the sample at this place."""
        return self._samples[place].id

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no thread encode meanwhile."""
        with self._lock:
            yield

    def __getitem__(self, place: int) -> Features:
        """The encoded sample at this place.

        Raises:
            DataError: An image cannot be used, or the sample is too long.
        """
        sample = self._samples[place]
        with self._lock:
            kept = self._files.read(sample) if self._files else None
            if kept is not None:
                return kept
            features = self._encode(sample)
            if self._files:
                self._files.write(sample, features)
            return features
