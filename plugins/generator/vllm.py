"""Greedy answers by `vllm serve`, which runs in its own Python environment.

Written from vLLM's documentation and source. The tests use a program that answers in its place; no test has run vLLM.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import torch

from plugins.generator.generator_options import VllmOptions
from plugins.generator.vllm_server import MODEL_NAME, serve_model, worker_gpus
from plugins.servers.answer_prompts import answer_prompts
from plugins.servers.chat import ChatServer
from plugins.servers.openai_generator_and_annotator_options import ChatServerOptions
from runner.records import Completion, Rendered
from runner.stages import Reporter, Weights

MAX_RETRIES = 2
"""Number of retries of a request: a server on this machine fails only if it has ended."""


class VllmGenerator:
    """The plugin `vllm` of the stage `generator`."""

    def __init__(self, options: VllmOptions) -> None:
        """Take the section's options.

        Raises:
            RequirementError: This machine does not have the environment of the options, or another version of vLLM.
        """
        options.check_requirements()
        self._options = options

    def generate(
        self, weights: Weights | None, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[Completion]:
        """Start the servers, yield the missing answers as they arrive, and end the servers; see `Generator.generate`.

        Raises:
            StopRequestedError: The user asked to stop; pending requests are cancelled.
            RequirementError: The number of GPUs of this worker does not suit the options.
            StepError: A server cannot be started, or failed; answers before that are saved.
            DataError: An image cannot be read.
        """
        missing = [prompt for prompt in prompts if prompt.id not in done]
        reporter.progress(len(done), len(prompts))
        if not missing:
            return
        assert weights is not None
        options, max_tokens = self._options, self._options.max_new_tokens
        num_images = max(len(prompt.images) for prompt in missing)
        _release_gpu_memory()
        with serve_model(options, weights.folder(), num_images, worker_gpus(), reporter) as served:
            requests = ChatServerOptions(
                model=MODEL_NAME,
                base_url=served.urls[0],
                concurrency=options.concurrency,
                max_retries=MAX_RETRIES,
                timeout=options.timeout,
            )
            parameters = {"temperature": 0.0, "max_tokens": max_tokens}
            server = ChatServer(
                requests, "generator", parameters, expected=max_tokens, urls=served.urls, key=served.key
            )
            yield from answer_prompts(server, prompts, done, reporter, options.thinking)


def _release_gpu_memory() -> None:
    """Return the memory of a training in this process to the GPU, where the server needs it."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
