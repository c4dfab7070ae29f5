"""`runner validate`: one line for each error, and no heavy imports; bench/validate.py measures its cost."""

import json
import subprocess
import sys
from typing import get_args

import pytest
from pydantic import ValidationError

from runner.spec.dataset_spec import CropOptions
from runner.spec.experiment_spec import ComputeOptions
from runner.spec.sweep_section import Dimension, SweepOptions
from runner.stages import Ratios, Stage
from runner.stages.registry import installed_plugins

FIVE_MISTAKES = """\
name: five
data: {type: mmre, path: x}
adapter: {type: pfa, tasks: [ner, mach]}
model: {type: qwen2_5_vl, checkpoint: Qwen/Qwen2.5-VL-7B-Instruct}
optimizer:
  type: adamw
  groups:
    language: {match: "*", lr: fast}
trainer: {type: stf, epochs: 3}
generator: {type: transformers, max_new_token: 512}
metrics: [{type: rouge}, {type: blue}]
tracker: {type: mlflow}
"""
EXPECTED = [
    (3, "adapter.tasks.1", "match"),
    (8, "optimizer.groups.language.lr", "number"),
    (9, "trainer.type", "did you mean 'sft'?"),
    (10, "generator.max_new_token", "did you mean 'max_new_tokens'?"),
    (11, "metrics.1.type", "did you mean 'bleu'?"),
]
HEAVY = ("torch", "ray", "mlflow", "transformers", "accelerate", "PIL", "numpy", "rich", "nicegui")

IN_PROCESS = f"""
import sys
sys.argv = ["runner", "validate", "five.yaml"]
from runner.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code == 2, end.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.fixture
def five(workplace):
    (workplace.folder / "five.yaml").write_text(FIVE_MISTAKES)
    return workplace


def test_five_errors_are_five_lines_with_suggestions(five):
    done = five.run("validate", "five.yaml")
    assert done.returncode == 2
    *lines, last = done.stdout.splitlines()
    assert last == "5 problem(s) in 1 file(s)"
    for line, (number, path, suggestion) in zip(lines, EXPECTED, strict=True):
        assert line.startswith(f"five.yaml:{number}:")
        assert path in line
        assert suggestion in line


def test_errors_as_json(five):
    done = five.run("validate", "five.yaml", "--json")
    printed = json.loads(done.stdout)
    assert printed["valid"] is False
    assert [(each["file"], each["line"], each["path"]) for each in printed["errors"]] == [
        ("five.yaml", number, path) for number, path, _ in EXPECTED
    ]
    assert all(each["column"] > 0 for each in printed["errors"])


def test_no_heavy_package_is_imported(five):
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS], cwd=five.folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [\n", "just text", "name: x\nname: y\n", "a: &a [*a]\n"])
def test_any_file_content_is_reported_without_a_traceback(workplace, text):
    (workplace.folder / "odd.yaml").write_text(text)
    done = workplace.run("validate", "odd.yaml", "nowhere.yaml")
    assert done.returncode == 2
    assert "odd.yaml" in done.stdout
    assert "nowhere.yaml: cannot be read" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_misspelt_type_is_named_with_its_line(workplace):
    (workplace.folder / "spec.yaml").write_text("name: x\ndata:\n  path: data\n  tpye: synthetic\n")
    done = workplace.run("validate", "spec.yaml")
    assert "spec.yaml:4:3: data: needs a `type` that names a data plugin; did you mean `type` instead of 'tpye'?" in (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("compute.storage", "~no-such-user/x", "compute.storage: '~no-such-user/x' cannot be a path: Could not deter"),
        ("compute.storage", "loop/x", "compute.storage: 'loop/x' cannot be a path: Symlink loop from"),
        ("compute.cache", "loop", "compute.cache: 'loop' cannot be a path: Symlink loop from"),
        ("data.path", "~no-such-user/x", "data.path: '~no-such-user/x' cannot be a path: Could not determine"),
        ("model.checkpoint", "./loop", "model.checkpoint: './loop' cannot be a path: Symlink loop from"),
        ("tracker.uri", "sqlite:///loop", "tracker.uri: 'loop' cannot be a path: Symlink loop from"),
        ("compute.cache_limit", f"{'9' * 400}GB", "compute.cache_limit: '999"),
        ("compute.gpu_memory", f"{'9' * 400}GB", "compute.gpu_memory: string should match pattern"),
        ("compute.memory", f"{'9' * 400}GB", "compute.memory: string should match pattern"),
        ("adapter.images", "x" * 500, f"adapter.images: '{'x' * 56}… is not valid"),
    ],
)
def test_paths_and_sizes_that_cannot_exist_are_errors_of_the_spec(five, path, value, message):
    (five.folder / "loop").symlink_to("loop")
    done = five.run("validate", "five.yaml", "--set", f"{path}={value}")
    assert done.returncode == 2, done.stderr
    assert f": {message}" in done.stdout


def test_the_description_of_a_missing_value_is_one_line(workplace):
    (workplace.folder / "spec.yaml").write_text("name: x\nmetrics: [{type: rouge}]\n")
    *problems, _ = workplace.run("validate", "spec.yaml").stdout.splitlines()
    assert all(problem.startswith("spec.yaml:1:1: ") for problem in problems)
    assert any("or `constant`, which needs no model." in problem for problem in problems)


def _booleans_as_numbers(schema, definitions):
    """Yield values that put `true` where the schema expects a number, each with the path of that number."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") in {"integer", "number"}:
        yield True, ()
    for option in schema.get("anyOf", ()):
        yield from _booleans_as_numbers(option, definitions)
    items = schema.get("prefixItems") or [schema["items"]] if "items" in schema or "prefixItems" in schema else []
    for index, item in enumerate(items):
        for value, path in _booleans_as_numbers(item, definitions):
            yield [*[1] * index, value, *[1] * (len(items) - index - 1)], (index, *path)
    for name, inner in {"any": schema.get("additionalProperties"), **schema.get("properties", {})}.items():
        if isinstance(inner, dict):
            for value, path in _booleans_as_numbers(inner, definitions):
                yield {name: value}, (name, *path)


