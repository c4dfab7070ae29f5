"""Step 3: answers to numbers, each sample's kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from runner.artifacts import read_lines, write_json, write_lines
from runner.records import Answer, Ending, Sample, Score
from runner.stages import Adapter, Metric, Reporter
from runner.steps.context import TrialContext


@dataclass(frozen=True)
class Scored:
    """A corpus, scored with one way of parsing.

    Attributes:
        mode: The way of parsing.
        scores: A sample each, in order.
        figures: Metric name to value, None where its task was not asked for.
    """

    mode: str
    scores: Sequence[Score]
    figures: Mapping[str, float | None]

    @property
    def endings(self) -> dict[str, int]:
        """How many answers were clean, repaired and malformed."""
        counts = Counter(score.ending for score in self.scores)
        return {ending: counts[ending] for ending in get_args(Ending)}


def score_corpus(
    adapter: Adapter,
    metrics: Mapping[str, Metric],
    samples: Sequence[Sample],
    outputs: Mapping[str, str],
    mode: str,
    reporter: Reporter,
) -> Scored:
    """Parse each output in one mode and measure it against its sample's own fields."""
    scores = []
    for done, sample in enumerate(samples, start=1):
        prediction = adapter.parse(outputs[sample.id], mode)
        counts = _counts(metrics, prediction.answer, adapter.reference(sample))
        scores.append(Score(sample.id, prediction.ending, prediction.notes, counts))
        reporter.progress(done, len(samples))
    figures: dict[str, float | None] = {}
    for name, metric in metrics.items():
        figures |= metric.reduce([score.counts[name] for score in scores if name in score.counts])
    return Scored(mode, scores, figures)


def _counts(metrics: Mapping[str, Metric], prediction: Answer, reference: Answer) -> dict[str, Mapping[str, float]]:
    counted = {name: metric.score(prediction, reference) for name, metric in metrics.items()}
    return {name: counts for name, counts in counted.items() if counts is not None}


def score(context: TrialContext) -> None:
    """Score the predictions in the adapter's own parse mode and, beside it, in the others.

    Leaves `scores.jsonl`, a line a sample with its reference, and `metrics.json`; figures of the other modes are named
    `<mode>/<metric>`, parse counts `parse/clean` and so on.
    """
    samples = context.samples("test")
    outputs = {row["id"]: row["output"] for row in read_lines(context.run.predictions)}
    modes = [
        score_corpus(context.adapter, context.metrics, samples, outputs, mode, context.reporter("score"))
        for mode in context.adapter.parse_modes
    ]
    rows = [
        {**asdict(each), "reference": _as_json(context.adapter.reference(sample))}
        for sample, each in zip(samples, modes[0].scores, strict=True)
    ]
    for other in modes[1:]:
        for row, each in zip(rows, other.scores, strict=True):
            row[other.mode] = {"ending": each.ending, "notes": each.notes, "counts": each.counts}
    write_lines(context.run.scores, rows)
    figures = dict(_named(modes))
    write_json(context.run.metrics, figures)
    context.log.metrics(None, figures)
    context.log.artifact("scores", context.run.scores)


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "summary": answer.summary,
        "pairs": None if answer.pairs is None else sorted(answer.pairs),
        "mapping": None if answer.mapping is None else dict(answer.mapping),
    }


def _named(modes: Sequence[Scored]) -> Mapping[str, float | None]:
    named: dict[str, float | None] = {}
    for index, scored in enumerate(modes):
        prefix = f"{scored.mode}/" if index else ""
        named |= {f"{prefix}{name}": value for name, value in scored.figures.items()}
        named |= {f"{prefix}parse/{ending}": count for ending, count in scored.endings.items()}
    return named
