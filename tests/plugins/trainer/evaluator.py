"""An answer evaluator for trainer tests: a real generator answers, and the metric counts the letters of each answer."""

import torch

from plugins.generator.generator_options import TransformersOptions
from plugins.generator.transformers import TransformersGenerator
from runner.stages import StopRequestedError


class Quiet:
    """A reporter that ignores progress and fails on warnings."""

    def progress(self, done, total, **shown):
        pass

    def warn(self, message):
        raise AssertionError(message)

    def stop_requested(self):
        return False


class Weights:
    def __init__(self, model):
        self.model = model

    def load(self):
        return self.model


class LetterEvaluator:
    """Evaluates samples in order, and leaves the model and random states changed.

    Attributes:
        prepared: Indices passed to `prepare`.
        asked: Indices of this worker, one list per evaluation.
        stop_at: The evaluation, counted from 0, at which a stop is requested.
    """

    def __init__(self, samples, stop_at=None):
        self.samples, self.stop_at, self.prepared, self.asked = samples, stop_at, None, []
        self.generator = TransformersGenerator(TransformersOptions(max_new_tokens=6, batch_size=2))

    def prepare(self, model, places):
        self.prepared = list(places)

    def evaluate(self, model, places):
        self.asked.append(list(places))
        torch.rand(3)
        prompts = [self.samples[place] for place in places]
        outputs = {}
        for each in self.generator.generate(Weights(model), prompts, frozenset(), Quiet()):
            outputs[each.id] = each.output
            if self.stop_at == len(self.asked) - 1:
                raise StopRequestedError
        model.module.train()
        return [{"letters": {"number": float(sum(map(ord, outputs[each.id])))}} for each in prompts]

    def aggregate(self, counts):
        numbers = [each["letters"]["number"] for each in counts]
        # Weighed by place, so that another order of the samples shows.
        return {"letters": sum((1 + place) * number for place, number in enumerate(numbers)), "nothing": None}
