"""Exports a data set as tasks of Label Studio, for teams that review there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import NewContent, exclusive_build, replace_folder
from runner.dataset.label_studio import Result, labelling_configuration, make_task
from runner.export_examples import EXPORT_FILE, check_export_target, choose_splits, copy_images
from runner.files import write_json, write_jsonl, write_text
from runner.images import open_image
from runner.stages import Reporter

LOCAL_FILES = "/data/local-files/?d="
"""The address at which Label Studio serves files below `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`."""
CONFIGURATION_FILE = "labelling_interface.xml"
INCOMPLETE_FILE = "incomplete.jsonl"
"""Lists what tasks cannot hold."""


@dataclass(frozen=True)
class TaskExportOptions:
    """What to export.

    Attributes:
        dataset: The folder of the data set.
        target: The folder to create.
        splits: The splits; None for all.
        result: Whether rectangles and spans are predictions or annotations.
        image_prefix: What precedes the name of an image, such as `images/1.jpg`, in its address.
        replace: Whether the folder of an earlier export may be replaced.
    """

    dataset: Path
    target: Path
    splits: Sequence[str] | None = None
    result: Result = "predictions"
    image_prefix: str = LOCAL_FILES
    replace: bool = False


def export_tasks(options: TaskExportOptions, reporter: Reporter) -> dict[str, Any]:
    """Write a file of tasks for each split, the labelling interface, and the images.

    Returns:
        The content of `export.json`.

    Raises:
        DataError: The data set is invalid, an image cannot be read, or the folder exists.
        SpecError: A split does not exist.
    """
    folder = DatasetFolder(options.dataset)
    splits = choose_splits(folder.load_splits(), options.splits)
    check_export_target(options.target, replace=options.replace)
    images = [sample.image for samples in splits.values() for sample in samples if sample.image is not None]
    new = NewContent(folder.description["name"], None, replace=True)
    incomplete: list[Mapping[str, Any]] = []
    with (
        exclusive_build(options.target),
        replace_folder(options.target, new, EXPORT_FILE, "an export of this kind") as unfinished,
    ):
        names, _ = copy_images(images, folder.path, unfinished, reporter)
        sizes = {path: _image_size(unfinished / name) for path, name in names.items()}
        for split, samples in splits.items():
            rows = []
            for sample in samples:
                name, size = (None, None) if sample.image is None else (names[sample.image], sizes[sample.image])
                url = None if name is None else options.image_prefix + name
                task = make_task(sample, split, url, size, options.result)
                rows.append(task.row)
                incomplete += [{"id": sample.id, "split": split, "problem": problem} for problem in task.problems]
            write_json(unfinished / f"{split}.json", rows)
        write_text(unfinished / CONFIGURATION_FILE, labelling_configuration(folder.labels))
        write_jsonl(unfinished / INCOMPLETE_FILE, incomplete)
        description = {
            "format": "label_studio",
            "data": {"name": folder.description["name"], "fingerprint": folder.description.get("fingerprint")},
            "result": options.result,
            "num_tasks": {split: len(samples) for split, samples in splits.items()},
            "num_images": len(names),
            "num_incomplete": len({row["id"] for row in incomplete}),
        }
        write_json(unfinished / EXPORT_FILE, description)
    return description


def _image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image that was copied upright."""
    with open_image(path) as image:
        return image.size
