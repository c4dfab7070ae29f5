"""Prompts that a thread encodes while the model generates answers to earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from types import TracebackType

from runner.records import Rendered
from runner.stages import Features, VisionLanguageModel

EncodedPrompt = tuple[Rendered, Features]
"""A prompt and its encoded form, without target."""


class EncodedPrompts:
    """A queue of prompts, of which the first ones are encoded ahead.

    Reading and resizing the images of a prompt can take longer than decoding a token for a whole batch.
    """

    def __init__(self, model: VisionLanguageModel, prompts: Sequence[Rendered], num_ahead: int) -> None:
        """Start to encode.

        Args:
            model: The model whose tokenizer and processor encode.
            prompts: The prompts, in the order in which they will be taken.
            num_ahead: Number of prompts to keep encoded.
        """
        self._model, self._num_ahead = model, num_ahead
        self._waiting = deque(prompts)
        self._encoded: deque[Future[EncodedPrompt]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1)
        # Tokenizers are not thread-safe.
        self._lock = Lock()
        self._fill()

    def __enter__(self) -> EncodedPrompts:
        """Return the queue, which ends its thread on exit."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard the prompts that were not taken, and wait for the thread."""
        self._thread.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """Return the number of prompts that were not taken."""
        return len(self._encoded) + len(self._waiting)

    def take(self, number: int) -> list[EncodedPrompt]:
        """Return the next prompts, at most `number`.

        Raises:
            DataError: A prompt cannot be encoded.
        """
        taken = [self._encoded.popleft().result() for _ in range(min(number, len(self._encoded)))]
        while len(taken) < number and self._waiting:
            self._submit()
            taken.append(self._encoded.popleft().result())
        self._fill()
        return taken

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the thread from using the tokenizer meanwhile."""
        with self._lock:
            yield

    def _fill(self) -> None:
        while self._waiting and len(self._encoded) < self._num_ahead:
            self._submit()

    def _submit(self) -> None:
        self._encoded.append(self._thread.submit(self._encode, self._waiting.popleft()))

    def _encode(self, prompt: Rendered) -> EncodedPrompt:
        with self._lock:
            return prompt, self._model.encode(prompt)
