"""Commands that write data sets for other programs, and read them back: export, import."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.app import DATASETS, AsJson, Debug, Overrides, app
from runner.cli.dataset_commands import DatasetFolder, Replace, format_num_samples, stage_reporter
from runner.cli.evaluation_commands import split_list
from runner.cli.printing import print_json, print_text

HUB = "hub"
TRAINERS = ("ms_swift", "llama_factory", "2u1")
EXPORT_FORMATS = (HUB, *TRAINERS)
"""The values of `--to`."""


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
            "examples that a spec trains on, for these trainers.",
        ),
    ] = HUB,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="SPEC",
            help="The spec whose adapter, regime and seed render the examples. Its data section is not used.",
        ),
    ] = None,
    overrides: Overrides = None,
    split: Annotated[
        list[str] | None, typer.Option(metavar="A,B,…", help="Export only these splits. Default: all splits.")
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
    """Export a data set for other programs: as Parquet for the Hugging Face hub, or as examples for other trainers."""
    _check_options(to, spec=spec, overrides=overrides, split=split, marks=marks)
    if to == HUB:
        _export_to_hub(dataset, folder, replace=replace, as_json=as_json)
        return
    from runner.export_examples import ExportOptions, export_examples
    from runner.spec.load import load_spec

    assert spec is not None
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


def _check_options(
    to: str, *, spec: Path | None, overrides: Sequence[str] | None, split: Sequence[str] | None, marks: Marks
) -> None:
    """Refuse an unknown format, and options that have no effect on the format.

    Raises:
        SpecError: With what would be right.
    """
    from runner.errors import SpecError
    from runner.stages.registry import suggestion

    if to not in EXPORT_FORMATS:
        raise SpecError(f"--to {to}: there is no such format{suggestion(to, EXPORT_FORMATS)}")
    needs_spec = to in TRAINERS
    if needs_spec and spec is None:
        raise SpecError(
            f"--to {to} needs --spec SPEC, whose adapter renders the examples, such as specs/qwen_mmre.yaml"
        )
    given = {"--spec": spec, "--set": overrides, "--split": split, "--marks": marks is Marks.escape}
    unused = [option for option, value in given.items() if value and to == HUB]
    if unused:
        raise SpecError(f"{unused[0]} has no effect with --to {to}; remove it, or name another format with --to")


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
