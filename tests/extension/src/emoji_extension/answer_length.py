"""A metric: how many words the summaries have, against their references."""

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class AnswerLengthOptions(Options):
    """Options of the metric `answer_length`."""

    scale: float = 1.0
    """Factor on the ratio of lengths."""


class AnswerLength:
    """The ratio of words written to words wanted, over the corpus."""

    names = ("answer_length",)

    def __init__(self, options: AnswerLengthOptions) -> None:
        self._scale = options.scale

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        if reference.summary is None:
            return None
        return {"words": len((prediction.summary or "").split()), "wanted": len(reference.summary.split())}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        wanted = sum(count["wanted"] for count in counts)
        return {"answer_length": self._scale * sum(count["words"] for count in counts) / wanted if wanted else None}
