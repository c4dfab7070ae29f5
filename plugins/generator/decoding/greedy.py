"""Greedy decoding of one padded batch with transformers' `generate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from plugins.generator.decoding.encoded_prompts import EncodedPrompt
from runner.errors import DataError
from runner.records import Rendered
from runner.stages import VisionLanguageModel


@dataclass(frozen=True)
class GenerationOutput:
    """The answer to a prompt, in tokens.

    Attributes:
        prompt: The prompt.
        tokens: The answer, without its end token.
        finished: False if the token limit cut the answer off.
    """

    prompt: Rendered
    tokens: list[int]
    finished: bool


@dataclass(frozen=True)
class GenerationBatch:
    """A batch of encoded prompts, padded on the left.

    Attributes:
        prompts: The prompts.
        inputs: The model's inputs.
        lengths: Tokens of each prompt, without padding.
        limits: Maximum tokens of each answer.
    """

    prompts: Sequence[Rendered]
    inputs: dict[str, torch.Tensor]
    lengths: list[int]
    limits: list[int]

    @property
    def width(self) -> int:
        """Tokens of a prompt, with padding."""
        return self.inputs["input_ids"].shape[1]


class GreedyDecoder:
    """Decodes batches of prompts greedily with a model on its device.

    Attributes:
        model: The model.
        module: Its transformers module, in evaluation mode.
        device: The device of the module.
        stop_token_ids: The tokens that end an answer.
    """

    def __init__(self, model: VisionLanguageModel, max_new_tokens: Callable[[Rendered, int], int]) -> None:
        """Move the model to the GPU if there is one; a model in training is there already.

        Args:
            model: The model, in the precision that it is to compute in.
            max_new_tokens: Returns the maximum tokens of an answer from the prompt and its number of tokens.
        """
        self.model, self._max_new_tokens = model, max_new_tokens
        module: Any = model.module
        if module.device.type == "cpu" and torch.cuda.is_available():
            # Each worker of a node sees all GPUs of its trial there; several may share one.
            index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            module = module.to(torch.device("cuda", index))
        self.device: torch.device = module.device
        self.module = module.eval()
        self.stop_token_ids = frozenset(model.stop_token_ids)

    @property
    def takes_whole_masks(self) -> bool:
        """Whether the decoder takes a mask for each query, (rows, 1, queries, keys), as its `sdpa` attention does."""
        attention = self.module.config.get_text_config()._attn_implementation or ""
        return "sdpa" in attention and "flash" not in attention

    def make_batch(self, prompts_and_features: Sequence[EncodedPrompt]) -> GenerationBatch:
        """Pad encoded prompts to a batch.

        Raises:
            DataError: A prompt leaves no room for an answer.
        """
        prompts, encoded = zip(*prompts_and_features, strict=True)
        lengths = [len(features["input_ids"]) for features in encoded]
        limits = [self._answer_limit(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
        padded = self.model.collate(encoded, padding_side="left")
        inputs = {name: tensor.to(self.device) for name, tensor in padded.items() if name != "labels"}
        return GenerationBatch(prompts, inputs, lengths, limits)

    def _answer_limit(self, prompt: Rendered, length: int) -> int:
        limit, context = self._max_new_tokens(prompt, length), self.model.context_length
        remaining = limit if context is None else context - length
        if remaining <= 0:
            raise DataError(
                f"sample {prompt.id}: the prompt of {length:,} tokens leaves no room for an answer in the model's "
                f"context of {context:,} tokens; use smaller images (model.max_pixels) or fewer examples"
            )
        return min(limit, remaining)

    def generate(
        self,
        batch: GenerationBatch,
        max_new_tokens: int,
        stopping_criteria: StoppingCriteriaList | None = None,
        **settings: Any,
    ) -> Any:
        """Call transformers' `generate` with every setting that a checkpoint could override.

        Qwen2.5-VL's own settings enable sampling and a repetition penalty.

        Returns:
            Transformers' output, with `sequences` (prompts, tokens) and `past_key_values`.
        """
        stop_token_ids = sorted(self.stop_token_ids)
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            eos_token_id=stop_token_ids,
            pad_token_id=stop_token_ids[0],
            return_dict_in_generate=True,
            **settings,
        )
        with torch.inference_mode():
            # During training each worker answers its own prompts, without waiting for the others.
            return self.module.generate(
                **batch.inputs, generation_config=config, stopping_criteria=stopping_criteria, synced_gpus=False
            )

    def generate_batch(self, batch: GenerationBatch) -> list[GenerationOutput]:
        """Answer a batch of prompts; it takes as long as its longest answer."""
        criteria = StoppingCriteriaList([_AnswerLimits(batch)])
        output = self.generate(batch, max(batch.limits), criteria)
        answers = output.sequences[:, batch.width :].tolist()
        return [self.make_output(*answer) for answer in zip(batch.prompts, answers, batch.limits, strict=True)]

    def make_output(self, prompt: Rendered, tokens: list[int], limit: int) -> GenerationOutput:
        """Truncate an answer at its first stop token or its limit; the tokens after that are padding of the batch."""
        end = next((index for index, token in enumerate(tokens[:limit]) if token in self.stop_token_ids), None)
        return GenerationOutput(prompt, tokens[: limit if end is None else end], finished=end is not None)


class _AnswerLimits(StoppingCriteria):
    """Ends each answer of a batch at its own limit."""

    def __init__(self, batch: GenerationBatch) -> None:
        device = batch.inputs["input_ids"].device
        self._max_lengths = torch.tensor(batch.limits, device=device) + batch.width

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        return input_ids.shape[1] >= self._max_lengths  # type: ignore[return-value]
