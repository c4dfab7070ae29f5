"""The GPU benchmark on a CPU: every measurement gives lines, and a failure costs no other line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).parent.parent.parent / "bench"
IMPORT_WITHOUT_OTHERS = (
    "import sys; sys.modules.update(pydantic=None, peft=None, ray=None, mlflow=None, openai=None, optuna=None); "
    "import gpu"
)


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(BENCH))
    try:
        import gpu
    finally:
        sys.path.remove(str(BENCH))
    return gpu


def test_it_needs_only_torch_transformers_and_accelerate():
    subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_OTHERS], cwd=BENCH, check=True)


def fails():
    yield {"value": 1}
    raise RuntimeError("no memory")


def is_killed():
    yield {"value": 1}
    yield {"error": "one length does not fit"}
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    yield {"value": 1}
    time.sleep(60)


@pytest.mark.parametrize(
    ("measure", "lines"),
    [
        (lambda: iter([{"value": 1}, {"value": 2}]), [{"value": 1}, {"value": 2}]),
        (fails, [{"value": 1}, {"error": "RuntimeError: no memory"}]),
        (
            is_killed,
            [{"value": 1}, {"error": "one length does not fit"}, {"error": "the process ended with exit status -9"}],
        ),
        (hangs, [{"value": 1}, {"error": "took longer than 1 seconds"}]),
    ],
)
def test_a_failure_loses_no_line(gpu, measure, lines):
    assert list(gpu.run_forked(measure, 1 if measure is hangs else 30)) == lines


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted).map(tuple)))
def test_overlapping_intervals_count_once(gpu, intervals):
    assert gpu.covered(intervals) == len({point for start, stop in intervals for point in range(start, stop)})


@pytest.mark.slow
def test_every_measurement_runs_on_a_cpu_within_two_minutes_of_computation():
    command = [sys.executable, BENCH / "gpu.py"]
    before = os.times()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    after = os.times()
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(dict.fromkeys(line["measurement"] for line in lines)) == [
        "fork", "training_step", "vision", "checkpointing", "decoding", "precision", "checkpoint",
    ]  # fmt: skip
    assert not [line for line in lines if "error" in line], result.stderr
    assert after.children_user - before.children_user < 120
    [step] = [line for line in lines if "seconds_per_step" in line]
    assert step["tokens_per_second"] > 0
    [precision] = [line for line in lines if "loss_float32" in line]
    assert precision["relative_loss_difference"] < 0.001
    assert precision["relative_gradient_difference"] < 0.1
