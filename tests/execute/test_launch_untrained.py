"""Launching a model as it is: at a server, interrupted and gone on with, and from a checkpoint's folder."""

import json
import sqlite3

import pytest
from chat_server import completion, failure, question, serving
from safetensors.torch import load_file, save_file

from runner.errors import RequirementError, SpecError
from runner.preflight.estimate import describe_plan
from runner.resolved_plan import resolve, smoke_spec
from runner.spec.load import LoadedSpec, load_spec
from runner.spec.yaml_layers import Tree
from runner.trial.generate import TrialWeights
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.run_trial import run_trial
from runner.trial.trial_components import TrialContext

KEY = "-".join(["sk", "very", "secret"])  # not as one literal: the diff of a working tree is part of a run
SERVED = """\
name: served
data: {{type: synthetic, path: data, train: 40, test: 6}}
adapter: {{type: pfa, tasks: [summary, ner, match]}}
model: none
trainer: none
generator: {{type: openai_compatible, model: m, base_url: "{url}", api_key_env: CHAT_KEY, max_retries: 0, {more}}}
metrics: [{{type: ner_f1}}, {{type: rouge}}]
tracker: {{type: mlflow}}
"""
ANSWER = "Task 1 Answer: Two people.\nTask 2 Answer:\nNER:\n:person;Ada\nimage entities pair{'a': 'Ada'}"


@pytest.fixture
def served(workplace):
    workplace.environment["CHAT_KEY"] = KEY
    return workplace


def test_a_served_model_is_scored_and_after_a_failure_only_the_rest_is_requested(served):
    working = []

    def answer(body, before):
        return completion(ANSWER) if working or len(server.requests) < 4 else failure(500, f"broke on {KEY}")

    with serving(answer) as server:
        (served.folder / "served.yaml").write_text(
            SERVED.format(url=server.url, more="concurrency: 1, num_few_shot: 2")
        )
        failed = served.run("launch", "served.yaml", "--local")
        assert failed.returncode == 1
        assert "Completed answers are saved: run the same command again for the others" in failed.stderr
        assert "Traceback" not in failed.stderr
        before = [question(body) for body in server.requests]
        working.append(True)
        done = served.run("launch", "served.yaml", "--local", "--json")
        assert done.returncode == 0, done.stderr
        after = [question(body) for body in server.requests[len(before) :]]
    sent = f"the value of the environment variable CHAT_KEY (generator) is sent to {server.url}"
    assert sent in " ".join(failed.stderr.split())
    assert len(before) == 4
    assert len(after) == 3
    assert set(before[:3]).isdisjoint(after)

    told = json.loads(done.stdout)["trials"][0]
    assert told["metrics"]["parse/clean"] == 6
    [folder] = (served.folder / "runs" / "served").iterdir()
    assert not (folder / "model").exists()
    assert set(json.loads((folder / "record.json").read_text())["steps"]) == {"generate", "score"}
    training = {json.loads(line)["text"] for line in next(served.folder.glob("data/*/train.jsonl")).open()}
    first, second = (body["messages"] for body in (server.requests[0], server.requests[-1]))
    assert [turn["role"] for turn in first] == ["user", "assistant", "user", "assistant", "user"]
    assert first[:4] == second[:4]
    assert all(any(text in turn["content"][-1]["text"] for text in training) for turn in first[:4:2])

    with sqlite3.connect(served.folder / "runs" / "mlflow.db") as store:
        parameters = dict(store.execute("SELECT key, value FROM params"))
    assert {parameters[name] for name in ("model", "trainer", "optimizer")} == {"none"}
    written = [path.read_bytes() for path in served.folder.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in written)
    assert KEY not in failed.stderr + failed.stdout + done.stderr


def test_unusual_answers_end_no_later_launch(served):
    """An answer that is not text is not stored, and neither is what an earlier version stored of such answers."""
    with serving(lambda body, before: completion(5 if len(server.requests) == 3 else ANSWER + "\ud83d")) as server:
        (served.folder / "served.yaml").write_text(SERVED.format(url=server.url, more="concurrency: 1"))
        failed = served.run("launch", "served.yaml", "--local")
        assert failed.returncode == 1
        assert f"{server.url} answered without a completion: `content` is 5" in failed.stderr
        [unfinished] = served.folder.glob("runs/served/*/.*predictions*")
        rows = [json.loads(line) for line in unfinished.read_text().splitlines()]
        assert [row["output"] for row in rows] == [ANSWER + "\ufffd"] * 2
        unfinished.write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[1], "output": 5}) + "\n[1\n")
        server.answer = lambda body, before: completion(ANSWER)
        done = served.run("launch", "served.yaml", "--local")
    assert done.returncode == 0, done.stderr
    assert "2 lines are no answers" in done.stderr
    assert len(server.requests) == 3 + 5


