"""Creates the specs of `runner init`: a starter experiment, or a copy of a spec that ships with the package."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from textwrap import shorten

from runner.errors import SpecError
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_any, load_spec
from runner.spec.schema import spec_schema

DESCRIPTION_WIDTH = 100
"""Most characters of a shipped spec's description."""

SCHEMA_FILE, DATASET_SCHEMA_FILE = "runner.schema.json", "runner.dataset_schema.json"

STARTER = """\
# yaml-language-server: $schema={schema}
# A whole experiment on a data set that is generated on the way, small enough for a laptop:
#   runner validate {file}      checks this file
#   runner plan {file}          what would run
#   runner launch {file}        trains, generates, scores
# For your own data: data: {{type: mmre, path: DATASET}}, a folder made by `runner build`.
name: {name}
seed: 42
data: {{type: synthetic, train: 3000, test: 600}}
adapter: {{type: pfa, tasks: [summary, ner, match], images: lettered}}
model: {{type: qwen2_5_vl, size: tiny}}                   # or checkpoint: Qwen/Qwen2.5-VL-7B-Instruct
optimizer:
  type: adamw
  groups:                                                 # first match wins
    merger: {{match: "*merger*", lr: 3e-3}}
    vision: {{match: "*visual*", lr: 3e-3}}
    language: {{match: "*", lr: 3e-3}}
trainer: {{type: sft, epochs: 2, global_batch_size: 16}}
generator: {{type: transformers, max_new_tokens: 160}}
metrics: [{{type: rouge}}, {{type: bleu}}, {{type: ner_f1}}, {{type: image_entity_accuracy}}]
tracker: {{type: mlflow}}
"""


def write_starter(name: str, folder: Path) -> Path:
    """Write `<name>.yaml`, and the schema that its first line points an editor at.

    Raises:
        SpecError: The file exists already, or the name is not valid for an experiment.
    """
    path = _new_spec_path(folder, name, "runner init NAME")
    path.write_text(STARTER.format(name=path.stem, file=path.name, schema=SCHEMA_FILE), encoding="utf-8")
    try:
        load_spec(path)
    except SpecError:
        path.unlink()
        raise
    _write_schema(folder, SCHEMA_FILE)
    return path


def shipped_specs() -> dict[str, str]:
    """List the specs that ship with the package: the name and the first sentence of the leading comment."""
    return {path.stem: _first_sentence(path) for path in sorted(_shipped_folder().glob("*.yaml"))}


def copy_shipped_spec(source: str, name: str | None, folder: Path) -> list[Path]:
    """Copy a shipped spec, and the specs that it extends, into a folder.

    The copies differ from the originals in the name, and in paths: the originals lie in a folder of their own, beside
    the folder `data`. A base spec that is there already with the same content is left as it is.

    Args:
        source: The name of the shipped spec, such as `qwen_mmre`.
        name: The name of the experiment or data set, and of the file. Default: `source`.
        folder: Where to write the files.

    Returns:
        The files that were written: the spec first, then its base specs.

    Raises:
        SpecError: There is no such spec, a file exists already, or the name is not valid.
    """
    chain = _extends_chain(source.removesuffix(".yaml"))
    target = _new_spec_path(folder, name or chain[0].stem, f"runner init --from {chain[0].stem} NAME")
    texts = {target: _adapt(chain[0], target.stem)}
    for base in chain[1:]:
        path, text = folder / base.name, _adapt(base, base.stem)
        if path == target:
            raise SpecError(f"{path.name} is the name of a spec that {chain[0].stem} extends; choose another name")
        if not path.exists():
            texts[path] = text
        elif path.read_text(encoding="utf-8") != text:
            raise SpecError(
                f"{path.name} exists already and differs from the shipped spec, which {chain[0].stem} extends; rename "
                "it, or use another folder"
            )
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    try:
        spec = load_any(target)
    except SpecError:
        for path in texts:
            path.unlink()
        raise
    _write_schema(folder, DATASET_SCHEMA_FILE if isinstance(spec, DatasetSpec) else SCHEMA_FILE)
    return list(texts)


def _new_spec_path(folder: Path, name: str, command: str) -> Path:
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if path.parent != folder:
        raise SpecError(f"{name!r} is not a file name, and specs are written into the current folder: {command}")
    if path.exists():
        raise SpecError(f"{path.name} exists already; choose another name: {command}")
    return path


def _write_schema(folder: Path, file: str) -> None:
    schema = spec_schema(DatasetSpec if file == DATASET_SCHEMA_FILE else ExperimentSpec)
    (folder / file).write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shipped_folder() -> Path:
    """The folder of the shipped specs: inside an installed package, or `specs/` beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped_specs"
    return installed if installed.is_dir() else package.parent / "specs"


def _extends_chain(source: str) -> list[Path]:
    """The file of a shipped spec, then the file it extends, and so on."""
    folder = _shipped_folder()
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    if source not in names:
        close = get_close_matches(source, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`runner init --list` lists them"
        raise SpecError(f"there is no shipped spec {source!r}; {hint}")
    chain = [folder / f"{source}.yaml"]
    while base := re.search(r"(?m)^extends: *(\S+)", chain[-1].read_text(encoding="utf-8")):
        chain.append(folder / base[1])
    return chain


def _adapt(path: Path, name: str) -> str:
    """The text of a shipped spec as it has to be in the user's folder."""
    text = path.read_text(encoding="utf-8")
    replaced: Sequence[tuple[str, str]] = (
        (r"(?m)^name: .*$", f"name: {name}"),
        (r"\$schema=schema\.json", f"$schema={SCHEMA_FILE}"),
        (r"\$schema=dataset_schema\.json", f"$schema={DATASET_SCHEMA_FILE}"),
        (rf"\bspecs/{re.escape(path.stem)}\.yaml", f"{name}.yaml"),
        (r"\bspecs/(\w+\.yaml)", r"\1"),
        (r"\.\./data/", "data/"),
    )
    for pattern, replacement in replaced:
        text = re.sub(pattern, replacement, text)
    return text


def _first_sentence(path: Path) -> str:
    """The first sentence of the comment at the top of a spec, without the indented commands in it, on one line."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    comment = [line[2:] for line in takewhile(lambda line: line.startswith("# ") and line[2:3] != " ", lines)]
    sentence = re.split(r"(?<=[.?])\s", " ".join(comment), maxsplit=1)[0].rstrip(":.")
    return shorten(
        re.sub(r"\bspecs/(\w+)\.yaml", r"\1", sentence), DESCRIPTION_WIDTH, placeholder=" …", break_on_hyphens=False
    )