MODELS = {
    **{
        f"{stage}.{name}": plugin.options_class()
        for stage in get_args(Stage)
        for name, plugin in installed_plugins(stage).items()
    },
    **{model.__name__: model for model in (ComputeOptions, CropOptions, Ratios, SweepOptions, Dimension)},
}


@pytest.mark.parametrize("name", MODELS)
def test_no_number_of_any_plugin_or_of_the_engine_may_be_true(name):
    """Python counts `true` as 1: it would silently train one epoch, with a learning rate of 1."""
    schema = MODELS[name].model_json_schema()
    numbers = list(_booleans_as_numbers({**schema, "title": name}, schema.get("$defs", {})))
    for value, path in numbers:
        with pytest.raises(ValidationError) as caught:
            MODELS[name].model_validate(value)
        places = [
            (tuple(part for part in error["loc"] if part in path), error["msg"])
            for error in caught.value.errors(include_url=False)
        ]
        assert (path, "Input should be a number") in places, (value, places)


def test_true_for_a_number_is_an_error_with_its_line(five):
    text = FIVE_MISTAKES.replace("stf, epochs: 3", "sft, epochs: true,\n  max_steps: True, max_length: TRUE").replace(
        "lr: fast", "lr: true"
    )
    (five.folder / "true.yaml").write_text(text)
    lines = five.run("validate", "true.yaml", "--set", "seed=false").stdout.splitlines()
    for line in (
        "true.yaml:8:28: optimizer.groups.language.lr: input should be a number, not true",
        "true.yaml:9:22: trainer.epochs: input should be a number, not true",
        "true.yaml:10:3: trainer.max_steps: input should be a number, not true",
        "true.yaml:10:20: trainer.max_length: input should be a number, not true",
        "--set seed=false: seed: input should be a number, not false",
    ):
        assert line in lines


@pytest.mark.parametrize("name", ["mlflow.db", "MLflow.db-wal", "mlartifacts"])
def test_an_experiment_cannot_have_the_name_of_a_file_of_the_tracker(five, name):
    assert "is the name of a file of the tracker" in five.run("validate", "five.yaml", "--set", f"name={name}").stdout
