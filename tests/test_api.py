"""The Python interface of the runner, as used in a notebook."""

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner import api
from runner.errors import SpecError

SPEC = """\
name: answers
data: {type: synthetic, path: data, train: 4, test: 3}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: constant, answer: ""}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
  arms:
    silent: {}
    wordy: {adapter.tasks: [ner, match], generator.answer: "NER:\\n:person;Ada"}
  seeds: [1, 2]
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """Launch a sweep; yield its folder, the result, and whether the handler of Ctrl-C was restored."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "answers.yaml").write_text(SPEC)
        before = signal.getsignal(signal.SIGINT)
        launched = api.launch(api.load_spec("answers.yaml", "data.test=4"), local=True)
        yield folder, launched, signal.getsignal(signal.SIGINT) is before


def test_launch_runs_every_trial_and_restores_the_signal_handler(notebook):
    _, launched, is_restored = notebook
    assert launched.exit_status == 0
    assert [(trial.trial.group, trial.trial.seed, trial.status) for trial in launched.trials] == [
        (arm, seed, "finished") for arm in ("silent", "wordy") for seed in (1, 2)
    ]
    assert is_restored
    record = json.loads((launched.trials[0].run_dir / "record.json").read_text())
    assert record["overrides"] == ["data.test=4"]


def test_results_are_a_data_frame_with_one_row_per_trial(notebook):
    _, launched, _ = notebook
    frame = api.results("answers")
    assert list(frame["arm"]) == ["silent", "silent", "wordy", "wordy"]
    assert list(frame["seed"]) == [1, 2, 1, 2]
    assert set(frame["status"]) == {"finished"}
    assert list(frame["run_dir"]) == [str(trial.run_dir) for trial in launched.trials]
    assert list(frame["ner_f1"]) == [trial.metrics["ner_f1"] for trial in launched.trials]
    by_tasks = frame.groupby("adapter.tasks")["ner_f1"].agg(["count", "mean"])
    assert by_tasks.loc[[("ner",)], "count"].item() == 2
    assert "data.train" not in frame  # the same for all
    assert api.results(f"answers/{frame['trial'][2]}")["arm"].item() == "wordy"
    assert len(api.results(storage=notebook[0] / "runs")) == 4


def test_finished_trials_are_reported_and_nothing_is_printed(notebook, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="runner"):
        again = api.launch(api.load_spec("answers.yaml", "data.test=4"), local=True)
    assert all(trial.reused for trial in again.trials)
    assert capsys.readouterr().out == ""
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [message.split()[-1] for message in messages] == ["finished"] * 4
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "all 4 answers are malformed. For example, the answer to sample" in warning


def test_a_wait_is_logged_once_for_all_trials_that_need_the_same(caplog):
    display = api._LogDisplay()
    with caplog.at_level(logging.INFO, logger="runner"):
        for name, free in (("trial-1", 1), ("trial-1", 0), ("trial-2", 0)):
            display.trial_waiting(SimpleNamespace(name=name), f"2 CPUs on one node; free now: {free} CPUs")
    assert caplog.messages == ["trial-1 is waiting for 2 CPUs on one node; free now: 1 CPUs"]


def test_groups_are_compared_over_seeds_and_samples(notebook):
    comparison = api.compare("answers", by="arm", baseline="silent", metrics=["ner_f1"])
    frame = api.results("answers")
    means = frame.groupby("arm")["ner_f1"].mean()
    assert [group.value for group in comparison.groups] == ["silent", "wordy"]
    [test] = comparison.tests
    assert test.difference == pytest.approx(means["wordy"] - means["silent"])


def test_the_samples_that_are_resampled_together_can_be_chosen(notebook):
    by_image, alone = (api.compare("answers", by="arm", cluster=kind).clusters for kind in ("image", "none"))
    assert (by_image.kind, alone.kind) == ("image", "none")
    with pytest.raises(SpecError, match=r"--cluster imaeg.*did you mean 'image'"):
        api.compare("answers", by="arm", cluster="imaeg")


def test_results_of_a_launch_are_shown_in_lines_not_in_pages(notebook):
    comparison = api.compare("answers", by="arm")
    assert len(repr(api.load_spec("answers.yaml"))) < 3000
    assert all(len(repr(trial)) < 1000 for trial in notebook[1].trials)
    assert len(repr(comparison)) < 200
    assert list(comparison.frame()["metric"]) == [test.metric for test in comparison.tests]


def test_unfinished_trial_has_no_metrics(notebook, tmp_path):
    run = tmp_path / "answers" / "trial-0"
    run.mkdir(parents=True)
    source = api.results("answers")["run_dir"][0]
    plan = json.loads((Path(source) / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "metrics.json").write_text('{"ner_f1": 1.0}')
    [row] = api.results(storage=tmp_path).to_dict("records")
    assert (row["status"], row["arm"], row["seed"]) == ("lost", None, 1)
    assert "ner_f1" not in row


def test_plan_returns_the_output_of_the_command(notebook):
    plan = api.plan(api.load_spec("answers.yaml"))
    assert [(trial["group"], trial["steps"]) for trial in plan["trials"]] == [
        (arm, 0) for arm in ("silent", "wordy") for _ in range(2)
    ]
    assert plan["num_samples"] == {"train": 4, "test": 3}


def test_errors_have_their_location(notebook):
    with pytest.raises(SpecError, match=r"wrong.yaml:2:\d+: data.trian: unknown key"):
        (notebook[0] / "wrong.yaml").write_text(SPEC.replace("train: 4", "trian: 4"))
        api.load_spec(notebook[0] / "wrong.yaml")
    with pytest.raises(SpecError, match="no experiment and no trial 'answer-'"):
        api.results("answer-")


def test_loading_a_spec_imports_no_heavy_package(notebook):
    heavy = {"torch", "transformers", "pandas", "ray", "mlflow", "optuna", "plugins.data.synthetic"}
    code = f"import sys\nfrom runner import api\napi.load_spec('answers.yaml')\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=notebook[0])
    assert done.stdout == "set()\n"
