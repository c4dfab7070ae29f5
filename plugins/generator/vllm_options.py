"""Options of the generator `vllm`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

from pydantic import Field

from runner.errors import UnmetError
from runner.stages import DecodingOptions, OutsideFingerprint


class VllmOptions(DecodingOptions):
    """Greedy decoding by vLLM on this machine's GPUs, from the folder of the weights."""

    answers_in_training: ClassVar[bool] = False

    gpu_memory: Annotated[float, Field(gt=0, le=1), OutsideFingerprint()] = 0.9
    """Share of the GPU's memory that vLLM may take."""

    gpus: Annotated[int, Field(gt=0)] = 1
    """GPUs that the weights are divided among; part of a run's identity, as sums are then made in another order."""

    def refuse_unmet(self) -> None:
        """Refuse a machine without vLLM."""
        if find_spec("vllm") is None:
            raise UnmetError(
                "generator: `type: vllm` needs the package vllm and a GPU that it supports: "
                "pip install 'mmre-runner[vllm]'; `type: transformers` runs everywhere"
            )

    def smoke(self) -> Mapping[str, Any]:
        """The generator `transformers`, which needs no GPU."""
        return {"type": "transformers", "max_new_tokens": 8, "examples": self.examples}
