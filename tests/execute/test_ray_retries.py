"""A trial is retried after a failure that it did not cause, and says so."""

import json
from types import SimpleNamespace

import pytest
from ray.exceptions import NodeDiedError, RayError

from plugins.generator.generator_options import TransformersOptions
from runner.errors import (
    DataError,
    LostConnectionError,
    LostWorkerError,
    OutOfMemoryError,
    RequirementError,
    StepError,
)
from runner.execute.ray import attempt
from runner.execute.ray.attempt import RetryingTrial, failure_precedence, lost_worker, phases
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
DISCONNECTED = Outcome("failed", LostConnectionError("train: DistBackendError: NCCL error"))
NO_MEMORY = Outcome("failed", OutOfMemoryError("train: OutOfMemoryError: CUDA out of memory"))
WRONG = Outcome("failed", StepError("train: ZeroDivisionError"))
FINISHED = Outcome("finished")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    file = tmp_path_factory.mktemp("spec") / "again.yaml"
    file.write_text(SPEC)
    return load_spec(file).spec


class Attempts:
    """Attempts with scripted ends; None if no resources are free."""

    def __init__(self, *ends):
        self.ends, self.plans, self.options, self.num_reserved = list(ends), [], [], 0

    def start(self, spec, folder, compute):
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        if end is None:
            return None
        self.plans.append(spec.trainer.options.micro_batch_size)
        self.options.append(spec.trainer.options)
        self.num_reserved += 1
        return Attempt(self, end)


class Attempt:
    def __init__(self, attempts, end):
        self.attempts, self.end = attempts, end

    def outcome(self):
        return self.end

    def release(self):
        self.attempts.num_reserved -= 1


def run(plan, folder, *ends, **compute):
    """Run a trial with scripted attempts; returns its outcome, micro-batches and warnings."""
    attempts, options = Attempts(*ends), ComputeOptions(**compute)
    running = RetryingTrial(plan, folder, options, attempts.start, attempts.start(plan, folder, options), str)
    outcome = None
    while outcome is None:
        outcome = running.outcome()
    assert attempts.num_reserved == 0
    assert running.outcome() is outcome
    log = folder / "events.jsonl"
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()] if log.exists() else []
    return outcome, attempts.plans, messages


def test_a_lost_worker_is_replaced_as_soon_as_resources_are_free(plan, tmp_path):
    outcome, sizes, messages = run(plan, tmp_path, LOST, None, None, LOST, FINISHED)
    assert outcome == FINISHED
    assert sizes == [None, None, None]
    assert messages[0] == (
        "the node was lost; the trial is retried from its first step, as nothing of it was saved (retry 1 of 3)"
    )
    assert len(messages) == 2


def test_a_retry_says_that_it_goes_on_from_a_checkpoint(plan, tmp_path):
    (tmp_path / "checkpoints" / "step-5").mkdir(parents=True)
    messages = run(plan, tmp_path, LOST, FINISHED)[2]
    assert messages == ["the node was lost; the trial is retried from what it has saved (retry 1 of 3)"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            NodeDiedError(
                "Task failed because the node it was running on is dead or unavailable. Node IP: 10.83.0.4, node ID: 7."
                " This can happen if the node was preempted. To see node death information, use `ray list nodes`."
            ),
            "the node 10.83.0.4, on which a worker ran, was lost",
        ),
        (NodeDiedError("The node is gone.\nAsk Ray."), "the worker or its node was lost: The node is gone."),
        (RayError("The worker died.\nNode IP: 10.83.0.4"), "the worker or its node was lost: The worker died."),
    ],
)
def test_a_lost_node_is_named_without_rays_advice(error, message):
    assert str(lost_worker(error)) == message


def test_a_lost_connection_is_retried(plan, tmp_path):
    outcome, _, messages = run(plan, tmp_path, DISCONNECTED, FINISHED)
    assert outcome == FINISHED
    assert "; the trial is retried " in messages[0]


def test_a_trial_fails_when_its_retries_are_used_up(plan, tmp_path):
    assert run(plan, tmp_path, LOST, LOST, max_retries=1)[0] == LOST
    assert run(plan, tmp_path, LOST, max_retries=0)[0] == LOST


def test_out_of_memory_halves_the_micro_batch_of_a_worker(plan, tmp_path):
    outcome, sizes, messages = run(plan, tmp_path, NO_MEMORY, NO_MEMORY, FINISHED, workers=2)
    assert outcome == FINISHED
    assert sizes == [None, 2, 1]
    assert "retried with trainer.micro_batch_size: 2" in messages[0]


