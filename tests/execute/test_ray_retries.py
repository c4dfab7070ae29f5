"""A trial is taken up again where its end was not its own fault, and says so."""

import json

import pytest

from runner.errors import DataError, LostWorkerError, OutOfMemoryError, RequirementError, StepError
from runner.execute.ray.attempt import RetryingTrial, precedence
from runner.spec.experiment_spec import ComputeOptions
from runner.spec.load import load_spec
from runner.trial.run_trial import Outcome

SPEC = """\
name: again
data: {type: synthetic, path: data, train: 2, test: 1}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
trainer: {type: sft, global_batch_size: 8}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""
LOST = Outcome("failed", LostWorkerError("the node was lost"))
NO_MEMORY = Outcome("failed", OutOfMemoryError("train: OutOfMemoryError: CUDA out of memory"))
WRONG = Outcome("failed", StepError("train: ZeroDivisionError"))
FINISHED = Outcome("finished")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    file = tmp_path_factory.mktemp("spec") / "again.yaml"
    file.write_text(SPEC)
    return json.dumps(load_spec(file).spec.as_json())


class Attempts:
    """Attempts that end as they are told to; None for no room."""

    def __init__(self, *ends):
        self.ends, self.plans, self.num_held = list(ends), [], 0

    def place(self, plan, folder, compute):
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        if end is None:
            return None
        self.plans.append(json.loads(plan)["trainer"]["micro_batch_size"])
        self.num_held += 1
        return Attempt(self, end)


class Attempt:
    def __init__(self, attempts, end):
        self.attempts, self.end = attempts, end

    def outcome(self):
        return self.end

    def release(self):
        self.attempts.num_held -= 1


def run(plan, folder, *ends, **compute):
    """Run a trial whose attempts end so; returns its outcome, micro-batches and warnings."""
    attempts, options = Attempts(*ends), ComputeOptions(**compute)
    running = RetryingTrial(plan, folder, options, attempts.place, attempts.place(plan, folder, options))
    outcome = None
    while outcome is None:
        outcome = running.outcome()
    assert attempts.num_held == 0
    assert running.outcome() is outcome
    log = folder / "events.jsonl"
    told = [json.loads(line)["message"] for line in log.read_text().splitlines()] if log.exists() else []
    return outcome, attempts.plans, told


def test_a_lost_worker_is_replaced_as_soon_as_there_is_room(plan, tmp_path):
    outcome, sizes, told = run(plan, tmp_path, LOST, None, None, LOST, FINISHED)
    assert outcome == FINISHED
    assert sizes == [None, None, None]
    assert told[0] == "the node was lost; the trial is taken up again from its last checkpoint (retry 1 of 3)"
    assert len(told) == 2


def test_it_fails_when_its_retries_are_used_up(plan, tmp_path):
    assert run(plan, tmp_path, LOST, LOST, max_retries=1)[0] == LOST
    assert run(plan, tmp_path, LOST, max_retries=0)[0] == LOST


def test_out_of_memory_halves_the_micro_batch_of_a_worker(plan, tmp_path):
    outcome, sizes, told = run(plan, tmp_path, NO_MEMORY, NO_MEMORY, FINISHED, workers=2)
    assert outcome == FINISHED
    assert sizes == [None, 2, 1]
    assert "taken up again with trainer.micro_batch_size 2" in told[0]


def test_out_of_memory_with_nothing_left_to_halve_fails(plan, tmp_path):
    assert run(plan, tmp_path, NO_MEMORY, NO_MEMORY, workers=4)[0] == NO_MEMORY
    assert run(plan, tmp_path, NO_MEMORY, reduce_micro_batch_on_oom=False)[0] == NO_MEMORY


def test_an_error_of_its_own_is_not_tried_again(plan, tmp_path):
    outcome, sizes, told = run(plan, tmp_path, WRONG)
    assert (outcome, sizes, told) == (WRONG, [None], [])


def test_one_that_waits_for_room_heeds_a_stop_and_fails_where_none_can_come(plan, tmp_path):
    (tmp_path / ".stop").touch()
    assert run(plan, tmp_path, LOST)[0].status == "interrupted"
    (tmp_path / ".stop").unlink()
    refused = RequirementError("the cluster can hold 0 of them")
    assert run(plan, tmp_path, LOST, refused)[0].error is refused
    assert "does not answer: gone" in str(run(plan, tmp_path, LOST, RuntimeError("gone"))[0].error)


def test_the_worker_that_knows_most_says_why_a_group_ended():
    stopped, told = Outcome("interrupted"), Outcome("failed", DataError("broken.png"))
    ranked = [stopped, NO_MEMORY, LOST, told, WRONG]
    assert sorted(reversed(ranked), key=precedence) == ranked
