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

HUB = "hub"
TRAINERS = ("ms_swift", "llama_factory", "2u1")
SCORERS = ("seqeval", "coco")
EXPORT_FORMATS = (HUB, *TRAINERS, *SCORERS)
"""The values of `--to`."""
OPTION_FORMATS = {
    "--spec": (*TRAINERS, *SCORERS),
    "--set": (*TRAINERS, *SCORERS),
    "--split": (*TRAINERS, *SCORERS),
    "--predictions": SCORERS,
    "--marks": TRAINERS,
}
"""The formats on which an option has an effect."""
SCORED_SPLIT = "test"
"""The split that is exported for a scorer if the user names none."""


class Marks(StrEnum):
    """What happens to texts that a trainer would not read as text."""

    refuse = "refuse"
    escape = "escape"


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
            "reference answers of a split, and those of --predictions, for these scorers.",
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
    replace: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export a data set for other programs: Hugging Face datasets, other trainers, other scorers."""
    given = {
        "--spec": spec,
        "--set": overrides,
        "--split": split,
        "--predictions": predictions,
        "--marks": marks is Marks.escape,
    }
    _check_options(to, [option for option, value in given.items() if value])
    if to == HUB:
        _export_to_hub(dataset, folder, replace=replace, as_json=as_json)
        return
    from runner.spec.load import load_spec

    assert spec is not None
    if to in SCORERS:
        from runner.errors import SpecError
        from runner.export_answers import AnswerExportOptions

        chosen = split_list(split) or (SCORED_SPLIT,)
        if len(chosen) > 1:
            raise SpecError(f"--to {to}: name one split with --split, not {len(chosen)}")
        loaded = load_spec(spec, overrides or ()).spec
        _export_for_scorer(
            AnswerExportOptions(dataset.resolve(), folder.resolve(), to, loaded, chosen[0], predictions, replace),
            as_json=as_json,
        )
        return
    from runner.export_examples import ExportOptions, export_examples

    options = ExportOptions(
        dataset=dataset.resolve(),
        target=folder.resolve(),
        file_format=to,
        spec=load_spec(spec, overrides or ()).spec,
        splits=split_list(split),
        escape_marks=marks is Marks.escape,
        replace=replace,
    )
    with stage_reporter("export") as reporter:
        result = export_examples(options, reporter)
    if as_json:
        print_json({"path": str(folder.resolve()), "format": to, **result.as_json()})
        return
    print_text(f"export: {folder}")
    print_text(format_num_samples(result.num_examples, "examples"))
    print_text(f"images: {result.num_images:,}")
    if result.escaped:
        print_text(f"escaped marks in {len(result.escaped):,} examples (listed in {folder / 'export.json'})")
    if result.num_turned:
        print_text(f"turned {result.num_turned:,} images upright, because {to} ignores their EXIF orientation")
    print_text(f"next: {_next_step(to, folder.resolve())}")


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
