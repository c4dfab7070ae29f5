"""Step 3: scores the answers and keeps the counts of every sample."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from PIL import Image, ImageOps

from runner.files import read_lines, write_json, write_lines
from runner.records import Answer, Ending, Prediction, Sample, Score
from runner.stages import Adapter, Counts, Metric, Reporter
from runner.trial.context import TrialContext

NUM_MISTAKES = 24
"""How many are kept: what a person looks through, and as many small files for the tracker."""
HEIGHT = 128
"""Of the pictures, in pixels."""
MOST_PIXELS = 50_000_000
"""A picture of more is not opened only to make a small one."""


def keep_mistakes(context: TrialContext, outputs: Mapping[str, str], references: Mapping[str, Answer]) -> None:
    """Leave `mistakes.jsonl` and the folder `mistakes/`, with one strip of pictures for each: the whole, the segments.

    Which ones is decided by their ids alone, so that runs which are wrong about the same samples show the same.
    """
    samples = {sample.id: sample for sample in context.samples("test")}
    read = {name: context.adapter.parse(outputs[name], context.adapter.parse_modes[0]) for name in references}
    wrong = [name for name, right in references.items() if is_wrong(read[name], right)]
    drawn = set(sorted(wrong, key=_lot)[:NUM_MISTAKES])
    folder = context.run.mistakes
    shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for name in [name for name in wrong if name in drawn]:
        row = {"text": samples[name].text, **_sides(read[name], references[name]), "output": outputs[name]}
        picture = _strip(samples[name])
        file = folder / f"{len(rows) + 1}.jpg"
        if picture is not None:
            folder.mkdir(exist_ok=True)
            picture.save(file, quality=85)
        shown = f"{folder.name}/{file.name}" if picture is not None else None
        rows.append({"id": name, "pictures": shown, **row})
    write_lines(folder.with_suffix(".jsonl"), rows)


def _lot(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def is_wrong(prediction: Prediction, right: Answer) -> bool:
    """Whether pairs or segments differ, or the answer could not be read; of summaries alone, whether they differ."""
    read = prediction.answer
    if right.pairs is None and right.mapping is None:
        return read.summary != right.summary
    return prediction.ending == "malformed" or (read.pairs, read.mapping) != (right.pairs, right.mapping)


def _sides(prediction: Prediction, right: Answer) -> dict[str, Any]:
    """What was read and what is right, side by side, as text."""
    read = prediction.answer
    told: dict[str, Any] = {}
    if right.pairs is not None:
        told |= {"pairs": _pairs(read.pairs), "right pairs": _pairs(right.pairs)}
    if right.mapping is not None:
        told |= {"segments": _mapping(read.mapping), "right segments": _mapping(right.mapping)}
    if right.summary is not None:
        told |= {"summary": read.summary, "right summary": right.summary}
    return {**told, "parse": prediction.ending, "notes": "; ".join(prediction.notes)}


def _pairs(pairs: frozenset[tuple[str, str]] | None) -> str:
    return "; ".join(f"{label}: {entity}" for label, entity in sorted(pairs or ()))


def _mapping(mapping: Mapping[str, str] | None) -> str:
    return "; ".join(f"{letter}: {entity}" for letter, entity in (mapping or {}).items())


def _strip(sample: Sample) -> Image.Image | None:
    """The pictures of a sample in a row, the whole one first; None where there are none that can be read."""
    paths = [sample.image, *(segment.image for segment in sample.segments)]
    pictures = [picture for path in paths if path is not None and (picture := _small(path)) is not None]
    if not pictures:
        return None
    strip = Image.new("RGB", (sum(each.width + 4 for each in pictures) - 4, HEIGHT), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + 4
    return strip


def _small(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            picture.draft("RGB", (HEIGHT * 4, HEIGHT * 2))
            return ImageOps.contain(picture.convert("RGB"), (HEIGHT * 3, HEIGHT))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's kinds for a broken file
        return None


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


References = Callable[[str], Mapping[str, Answer]]
"""The right answers by sample id, in order, for a way of parsing: a written target is read in the same way."""


def score_modes(
    adapter: Adapter,
    metrics: Mapping[str, Metric],
    references: References,
    outputs: Mapping[str, str],
    reporter: Reporter,
) -> list[Scored]:
    """Score the outputs in the adapter's own way of parsing, then in each of the others."""
    return [score_corpus(adapter, metrics, references(mode), outputs, mode, reporter) for mode in adapter.parse_modes]


