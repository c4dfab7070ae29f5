"""Exports what the adapter of a spec renders from a data set, so that other trainers train on the same examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageOps

from runner.dataset.answer_files import raise_problems
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import NewContent, exclusive_build, replace_folder
from runner.dataset.training_files import (
    FORMATS,
    TrainingFormat,
    dataset_info,
    example_row,
    find_example_marks,
    write_split,
)
from runner.errors import DataError, SpecError
from runner.files import write_json
from runner.images import ORIENTATION, open_image, read_image_file
from runner.prompt_rendering import split_groups
from runner.records import Rendered, Sample
from runner.regime import Regime
from runner.resolved_plan import create_adapter, find_box_frame
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Reporter
from runner.stages.registry import suggestion

EXPORT_FILE = "export.json"
"""Describes an export; every folder that `runner export --to` writes has it."""
TRAINING_SPLIT = "train"


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        dataset: The folder of the data set.
        target: The folder to create.
        file_format: A key of `FORMATS`.
        spec: The spec whose adapter, regime and seed render the samples; its section `data` is not used.
        splits: The splits to export; None for all.
        escape_marks: Write marks in texts with a space, instead of refusing them.
        replace: Whether the folder of an earlier export may be replaced.
    """

    dataset: Path
    target: Path
    file_format: str
    spec: ExperimentSpec
    splits: Sequence[str] | None = None
    escape_marks: bool = False
    replace: bool = False


@dataclass(frozen=True)
class ExportedExamples:
    """What was exported.

    Attributes:
        num_examples: Number of examples by split.
        num_images: Number of image files.
        escaped: The ids of examples in whose texts a mark was escaped.
        num_turned: Number of images that were turned upright, because the other trainers ignore EXIF.
    """

    num_examples: Mapping[str, int]
    num_images: int
    escaped: Sequence[str]
    num_turned: int

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {**vars(self), "num_examples": dict(self.num_examples), "escaped": list(self.escaped)}


def export_examples(options: ExportOptions, reporter: Reporter) -> ExportedExamples:
    """Render the samples of a data set and write them in the format of another trainer.

    The training split is rendered as in the first epoch of a training. Other splits are rendered as they are asked at
    test, with their reference answers.

    Raises:
        DataError: The data set is invalid, a sample lacks what a task needs, a text contains a mark, or the folder
            exists.
        SpecError: A split or the format does not exist, or the adapter contradicts the data set.
    """
    file_format = FORMATS[options.file_format]
    folder = DatasetFolder(options.dataset)
    splits = choose_splits(folder.load_splits(), options.splits)
    check_export_target(options.target, replace=options.replace)
    examples = render_splits(options.spec, folder.labels, splits)
    escaped = _find_escaped(examples, file_format)
    if escaped and not options.escape_marks:
        _refuse_marks(escaped, file_format)
    new = NewContent(folder.description["name"], None, replace=True)
    with (
        exclusive_build(options.target),
        replace_folder(options.target, new, EXPORT_FILE, "an export of this kind") as unfinished,
    ):
        images = [path for rendered in examples.values() for example in rendered for path in example.images]
        names, num_turned = copy_images(images, folder.path, unfinished, reporter)
        for split, rendered in examples.items():
            rows = (example_row(example, file_format, names) for example in rendered)
            write_split(unfinished, split, rows, file_format)
        result = ExportedExamples(
            {split: len(rendered) for split, rendered in examples.items()}, len(names), list(escaped), num_turned
        )
        if file_format.name == "llama_factory":
            write_json(unfinished / "dataset_info.json", dataset_info(folder.description["name"], examples))
        write_json(unfinished / EXPORT_FILE, _describe(options, folder, result))
    return result


def choose_splits(splits: Mapping[str, Sequence[Sample]], chosen: Sequence[str] | None) -> dict[str, Sequence[Sample]]:
    """Return the chosen splits; None chooses all.

    Raises:
        SpecError: The data set does not have a split.
    """
    for name in chosen or ():
        if name not in splits:
            raise SpecError(f"--split {name}: the data set has no such split{suggestion(name, splits)}")
    return {name: splits[name] for name in (splits if chosen is None else chosen)}


