"""Checks an export of `runner export --to label_studio` with label-studio-sdk: its schema, and its converter to COCO.

    python bench/label_studio.py FOLDER_OF_THE_EXPORT

It needs label-studio-sdk. It validates the labelling interface, every task, and every prediction or annotation. If the
export has annotations (`--as annotations`), it converts them to COCO and compares the boxes with the export, in pixels.
It prints one line of JSON for each split, and ends with status 1 if anything is invalid or differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

MAX_DIFFERENCE = 0.01
"""Largest difference of a box's side, in pixels."""


def expected_boxes(tasks: list[dict[str, Any]]) -> list[list[float]]:
    """Return the boxes of annotations as left, top, width and height in pixels."""
    regions = [
        region for task in tasks for region in task["annotations"][0]["result"] if region["type"] == "rectanglelabels"
    ]
    sides = (
        ("x", "original_width"),
        ("y", "original_height"),
        ("width", "original_width"),
        ("height", "original_height"),
    )
    return [[region["value"][side] * region[size] / 100 for side, size in sides] for region in regions]


def convert_boxes(configuration: str, tasks: list[dict[str, Any]], images: Path) -> list[list[float]]:
    """Return the boxes that label-studio-sdk's converter writes for COCO.

    Label Studio numbers tasks and annotations when it imports them, and its export has these numbers.
    """
    with TemporaryDirectory() as output:
        exported = [
            {"id": number, **task, "annotations": [{"id": number, **task["annotations"][0]}]}
            for number, task in enumerate(tasks, start=1)
        ]
        file = Path(output) / "exported.json"
        file.write_text(json.dumps(exported))
        converter = Converter(configuration, project_dir=None, upload_dir=str(images))
        converter.convert_to_coco(str(file), output, output_image_dir=str(Path(output) / "images"), is_dir=False)
        document = json.loads((Path(output) / "result.json").read_text())
    return [annotation["bbox"] for annotation in document["annotations"]]


def main() -> None:
    """Check the export that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    description = json.loads((folder / "export.json").read_text())
    configuration = (folder / "labelling_interface.xml").read_text()
    interface = LabelInterface(configuration)
    interface.validate()
    check = interface.validate_prediction if description["result"] == "predictions" else interface.validate_annotation
    num_wrong = 0
    for split in description["num_tasks"]:
        tasks = json.loads((folder / f"{split}.json").read_text())
        line: dict[str, Any] = {"split": split, "tasks": len(tasks)}
        line["invalid_tasks"] = sum(not interface.validate_task({"data": task["data"]}) for task in tasks)
        line["invalid_results"] = sum(not check(task[description["result"]][0]) for task in tasks)
        if description["result"] == "annotations":
            pairs = list(zip(expected_boxes(tasks), convert_boxes(configuration, tasks, folder), strict=True))
            line["boxes"] = len(pairs)
            line["different_boxes"] = sum(
                any(abs(a - b) > MAX_DIFFERENCE for a, b in zip(*pair, strict=True)) for pair in pairs
            )
        num_wrong += sum(number for name, number in line.items() if name.startswith(("invalid", "different")))
        print(json.dumps(line))
    sys.exit(int(num_wrong > 0))


if __name__ == "__main__":
    main()
