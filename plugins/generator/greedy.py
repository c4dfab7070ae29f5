"""Greedy decoding of one padded batch with transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from runner.errors import DataError
from runner.records import Rendered
from runner.stages import VisionLanguageModel


@dataclass(frozen=True)
class GenerationOutput:
    """The answer to a prompt, in tokens.

    Attributes:
        prompt: What was asked.
        tokens: The answer, without the token that ended it.
        finished: False where its limit cut it off.
    """

    prompt: Rendered
    tokens: list[int]
    finished: bool


@dataclass(frozen=True)
class GenerationBatch:
    """Prompts side by side, padded on the left.

    Attributes:
        prompts: The prompts.
        inputs: What the model takes.
        lengths: Tokens of each, without padding.
        limits: The most tokens of each answer.
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
    """A model on its device, and when its answers end.

    Attributes:
        model: The model.
        device: Where it computes.
        stops: The tokens that end an answer.
    """

    def __init__(self, model: VisionLanguageModel, limit: Callable[[Rendered, int], int]) -> None:
        """Move the model to the GPU where there is one; a model that is being trained stands there already.

        Args:
            model: In the precision that it is to compute in.
            limit: The most tokens of an answer, by prompt and the prompt's number of tokens.
        """
        self.model, self._limit = model, limit
        module: Any = model.module
        if module.device.type == "cpu" and torch.cuda.is_available():
            module = module.to("cuda")
        self.device: torch.device = module.device
        self.module = module.eval()
        self.stops = frozenset(model.stop_token_ids)

    def ask(self, prompts: Sequence[Rendered]) -> GenerationBatch:
        """Encode prompts and put them side by side.

        Raises:
            DataError: A prompt leaves no room for an answer.
        """
        encoded = [self.model.encode(prompt) for prompt in prompts]
        lengths = [len(each["input_ids"]) for each in encoded]
        limits = [self._limit_of(*each) for each in zip(prompts, lengths, strict=True)]
        padded = self.model.collate(encoded, padding_side="left")
        inputs = {name: tensor.to(self.device) for name, tensor in padded.items() if name != "labels"}
        return GenerationBatch(prompts, inputs, lengths, limits)

    def _limit_of(self, prompt: Rendered, length: int) -> int:
        limit, context = self._limit(prompt, length), self.model.context_length
        room = limit if context is None else context - length
        if room <= 0:
            raise DataError(
                f"sample {prompt.id}: its prompt takes {length:,} tokens, and the model holds {context:,} with the "
                "answer; show it smaller images (the model's max_pixels) or fewer examples"
            )
        return min(limit, room)

    def generate(
        self, asked: GenerationBatch, max_new_tokens: int, ends: StoppingCriteriaList | None = None, **settings: Any
    ) -> Any:
        """Call transformers' `generate`, with all spelt out that a checkpoint would fill in.

        Qwen2.5-VL's own settings sample, and punish repetition.

        Returns:
            With `sequences` (prompts, tokens) and `past_key_values`.
        """
        stops = sorted(self.stops)
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            eos_token_id=stops,
            pad_token_id=stops[0],
            return_dict_in_generate=True,
            **settings,
        )
        with torch.inference_mode():
            # Workers in training answer each its own prompts, and never wait for another to end.
            return self.module.generate(
                **asked.inputs, generation_config=config, stopping_criteria=ends, synced_gpus=False
            )

    def write(self, prompts: Sequence[Rendered]) -> list[GenerationOutput]:
        """Answer a batch, which takes as long as its longest answer."""
        asked = self.ask(prompts)
        ends = StoppingCriteriaList([_EachLimit(asked)])
        told = self.generate(asked, max(asked.limits), ends).sequences[:, asked.width :].tolist()
        return [self.written(*each) for each in zip(prompts, told, asked.limits, strict=True)]

    def written(self, prompt: Rendered, tokens: list[int], limit: int) -> GenerationOutput:
        """Cut an answer at the first token that stops it, or at its limit; what follows is padding of the batch."""
        end = next((place for place, token in enumerate(tokens[:limit]) if token in self.stops), None)
        return GenerationOutput(prompt, tokens[: limit if end is None else end], finished=end is not None)


class _EachLimit(StoppingCriteria):
    """Ends each answer of a batch at its own limit."""

    def __init__(self, asked: GenerationBatch) -> None:
        device = asked.inputs["input_ids"].device
        self._ends = torch.tensor(asked.limits, device=device) + asked.width

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        return input_ids.shape[1] >= self._ends  # type: ignore[return-value]
