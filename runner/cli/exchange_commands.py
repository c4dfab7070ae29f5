"""Commands that write data sets for other programs, and read them back: export, import."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import DATASETS, AsJson, Debug, Overrides, app
from runner.cli.dataset_commands import DatasetFolder, Replace, format_num_samples, stage_reporter
from runner.cli.evaluation_commands import split_list
from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.export_answers import AnswerExportOptions
    from runner.export_examples import ExportOptions
    from runner.export_tasks import TaskExportOptions

HUB = "hub"
TRAINERS = ("ms_swift", "llama_factory", "2u1")
SCORERS = ("seqeval", "coco")
LABEL_STUDIO = "label_studio"
EXPORT_FORMATS = (HUB, *TRAINERS, *SCORERS, LABEL_STUDIO)
"""The values of `--to`."""
OPTION_FORMATS = {
    "--spec": (*TRAINERS, *SCORERS),
    "--set": (*TRAINERS, *SCORERS),
    "--split": (*TRAINERS, *SCORERS, LABEL_STUDIO),
    "--predictions": SCORERS,
    "--marks": TRAINERS,
    "--as": (LABEL_STUDIO,),
    "--image-prefix": (LABEL_STUDIO,),
}
"""The formats on which an option has an effect."""
SCORED_SPLIT = "test"
"""The split that is exported for a scorer if the user names none."""


class Marks(StrEnum):
    """What happens to texts that a trainer would not read as text."""

    refuse = "refuse"
    escape = "escape"


class LabelStudioResult(StrEnum):
    """What the boxes and spans of a task are in Label Studio."""

    predictions = "predictions"
    annotations = "annotations"


@app.command(rich_help_panel=DATASETS)
def export(
    dataset: DatasetFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to create.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="hub: Parquet for the Hugging Face hub and the package `datasets`. ms_swift, llama_factory, 2u1: the "
            "examples that a spec trains on, for these trainers. seqeval: tokens with tags; coco: boxes; both hold the "
            "reference answers of a split, and those of --predictions, for these scorers. label_studio: tasks with "
            "boxes and spans for review.",
        ),
    ] = HUB,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="SPEC",
            help="The spec whose adapter, regime and seed render the examples, or whose adapter reads the answers. "
            "Its data section is not used.",
        ),
    ] = None,
    overrides: Overrides = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B,…", help="Export only these splits. Default: all splits; for a scorer, test."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='For a scorer: the outputs of a model, as JSON lines {"id", "output"}, such as predictions.jsonl of a '
            "run.",
        ),
    ] = None,
    marks: Annotated[
        Marks,
        typer.Option(
            help="A text that contains a mark of the trainer, such as <image>, is refused, or escaped: a space is "
            "written after the <."
        ),
    ] = Marks.refuse,
    regions: Annotated[
        LabelStudioResult,
        typer.Option(
            "--as",
            help="For label_studio: boxes and spans as predictions, which annotators correct, or as finished "
            "annotations.",
        ),
    ] = LabelStudioResult.predictions,
    image_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="For label_studio: what precedes images/NAME in the address of an image. Default: the address at "
            "which Label Studio serves local files.",
        ),
    ] = None,
    replace: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export a data set for other programs: Hugging Face datasets, trainers, scorers, Label Studio."""
    given = {
        "--spec": spec,
        "--set": overrides,
        "--split": split,
        "--predictions": predictions,
        "--marks": marks is Marks.escape,
        "--as": regions is LabelStudioResult.annotations,
        "--image-prefix": image_prefix,
    }
    _check_options(to, [option for option, value in given.items() if value])
    splits = split_list(split)
    if to == HUB:
        _export_to_hub(dataset, folder, replace=replace, as_json=as_json)
    elif to == LABEL_STUDIO:
        from runner.export_tasks import LOCAL_FILES, TaskExportOptions

        prefix = LOCAL_FILES if image_prefix is None else image_prefix
        _export_for_label_studio(
            TaskExportOptions(dataset.resolve(), folder.resolve(), splits, regions.value, prefix, replace),
            as_json=as_json,
        )
    else:
        from runner.spec.load import load_spec

        assert spec is not None
        loaded = load_spec(spec, overrides or ()).spec
        if to in SCORERS:
            from runner.export_answers import AnswerExportOptions

            scored = _only_split(to, splits)
            _export_for_scorer(
                AnswerExportOptions(dataset.resolve(), folder.resolve(), to, loaded, scored, predictions, replace),
                as_json=as_json,
            )
        else:
            from runner.export_examples import ExportOptions

            escape = marks is Marks.escape
            _export_for_trainer(
                ExportOptions(dataset.resolve(), folder.resolve(), to, loaded, splits, escape, replace),
                as_json=as_json,
            )


def _only_split(to: str, splits: Sequence[str] | None) -> str:
    from runner.errors import SpecError

    if splits is not None and len(splits) > 1:
        raise SpecError(f"--to {to}: name one split with --split, not {len(splits)}")
    return splits[0] if splits else SCORED_SPLIT


