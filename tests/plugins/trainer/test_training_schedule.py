"""Trainings in parts, with a length in steps, and with prompts that change from epoch to epoch."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from evaluator import LetterEvaluator
from hypothesis import given
from hypothesis import strategies as st

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.encoded_samples import EncodedSamples
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.training_estimate import _epochs
from plugins.trainer.training_schedule import ExamplesByEpoch, training_schedule
from plugins.trainer.validation_split_and_batches import EpochSampler, SequenceSampler
from runner.errors import SpecError
from runner.records import TextPart, TrainingBudget
from runner.stages import StopRequestedError, TokenCounts, TrainingRun

SEQUENCE = [{"tasks": ["one"], "epochs": 2}, {"tasks": ["two"], "steps": 3}]
OPTIONS = {"global_batch_size": 3, "precision": "fp32", "save_steps": 1}


def sampler(num_samples, batch_size=3, seed=5):
    return EpochSampler(tuple(range(num_samples)), num_samples, batch_size, seed)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=4), st.data())
def test_the_parts_of_a_sequence_follow_one_another_from_any_step_on(sizes, data):
    parts = tuple((sampler(size, seed=number), steps) for number, (size, steps) in enumerate(sizes))
    sequence, total = SequenceSampler(parts, 3), sum(steps for _, steps in sizes)
    expected = [(number, batch) for number, (part, steps) in enumerate(parts) for _, batch in part.batches(0, steps)]
    found = list(sequence.batches(0, total))
    assert found == [(step, batch) for step, (_, batch) in enumerate(expected)]
    first, end = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    assert list(sequence.batches(first, end)) == found[first:end]
    for step, (number, _) in enumerate(expected):
        start = sum(steps for _, steps in sizes[:number])
        assert sequence.epoch(step) == parts[number][0].epoch(step - start)


def test_each_part_has_its_own_length_and_samples():
    tasks, tokens = ["one", "two"] * 6, [1, 10] * 6
    options = SftOptions(
        epochs=None, global_batch_size=3, sequence=[*SEQUENCE, {"tasks": ["one", "two"], "tokens": 40}]
    )
    schedule = training_schedule(options, sampler(12), tokens, tasks)
    batches = [batch for _, batch in schedule.sampler.batches(0, schedule.num_steps)]
    assert all(tasks[index] == "one" for batch in batches[:4] for index in batch)
    assert all(tasks[index] == "two" for batch in batches[4:7] for index in batch)
    last = [sum(tokens[index] for index in batch) for batch in batches[7:]]
    assert sum(last[:-1]) < 40 <= sum(last)
    assert schedule.budget(tokens) == TrainingBudget(len(batches), 4 * 3 + 3 * 30 + sum(last))
    assert training_schedule(options, sampler(12), None, tasks).budget(None) == TrainingBudget(None, None)
    assert training_schedule(options.model_copy(update={"max_steps": 5}), sampler(12), tokens, tasks).num_steps == 5


def test_a_part_without_examples_is_an_error():
    options = SftOptions(epochs=None, sequence=SEQUENCE)
    with pytest.raises(SpecError, match="no example has one of the tasks two") as caught:
        training_schedule(options, sampler(4), None, ["one"] * 4)
    assert caught.value.problems[0].path == ("trainer", "sequence", 1, "tasks")


def test_steps_set_the_length():
    options = SftOptions(epochs=None, steps=7, global_batch_size=3)
    assert training_schedule(options, sampler(4), [2] * 4).budget([2] * 4).steps == 7


@pytest.mark.parametrize(
    ("length", "epochs"),
    [
        ({"epochs": 2}, 2),
        ({"epochs": None, "steps": 8}, 8 * 4 / 16),
        ({"epochs": None, "tokens": 120}, 1.5),
        ({"epochs": None, "sequence": SEQUENCE}, 2 / 2 + 3 * 4 / 16),
    ],
)
def test_the_estimate_knows_how_often_samples_are_trained_on(length, epochs):
    assert _epochs(SftOptions(**length), [TokenCounts(9, 4, 5)] * 16) == epochs


@pytest.fixture
def two_tasks(colour_samples):
    return [replace(each, task=("one", "two")[index % 2]) for index, each in enumerate(colour_samples)]


@pytest.fixture
def train(build_smoke, tmp_path, monkeypatch):
    """A function that trains the smoke-sized model, and lists the prompts in the order in which they were read."""

    def train(reporter, samples, folder="run", evaluator=None, later_draws=(), plain=None, **options):
        model, optimizer = build_smoke(), AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 3e-3}}))
        optimizer.prepare(model.module, 0)
        run = TrainingRun(
            tmp_path / folder, 11, reporter, evaluator=evaluator, later_draws=later_draws, plain=plain, num_per_sample=2
        )
        groups = [str(index // 2) for index in range(len(samples))]
        read, get = [], EncodedSamples.__getitem__

        def note(self, index):
            read.append(self._samples[index].prompt)
            return get(self, index)

        monkeypatch.setattr(EncodedSamples, "__getitem__", note)
        trained = SftTrainer(SftOptions(**{**OPTIONS, **options})).train(model, optimizer, samples, groups, run)
        monkeypatch.setattr(EncodedSamples, "__getitem__", get)
        return torch.cat([weight.detach().flatten() for weight in trained.module.parameters()]), read

    return train


def test_a_sequence_trains_on_one_task_after_the_other_and_resumes(train, recorder, two_tasks):
    options = {"epochs": None, "sequence": SEQUENCE}
    expected, read = train(recorder(), two_tasks, **options)
    tasks = {each.prompt: each.task for each in two_tasks}
    assert len(tasks) < len(read) == 6 * 2 + 3 * 3
    ids = [each.id for each in two_tasks if each.task == "one"]
    assert len(ids) == 6
    for stop_at in (3, 5):
        with pytest.raises(StopRequestedError):
            train(recorder(stop_at), two_tasks, "parts", **options)
    assert train(recorder(), two_tasks, "parts", **options)[0].equal(expected)


def marked(samples, mark):
    return [replace(each, content=(*each.content[:-1], TextPart(f"{mark} {each.prompt}"))) for each in samples]


def test_epochs_use_the_draws_in_turn_and_validation_the_plain_prompts(train, recorder, two_tasks):
    first, second, plain = (marked(two_tasks, mark) for mark in ("A", "B", "P"))
    _, read = train(recorder(), first, later_draws=[second], plain=plain, epochs=3, validation_ratio=0.17)
    marks = [prompt[0] for prompt in read]
    trained = [mark for mark in marks if mark != "P"]
    assert trained == ["A"] * 10 + ["B"] * 10 + ["A"] * 10
    assert marks.count("P") == 3 * 2


def test_equal_draws_train_as_one(train, recorder, two_tasks):
    options = {"epochs": 2, "validation_ratio": 0.25}
    alone, repeated = recorder(), recorder()
    expected, _ = train(alone, two_tasks, "alone", **options)
    found, _ = train(repeated, two_tasks, "repeated", later_draws=[two_tasks], plain=two_tasks, **options)
    assert found.equal(expected)
    losses = [
        [values["validation/loss"] for _, values in reporter.recorded if "validation/loss" in values]
        for reporter in (alone, repeated)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


def test_answers_are_generated_once_for_the_examples_of_a_sample(train, recorder, two_tasks):
    evaluator = LetterEvaluator(two_tasks)
    train(recorder(), two_tasks, evaluator=evaluator, epochs=1, validation_ratio=0.5, eval_generate_steps=9)
    [asked] = evaluator.asked
    assert len(asked) == 3
    assert all(index % 2 == 0 for index in asked)


@given(st.integers(1, 20), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_indices_of_examples(size, num_draws, has_plain, epoch):
    def draw(name):
        return [f"{name}{number}" for number in range(size)]

    later_draws = [draw(number) for number in range(1, num_draws)]
    run = SimpleNamespace(later_draws=later_draws, plain=draw("plain") if has_plain else None)
    examples = ExamplesByEpoch.of(draw(0), run)
    for number in range(size):
        assert examples.all[examples.index(number, epoch)] == f"{epoch % num_draws}{number}"
        assert examples.all[examples.plain_index(number)] == (f"plain{number}" if has_plain else f"0{number}")
