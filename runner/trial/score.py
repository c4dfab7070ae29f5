"""Step 3: scores the answers, and saves the counts of each sample and a selection of wrong answers."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from PIL import Image, ImageOps

from runner.dataset.leaks import groups_by_kind
from runner.files import read_jsonl, write_json, write_jsonl
from runner.images import open_image
from runner.records import Answer, Box, Ending, GroundedEntity, Prediction, Sample, Score
from runner.regime import parse_row
from runner.stages import Adapter, Metric, MetricCounts, ReferenceChecker, Reporter, have_same_region
from runner.trial.trial_components import TrialContext

NUM_MISTAKES = 24
"""How many wrong answers are saved: a number that a person looks through and a tracker takes as small files."""
THUMBNAIL_HEIGHT = 128
"""The height of the saved pictures in pixels."""
RIGHT_IOU = 0.5
"""Intersection over union from which a box of a listed answer counts as right, as in the benchmark of GMNER."""
SHOWN_CHARACTERS = 200
"""Number of characters of a raw answer that a warning shows."""
MAX_PIXELS = 50_000_000
"""A larger picture is not opened to make a thumbnail."""


def write_mistakes(
    context: TrialContext,
    outputs: Mapping[str, str],
    predictions: Mapping[str, Prediction],
    references: Mapping[str, Answer],
) -> None:
    """Write a selection of wrong answers to `mistakes.jsonl`, and their pictures to the folder `mistakes/`.

    Each file in the folder shows the sample's main image and its segments in a row. The selection depends only on
    sample ids, so that runs with the same wrong answers save the same samples.

    Args:
        context: The trial.
        outputs: The generated texts by sample id.
        predictions: The parsed answers by sample id.
        references: The right answers by sample id.
    """
    samples = {sample.id: sample for sample in context.samples("test")}
    wrong = [sample_id for sample_id, reference in references.items() if is_wrong(predictions[sample_id], reference)]
    selected = set(sorted(wrong, key=_selection_key)[:NUM_MISTAKES])
    folder = context.run.mistakes
    shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for sample_id in (sample_id for sample_id in wrong if sample_id in selected):
        file = folder / f"{len(rows) + 1}.jpg"
        strip = _picture_strip(samples[sample_id])
        if strip is not None:
            folder.mkdir(exist_ok=True)
            strip.save(file, quality=85)
        rows.append(
            {
                "id": sample_id,
                "pictures": f"{folder.name}/{file.name}" if strip is not None else None,
                "text": samples[sample_id].text,
                **_comparison(predictions[sample_id], references[sample_id]),
                "output": outputs[sample_id],
            }
        )
    write_jsonl(folder.with_suffix(".jsonl"), rows)


def _selection_key(sample_id: str) -> str:
    return hashlib.sha256(sample_id.encode()).hexdigest()


def is_wrong(prediction: Prediction, reference: Answer) -> bool:
    """Whether an answer is malformed, or its pairs, segments or boxes are wrong.

    If neither was asked for, whether its summary differs from the reference.
    """
    answer = prediction.answer
    if reference.pairs is None and reference.mapping is None:
        return answer.summary != reference.summary
    if prediction.ending == "malformed" or (answer.pairs, answer.mapping) != (reference.pairs, reference.mapping):
        return True
    return not _has_right_boxes(answer.grounded or (), reference.grounded or ())


def _has_right_boxes(answer: Sequence[GroundedEntity], reference: Sequence[GroundedEntity]) -> bool:
    """Whether entities that are equal in number and order each have a right box, or rightly none."""
    if len(answer) != len(reference):
        return False
    return all(
        found.text == right.text and have_same_region(found.boxes, right.boxes or (), RIGHT_IOU)
        for found, right in zip(answer, reference, strict=True)
    )


def _comparison(prediction: Prediction, reference: Answer) -> dict[str, Any]:
    """The parsed answer and the right one side by side, as text."""
    answer = prediction.answer
    fields: dict[str, Any] = {}
    if reference.pairs is not None:
        fields |= {"pairs": _pairs(answer.pairs), "right pairs": _pairs(reference.pairs)}
    if reference.grounded is not None:
        fields |= {"boxes": _boxes(answer.grounded), "right boxes": _boxes(reference.grounded)}
    if reference.mapping is not None:
        fields |= {"segments": _mapping(answer.mapping), "right segments": _mapping(reference.mapping)}
    if reference.summary is not None:
        fields |= {"summary": answer.summary, "right summary": reference.summary}
    return {**fields, "parse": prediction.ending, "notes": "; ".join(prediction.notes)}


def _pairs(pairs: frozenset[tuple[str, str]] | None) -> str:
    return "; ".join(f"{label}: {entity}" for label, entity in sorted(pairs or ()))


def _boxes(entities: Sequence[GroundedEntity] | None) -> str:
    return "; ".join(f"{each.text}: {_box_text(each.boxes)}" for each in entities or ())


def _box_text(boxes: Sequence[Box] | None) -> str:
    if boxes is None:
        return "not readable"
    return ", ".join(str([round(side, 1) for side in box]) for box in boxes) or "none"


def _mapping(mapping: Mapping[str, str] | None) -> str:
    return "; ".join(f"{letter}: {entity}" for letter, entity in (mapping or {}).items())


def _picture_strip(sample: Sample) -> Image.Image | None:
    """Place the pictures of a sample in a row, the main image first; None if no picture is readable."""
    paths = [sample.image, *(segment.image for segment in sample.segments)]
    pictures = [picture for path in paths if path is not None and (picture := _thumbnail(path)) is not None]
    if not pictures:
        return None
    width = sum(picture.width + 4 for picture in pictures) - 4
    strip = Image.new("RGB", (width, THUMBNAIL_HEIGHT), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + 4
    return strip


def _thumbnail(path: Path) -> Image.Image | None:
    try:
        with open_image(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            picture.draft("RGB", (THUMBNAIL_HEIGHT * 4, THUMBNAIL_HEIGHT * 2))
            return ImageOps.contain(picture.convert("RGB"), (THUMBNAIL_HEIGHT * 3, THUMBNAIL_HEIGHT))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for a broken file
        return None


def describe_total_failure(values: Mapping[str, float | None]) -> str | None:
    """Say that all metrics are 0 (with four decimals), or that all answers are malformed; None if neither is true.

    Args:
        values: The content of `metrics.json`; see `all_values`.
    """
    malformed = values.get("parse/malformed")
    if malformed and not (values["parse/clean"] or values["parse/repaired"]):
        return f"all {malformed:,} answers are malformed"
    metrics = [value for name, value in values.items() if "parse" not in name.split("/")[:-1] and value is not None]
    return "all metrics are 0" if metrics and all(round(value, 4) == 0 for value in metrics) else None


def describe_mistake(sample_id: str, output: str, notes: str) -> str:
    """Show the raw text of a wrong answer, shortened, and the notes of the parser on it, in one line."""
    shown = repr(output[:SHOWN_CHARACTERS] + ("…" if len(output) > SHOWN_CHARACTERS else ""))
    text = f"For example, the answer to sample {sample_id} is {shown if output.strip() else 'empty'}"
    return f"{text} (parser: {notes})." if notes else f"{text}."


@dataclass(frozen=True)
class ScoredCorpus:
    """A corpus scored in one parse mode.

    Attributes:
        mode: The parse mode.
        references: The right answers by sample id, in order.
        predictions: The parsed answers by sample id.
        scores: One score per sample, in the order of the references.
        metrics: Metric name to value; None if its task was not asked for, or if the metric is undefined.
        warnings: Why metrics are misleading or undefined on these references.
    """

    mode: str
    references: Mapping[str, Answer]
    predictions: Mapping[str, Prediction]
    scores: Sequence[Score]
    metrics: Mapping[str, float | None]
    warnings: Sequence[str] = ()

    @property
    def parse_counts(self) -> dict[str, int]:
        """The numbers of clean, repaired and malformed answers."""
        counts = Counter(score.ending for score in self.scores)
        return {ending: counts[ending] for ending in get_args(Ending)}


ParseAnswer = Callable[[str, str], Prediction]
"""Parses the answer to a sample in a parse mode."""

ReferencesByMode = Callable[[str], Mapping[str, Answer]]
"""Returns the right answers by sample id, in order, for a parse mode: references given as text are parsed in it too."""


def score_modes(
    adapter: Adapter,
    metrics: Mapping[str, Metric],
    references: ReferencesByMode,
    parse: ParseAnswer,
    reporter: Reporter,
) -> list[ScoredCorpus]:
    """Score the answers in each of the adapter's parse modes, the one that its options chose first."""
    return [score_corpus(metrics, references(mode), parse, mode, reporter) for mode in adapter.parse_modes]