def _export_for_trainer(options: ExportOptions, *, as_json: bool) -> None:
    from runner.export_examples import EXPORT_FILE, export_examples

    with stage_reporter("export") as reporter:
        result = export_examples(options, reporter)
    folder, to = options.target, options.file_format
    if as_json:
        print_json({"path": str(folder), "format": to, **result.as_json()})
        return
    print_text(f"export: {folder}")
    print_text(format_num_samples(result.num_examples, "examples"))
    print_text(f"images: {result.num_images:,}")
    if result.escaped:
        print_text(f"escaped marks in {len(result.escaped):,} examples (listed in {folder / EXPORT_FILE})")
    if result.num_turned:
        print_text(f"turned {result.num_turned:,} images upright, because {to} ignores their EXIF orientation")
    print_text(f"next: {_next_step(to, folder)}")


def _check_options(to: str, given: Sequence[str]) -> None:
    """Refuse an unknown format, a missing spec, and options that have no effect on the format.

    Raises:
        SpecError: With what would be right.
    """
    from runner.errors import SpecError
    from runner.stages.registry import suggestion

    if to not in EXPORT_FORMATS:
        raise SpecError(f"--to {to}: there is no such format{suggestion(to, EXPORT_FORMATS)}")
    used = {option for option, formats in OPTION_FORMATS.items() if to in formats}
    unused = [option for option in given if option not in used]
    if unused:
        raise SpecError(f"{unused[0]} has no effect with --to {to}; remove it, or name another format with --to")
    if "--spec" in used and "--spec" not in given:
        raise SpecError(f"--to {to} needs --spec SPEC, such as specs/qwen_mmre.yaml, for its adapter")


def _export_for_scorer(options: AnswerExportOptions, *, as_json: bool) -> None:
    from runner.export_answers import UNALIGNED_FILE, export_answers

    description = export_answers(options)
    if as_json:
        print_json({"path": str(options.target), **description})
        return
    print_text(f"export: {options.target}")
    print_text(format_num_samples({options.split: description["num_samples"]}))
    for side, number in description.get("num_boxes", {}).items():
        print_text(f"boxes: {number:,} ({side})")
    for side, number in description.get("num_unaligned", {}).items():
        if number:
            print_text(f"not aligned with tokens: {number:,} mentions ({side}; see {options.target / UNALIGNED_FILE})")
    if number := description.get("num_without_tokens"):
        print_text(f"left out: {number:,} samples without text")


def _export_for_label_studio(options: TaskExportOptions, *, as_json: bool) -> None:
    from runner.export_tasks import CONFIGURATION_FILE, INCOMPLETE_FILE, export_tasks

    with stage_reporter("export") as reporter:
        description = export_tasks(options, reporter)
    if as_json:
        print_json({"path": str(options.target), **description})
        return
    print_text(f"export: {options.target}")
    print_text(format_num_samples(description["num_tasks"], "tasks"))
    if number := description["num_incomplete"]:
        print_text(f"incomplete: {number:,} tasks lack an entity or a box (see {options.target / INCOMPLETE_FILE})")
    print_text(
        f"next: create a project with {CONFIGURATION_FILE}, import the tasks; start Label Studio with "
        f"LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={options.target}, or "
        "name another address with --image-prefix"
    )


def _next_step(to: str, folder: Path) -> str:
    """Say how the trainer finds the files of an export."""
    steps = {
        "ms_swift": f"ROOT_IMAGE_DIR={folder} swift sft --dataset {folder}/train.jsonl …",
        "llama_factory": f"llamafactory-cli train with dataset_dir: {folder}, and as dataset a name of "
        f"{folder / 'dataset_info.json'}",
        "2u1": f"train_sft.py --data_path {folder}/train.json --image_folder {folder} …",
    }
    return steps[to]


def _export_to_hub(dataset: Path, folder: Path, *, replace: bool, as_json: bool) -> None:
    huggingface = _import_huggingface()
    with stage_reporter("export") as reporter:
        num_samples = huggingface.export_dataset(dataset.resolve(), folder.resolve(), reporter, replace=replace)
    if as_json:
        print_json({"path": str(folder.resolve()), "num_samples": num_samples})
        return
    print_text(f"export: {folder}")
    print_text(format_num_samples(num_samples))
    print_text(f"upload to the hub: hf upload NAME {folder} --repo-type dataset")


@app.command("import", rich_help_panel=DATASETS)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder that `runner export` has written, or the name of such a data set on the Hugging Face hub.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to create.")],
    replace: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Create a data-set folder from an export. The data set has the same fingerprint as the exported data set."""
    huggingface = _import_huggingface()
    with stage_reporter("import") as reporter:
        description = huggingface.import_dataset(source, folder.resolve(), reporter, replace=replace)
    if as_json:
        document = {name: description[name] for name in ("fingerprint", "num_samples", "statistics")}
        print_json({"path": str(folder.resolve()), **document})
        return
    print_text(f"data set: {folder}")
    print_text(format_num_samples(description["num_samples"]))
    print_text(f"fingerprint: {description['fingerprint']}")


def _import_huggingface() -> Any:
    """Import the module that needs the optional package `datasets`."""
    from runner.errors import RequirementError

    try:
        from runner.dataset import huggingface
    except ImportError as error:
        raise RequirementError(
            f"this needs Hugging Face's datasets: pip install 'mmre-runner[hub]' ({error})"
        ) from error
    return huggingface
