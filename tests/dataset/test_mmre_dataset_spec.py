"""The data set of the paper by its shipped spec, on a small corpus: built, reviewed, trained on by the shipped spec."""

import json

import pytest
from chat_server import completion, serving

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder import DatasetFolder
from runner.dataset.review.decisions import Decision, decide, now, reviewed

SUMMARY = "This image shows a flag of four colours, red and green above, blue and yellow below."


@pytest.fixture
def shipped(workplace, corpus, project):
    """A function that builds the shipped spec with this test's corpus, place and server."""
    for number in range(12):
        corpus.good(f"{number}")

    def run(server, *arguments):
        places = {
            "source.path": corpus.path,
            "output": workplace.folder / "mmre",
            "annotator.base_url": server.url,
            "annotator.api_key_env": "null",
        }
        told = [word for name, value in places.items() for word in ("--set", f"{name}={value}")]
        return workplace.run("build", project.folder / "specs" / "mmre_dataset.yaml", *told, *arguments)

    return run


def test_it_waits_for_review_and_then_publishes(workplace, shipped):
    with serving(lambda body, before: completion(SUMMARY, tokens=(700, 20))) as server:
        dry = shipped(server, "--dry-run", "--json")
        assert json.loads(dry.stdout)["estimate"]["tokens"]["output"] == 12 * 300
        assert server.asked == []
        waiting = shipped(server)
        assert (waiting.returncode, len(server.asked)) == (0, 12), waiting.stderr
        path = workplace.folder / "mmre"
        assert "review waits: nobody has decided about 12 samples" in waiting.stdout
        assert f"runner review {path}" in waiting.stdout
        assert not path.exists()
        work = WorkFolder.of(path)
        for each in reviewed(work):
            row = each.row
            decide(work.decisions, Decision(row["id"], "accept", row["annotation"], None, "Ada", now()))
        done = shipped(server, "--json")
        assert len(server.asked) == 12
    told = json.loads(done.stdout)
    assert told["num_samples"] == {"train": 8, "test": 4}
    assert told["review"] == {"accepted": 12, "edited": 0, "rejected": 0, "undecided": 0}
    assert "crop: 12 samples, unchanged since the last build" in done.stderr
    folder = DatasetFolder(path)
    assert folder.info(folder.splits()).fingerprint == told["fingerprint"]


def test_a_smoke_run_asks_nobody_and_stands_beside_the_data_set(workplace, shipped):
    with serving(lambda body, before: completion(SUMMARY)) as server:
        done = shipped(server, "--smoke", "--json")
        assert (done.returncode, server.asked) == (0, []), done.stderr
    told = json.loads(done.stdout)
    assert told["path"] == str(workplace.folder / "mmre_smoke")
    assert sum(told["num_samples"].values()) == 8


def test_without_a_key_the_build_stops_before_it_asks(workplace, shipped):
    workplace.environment.pop("OPENAI_API_KEY", None)
    with serving(lambda body, before: completion(SUMMARY)) as server:
        done = shipped(server, "--set", "annotator.api_key_env=OPENAI_API_KEY")
        assert server.asked == []
    assert (done.returncode, done.stdout) == (2, "")
    assert "annotator: the environment has no OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_papers_spec_trains_on_it(workplace, shipped, project):
    with serving(lambda body, before: completion(SUMMARY, tokens=(700, 20))) as server:
        assert shipped(server, "--set", "publish=everything").returncode == 0
    data = f"data.path={workplace.folder / 'mmre'}"
    spec = project.folder / "specs" / "qwen_mmre.yaml"
    done = workplace.run("launch", spec, "--smoke", "--local", "--set", data, "--json")
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    assert trial["status"] == "finished"
    plan = json.loads((workplace.folder / trial["run_dir"] / "plan.json").read_text())
    assert plan["data"]["type"] == "mmre"
