"""The weights that a trial's answers come from, found when a generator asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.errors import SpecError
from runner.stages import VisionLanguageModel
from runner.steps.context import TrialContext
from runner.steps.rendering import training_texts


@dataclass(frozen=True)
class TrialWeights:
    """What the trial trained; with `trainer: none`, the model as it is. See `runner.stages.Weights`."""

    context: TrialContext

    def folder(self) -> Path:
        """Find the folder of the trained model, or of the checkpoint.

        Raises:
            UnmetError: The checkpoint cannot be had here.
            SpecError: The weights are random and were never trained.
        """
        found = self._found()
        if found is None:
            raise SpecError(
                "has random weights, which stand in no folder that another program could load; name a checkpoint, "
                "or train",
                path=("model",),
            )
        return found

    def load(self) -> VisionLanguageModel:
        """Load the model; random weights that nothing trains are made.

        Raises:
            UnmetError: The checkpoint cannot be had here.
        """
        found = self._found()
        if found is not None:
            return self.context.model.load(found)
        adapter, samples = self.context.adapter, self.context.samples("train")
        texts = training_texts([adapter.render_training(sample) for sample in samples])
        return self.context.model.build(texts, self.context.spec.seed)

    def _found(self) -> Path | None:
        return self.context.run.model if self.context.spec.trainer else self.context.model.checkpoint()
