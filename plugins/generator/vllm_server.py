"""Servers of vLLM: each runs `vllm serve` in the Python environment of the options, with GPUs of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import torch

from plugins.generator import run_until_closed
from plugins.generator.generator_options import VllmOptions, python_environment
from runner.errors import RequirementError, StepError
from runner.redaction import without_api_keys
from runner.stages import Reporter, StopRequestedError

MODEL_NAME = "model"
"""The name of the model in requests."""

SECONDS_TO_END = 30
"""Seconds that a server has to end before its processes are killed. vLLM ends within a few seconds."""

POLL_SECONDS = 0.2
"""Seconds between two questions whether a server is ready. Also the maximum delay until a stop request is noticed."""

HEALTH_TIMEOUT = 5.0
"""Seconds that a server has to answer whether it is ready."""

MAX_LOG_CHARS = 1500
"""Number of characters of a server's log that an error shows."""


def worker_gpus() -> list[str]:
    """List the GPUs of this worker, as `CUDA_VISIBLE_DEVICES` names them.

    Raises:
        RequirementError: See `own_part`.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    indices = range(torch.cuda.device_count()) if visible is None else ()
    gpus = [str(index) for index in indices] + [gpu.strip() for gpu in (visible or "").split(",") if gpu.strip()]
    return own_part(gpus, int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def own_part(gpus: Sequence[str], local_rank: int, local_world_size: int) -> list[str]:
    """Return the GPUs of one of the workers that see the same GPUs: an equal part of them, by local rank.

    Raises:
        RequirementError: The workers of this node cannot divide the GPUs equally.
    """
    number, remainder = divmod(len(gpus), local_world_size)
    if remainder:
        raise RequirementError(
            f"generator: {local_world_size} workers on this node cannot divide the {len(gpus)} visible GPUs equally; "
            "give each worker the same number of GPUs (compute.gpus_per_worker)"
        )
    return list(gpus[local_rank * number : (local_rank + 1) * number])


def divide_gpus(gpus: Sequence[str], tensor_parallel_size: int) -> list[list[str]]:
    """Return the GPUs of each server: `tensor_parallel_size` of them.

    Raises:
        RequirementError: The number of GPUs is zero or not a multiple of `tensor_parallel_size`.
    """
    if not gpus or len(gpus) % tensor_parallel_size:
        raise RequirementError(
            f"generator: this worker has {len(gpus)} GPUs, and `type: vllm` with tensor_parallel_size "
            f"{tensor_parallel_size} needs a multiple of {tensor_parallel_size}; set compute.gpus_per_worker"
        )
    return [list(gpus[start : start + tensor_parallel_size]) for start in range(0, len(gpus), tensor_parallel_size)]


def serve_command(options: VllmOptions, folder: Path, port: int, num_images: int) -> list[str]:
    """Return the command that starts a server.

    Args:
        options: The options of the generator.
        folder: The folder of the weights.
        port: The port of the server on the loopback interface.
        num_images: The largest number of images of a prompt.
    """
    arguments: dict[str, object] = {
        "host": "127.0.0.1",
        "port": port,
        "served-model-name": MODEL_NAME,
        "tensor-parallel-size": options.tensor_parallel_size,
        "gpu-memory-utilization": options.gpu_memory_utilization,
        "limit-mm-per-prompt": json.dumps({"image": num_images, "video": 0}),
        # Otherwise the server applies the repetition penalty of the folder's generation_config.json to each answer.
        "generation-config": "vllm",
        # Otherwise vLLM can put the images of a prompt before its text.
        "chat-template-content-format": "openai",
        "uvicorn-log-level": "warning",
    }
    if options.max_model_len is not None:
        arguments["max-model-len"] = options.max_model_len
    if options.tensor_parallel_size > 1:
        # vLLM must not look for the Ray cluster in which this worker runs.
        arguments["distributed-executor-backend"] = "mp"
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    return [str(options.python), "-m", "vllm.entrypoints.cli.main", "serve", str(folder), *flags, *options.arguments]


def serve_environment(environment: Mapping[str, str], gpus: Sequence[str], key: str) -> dict[str, str]:
    """Return the environment of a server: that of its own Python, without the keys and the group of this worker.

    Args:
        environment: The environment of the worker.
        gpus: The GPUs of the server.
        key: The key that the server requires. An argument of a command is visible to all users of the machine.
    """
    return {
        **python_environment(without_api_keys(environment)),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        # The weights are a folder of this machine.
        "HF_HUB_OFFLINE": "1",
    }


class VllmServer:
    """One running server and its log.

    Attributes:
        url: The base URL of its chat completions API.
    """

    def __init__(
        self, options: VllmOptions, folder: Path, num_images: int, gpus: Sequence[str], key: str, log: Path
    ) -> None:
        """Start the server; it is not ready yet.

        Args:
            options: The options of the generator.
            folder: The folder of the weights.
            num_images: The largest number of images of a prompt.
            gpus: The GPUs of the server.
            key: The key that the server requires.
            log: The file of its output.
        """
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._log, self._seconds = log, options.startup_timeout
        runner = [sys.executable, "-I", run_until_closed.__file__, str(SECONDS_TO_END)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*runner, *serve_command(options, folder, self._port, num_images)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # Python searches the current folder for modules.
                cwd=log.parent,
                env=serve_environment(os.environ, gpus, key),
                start_new_session=True,
            )
        self._started = time.monotonic()

    def wait_until_ready(self, reporter: Reporter) -> None:
        """Wait until the server has loaded the model.

        Raises:
            StopRequestedError: The user asked to stop.
            StepError: The server ended, or is not ready in time.
        """
        while not self._is_ready():
            if reporter.stop_requested():
                raise StopRequestedError
            self.check_running()
            if time.monotonic() - self._started > self._seconds:
                raise StepError(
                    f"generator: `vllm serve` was not ready after {self._seconds:g} seconds (startup_timeout). "
                    f"{self.describe_log()}"
                )
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=HEALTH_TIMEOUT)) as connection:
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):
                return False

    def check_running(self) -> None:
        """Raise StepError if the server has ended."""
        status = self._process.poll()
        if status is not None:
            raise StepError(f"generator: `vllm serve` ended with exit status {status}. {self.describe_log()}")

    def describe_log(self) -> str:
        """Return the end of the server's output in one line, and the file with all of it."""
        text = " ".join(self._log.read_text(encoding="utf-8", errors="replace").split())
        shown = "".join(char if char.isprintable() else "�" for char in text[-MAX_LOG_CHARS:])
        return f"The log {self._log} ends with: {shown}" if shown else f"The log {self._log} is empty"

    def request_end(self) -> None:
        """Ask the server to end; see `run_until_closed`."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait_for_end(self) -> None:
        """Wait until all processes of the server have ended."""
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class ServedModel:
    """Servers that are ready.

    Attributes:
        urls: The base URLs of the servers.
        key: The key that all of them require.
    """

    urls: Sequence[str]
    key: str


@contextmanager
def serve_model(
    options: VllmOptions, folder: Path, num_images: int, gpus: Sequence[str], reporter: Reporter
) -> Iterator[ServedModel]:
    """Start a server for each `tensor_parallel_size` GPUs, wait until all are ready, and end them after the block.

    If the block fails because a server has ended, the error says so. The logs of the servers are kept after an error.

    Args:
        options: The options of the generator.
        folder: The folder of the weights.
        num_images: The largest number of images of a prompt.
        gpus: The GPUs of this worker.
        reporter: Is asked whether to stop.

    Raises:
        RequirementError: The number of GPUs does not suit the options.
        StopRequestedError: The user asked to stop before the servers were ready.
        StepError: A server ended, or is not ready in time.
    """
    groups, key = divide_gpus(gpus, options.tensor_parallel_size), secrets.token_urlsafe(32)
    logs = Path(tempfile.mkdtemp(prefix="vllm-"))
    servers: list[VllmServer] = []
    keeps_logs = False
    try:
        for number, group in enumerate(groups):
            servers.append(VllmServer(options, folder, num_images, group, key, logs / f"server_{number}.log"))
        for server in servers:
            server.wait_until_ready(reporter)
        yield ServedModel([server.url for server in servers], key)
    except StepError as error:
        keeps_logs = True
        for server in servers:
            server.check_running()
        raise StepError(f"{error}. The logs of the servers are in {logs}") from error
    finally:
        for server in servers:
            server.request_end()
        for server in servers:
            server.wait_for_end()
        if not keeps_logs:
            shutil.rmtree(logs)
