"""MLflow's pages in a real browser: a nested sweep, its charts, and the evaluation table with images."""

import json
import shutil
import subprocess
from contextlib import suppress

import pytest
from PIL import Image
from servers import free_port, wait_for

from plugins.tracker.mlflow import MlflowTracker
from plugins.tracker.mlflow_options import MlflowOptions
from runner.stages import DatasetInfo, TrackedRun

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]


def shown(storage, name, parent=None):
    """Log a run with a curve, and a wrong answer with its image."""
    run_dir = storage / "demo" / name
    (run_dir / "mistakes").mkdir(parents=True)
    Image.new("RGB", (260, 128), "orange").save(run_dir / "mistakes" / "1.jpg")
    row = {"id": "7", "pictures": "mistakes/1.jpg", "text": "Ann sings", "pairs": "", "right pairs": "person: Ann"}
    (run_dir / "mistakes.jsonl").write_text(json.dumps(row) + "\n")
    dataset = DatasetInfo("tweets", "/data", "f" * 64, ("person",), {"train": 7, "test": 3})
    plan = {"seed": 1, "trainer.epochs": 3, "trainer.precision": "bf16"}
    run = TrackedRun(
        "demo", name, name, run_dir, plan, dataset, run_dir / "spec.yaml", parent, non_default={"trainer.epochs"}
    )
    tracker = MlflowTracker(MlflowOptions(), storage)
    run_id = tracker.start(run)
    for step in range(9):
        told = {"kind": "metrics", "step": step, "values": {"train/loss": 9.0 - step}}
        tracker.log_events([{"time": f"2026-11-23T10:00:0{step}.000+00:00", **told}])
    tracker.finish("finished")
    return run_id, tracker


@pytest.fixture
def address(tmp_path):
    """The address of MLflow's pages for a store with a sweep of two trials, and the id of one trial."""
    storage = tmp_path / "runs"
    sweep, tracker = shown(storage, "sweep-1")
    trials = [shown(storage, f"trial-{number}", sweep)[0] for number in (1, 2)]
    port = free_port()
    command = tracker.serve_command("127.0.0.1", port)
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/#/experiments/1/runs", trials[0]
    finally:
        server.terminate()
        server.wait(600)


def _unfold(page, sweep, trial):
    """Click the arrow before a sweep, which has no accessible name and may move while the table is laid out."""
    from playwright.sync_api import TimeoutError as AwayError

    for _ in range(10):
        box = page.get_by_text(sweep).first.bounding_box()
        page.mouse.click(box["x"] - 33, box["y"] + box["height"] / 2)
        with suppress(AwayError):
            return page.get_by_text(trial).first.wait_for(timeout=20_000)
    raise AssertionError(f"{trial} does not show beneath {sweep}")


def test_the_pages_of_a_sweep(address):
    from playwright.sync_api import sync_playwright

    runs, trial = address
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(120_000)

        page.goto(f"{runs}/{trial}?workflowType=machine_learning")
        page.get_by_text("Settings of the spec").first.wait_for()
        for text in ("sweep-1", "tweets/train", "trainer.epochs", "Finished"):
            page.get_by_text(text).first.wait_for()

        page.goto(f"{runs}/{trial}/artifacts/mistakes.json?workflowType=machine_learning")
        page.get_by_text("right pairs").first.wait_for()
        page.get_by_text("person: Ann").first.wait_for()
        page.wait_for_function("[...document.images].some(each => each.naturalWidth === 260)")

        page.goto(f"{runs}?workflowType=machine_learning")
        page.get_by_text("sweep-1").first.wait_for()
        assert page.get_by_text("trial-1").count() == 0, "trials lie beneath their sweep"
        _unfold(page, "sweep-1", "trial-1")

        page.goto(f"{runs}?workflowType=machine_learning&compareRunsMode=CHART")
        page.get_by_text("train/loss").first.wait_for()
        page.locator(".js-plotly-plot").first.wait_for()
        browser.close()
