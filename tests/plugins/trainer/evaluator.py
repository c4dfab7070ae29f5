"""An evaluator for tests of the trainer alone: a real generator answers, and the letters of each answer are counted."""

import torch

from plugins.generator.generator_options import TransformersOptions
from plugins.generator.transformers import TransformersGenerator
from runner.stages import StopRequestedError


class Quiet:
    """A reporter whom nothing is told."""

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
    """Asks about samples in order, and leaves disorder behind.

    Attributes:
        prepared: Places that were told of beforehand.
        asked: Places of this worker, a list each time.
        stop_at: The time, counted from 0, at which it hears that it is to stop.
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

    def figures(self, counts):
        numbers = [each["letters"]["number"] for each in counts]
        # Weighed by place, so that another order of the samples shows.
        return {"letters": sum((1 + place) * number for place, number in enumerate(numbers)), "nothing": None}
