"""The command `runner compare`."""

import json
import os
import shutil

import pytest

from tests.command import run_in_process

SWEEP = """\
name: told
seed: 1
data: {type: synthetic, path: data, train: 2, test: 8}
adapter: {type: pfa, tasks: [summary, ner, match]}
model: none
trainer: none
generator: {type: constant, answer: "Task 1 Answer: a cross"}
metrics: [{type: ner_f1}, {type: bleu}]
tracker: {type: mlflow}
sweep:
  arms: {joint: {adapter.tasks: [summary, ner, match]}, summary_alone: {adapter.tasks: [summary]}}
  seeds: [1, 2]
claims: {helps: {arm: joint, better_than: summary_alone, metrics: [bleu]}}
"""


def run(folder, *arguments):
    return run_in_process(arguments, folder, os.environ)


def test_json_is_the_only_standard_output(ablation):
    done = run(ablation.folder, "compare", "swept", "--by", "arm", "--baseline", "joint", "--resamples", 200, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [group["value"] for group in document["groups"]] == ["joint", "ner_alone", "match_alone", "without_ner"]
    assert {"metric", "a", "b", "difference", "low", "high", "p_value"} <= document["tests"][0].keys()
    assert {"mean", "std", "low", "high"} <= document["groups"][0]["metrics"]["ner_f1"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other"], "no experiment and no trial 'other'"),
        (["swept", "--markdown", "--json"], "choose one of"),
        (["swept", "--baseline", "none"], "the groups are: joint; ner_alone"),
        (["swept", "--cluster", "images"], "did you mean 'image'"),
    ],
)
def test_a_user_error_has_exit_status_2_and_a_remedy(ablation, arguments, message):
    done = run(ablation.folder, "compare", *arguments, "--resamples", 100)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_page_is_uploaded_to_the_sweep_and_deleted_runs_are_downloaded_from_the_tracker(tmp_path):
    from mlflow import MlflowClient

    (tmp_path / "told.yaml").write_text(SWEEP)
    launched = run(tmp_path, "launch", "told.yaml", "--local")
    assert launched.returncode == 0, launched.stderr
    compared = run(tmp_path, "compare", "told", "--mre", "--resamples", 200, "--html", "page.html")
    assert compared.returncode == 0, compared.stderr
    assert "warning" not in compared.stderr
    sweep = json.loads((tmp_path / "runs" / "told" / "sweep" / "tracker.json").read_text())["run_id"]
    (uploaded,) = (tmp_path / "runs" / "mlartifacts").rglob("page.html")
    assert sweep in uploaded.parts
    assert f"uploaded to the tracker run {sweep} of told" in compared.stderr
    assert uploaded.read_bytes() == (tmp_path / "page.html").read_bytes()
    here = run(tmp_path, "compare", "told", "--by", "arm", "--resamples", 200, "--json")
    [claim] = json.loads(here.stdout)["claims"]
    assert (claim["registered"]["state"], claim["verdict"]) == ("before_results", "undecided")
    assert [file.parent.parent.name for file in (tmp_path / "runs" / "mlartifacts").rglob("claims.jsonl")] == [sweep]
    tags = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}").get_run(sweep).data.tags
    assert tags["mmre.claims_sha256"] == claim["registered"]["sha256"]
    assert tags["mmre.claims"].startswith("helps: joint is better than summary_alone on bleu [before results, 20")
    shutil.rmtree(tmp_path / "runs" / "told")
    there = run(tmp_path, "compare", "told", "--from", "told.yaml", "--by", "arm", "--resamples", 200, "--json")
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == json.loads(here.stdout)
    missing = run(tmp_path, "compare", "nowhere", "--from", "told.yaml")
    assert missing.returncode == 2
    assert "no experiment 'nowhere'" in missing.stderr
