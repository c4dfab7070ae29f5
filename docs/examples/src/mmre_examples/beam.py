"""An example generator: transformers' beam search, one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mmre_examples.beam_options import BeamOptions
from runner.records import Completion, Rendered
from runner.stages import Reporter, StopRequestedError, Weights


class BeamGenerator:
    """The plugin `beam` of the stage `generator`."""

    def __init__(self, options: BeamOptions) -> None:
        """Store the options of the section."""
        self._options = options

    def generate(
        self, weights: Weights | None, prompts: Sequence[Rendered], done: frozenset[str], reporter: Reporter
    ) -> Iterator[Completion]:
        """Yield the missing answers, which the caller stores one by one. See `Generator.generate`.

        Raises:
            StopRequestedError: The user asked to stop; checked before each answer.
        """
        missing = [prompt for prompt in prompts if prompt.id not in done]
        if not missing:
            return
        assert weights is not None
        model = weights.load()
        module: Any = model.module.eval()
        for number, prompt in enumerate(missing, start=len(done) + 1):
            if reporter.stop_requested():
                raise StopRequestedError
            batch = model.collate([model.encode(prompt)], "left")
            inputs = {name: tensor.to(module.device) for name, tensor in batch.items() if name != "labels"}
            with torch.inference_mode():
                tokens = module.generate(
                    **inputs,
                    max_new_tokens=self._options.max_new_tokens,
                    num_beams=self._options.beams,
                    do_sample=False,
                    eos_token_id=list(model.stop_token_ids),
                    pad_token_id=model.stop_token_ids[0],
                )
            answer = tokens[0, inputs["input_ids"].shape[1] :].tolist()
            end = next((index for index, token in enumerate(answer) if token in model.stop_token_ids), None)
            yield Completion(prompt.id, model.decode(answer[:end]), finished=end is not None)
            reporter.progress(number, len(prompts))
