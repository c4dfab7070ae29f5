"""Greedy answers in batches of like length, by transformers' `generate`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from plugins.generator.transformers_options import TransformersOptions
from runner.records import Completion, Rendered
from runner.stages import Reporter, StopRequestedError, VisionLanguageModel


class TransformersGenerator:
    """The plugin `transformers` of the stage `generator`."""

    def __init__(self, options: TransformersOptions) -> None:
        """Take the section's options."""
        self._options = options

    def generate(
        self,
        model: VisionLanguageModel,
        prompts: Sequence[Rendered],
        done: frozenset[str],
        reporter: Reporter,
    ) -> Iterator[Completion]:
        """Yield the missing answers, longest prompts first; see `Generator.generate`.

        Batches are made of all prompts, also of those that are done, so that an answer is the same whether or
        not the run was interrupted. Long prompts come first: what does not fit into memory shows at once.

        Raises:
            StopRequestedError: Between two batches, after the user asked to stop.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.module.to(device).eval()
        num_done = len(done)
        began, asked = time.perf_counter(), 0
        reporter.progress(num_done, len(prompts))
        for batch in self._batches(model, prompts):
            missing = [prompt for prompt in batch if prompt.id not in done]
            if not missing:
                continue
            if reporter.stop_requested():
                raise StopRequestedError
            answers = self._answer(model, batch, device)
            yield from (answers[prompt.id] for prompt in missing)
            num_done, asked = num_done + len(missing), asked + len(batch)
            reporter.progress(num_done, len(prompts), samples_per_second=asked / (time.perf_counter() - began))

    def _batches(self, model: VisionLanguageModel, prompts: Sequence[Rendered]) -> list[list[Rendered]]:
        counts = [model.count(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda place: (-counts[place].text - counts[place].image, place))
        size = self._options.batch_size
        return [[prompts[place] for place in order[start : start + size]] for start in range(0, len(order), size)]

    def _answer(
        self, model: VisionLanguageModel, batch: Sequence[Rendered], device: torch.device
    ) -> dict[str, Completion]:
        inputs = model.collate([model.encode(prompt) for prompt in batch], padding_side="left")
        inputs = {name: tensor.to(device) for name, tensor in inputs.items() if name != "labels"}
        module: Any = model.module
        with torch.inference_mode():
            written = module.generate(**inputs, generation_config=self._greedy(model))
        answers = written[:, inputs["input_ids"].shape[1] :].tolist()
        return {
            prompt.id: self._completion(model, prompt.id, answer) for prompt, answer in zip(batch, answers, strict=True)
        }

    def _greedy(self, model: VisionLanguageModel) -> GenerationConfig:
        """Spell out what a checkpoint would fill in: Qwen2.5-VL's samples and punishes repetition."""
        stops = list(model.stop_token_ids)
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self._options.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )

    def _completion(self, model: VisionLanguageModel, sample: str, answer: list[int]) -> Completion:
        """Cut an answer at the first token that stops it; what follows is padding of the batch."""
        stops = set(model.stop_token_ids)
        end = next((place for place, token in enumerate(answer) if token in stops), None)
        return Completion(sample, model.decode(answer[:end]), finished=end is not None)