def test_a_key_of_another_service_is_warned_about_before_anything_is_asked(served):
    (served.folder / "served.yaml").write_text(SERVED.format(url="https://models.example/v1", more="num_few_shot: 0"))
    plan = served.run("plan", "served.yaml", "--set", "generator.api_key_env=AWS_SECRET_ACCESS_KEY", "--json")
    [variable] = json.loads(plan.stdout)["variables"]
    assert (variable["variable"], variable["address"]) == ("AWS_SECRET_ACCESS_KEY", "https://models.example/v1")
    assert "warning: AWS_SECRET_ACCESS_KEY: its name is that of another service" in plan.stderr
    smoke = served.run("launch", "served.yaml", "--smoke")
    assert smoke.returncode == 0, smoke.stderr
    assert "is sent to" not in smoke.stderr


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """A function that resolves a spec of these lines."""
    monkeypatch.chdir(tmp_path)

    def plan_of(text, make=lambda spec: spec):
        (tmp_path / "spec.yaml").write_text(text)
        return resolve(make(load_spec(tmp_path / "spec.yaml").spec), Silent())

    return plan_of


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


def run(plan, folder):
    directory = RunDirectory(folder)
    directory.create(plan, "", ())
    run_trial(plan.spec, folder)
    return directory


def test_a_missing_key_is_an_error_before_anything_runs(served):
    (served.folder / "served.yaml").write_text(SERVED.format(url="http://127.0.0.1:9/v1", more="num_few_shot: 2"))
    del served.environment["CHAT_KEY"]
    done = served.run("launch", "served.yaml", "--local")
    assert done.returncode == 2
    assert "the environment variable CHAT_KEY is not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_counts_nothing_and_a_smoke_run_needs_no_server(plan_of, tmp_path):
    plan = plan_of(SERVED.format(url="http://127.0.0.1:9/v1", more="num_few_shot: 2"), smoke_spec)
    loaded = LoadedSpec(plan.spec, Tree(plan.spec.as_json()), tmp_path / "served.yaml")
    told = describe_plan(loaded, Silent())
    assert (told["steps_per_trial"], told["parameters"], told["tokens"], told["unmet"]) == (0, [], {}, [])
    directory = run(plan, tmp_path / "run")
    assert directory.read_metrics()["parse/malformed"] == plan.dataset.num_samples["test"]


TRAINED = """\
name: trained
data: {type: synthetic, path: data, train: 8, test: 4}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1.0e-3}}}
trainer: {type: sft, epochs: 1, global_batch_size: 4, precision: bf16}
generator: {type: transformers, max_new_tokens: 12}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


def test_a_checkpoint_is_evaluated_without_training(plan_of, tmp_path):
    """A trained model's folder, taken as a checkpoint, gives the answers that it gave after its training."""
    trained = run(plan_of(TRAINED), tmp_path / "trained")
    lines = [line for line in TRAINED.splitlines() if not line.startswith(("optimizer", "trainer", "model"))]
    checkpoint = f"model: {{type: qwen2_5_vl, checkpoint: {trained.model}}}"
    as_it_is = run(plan_of("\n".join([*lines, checkpoint, "trainer: none"])), tmp_path / "as_it_is")
    assert as_it_is.predictions.read_text() == trained.predictions.read_text()
    assert not as_it_is.model.exists()
    assert trained.is_finished("train")
    assert not as_it_is.is_finished("train")


@pytest.mark.parametrize("training", [True, False])
def test_weights_that_were_replaced_after_the_plan_are_not_used(plan_of, tmp_path, training):
    checkpoint = run(plan_of(TRAINED), tmp_path / "own" / "trained").model
    lines = [line for line in TRAINED.splitlines() if not line.startswith(("optimizer", "trainer"))]
    text = TRAINED if training else "\n".join([*lines, "trainer: none"])
    plan = plan_of(text.replace("size: smoke", f"checkpoint: {checkpoint}"))
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequirementError, match="the checkpoint has changed since the plan was resolved"):
        run(plan, tmp_path / "own" / "replaced")


def test_random_weights_can_be_evaluated_but_not_loaded_by_another_program(plan_of, tmp_path):
    lines = [line for line in TRAINED.splitlines() if not line.startswith(("optimizer", "trainer"))]
    plan = plan_of("\n".join([*lines, "trainer: none"]))
    directory = run(plan, tmp_path / "random")
    assert len(directory.predictions.read_text().splitlines()) == 4
    with pytest.raises(SpecError, match="has random weights, and no folder holds them") as caught:
        TrialWeights(TrialContext(plan.spec, directory, EventLog(directory.events))).folder()
    assert caught.value.problems[0].path == ("model",)


def test_a_launch_shows_a_raw_answer_if_all_answers_are_malformed(workplace):
    text = SERVED.format(url="", more="").split("generator:")[0] + "generator: {type: constant, answer: Rome}\n"
    (workplace.folder / "bad.yaml").write_text(
        f"{text}metrics: [{{type: ner_f1}}, {{type: rouge}}]\ntracker: {{type: mlflow}}\n"
    )
    for _ in range(2):
        done = workplace.run("launch", "bad.yaml", "--local")
        assert done.returncode == 0, done.stderr
        printed = " ".join(done.stderr.split())
        assert ": all 6 answers are malformed. For example, the answer to sample" in printed
        assert "is 'Rome' (parser: no 'Task 1 Answer:'; " in printed.replace("no 'Task 2 Answer:'; ", "")
        assert "mistakes.jsonl shows wrong answers beside the right ones" in printed
    smoke = workplace.run("launch", "bad.yaml", "--smoke")
    assert smoke.returncode == 0 and "malformed. For example" not in smoke.stderr
