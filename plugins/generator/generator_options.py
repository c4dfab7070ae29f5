"""Options of the generators whose own modules import heavy packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

from pydantic import Field

from plugins.servers.chat_options import ChatServerOptions
from runner.errors import RequirementError
from runner.stages import DecodingOptions, OutsideFingerprint


class TransformersOptions(DecodingOptions):
    """Greedy decoding on this machine, in the precision that the weights are stored in."""

    former_names: ClassVar[Mapping[str, str]] = {"refill": "continuous_batching"}

    batch_size: Annotated[int, Field(gt=0)] = 8
    """Answers written at once. Part of a run's identity, as padding changes the last bits of the logits."""

    continuous_batching: bool = True
    """Whether an answer that ends gives its place in the batch to the next prompt at once, instead of waiting for
    the batch's longest. Part of a run's identity, for the same reason; where a model cannot be decoded so, the run
    says so and answers in batches."""

    def smoke(self) -> Mapping[str, Any]:
        """A few tokens of each answer."""
        return {"max_new_tokens": 8}


class OpenAICompatibleOptions(DecodingOptions, ChatServerOptions):
    """Zero- and few-shot answers from a server that speaks OpenAI's chat completions; greedy, temperature 0."""

    needs_model: ClassVar[bool] = False
    answers_in_training: ClassVar[bool] = False

    def refuse_unmet(self) -> None:
        """Refuse an environment without the key."""
        self.key("generator")

    def smoke(self) -> Mapping[str, Any]:
        """No server is asked: an empty answer stands in for each."""
        return {"type": "constant", "num_few_shot": self.num_few_shot}


class VllmOptions(DecodingOptions):
    """Greedy decoding by vLLM on this machine's GPUs, from the folder of the weights."""

    former_names: ClassVar[Mapping[str, str]] = {"gpu_memory": "gpu_memory_utilization", "gpus": "tensor_parallel_size"}

    answers_in_training: ClassVar[bool] = False

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), OutsideFingerprint()] = 0.9
    """Share of the GPU's memory that vLLM may take."""

    tensor_parallel_size: Annotated[int, Field(gt=0)] = 1
    """GPUs that the weights are divided among; part of a run's identity, as sums are then made in another order."""

    def refuse_unmet(self) -> None:
        """Refuse a machine without vLLM."""
        if find_spec("vllm") is None:
            raise RequirementError(
                "generator: `type: vllm` needs the package vllm and a GPU that it supports: "
                "pip install 'mmre-runner[vllm]'; `type: transformers` runs everywhere"
            )

    def smoke(self) -> Mapping[str, Any]:
        """The generator `transformers`, which needs no GPU."""
        return {"type": "transformers", "max_new_tokens": 8, "num_few_shot": self.num_few_shot}
