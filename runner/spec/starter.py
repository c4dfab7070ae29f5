"""The spec that `runner init` writes: a whole small experiment that runs as it is, to be edited from there."""

from __future__ import annotations

import json
from pathlib import Path

from runner.errors import SpecError
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_spec
from runner.spec.schema import spec_schema

SCHEMA_FILE = "runner.schema.json"

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
        SpecError: The file is there already, or the name cannot be an experiment's.
    """
    path = folder / f"{name.removesuffix('.yaml')}.yaml"
    if path.exists():
        raise SpecError(f"{path.name} is there already; name another: runner init NAME")
    path.write_text(STARTER.format(name=path.stem, file=path.name, schema=SCHEMA_FILE), encoding="utf-8")
    try:
        load_spec(path)
    except SpecError:
        path.unlink()
        raise
    schema = json.dumps(spec_schema(ExperimentSpec), indent=2, ensure_ascii=False)
    (folder / SCHEMA_FILE).write_text(schema + "\n", encoding="utf-8")
    return path
