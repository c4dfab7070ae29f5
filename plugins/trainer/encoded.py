"""Encodes samples within a limit when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Literal

from plugins.trainer.sample_files import SampleFiles
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
