"""Compares gmner_f1, mner_f1 and eeg_f1 with the scorers of the benchmark's authors and of E2E-GMNER.

    python bench/grounding_scores.py --gmner CHECKOUT [--e2e CHECKOUT]

The first checkout is https://github.com/NUSTM/GMNER: its `model/data_pipe.py` makes labels of boxes and proposals, its
`model/metrics.py` scores. The second one is https://github.com/Finch-coder/E2E-GMNER. Nothing of either is copied, and
their other requirements are replaced by stand-ins: words are tokens, and proposals are drawn around the boxes.

Simulates answer files of different quality over the test split of Twitter10000_v2.0, scores each with both programs,
and prints a JSON document with the largest difference, and what is outside the comparison and why.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from plugins.adapter.gmner_parse import parse_answer
from plugins.adapter.gmner_prompt import target_text
from plugins.metric.grounding import EegF1, EegF1Options, GmnerF1, GmnerF1Options, MnerF1, MnerF1Options
from runner.records import Answer, Box, GroundedEntity
from runner.stages import BoxFrame, intersection_over_union

LABELS = ("per", "loc", "org", "other")
NUM_PROPOSALS = 16
"""Number of proposals of an image in the authors' scorer."""
SIDE = 600
"""Side of the area in which proposals are drawn, in pixels."""
REPEATED = 0.05
"""Share of the entities that an answer names twice, maybe with another label and box."""
UNDEFINED_MARGIN = 1e-5
"""An IoU this near to 0.5 is outside the comparison: the authors' scorer computes it in float32, and treats exactly 0.5
as a box that was found, but has no proposal."""


@dataclass(frozen=True)
class Tweet:
    """A tweet of the test split.

    Attributes:
        image: The id of its image.
        words: Its words.
        spans: Label, first word and word after the last of each entity.
        boxes: Name and box of each object in the image.
        proposals: The simulated proposals, in float32 precision.
    """

    image: str
    words: Sequence[str]
    spans: Sequence[tuple[str, int, int]]
    boxes: Sequence[tuple[str, Box]]
    proposals: Sequence[Box]

    def text(self, start: int, end: int) -> str:
        """Return the words of a span."""
        return " ".join(self.words[start:end])

    def gold(self, start: int, end: int) -> tuple[Box, ...]:
        """Return the boxes of an entity."""
        return tuple(box for name, box in self.boxes if name == self.text(start, end))

    def is_undefined(self) -> bool:
        """Whether a proposal has an IoU of one half with a box of an entity."""
        names = {self.text(start, end) for _, start, end in self.spans}
        boxes = [box for name, box in self.boxes if name in names]
        ious = (intersection_over_union(box, proposal) for box in boxes for proposal in self.proposals)
        return any(abs(iou - 0.5) < UNDEFINED_MARGIN for iou in ious)


@dataclass(frozen=True)
class Guess:
    """A predicted entity: label, span, and the number of a proposal, or None for no box."""

    label: str
    start: int
    end: int
    proposal: int | None


def read_test_split(folder: Path, rng: random.Random) -> Iterator[Tweet]:
    """Read the tweets of the test split with their boxes, and draw proposals."""
    for block in (folder / "txt" / "test.txt").read_text(encoding="utf-8").split("\n\n"):
        lines = block.strip("\n").split("\n")
        if not lines[0].startswith("IMGID:"):
            continue
        rows = [line.split("\t") for line in lines[1:]]
        image = lines[0].removeprefix("IMGID:")
        xml = folder / "xml" / f"{image}.xml"
        boxes = list(_read_boxes(xml)) if xml.is_file() else []
        spans = _spans([row[-1].strip() for row in rows])
        yield Tweet(image, [row[0] for row in rows], spans, boxes, _draw_proposals([box for _, box in boxes], rng))


