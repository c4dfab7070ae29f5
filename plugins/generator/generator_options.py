"""Options of the generators `transformers` and `vllm`, whose own modules import heavy packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from plugins.servers.answers import Thinking
from runner.errors import RequirementError
from runner.stages import DecodingOptions, OutsideFingerprint

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


class VllmOptions(DecodingOptions):
    """Greedy decoding with vLLM, on GPUs of the machine that runs the trial."""

    former_names: ClassVar[Mapping[str, str]] = {"gpu_memory": "gpu_memory_utilization", "gpus": "tensor_parallel_size"}

    can_generate_during_training: ClassVar[bool] = False

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), OutsideFingerprint()] = 0.9
    """Fraction of the memory of each GPU that vLLM may use."""

    tensor_parallel_size: Annotated[int, Field(gt=0)] = 1
    """Number of GPUs over which the weights are sharded. This option is part of the fingerprint, because the number of
    GPUs changes the order of sums."""

    thinking: Thinking = "cut"
    """What happens if an answer begins with reasoning, such as `<think>…</think>`. `cut`: the reasoning is removed.
    `flag`: the reasoning stays, and the launch prints a warning with the number of such answers."""

    def check_requirements(self) -> None:
        """Raise RequirementError if vLLM is not installed."""
        if find_spec("vllm") is None:
            raise RequirementError(
                "generator: `type: vllm` needs the package vllm and a GPU that it supports. Install it with "
                "pip install 'mmre-runner[vllm]', or use `type: transformers`, which runs everywhere"
            )

    def smoke(self) -> Mapping[str, Any]:
        """Use the generator `transformers`, which needs no GPU."""
        return {"type": "transformers", "max_new_tokens": 8, "num_few_shot": self.num_few_shot}
