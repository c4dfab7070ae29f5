"""The demo reaches its scores and uses the images."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from blank_images import metrics_with_blank_images

pytestmark = pytest.mark.slow

DEMO = ROOT / "specs" / "tiny_mmre.yaml"


@pytest.fixture(scope="module")
def demo(project):
    """Return the demo's trial; it is run now unless `make demo` has run it before."""
    done = project.run("launch", DEMO, "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    return trial


def test_both_tasks_are_learned(demo):
    assert demo["metrics"]["ner_f1"] >= 0.9
    assert demo["metrics"]["image_entity_accuracy"] >= 0.9


def test_model_uses_the_images(demo):
    blank = metrics_with_blank_images(Path(demo["run_dir"]))
    assert demo["metrics"]["image_entity_accuracy"] - blank["image_entity_accuracy"] >= 0.25