def _read_boxes(xml: Path) -> Iterator[tuple[str, Box]]:
    for element in ElementTree.parse(xml).getroot().findall("object"):
        left, top, right, bottom = (
            float(element.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        yield element.findtext("name") or "", (left, top, right, bottom)


def _spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    spans: list[tuple[str, int, int]] = []
    previous = "O"
    for index, tag in enumerate(tags):
        kind, _, label = tag.partition("-")
        if kind == "B" or (kind == "I" and previous.partition("-")[2] != label):
            spans.append((label.lower(), index, index + 1))
        elif kind == "I":
            spans[-1] = (*spans[-1][:2], index + 1)
        previous = tag
    return spans


def _draw_proposals(boxes: Sequence[Box], rng: random.Random) -> list[Box]:
    """Draw proposals: some near each box, the others anywhere. Some boxes get none that overlaps by half."""
    near = [_shifted(box, rng, rng.choice((0.05, 0.15, 0.3, 1.5))) for box in boxes for _ in range(3)]
    while len(near) < NUM_PROPOSALS:
        left, top = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        near.append((left, top, left + rng.uniform(9, SIDE), top + rng.uniform(9, SIDE)))
    rng.shuffle(near)
    return [tuple(float(np.float32(side)) for side in box) for box in near[:NUM_PROPOSALS]]  # type: ignore[misc]


def _shifted(box: Box, rng: random.Random, amount: float) -> Box:
    left, top, right, bottom = box
    across, down = (rng.uniform(-amount, amount) * side for side in (right - left, bottom - top))
    return left + across, top + down, right + across, bottom + down


def simulate(tweet: Tweet, quality: float, rng: random.Random) -> list[Guess]:
    """Simulate an answer: gold entities with errors, a few others, and spans that are named twice."""
    guesses = []
    for label, start, end in tweet.spans:
        if rng.random() > 0.5 + quality / 2:
            continue
        moved = rng.choice((-1, 1)) if rng.random() > quality else 0
        last = min(max(start + 1, end + moved), len(tweet.words))
        for _ in range(1 + (rng.random() < REPEATED)):
            proposal = _proposal(tweet, start, last, quality, rng)
            guesses.append(Guess(_label(label, quality, rng), start, last, proposal))
    if rng.random() > quality:
        start = rng.randrange(len(tweet.words))
        guesses.append(Guess(rng.choice(LABELS), start, start + 1, rng.choice((None, rng.randrange(NUM_PROPOSALS)))))
    return guesses


def _label(label: str, quality: float, rng: random.Random) -> str:
    return label if rng.random() < quality else rng.choice(LABELS)


def _proposal(tweet: Tweet, start: int, end: int, quality: float, rng: random.Random) -> int | None:
    """Choose the best proposal for a gold box, or none where there is no box; with errors."""
    if rng.random() > quality:
        return rng.choice((None, rng.randrange(NUM_PROPOSALS)))
    gold = tweet.gold(start, end)
    if not gold:
        return None
    box = rng.choice(gold)
    return max(range(NUM_PROPOSALS), key=lambda index: intersection_over_union(box, tweet.proposals[index]))


def to_answer(entities: Sequence[tuple[str, int, int, tuple[Box, ...]]], tweet: Tweet) -> Answer:
    """Build an answer with the positions of its entities."""
    grounded = [GroundedEntity(label, tweet.text(start, end), boxes, start) for label, start, end, boxes in entities]
    return Answer(None, None, None, tuple(grounded))


def our_counts(metric: Any, pairs: Iterable[Sequence[Answer]]) -> tuple[int, int, int]:
    """Return the numbers of predicted, reference and matched entities."""
    scores = [metric.score(*pair) for pair in pairs]
    return tuple(sum(score[kind] for score in scores) for kind in ("predicted", "reference", "matched"))  # type: ignore[return-value]


class WordTokenizer:
    """Takes the place of BART's tokenizer: each word is one token."""

    vocab_size = 1_000_000
    bos_token_id, eos_token_id, pad_token_id, unk_token_id = 0, 1, 1, 3

    def __init__(self) -> None:
        """Start without words and without added tokens."""
        self.unique_no_split_tokens: list[str] = []
        self._ids: dict[str, int] = {}
        self._added: dict[str, int] = {}

    def tokenize(self, word: str, *, add_prefix_space: bool = False) -> list[str]:
        """Return the word as its only token."""
        return [word]

    def add_tokens(self, tokens: Sequence[str]) -> None:
        """Add tokens with ids above those of all words."""
        self._added |= {token: self.vocab_size + index for index, token in enumerate(tokens)}

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """Number the words; the authors' tokens are unknown until they are added."""
        return [self._id(token) for token in tokens]

    def _id(self, token: str) -> int:
        if token in self._added:
            return self._added[token]
        if token.startswith("<<"):
            return self.unk_token_id
        return self._ids.setdefault(token, len(self._ids) + 10)


class _Placeholder:
    """A base class of the authors' classes from packages that are not needed."""


class _StandIn(types.ModuleType):
    """A module in which every name exists."""

    def __getattr__(self, name: str) -> Any:
        return _Placeholder


def _box_iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Take the place of torchvision's function of the same name, for float32 boxes."""
    a, b = boxes.float()[:, None], others.float()[None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(dim=-1)
    return shared / ((a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1) - shared)


STAND_INS = (
    *("fastNLP", "fastNLP.io", "fastNLP.io.loader", "fastNLP.io.loader.conll", "fastNLP.io.pipe"),
    *("fastNLP.io.pipe.utils", "fastNLP.core", "fastNLP.core.metrics", "torchvision", "transformers"),
)


class OfficialScorer:
    """Labels and counts of the authors' own code."""

    def __init__(self, checkout: Path, tweets: Sequence[Tweet]) -> None:
        """Load the code, and let it make the labels of all tweets."""
        for name in STAND_INS:
            sys.modules.setdefault(name, _StandIn(name))
        sys.modules["torchvision"].ops = types.SimpleNamespace(box_iou=_box_iou)  # type: ignore[attr-defined]
        data_pipe, metrics = (_load(checkout / "model" / f"{name}.py") for name in ("data_pipe", "metrics"))
        proposals = {f"{tweet.image}.jpg.npz": tweet.proposals for tweet in tweets}
        data_pipe.np = _NumpyWithProposals(proposals)
        pipe = data_pipe.BartNERPipe.__new__(data_pipe.BartNERPipe)
        tokenizer = WordTokenizer()
        pipe.__dict__ |= {
            **{"image_feature_path": "-", "image_annotation_path": str(checkout / "Twitter10000_v2.0" / "xml")},
            **{"max_bbox": NUM_PROPOSALS, "region_dim": 1, "normalize": False, "target_type": "word"},
            **{"tokenizer": tokenizer, "num_token_in_orig_tokenizer": tokenizer.vocab_size, "not_cover": 0},
        }
        captured: list[Callable[[Mapping[str, Any]], dict[str, Any]]] = []
        with redirect_stdout(sys.stderr):
            pipe.process(_Bundle(captured))
        self._type_ids = pipe.mapping2targetid
        self._metrics = metrics
        self._labels = [captured[0](_instance(tweet)) for tweet in tweets]
        self.boxes_without_proposal = pipe.not_cover
        self._shift = len(pipe.mapping) + 2

    def counts(self, answers: Sequence[Sequence[Guess]]) -> dict[str, tuple[int, int, int]]:
        """Score the answers of all tweets; return predicted, reference and matched entities of GMNER and MNER."""
        scorer = self._metrics.Seq2SeqSpanMetric(1, num_labels=len(self._type_ids), region_num=NUM_PROPOSALS)
        for labels, guesses in zip(self._labels, answers, strict=True):
            self._evaluate(scorer, labels, guesses)
        predicted, reference = scorer.tp + scorer.fp, scorer.tp + scorer.fn
        return {"gmner": (predicted, reference, scorer.tp), "mner": (predicted, reference, scorer.tc)}

    def _evaluate(self, scorer: Any, labels: Mapping[str, Any], guesses: Sequence[Guess]) -> None:
        tokens, regions = [0], [[0]]
        for guess in guesses:
            span = [index + 1 + self._shift for index in range(guess.start, guess.end)]
            relation = self._type_ids["1" if guess.proposal is None else "0"] + 2
            tokens += [*span, relation, self._type_ids[guess.label] + 2]
            regions += [[guess.proposal or 0]] * (len(span) + 2)
        scorer.evaluate(
            [[list(pair) for pair in labels["target_span"]]],
            torch.tensor([[*tokens, 1]]),
            torch.tensor([labels["tgt_tokens"]]),
            torch.tensor([[*regions, [0]]]),
            torch.tensor(np.stack(labels["region_label"]))[None],
            torch.tensor(np.stack(labels["cover_flag"]))[None],
        )


class _Bundle:
    """Takes the place of fastNLP's data: keeps the function that makes the labels of a tweet."""

    def __init__(self, captured: list[Any]) -> None:
        self._captured = captured

    def apply_more(self, function: Any, **_: Any) -> None:
        self._captured.append(function)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _NumpyWithProposals:
    """numpy, whose `load` returns the proposals of an image."""

    def __init__(self, proposals: Mapping[str, Sequence[Box]]) -> None:
        self._proposals = proposals

    def load(self, path: str) -> dict[str, Any]:
        boxes = np.array(self._proposals[Path(path).name], dtype=np.float32)
        return {"num_boxes": len(boxes), "box_features": np.zeros((len(boxes), 1)), "bounding_boxes": boxes}

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"official_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _instance(tweet: Tweet) -> dict[str, Any]:
    return {
        "img_id": tweet.image,
        "raw_words": list(tweet.words),
        "entities": [list(tweet.words[start:end]) for _, start, end in tweet.spans],
        "entity_spans": [[start, end] for _, start, end in tweet.spans],
        "entity_tags": [label for label, _, _ in tweet.spans],
    }


def compare_with_authors(
    scorer: OfficialScorer, tweets: Sequence[Tweet], files: Sequence[Sequence[Sequence[Guess]]]
) -> dict[str, Any]:
    """Compare the counts and F1 of all files with those of the authors' code."""
    ours = {"gmner": GmnerF1(GmnerF1Options()), "mner": MnerF1(MnerF1Options())}
    largest, different, values = 0.0, 0, []
    for answers in files:
        official = scorer.counts(answers)
        pairs = [_pair(tweet, guesses) for tweet, guesses in zip(tweets, answers, strict=True)]
        for name, metric in ours.items():
            counts = our_counts(metric, pairs)
            difference = abs(f1(counts) - f1(official[name]))
            largest, different = max(largest, difference), different + (counts != official[name])
            values.append(f1(counts))
    return {
        **{"scores": len(values), "different_counts": different, "largest_difference": largest},
        **{"f1": _range(values), "boxes_without_proposal": scorer.boxes_without_proposal},
    }


def _pair(tweet: Tweet, guesses: Sequence[Guess]) -> tuple[Answer, Answer]:
    found = [
        (each.label, each.start, each.end, () if each.proposal is None else (tweet.proposals[each.proposal],))
        for each in guesses
    ]
    return to_answer(found, tweet), to_answer([(*span, tweet.gold(*span[1:])) for span in tweet.spans], tweet)


def compare_with_e2e(
    checkout: Path, tweets: Sequence[Tweet], files: Sequence[Sequence[Sequence[Guess]]]
) -> dict[str, Any]:
    """Write the answers as text, and compare counts and F1 with those of E2E-GMNER's parser and scorer."""
    sys.path.insert(0, str(checkout / "src"))
    from e2egmner.evaluation import metrics, parsing  # noqa: PLC0415  # only with the option

    counters = {
        "gmner": (metrics.count_correct_gmner, GmnerF1(GmnerF1Options(matching="one_to_one"))),
        "mner": (metrics.count_correct_mner, MnerF1(MnerF1Options(matching="one_to_one"))),
        "eeg": (metrics.count_correct_eeg, EegF1(EegF1Options(matching="one_to_one"))),
    }
    largest, different, values, left_out = 0.0, 0, [], 0
    for answers in files:
        texts = []
        for tweet, guesses in zip(tweets, answers, strict=True):
            pair = [_written(answer) for answer in _pair(tweet, guesses)]
            if any(mark in text for text in pair for mark in _split_marks(text)):
                left_out += 1
                continue
            texts.append(pair)
        theirs = [[parsing.parse_triples(text, strict=True, where="bench") for text in pair] for pair in texts]
        parsed = [tuple(parse_answer(text, ("gmner",), frozenset(LABELS)).answer for text in pair) for pair in texts]
        for count, metric in counters.values():
            counts = our_counts(metric, parsed)  # type: ignore[arg-type]
            correct = sum(count(*pair) for pair in theirs)
            official = (sum(len(found) for found, _ in theirs), sum(len(gold) for _, gold in theirs), correct)
            largest, different = max(largest, abs(f1(counts) - f1(official))), different + (counts != official)
            values.append(f1(counts))
    return {
        **{"scores": len(values), "different_counts": different, "largest_difference": largest},
        **{"f1": _range(values), "answers_left_out": left_out},
    }


def _written(answer: Answer) -> str:
    entities = [replace(entity, position=None) for entity in answer.grounded or ()]
    return target_text(("gmner",), "", entities, "e2e", BoxFrame())


def _split_marks(text: str) -> Sequence[str]:
    """Return a mark at which E2E-GMNER's parser splits an entity: other bars, and semicolons inside an entity."""
    items = [] if text == "None" else text.split("; ")
    has_mark = any(item.count("|") != 2 or any(mark in item for mark in ";；｜│丨￨∣\n") for item in items)  # noqa: RUF001
    return [""] if has_mark else []


def f1(counts: tuple[int, int, int]) -> float:
    """Compute F1 from predicted, reference and matched entities."""
    predicted, reference, matched = counts
    return 2 * matched / (predicted + reference) if matched else 0.0


def _range(values: Sequence[float]) -> list[float]:
    return [round(min(values), 4), round(max(values), 4)]


def main() -> None:
    """Simulate the files, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gmner", type=Path, required=True, help="checkout of NUSTM/GMNER")
    parser.add_argument("--e2e", type=Path, help="checkout of Finch-coder/E2E-GMNER")
    parser.add_argument("--files", type=int, default=30, help="number of simulated answer files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    all_tweets = list(read_test_split(options.gmner / "Twitter10000_v2.0", rng))
    tweets = [tweet for tweet in all_tweets if not tweet.is_undefined()]
    qualities = [index / max(options.files - 1, 1) for index in range(options.files)]
    files = [[simulate(tweet, quality, rng) for tweet in tweets] for quality in qualities]
    report: dict[str, Any] = {
        "tweets": len(all_tweets),
        "tweets_left_out": len(all_tweets) - len(tweets),
        "entities": sum(len(tweet.spans) for tweet in tweets),
        "files": len(files),
        "authors": compare_with_authors(OfficialScorer(options.gmner, tweets), tweets, files),
    }
    if options.e2e is not None:
        report["e2e_gmner"] = compare_with_e2e(options.e2e, tweets, files)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