def check_export_target(target: Path, *, replace: bool) -> None:
    """Check that the folder of an export does not exist, or may be replaced.

    Raises:
        DataError: It exists, and is no export or may not be replaced.
    """
    if not target.exists():
        return
    if not (target / EXPORT_FILE).is_file():
        raise DataError(
            f"{target}: already exists and is not an export of this kind. Choose another path, or remove it"
        )
    if not replace:
        raise DataError(f"{target}: already exists. Choose another path, or replace the folder with --replace")


def render_splits(
    spec: ExperimentSpec, labels: Sequence[str], splits: Mapping[str, Sequence[Sample]]
) -> dict[str, Sequence[Rendered]]:
    """Render the training split as in the first epoch of a training, and the other splits as at test, with answers."""
    adapter = create_adapter(spec, labels)
    at_test = spec.regime.model_copy(update={"context": {}})
    rendered: dict[str, Sequence[Rendered]] = {}
    for split, samples in splits.items():
        options, num_draws = (spec.regime, spec.num_target_draws) if split == TRAINING_SPLIT else (at_test, 0)
        is_shuffled = options.context and options.context_content == "shuffled"
        groups = split_groups(samples, spec.max_hash_distance) if is_shuffled else [sample.id for sample in samples]
        rendered[split] = Regime(options, adapter, spec.seed, num_draws).training_examples(samples, groups).first
    return rendered


def _find_escaped(
    examples: Mapping[str, Sequence[Rendered]], file_format: TrainingFormat
) -> dict[str, tuple[str, list[str]]]:
    """Return the split and the marks of each example that has any, by id."""
    return {
        example.id: (split, marks)
        for split, rendered in examples.items()
        for example in rendered
        if (marks := find_example_marks(example, file_format))
    }


def _refuse_marks(escaped: Mapping[str, tuple[str, list[str]]], file_format: TrainingFormat) -> None:
    problems = [
        f"sample {example_id!r} ({split}): {', '.join(marks)}" for example_id, (split, marks) in escaped.items()
    ]
    raise_problems(
        [
            f"{len(problems):,} texts contain what {file_format.trainer} does not read as text. Write a space after "
            "each `<` with --marks escape, or change or remove these samples:",
            *problems,
        ]
    )


def copy_images(paths: Iterable[Path], root: Path, target: Path, reporter: Reporter) -> tuple[dict[Path, str], int]:
    """Copy images of a data set into an export, each once and upright.

    Args:
        paths: The images.
        root: The folder of the data set.
        target: The folder of the export.
        reporter: Receives the progress.

    Returns:
        The name of each image in both folders, and the number of images that were turned upright.

    Raises:
        DataError: An image cannot be read.
    """
    names = {path: path.relative_to(root).as_posix() for path in dict.fromkeys(paths)}
    num_turned = 0
    for index, (path, name) in enumerate(names.items(), start=1):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        num_turned += _copy_upright(path, target / name)
        reporter.progress(index, len(names))
    return names, num_turned


def _copy_upright(source: Path, target: Path) -> bool:
    """Copy an image; if EXIF says that it is turned, save it upright in the same format. Return whether it was."""
    try:
        content = read_image_file(source)
        with open_image(content) as image:
            if int(image.getexif().get(ORIENTATION, 1)) == 1:
                target.write_bytes(content)
                return False
            ImageOps.exif_transpose(image).save(target, format=image.format)
            return True
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{source}: the image cannot be exported: {error}") from error


def _describe(options: ExportOptions, folder: DatasetFolder, result: ExportedExamples) -> dict[str, Any]:
    spec = options.spec
    return {
        "format": options.file_format,
        "data": {"name": folder.description["name"], "fingerprint": folder.description.get("fingerprint")},
        "adapter": spec.adapter.as_json(),
        "regime": spec.regime.model_dump(mode="json"),
        "seed": spec.seed,
        "box_frame": frame.as_json() if (frame := find_box_frame(spec)) else None,
        **result.as_json(),
    }