def score_corpus(
    metrics: Mapping[str, Metric],
    references: Mapping[str, Answer],
    parse: ParseAnswer,
    mode: str,
    reporter: Reporter,
) -> ScoredCorpus:
    """Parse each answer in one mode and score it against its reference; see `check_references` for `warnings`."""
    defined, warnings = check_references(metrics, list(references.values()))
    predictions = {}
    scores = []
    for done, (sample_id, reference) in enumerate(references.items(), start=1):
        prediction = parse(sample_id, mode)
        counts = score_sample(defined, prediction.answer, reference)
        predictions[sample_id] = prediction
        scores.append(Score(sample_id, prediction.ending, prediction.notes, counts))
        reporter.progress(done, len(references))
    values = reduce_counts(metrics, [score.counts for score in scores])
    return ScoredCorpus(mode, references, predictions, scores, values, warnings)


def check_references(
    metrics: Mapping[str, Metric], references: Sequence[Answer]
) -> tuple[dict[str, Metric], list[str]]:
    """Let the metrics check the references before any sample is scored; see `ReferenceChecker`.

    Returns:
        The metrics that are defined on these references, by plugin name; the other metrics must score no sample. And
        the messages of all warnings.
    """
    checkers = {name: metric for name, metric in metrics.items() if isinstance(metric, ReferenceChecker)}
    warnings = {name: checker.check_references(references) for name, checker in checkers.items()}
    undefined = {name for name, found in warnings.items() if any(warning.is_undefined for warning in found)}
    defined = {name: metric for name, metric in metrics.items() if name not in undefined}
    return defined, [warning.message for found in warnings.values() for warning in found]


