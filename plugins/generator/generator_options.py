"""Options of the generators `transformers` and `vllm`; the modules of these generators import heavy packages."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from plugins.servers.answers import Thinking
from runner.errors import Problem, RequirementError
from runner.redaction import without_api_keys
from runner.stages import DecodingOptions, OutsideFingerprint, base_folder

MAX_ROWS = 64
"""Maximum of `batch_size: auto`; on an A100, more rows hardly add speed to a 7B."""


class TransformersOptions(DecodingOptions):
    """Greedy decoding with transformers, in the precision in which the weights are stored."""

    former_names: ClassVar[Mapping[str, str]] = {"refill": "continuous_batching"}

    divides_prompts: ClassVar[bool] = True

    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = 8
    """Number of answers that are generated at once. `auto`: as many as fit into the memory of the device, at most 64.
    This option is part of the fingerprint, because padding changes the last bits of the logits; with `auto`, these bits
    depend on the device. Default: 8, our choice."""

    continuous_batching: bool = True
    """If true, the next prompt replaces a finished answer in the batch at once. If false, the batch waits for its
    longest answer. This option is part of the fingerprint, because padding changes the last bits of the logits. If the
    model does not support continuous batching, the launch prints a warning and generates in batches."""

    compile: bool = False
    """Whether torch compiles the step of continuous batching that decodes a token; on a GPU, torch records the step as
    a CUDA graph. Compiling takes about a minute, so the option pays off for many answers. Never tested on a GPU. This
    option is part of the fingerprint, because a compiled step sums in another order."""

    @property
    def concurrent_answers(self) -> int:
        """Number of answers that each worker generates at once; the largest possible one with `auto`."""
        return MAX_ROWS if self.batch_size == "auto" else self.batch_size

    def smoke(self) -> Mapping[str, Any]:
        """Generate only a few tokens of each answer."""
        return {"max_new_tokens": 8, "compile": False}


def _absolute(value: object) -> object:
    """Make a path absolute, relative to the folder of the spec, without resolving links.

    The `python` of a virtual environment is a link; its target is the Python outside the environment.
    """
    return (base_folder(value) / Path(value).expanduser()).absolute() if isinstance(value, str | Path) else value


FOREIGN_VARIABLES = re.compile(
    r"(PYTHON|RAY_|TORCHELASTIC_|ACCELERATE_|GROUP_|ROLE_).*|PYTORCH(_CUDA)?_ALLOC_CONF|VIRTUAL_ENV|CONDA_PREFIX|"
    r"(LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|TORCH_NCCL_.*"
)
"""Variables that belong to the worker: its Python, its group of workers, its Ray, its allocator of GPU memory."""


def python_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a Python of another environment, without what belongs to the worker itself."""
    kept = {name: value for name, value in environment.items() if not FOREIGN_VARIABLES.fullmatch(name)}
    return {**kept, "PYTHONUNBUFFERED": "1"}


VLLM_VERSION_QUERY = "from importlib.metadata import version; print(version('vllm'))"
"""Python code that prints the version of vLLM without importing it."""

SECONDS_FOR_VERSION = 60
"""Seconds within which a Python on a slow disk must report the version of vLLM."""

FIXED_ARGUMENTS = (
    "api-key", "chat-template-content-format", "config", "generation-config", "gpu-memory-utilization", "host",
    "limit-mm-per-prompt", "max-model-len", "model", "port", "served-model-name", "ssl-certfile", "ssl-keyfile",
    "tensor-parallel-size", "tp", "uds",
)  # fmt: skip
"""Arguments of `vllm serve` that `arguments` must not contain: the generator or another option sets them, or the
generator relies on their absence. vLLM writes `-` and `_` alike."""


