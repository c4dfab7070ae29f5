"""Encodes samples within a limit when they are first needed and keeps them on the disk, as far as it goes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Literal

from safetensors.torch import load, save

from runner.errors import DataError
from runner.records import IGNORED, Rendered
from runner.stages import Features

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
            "allows it, let the end of the answer be cut (trainer.overlong: truncate), or leave such samples out (skip)"
        )
    if prompt >= limit:
        raise DataError(
            f"{told}, and an answer alone may be cut; show images with fewer pixels (model.max_pixels), or raise "
            "trainer.max_length where the model allows it"
        )
    return {name: tensor[:limit] if tensor.shape == (length,) else tensor for name, tensor in features.items()}


class EncodedSamples:
    """Training samples as the model takes them, by their place in the split.

    What is encoded goes to a file without a name: memory holds only what the operating system has to spare for it, and
    however the process ends, the disk is free again. An image of a megapixel takes 24 MB there. A worker takes no more
    than it leaves, which checkpoints need; samples beyond that are encoded again in every epoch.
    """

    def __init__(self, samples: Sequence[Rendered], encode: Callable[[Rendered], Features], folder: Path) -> None:
        """Take rendered samples and what encodes one; nothing is encoded yet.

        Args:
            samples: The split.
            encode: Also checks what it encodes; called once for a sample that there is room for.
            folder: On the disk that has the room; made where it is missing.
        """
        self._samples = samples
        self._encode = encode
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # It lives as long as this object, and closes with it.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._kept: dict[int, tuple[int, int]] = {}
        self._end = 0
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
        with self._lock:
            if place in self._kept:
                start, size = self._kept[place]
                return load(os.pread(self._file.fileno(), size, start))
            features = self._encode(self._samples[place])
            self._keep(place, save({name: tensor.contiguous() for name, tensor in features.items()}))
            return features

    def _keep(self, place: int, written: bytes) -> None:
        if self._end + len(written) > shutil.disk_usage(self._folder).free:
            return
        os.pwrite(self._file.fileno(), written, self._end)
        self._kept[place] = self._end, len(written)
        self._end += len(written)