def score_corpus(
    adapter: Adapter,
    metrics: Mapping[str, Metric],
    references: Mapping[str, Answer],
    outputs: Mapping[str, str],
    mode: str,
    reporter: Reporter,
) -> Scored:
    """Parse each output in one mode and measure it against the right answer."""
    scores = []
    for done, (name, right) in enumerate(references.items(), start=1):
        prediction = adapter.parse(outputs[name], mode)
        scores.append(Score(name, prediction.ending, prediction.notes, count(metrics, prediction.answer, right)))
        reporter.progress(done, len(references))
    return Scored(mode, scores, reduce(metrics, [score.counts for score in scores]))


def reduce(metrics: Mapping[str, Metric], counts: Sequence[Counts]) -> dict[str, float | None]:
    """Turn the counts of many samples into the figures of all metrics."""
    figures: dict[str, float | None] = {}
    for name, metric in metrics.items():
        figures |= metric.reduce([each[name] for each in counts if name in each])
    return figures


def count(metrics: Mapping[str, Metric], prediction: Answer, reference: Answer) -> Counts:
    """Count one answer by every metric; those that it was not asked about are left out."""
    counted = {name: metric.score(prediction, reference) for name, metric in metrics.items()}
    return {name: counts for name, counts in counted.items() if counts is not None}


def score(context: TrialContext) -> None:
    """Score the predictions in the adapter's own parse mode and, beside it, in the others.

    Leaves `scores.jsonl`, a line a sample with its reference, `mistakes.jsonl`, some of the wrong ones with pictures,
    and `metrics.json`; see `score_rows`, `keep_mistakes` and `all_figures`.
    """
    references = {sample.id: context.adapter.reference(sample) for sample in context.samples("test")}
    outputs = {row["id"]: row["output"] for row in read_lines(context.run.predictions)}
    modes = score_modes(context.adapter, context.metrics, lambda mode: references, outputs, context.reporter("score"))
    write_lines(context.run.scores, score_rows(modes, references))
    keep_mistakes(context, outputs, references)
    figures = all_figures(modes)
    write_json(context.run.metrics, figures)
    context.log.metrics(None, figures)
    context.log.artifact("scores", context.run.scores)


def score_rows(modes: Sequence[Scored], references: Mapping[str, Answer]) -> list[dict[str, Any]]:
    """List each sample's score with its reference, as plain data; those of the other modes stand under their names."""
    rows = [{**asdict(each), "reference": _as_json(references[each.id])} for each in modes[0].scores]
    for other in modes[1:]:
        for row, each in zip(rows, other.scores, strict=True):
            row[other.mode] = {"ending": each.ending, "notes": each.notes, "counts": each.counts}
    return rows


def metric_figures(modes: Sequence[Scored]) -> dict[str, float | None]:
    """Name every figure of the metrics: `ner_f1`, in the other modes `<mode>/ner_f1`."""
    return _named(modes, lambda scored: scored.figures)


def all_figures(modes: Sequence[Scored]) -> dict[str, float | None]:
    """Name every figure of the metrics and, beside them, how many answers were clean: `parse/clean` and so on."""
    counts = _named(modes, lambda scored: {f"parse/{ending}": number for ending, number in scored.endings.items()})
    return {**metric_figures(modes), **counts}


def _named(modes: Sequence[Scored], figures: Callable[[Scored], Mapping[str, float | None]]) -> dict[str, float | None]:
    prefixes = ["", *(f"{scored.mode}/" for scored in modes[1:])]
    return {
        f"{prefix}{name}": value
        for prefix, scored in zip(prefixes, modes, strict=True)
        for name, value in figures(scored).items()
    }


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "summary": answer.summary,
        "pairs": None if answer.pairs is None else sorted(answer.pairs),
        "mapping": None if answer.mapping is None else dict(answer.mapping),
    }