class VllmOptions(DecodingOptions):
    """Greedy decoding with vLLM, which runs in its own Python environment on the GPUs of each worker.

    The generator starts `vllm serve` with the weights, sends the prompts to this server, and ends it.
    """

    former_names: ClassVar[Mapping[str, str]] = {"gpu_memory": "gpu_memory_utilization", "gpus": "tensor_parallel_size"}

    can_generate_during_training: ClassVar[bool] = False

    python: Annotated[Path, BeforeValidator(_absolute), OutsideFingerprint()]
    """The Python of the environment in which vLLM is installed, such as `/opt/vllm/bin/python`, or a path relative to
    the spec. vLLM and the runner need different versions of torch and transformers, so they cannot share an
    environment. The path must exist on all nodes."""

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+[0-9A-Za-z_.+]*$")]
    """The version of vLLM in this environment, such as `0.30.0`. A launch and each worker compare it with the installed
    version. This option is part of the fingerprint, because another version can give other answers."""

    tensor_parallel_size: Annotated[int, Field(gt=0)] = 1
    """Number of GPUs over which the weights are sharded. Each worker starts a server for this number of its GPUs, so
    `compute.gpus_per_worker` must be a multiple of this number. This option is part of the fingerprint, because the
    number of GPUs changes the order of sums."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), OutsideFingerprint()] = 0.9
    """Fraction of the memory of each GPU that vLLM may use. If vLLM says at the start that less memory is free, lower
    this number: the process of the trial also holds some memory."""

    max_model_len: Annotated[int | None, Field(gt=0)] = None
    """Maximum number of tokens of a prompt and its answer together. If vLLM says at the start that its cache is too
    small for the longest sequence, set a smaller number. Default: the maximum of the model."""

    arguments: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, such as `[--dtype, bfloat16]`."""

    concurrency: Annotated[int, Field(gt=0, le=1024), OutsideFingerprint()] = 128
    """Number of simultaneous requests to each server. vLLM forms the batches."""

    startup_timeout: Annotated[float, Field(gt=0), OutsideFingerprint()] = 1800.0
    """Maximum number of seconds until a server has loaded the model and compiled its code."""

    timeout: Annotated[float, Field(gt=0), OutsideFingerprint()] = 900.0
    """Maximum number of seconds from sending a request to the end of its answer, the wait in the server included."""

    thinking: Thinking = "cut"
    """What happens if an answer begins with reasoning, such as `<think>…</think>`. `cut`: the reasoning is removed.
    `flag`: the reasoning stays, and the launch prints a warning with the number of such answers."""

    @field_validator("arguments")
    @classmethod
    def _are_free(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            name = argument.partition("=")[0].removeprefix("--").replace("_", "-")
            if argument.startswith("--") and name in FIXED_ARGUMENTS:
                raise ValueError(f"must not contain {argument!r}, which the generator or another option sets")
            if argument.startswith("-") and not argument.startswith("--"):
                raise ValueError(f"must not contain the short form {argument!r}; write the long form")
        return arguments

    def resource_problems(self, gpus_per_worker: float) -> Iterator[Problem]:
        """Yield the problem if the workers have too few GPUs, or GPUs without a server."""
        size = self.tensor_parallel_size
        if gpus_per_worker < 1 or gpus_per_worker % size:
            yield Problem(
                f"is {size}, but compute.gpus_per_worker is {gpus_per_worker:g}; each worker starts a server for every "
                f"{size} of its GPUs, so compute.gpus_per_worker must be {size} or a multiple",
                ("tensor_parallel_size",),
            )

    def check_requirements(self) -> None:
        """Raise RequirementError if the environment does not exist or does not contain this version of vLLM."""
        try:
            result = subprocess.run(
                [self.python, "-c", VLLM_VERSION_QUERY],
                capture_output=True,
                text=True,
                errors="replace",
                check=True,
                timeout=SECONDS_FOR_VERSION,
                cwd="/",  # Python searches the current folder for modules.
                env=python_environment(without_api_keys(os.environ)),
            )
        except OSError as error:
            raise RequirementError(
                f"generator: {self.python} (generator.python) cannot be run: {error.strerror}. Install vLLM in an "
                f"environment of its own (python -m venv FOLDER; FOLDER/bin/pip install vllm=={self.version}) and name "
                "its Python, or use `type: transformers`"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise RequirementError(
                f"generator: {self.python} (generator.python) did not report the version of vLLM in "
                f"{SECONDS_FOR_VERSION} seconds"
            ) from error
        except subprocess.CalledProcessError as error:
            last_line = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
            raise RequirementError(
                f"generator: vLLM is not installed for {self.python} (generator.python): {last_line[:200]!r}. Install "
                f"it with {self.python} -m pip install vllm=={self.version}"
            ) from error
        installed = result.stdout.strip()
        # The local part of a version names the build, such as the version of CUDA.
        if self.version not in {installed, installed.partition("+")[0]}:
            raise RequirementError(
                f"generator: {self.python} has vLLM {installed[:50]!r}, and generator.version is {self.version!r}; "
                "change the one or the other"
            )

    def smoke(self) -> Mapping[str, Any]:
        """Use the generator `transformers`, which needs no GPU."""
        return {"type": "transformers", "max_new_tokens": 8, "num_few_shot": self.num_few_shot}