def test_a_training_with_one_sample_per_gpu_recomputes_activations_and_then_shards_its_weights(plan, tmp_path):
    attempts, options = Attempts(*[NO_MEMORY] * 3), ComputeOptions(workers=8)
    running = RetryingTrial(plan, tmp_path, options, attempts.start, attempts.start(plan, tmp_path, options), str)
    while (outcome := running.outcome()) is None:
        pass
    used = [(each.micro_batch_size, each.gradient_checkpointing, each.strategy) for each in attempts.options]
    assert used == [(None, False, "ddp"), (None, True, "ddp"), (None, True, "fsdp")]
    assert isinstance(outcome.error, OutOfMemoryError)
    assert str(outcome.error).startswith(
        f"{NO_MEMORY.error}; the trainer sft has no option left that needs less memory"
    )
    assert "fewer pixels per image (model.max_pixels)" in str(outcome.error)


def test_a_single_worker_shards_nothing(plan, tmp_path):
    ends = [NO_MEMORY] * 5
    outcome, sizes, messages = run(plan, tmp_path, *ends, workers=1, max_retries=9)
    assert sizes == [None, 4, 2, 1, 1]
    assert "retried with trainer.gradient_checkpointing: true" in messages[-1]
    assert "no option left" in str(outcome.error)


def test_out_of_memory_without_a_retry_names_the_option_that_would_be_next(plan, tmp_path):
    [error] = [run(plan, tmp_path, NO_MEMORY, workers=4, max_retries=0)[0].error]
    assert "no retry is left (compute.max_retries: 0); set trainer.micro_batch_size: 1" in str(error)
    assert run(plan, tmp_path, NO_MEMORY, reduce_memory_on_oom=False)[0] == NO_MEMORY


def test_an_error_of_the_trial_itself_is_not_retried(plan, tmp_path):
    outcome, sizes, messages = run(plan, tmp_path, WRONG)
    assert (outcome, sizes, messages) == (WRONG, [None], [])


def test_a_retry_that_waits_for_resources_obeys_a_stop_and_fails_if_it_can_never_be_placed(plan, tmp_path):
    (tmp_path / ".stop").touch()
    assert run(plan, tmp_path, LOST)[0].status == "interrupted"
    (tmp_path / ".stop").unlink()
    refused = RequirementError("the cluster can hold 0 of them")
    assert run(plan, tmp_path, LOST, refused)[0].error is refused
    assert "does not answer: gone" in str(run(plan, tmp_path, LOST, RuntimeError("gone"))[0].error)


def test_the_most_informative_outcome_explains_why_a_group_ended():
    stopped, data_error = Outcome("interrupted"), Outcome("failed", DataError("broken.png"))
    ranked = [stopped, NO_MEMORY, LOST, data_error, WRONG, DISCONNECTED]
    assert sorted(reversed(ranked), key=failure_precedence) == ranked


def test_a_retry_that_waits_for_a_while_says_once_what_it_waits_for(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "WAIT_WARNING_SECONDS", -1)
    outcome, _, messages = run(plan, tmp_path, LOST, None, None, None, LOST, FINISHED, workers=3)
    assert outcome == FINISHED
    assert [message for message in messages if "waits" in message] == [
        f"the retry waits for {ComputeOptions(workers=3)}"
    ]


def test_the_training_and_answers_of_local_weights_run_on_all_workers(plan, monkeypatch):
    steps = ["train", "generate", "score"]
    assert phases(plan, steps, 2) == [(["train"], 2), (["generate"], 2), (["score"], 1)]
    assert phases(plan, steps, 1) == [(steps, 1)]
    assert phases(plan, steps[1:], 4) == [(["generate"], 4), (["score"], 1)]
    assert phases(plan, ["score"], 4) == [(["score"], 1)]
    monkeypatch.setattr(TransformersOptions, "divides_prompts", False)
    assert phases(plan, steps, 2) == [(["train"], 2), (["generate", "score"], 1)]


def test_an_attempt_needs_only_the_nodes_of_the_workers_of_its_phase():
    running = attempt.Attempt.__new__(attempt.Attempt)
    running._reservation = SimpleNamespace(workers=lambda: [SimpleNamespace(node=node) for node in ("a", "a", "b")])
    running._phases = [(["train"], 3), (["generate", "score"], 1)]
    assert running.nodes() == {"a", "b"}
    running._phases.pop(0)
    assert running.nodes() == {"a"}
    running._phases.pop(0)
    assert running.nodes() == set()
