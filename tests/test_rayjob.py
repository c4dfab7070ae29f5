"""The manifest for KubeRay: its fields, its versions, and the command that it runs.

KubeRay publishes its schema in its repository and in no package, so that a test cannot fetch it. To compare the
manifest with it, name the file: RAYJOB_CRD=ray.io_rayjobs.yaml pytest tests/test_rayjob.py
"""

import copy
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from runner.execute.ray.jobs import STOP

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
QUANTITY = {"type": ["string", "integer"], "pattern": r"^[0-9]+(Gi)?$"}


def fields(**known):
    """The schema of an object with these fields, all of which are required, and no others."""
    return {"type": "object", "properties": known, "required": list(known), "additionalProperties": False}


AMOUNTS = {
    "type": "object",
    "propertyNames": {"enum": ["cpu", "memory", "nvidia.com/gpu"]},
    "additionalProperties": QUANTITY,
}
CONTAINER = fields(
    name=TEXT,
    image=TEXT,
    resources=fields(requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts={"type": "array", "items": fields(name=TEXT, mountPath=TEXT)},
)
VOLUME = fields(name=TEXT, persistentVolumeClaim=fields(claimName=TEXT))
POD = fields(
    spec=fields(
        containers={"type": "array", "items": CONTAINER, "minItems": 1}, volumes={"type": "array", "items": VOLUME}
    )
)
START = {"type": "object", "additionalProperties": TEXT}
WORKERS = fields(
    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=START, template=POD
)
FIELDS = fields(
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
    spec=fields(
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        rayClusterSpec=fields(
            rayVersion=TEXT,
            authOptions=fields(mode={"enum": ["token", "disabled"]}),
            headGroupSpec=fields(rayStartParams=START, template=POD),
            workerGroupSpecs={"type": "array", "items": WORKERS, "minItems": 1},
        ),
    ),
)
"""The part of the schema of `ray.io/v1` that the manifest uses."""


@pytest.fixture
def manifest(project):
    return yaml.safe_load((project.folder / "docs" / "cluster" / "rayjob.yaml").read_text())


def without_unknown_fields(schema):
    """Refuse fields that a schema does not know; Kubernetes would drop them with a warning."""
    if isinstance(schema, list):
        return [without_unknown_fields(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: without_unknown_fields(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def test_the_manifest_has_the_fields_of_a_ray_job(manifest):
    jsonschema.validate(manifest, FIELDS)


@pytest.mark.skipif("RAYJOB_CRD" not in os.environ, reason="RAYJOB_CRD names no file with KubeRay's schema")
def test_the_manifest_and_the_fields_above_fit_the_schema_of_kuberay(manifest):
    definition = yaml.safe_load(Path(os.environ["RAYJOB_CRD"]).read_text())
    [version] = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = without_unknown_fields(version["schema"]["openAPIV3Schema"])
    # The schema of a custom resource leaves its metadata to Kubernetes.
    schema["properties"]["metadata"] = FIELDS["properties"]["metadata"]
    jsonschema.validate(manifest, schema)
    misspelt = copy.deepcopy(manifest)
    misspelt["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(misspelt, schema)


def test_versions_signals_and_volumes_agree(manifest, project):
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    pinned = re.search(r"^ray==(.+)$", (project.folder / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert cluster["rayVersion"] == pinned[1]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == STOP
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [container for pod in pods for container in pod["template"]["spec"]["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["volumeMounts"] == [{"name": "work", "mountPath": "/work"}] for container in containers)
    words = spec["entrypoint"].split()
    assert words[:2] == ["runner", "launch"]
    assert (project.folder / words[2].removeprefix("/work/")).exists()
    assert words[3:] == ["--set", "compute.storage=/work/runs"]
