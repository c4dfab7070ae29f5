"""The shipped spec of the paper's data set on a small corpus: build, review, and training by the shipped spec."""

import json

import pytest
from chat_server import completion, serving

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.review.decisions import Decision, append_decision, reviewed_samples, utc_now

SUMMARY = "This image shows a flag of four colours, red and green above, blue and yellow below."


@pytest.fixture
def shipped(workplace, corpus, project):
    """Return a function that builds the shipped spec with the test's corpus, folder and server."""
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


def test_build_waits_for_review_and_then_publishes(workplace, shipped):
    with serving(lambda body, before: completion(SUMMARY, tokens=(700, 20))) as server:
        dry = shipped(server, "--dry-run", "--json")
        assert json.loads(dry.stdout)["estimate"]["tokens"]["output"] == 12 * 300
        assert server.requests == []
        waiting = shipped(server)
        assert (waiting.returncode, len(server.requests)) == (0, 12), waiting.stderr
        path = workplace.folder / "mmre"
        assert "review pending: 12 samples have no decision yet" in waiting.stdout
        assert f"runner review {path}" in waiting.stdout
        assert not path.exists()
        work = WorkFolder.for_dataset(path)
        for each in reviewed_samples(work):
            row = each.row
            append_decision(work.decisions, Decision(row["id"], "accept", row["annotation"], None, "Ada", utc_now()))
        done = shipped(server, "--json")
        assert len(server.requests) == 12
    told = json.loads(done.stdout)
    assert told["num_samples"] == {"train": 8, "test": 4}
    assert told["review"] == {"accepted": 12, "edited": 0, "rejected": 0, "undecided": 0}
    assert "crop: 12 samples, unchanged since the last build" in done.stderr
    folder = DatasetFolder(path)
    assert folder.info(folder.load_splits()).fingerprint == told["fingerprint"]


def test_smoke_build_sends_no_requests_and_has_its_own_folder(workplace, shipped):
    with serving(lambda body, before: completion(SUMMARY)) as server:
        done = shipped(server, "--smoke", "--json")
        assert (done.returncode, server.requests) == (0, []), done.stderr
    told = json.loads(done.stdout)
    assert told["path"] == str(workplace.folder / "mmre_smoke")
    assert sum(told["num_samples"].values()) == 8


def test_missing_key_stops_the_build_before_any_request(workplace, shipped):
    workplace.environment.pop("OPENAI_API_KEY", None)
    with serving(lambda body, before: completion(SUMMARY)) as server:
        done = shipped(server, "--set", "annotator.api_key_env=OPENAI_API_KEY")
        assert server.requests == []
    assert (done.returncode, done.stdout) == (2, "")
    assert "annotator: the environment variable OPENAI_API_KEY is not set" in done.stderr
    # What would be sent where is said before that, and that this key belongs to another server.
    assert "OPENAI_API_KEY (annotator) is sent to http://127.0.0.1" in " ".join(done.stderr.split())
    assert "warning: OPENAI_API_KEY: its name is that of another service" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_shipped_experiment_spec_trains_on_it(workplace, shipped, project):
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
