"""The tiny model learns boxes, and uses the pictures for them."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from blank_images import metrics_with_blank_images

pytestmark = pytest.mark.slow


def test_entities_are_located_in_pictures(project):
    done = project.run("launch", ROOT / "specs" / "tiny_gmner_boxes.yaml", "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    assert trial["metrics"]["box_accuracy"] >= 0.8
    assert trial["metrics"]["gmner_f1"] >= 0.8
    assert metrics_with_blank_images(Path(trial["run_dir"]))["box_accuracy"] <= 0.3
