"""A launch that is interrupted, at any moment and in any way, goes on to the same metrics."""

import json
import os
import signal
import time

import pytest

from runner.errors import StepError
from runner.trial.run_trial import Outcome
from tests.execute.test_launch import launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, emoji_at):
    """The metrics of the experiment when nobody interrupts it."""
    _, trial, _ = launch(emoji_at(tmp_path_factory.mktemp("undisturbed")), "emoji.yaml", "--local")
    return trial["metrics"]


@pytest.mark.usefixtures("terminal_that_can_be_lost")
@pytest.mark.parametrize(
    ("mode", "moment", "number"),
    [
        *(((), moment, signal.SIGINT) for moment in ("train", "generate", 0.8, 2.0)),
        (("--local",), "train", signal.SIGINT),
        (("--set", "compute.workers=2"), "train", signal.SIGINT),
        ((), "train", signal.SIGTERM),
        ((), "train", signal.SIGHUP),
    ],
    ids=str,
)
def test_ctrl_c_at_any_time_leaves_a_run_that_the_next_launch_resumes(emoji, undisturbed, mode, moment, number):
    started = emoji.start("launch", "emoji.yaml", *mode)
    _wait(emoji, moment, started)
    # As they come: Ctrl-C and the terminal's end to all that it runs, SIGTERM from a scheduler to the command.
    (os.kill if number == signal.SIGTERM else os.killpg)(started.pid, number)
    output, errors = started.communicate(timeout=1800)
    # What was nearly done when the signal came may be done before it is heard.
    assert started.returncode == 130 or (moment not in {"train", 0.8} and "(finished)" in output), errors
    assert "Traceback" not in errors
    for trials in (emoji.folder / "runs").glob("emoji/*"):
        # As workers leave it that lose one another when a launch is killed.
        (trials / ".outcome-0.json").write_text(json.dumps(Outcome("failed", StepError("of old")).as_json()))
    # How a launch on Ray goes on is seen once for one worker and once for two; all else of it is the same without.
    again = mode if moment == "train" and number == signal.SIGINT else ("--local",)
    _, trial, _ = launch(emoji, "emoji.yaml", *again)
    assert trial["metrics"] == undisturbed


@pytest.mark.parametrize(("mode", "pause"), [((), 0.2), ((), 0.8), (("--local",), 0.2)], ids=str)
def test_a_second_ctrl_c_at_any_time_ends_with_a_message(emoji, undisturbed, mode, pause):
    started = emoji.start("launch", "emoji.yaml", *mode)
    _wait(emoji, "train", started)
    os.killpg(started.pid, signal.SIGINT)
    time.sleep(pause)
    if started.poll() is None:
        os.killpg(started.pid, signal.SIGINT)
    output, errors = started.communicate(timeout=1800)
    assert started.returncode == 130, errors
    assert "run the same command again to resume" in output + errors
    assert "Traceback" not in errors
    _, trial, _ = launch(emoji, "emoji.yaml", "--local")
    assert trial["metrics"] == undisturbed


@pytest.mark.parametrize("mode", [(), ("--local",)], ids=str)
def test_a_launch_whose_output_nobody_reads_goes_on_and_hears_ctrl_c(emoji, undisturbed, mode):
    started = emoji.start("launch", "emoji.yaml", *mode)
    started.stderr.close()
    _wait(emoji, "train", started)
    os.killpg(started.pid, signal.SIGINT)
    started.stderr = None
    started.communicate(timeout=1800)
    assert started.returncode == 130
    _, trial, _ = launch(emoji, "emoji.yaml", "--local")
    assert trial["metrics"] == undisturbed


def _wait(workplace, moment, process):
    """Wait some seconds, or until a step is seen to begin."""
    if isinstance(moment, float):
        time.sleep(moment)
        return
    wanted = f'"step": "{moment}", "state": "started"'
    while process.poll() is None:
        logs = list((workplace.folder / "runs" / "emoji").glob("*/events.jsonl"))
        if any(wanted in log.read_text() for log in logs):
            return
        time.sleep(0.005)
