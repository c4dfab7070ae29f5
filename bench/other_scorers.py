"""Scores exports of `runner export --to seqeval` and `--to coco` with seqeval and pycocotools.

    python bench/other_scorers.py FOLDER_OF_THE_EXPORT

It needs seqeval, or pycocotools. It prints one JSON document: micro precision, recall and F1 of mentions, which
`ner_precision`, `ner_recall` and `ner_f1` of `runner evaluate` equal if every mention is aligned; or the share of boxes
with a match at an IoU of 0.5.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def score_mentions(file: Path) -> dict[str, float]:
    """Score columns of token, reference and prediction with seqeval."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    samples = [sample.splitlines() for sample in file.read_text(encoding="utf-8").split("\n\n")]
    gold, found = ([[line.split("\t")[column] for line in sample] for sample in samples] for column in (1, 2))
    metrics = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    return {name: float(metric(gold, found)) for name, metric in metrics.items()}


def score_boxes(references: Path, predictions: Path) -> dict[str, float]:
    """Score COCO results with pycocotools: recall and average precision at an IoU of 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gold = COCO(str(references))
    evaluation = COCOeval(gold, gold.loadRes(str(predictions)), "bbox")
    evaluation.params.iouThrs = evaluation.params.iouThrs[:1]
    evaluation.evaluate()
    all_areas = evaluation.params.areaRng[0]
    matches = [image["gtMatches"][0] for image in evaluation.evalImgs if image and image["aRng"] == all_areas]
    num_matched = sum(int((each > 0).sum()) for each in matches)
    return {"matched": num_matched, "references": len(gold.anns)}


def main() -> None:
    """Score the export that the command line names."""
    folder = Path(sys.argv[1])
    description: dict[str, Any] = json.loads((folder / "export.json").read_text())
    split = description["split"]
    if description["format"] == "seqeval":
        print(json.dumps({**score_mentions(folder / f"{split}.conll"), "unaligned": description["num_unaligned"]}))
    else:
        print(json.dumps(score_boxes(folder / f"{split}_references.json", folder / f"{split}_predictions.json")))


if __name__ == "__main__":
    main()
