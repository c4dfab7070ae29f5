"""A metric: the length of the summaries relative to their references, in words."""

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class AnswerLengthOptions(Options):
    """Options of the metric `answer_length`."""

    scale: float = 1.0
    """Factor on the ratio of lengths."""


class AnswerLength:
    """The ratio of generated words to reference words over the corpus."""

    metric_names = ("answer_length",)

    def __init__(self, options: AnswerLengthOptions) -> None:
        self._scale = options.scale

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        if reference.summary is None:
            return None
        return {"words": len((prediction.summary or "").split()), "reference_words": len(reference.summary.split())}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        expected = sum(count["reference_words"] for count in counts)
        words = sum(count["words"] for count in counts)
        return {"answer_length": self._scale * words / expected if expected else None}
