"""The demo's promises: what it reaches, and that it looks at the pictures."""

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
    """The demo's trial: that of `make demo` where it has been run, else run now."""
    done = project.run("launch", DEMO, "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    return trial


def test_it_learns_both_tasks(demo):
    assert demo["metrics"]["ner_f1"] >= 0.9
    assert demo["metrics"]["image_entity_accuracy"] >= 0.9


def test_it_looks_at_the_pictures(demo):
    blind = metrics_with_blank_images(Path(demo["run_dir"]))
    assert demo["metrics"]["image_entity_accuracy"] - blind["image_entity_accuracy"] >= 0.25
