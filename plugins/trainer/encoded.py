"""Encodes samples when they are first needed and keeps them in memory, as far as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from runner.records import Rendered
from runner.stages import Features, VisionLanguageModel

MEMORY_LIMIT = 2 * 2**30
"""Bytes of encoded samples that a worker keeps: 30,000 of the synthetic ones, or 20 images of a megapixel;
samples beyond that are encoded again in every epoch."""


class EncodedSamples:
    """Training samples as the model takes them, by their place in the split."""

    def __init__(self, model: VisionLanguageModel, samples: Sequence[Rendered], trailing: str) -> None:
        """Take rendered samples; nothing is encoded yet."""
        self._model = model
        self._samples = samples
        self._trailing = trailing
        self._kept: dict[int, Features] = {}
        self._num_bytes = 0
        # Tokenizers do not bear two threads at once.
        self._lock = Lock()

    def id(self, place: int) -> str:
        """The id of the sample at this place."""
        return self._samples[place].id

    def __getitem__(self, place: int) -> Features:
        """The encoded sample at this place.

        Raises:
            DataError: An image cannot be used.
        """
        with self._lock:
            if place in self._kept:
                return self._kept[place]
            features = self._model.encode(self._samples[place], self._trailing)
            size = sum(tensor.nbytes for tensor in features.values())
            if self._num_bytes + size <= MEMORY_LIMIT:
                self._kept[place] = features
                self._num_bytes += size
            return features
