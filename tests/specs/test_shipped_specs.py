"""Every shipped spec is valid, matches its schema, and names its schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from bench.families import families
from runner.resolved_plan import create_plugin
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_any, load_spec
from runner.spec.schema import spec_schema

SPECS = Path(__file__).parent.parent.parent / "specs"
SCHEMAS = {"schema.json": ExperimentSpec, "dataset_schema.json": DatasetSpec}


@pytest.fixture(params=sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def shipped(request):
    return request.param


def schema_of(path):
    first = path.read_text().splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    return first.removeprefix(prefix)


def test_spec_is_valid(shipped):
    assert isinstance(load_any(shipped), SCHEMAS[schema_of(shipped)])


def test_spec_is_the_same_with_every_default_written_out(shipped, tmp_path):
    spec = load_any(shipped)
    written = tmp_path / "plan.json"
    written.write_text(json.dumps(spec.as_json()), encoding="utf-8")
    assert load_any(written) == spec


def test_schema_accepts_the_spec_and_rejects_unknown_options(shipped):
    schema = json.loads((SPECS / schema_of(shipped)).read_text())
    written = json.loads(json.dumps(yaml.safe_load(shipped.read_text().replace("e-", ".0e-"))))
    jsonschema.validate(written, schema)
    for section in (value for value in written.values() if isinstance(value, dict) and "type" in value):
        section["misspelt"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(written, schema)
        del section["misspelt"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_stored_schemas_match_the_plugins(name):
    assert json.loads((SPECS / name).read_text()) == spec_schema(SCHEMAS[name]), "run `make schema`"


@pytest.mark.parametrize("family", families())
def test_the_groups_of_the_demo_fit_every_family(family):
    """With `model.type` alone, the demo trains another family; `python -m bench.families` does so."""
    spec = load_spec(SPECS / "tiny_mmre.yaml", [f"model.type={family}"]).spec
    module = create_plugin(spec.model).model_spec(["Who is this?"] * 8).module
    rows = create_plugin(spec.optimizer).prepare(module, 0)
    assert {row.name for row in rows} == {name for name, _ in module.named_parameters()}
    assert all(row.trainable for row in rows)
    assert {"patches", "embeddings", "head", "norms", "biases", "matrices"} <= {row.group for row in rows}