def reduce_counts(metrics: Mapping[str, Metric], counts: Sequence[MetricCounts]) -> dict[str, float | None]:
    """Reduce the counts of many samples to the values of all metrics."""
    values: dict[str, float | None] = {}
    for name, metric in metrics.items():
        values |= metric.reduce([sample_counts[name] for sample_counts in counts if name in sample_counts])
    return values


def score_sample(metrics: Mapping[str, Metric], prediction: Answer, reference: Answer) -> MetricCounts:
    """Score one answer with every metric; metrics of tasks that were not asked for are left out."""
    scored = {name: metric.score(prediction, reference) for name, metric in metrics.items()}
    return {name: counts for name, counts in scored.items() if counts is not None}


def score(context: TrialContext) -> None:
    """Score the predictions in the parse mode that the adapter's options chose, and in its other modes.

    Writes `scores.jsonl` (see `score_rows` and `add_groups`), `metrics.json` (see `all_values`), and `mistakes.jsonl`
    with its pictures (see `write_mistakes`). The record gets a hash of the prompts (see `Regime.check_prompts`).
    """
    samples = context.samples("test")
    references = {sample.id: context.adapter.reference(sample) for sample in samples}
    rows = {row["id"]: row for row in read_jsonl(context.run.predictions)}
    reporter = context.reporter("score")
    modes = score_modes(
        context.adapter,
        context.metrics,
        lambda mode: references,
        lambda sample_id, mode: parse_row(context.adapter, rows[sample_id], mode),
        reporter,
    )
    for warning in modes[0].warnings:
        reporter.warn(warning)
    groups = groups_by_kind(samples, context.spec.max_hash_distance)
    write_jsonl(context.run.scores, add_groups(score_rows(modes), groups))
    outputs = {sample_id: row["output"] for sample_id, row in rows.items()}
    write_mistakes(context, outputs, modes[0].predictions, references)
    values = all_values(modes)
    write_json(context.run.metrics, values)
    context.run.update_record(prompts=context.regime.check_prompts(context.test_prompts))
    context.log.metrics(None, values)
    context.log.artifact("scores", context.run.scores)


def score_rows(modes: Sequence[ScoredCorpus]) -> list[dict[str, Any]]:
    """List each sample's score with its reference, as plain data.

    The scores of the other parse modes are nested under the modes' names.
    """
    first, *others = modes
    rows = [{**asdict(score), "reference": _as_json(first.references[score.id])} for score in first.scores]
    for other in others:
        for row, score in zip(rows, other.scores, strict=True):
            row[other.mode] = {"ending": score.ending, "notes": score.notes, "counts": score.counts}
    return rows


def add_groups(rows: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    """Add to each sample's row its groups of samples with the same content, which are resampled together.

    Args:
        rows: The rows of `score_rows`.
        groups: The groups of each sample by kind, in the same order; see `runner.dataset.leaks.groups_by_kind`.
    """
    return [{**row, "groups": dict(sample_groups)} for row, sample_groups in zip(rows, groups, strict=True)]


def metric_values(modes: Sequence[ScoredCorpus]) -> dict[str, float | None]:
    """Return all metric values by name: `ner_f1`, and `<mode>/ner_f1` in the other parse modes."""
    return _prefixed(modes, lambda scored: scored.metrics)


def all_values(modes: Sequence[ScoredCorpus]) -> dict[str, float | None]:
    """Return all metric values, and the numbers of clean, repaired and malformed answers as `parse/clean` and so on."""
    counts = _prefixed(modes, lambda scored: {f"parse/{end}": number for end, number in scored.parse_counts.items()})
    return {**metric_values(modes), **counts}


def _prefixed(
    modes: Sequence[ScoredCorpus], values_of: Callable[[ScoredCorpus], Mapping[str, float | None]]
) -> dict[str, float | None]:
    """Merge the values of all modes, with the mode's name before the names of all but the first mode's."""
    prefixes = ["", *(f"{scored.mode}/" for scored in modes[1:])]
    return {
        f"{prefix}{name}": value
        for prefix, scored in zip(prefixes, modes, strict=True)
        for name, value in values_of(scored).items()
    }


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "summary": answer.summary,
        "pairs": None if answer.pairs is None else sorted(answer.pairs),
        "mapping": None if answer.mapping is None else dict(answer.mapping),
        **({} if answer.grounded is None else {"grounded": [entity.as_json() for entity in answer.grounded]}),
    }
