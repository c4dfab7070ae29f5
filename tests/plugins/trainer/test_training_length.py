"""The training budget equals the steps and tokens of the real training."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.training_schedule import count_target_tokens, training_schedule
from plugins.trainer.validation_split_and_batches import EpochSampler, num_validation, split_validation
from runner.errors import SpecError
from runner.records import IGNORED, TrainingBudget
from runner.stages import StopRequestedError, TokenCounts, TrainingRun

shares = st.floats(0, 0.9)


def order_of(num_samples, share=0.0, batch_size=4, seed=0):
    division = split_validation([str(place) for place in range(num_samples)], share, seed)
    return EpochSampler(division.training, len(division.training), batch_size, seed)


def steps_of(num_samples, **options):
    groups = [str(place) for place in range(num_samples)]
    return SftTrainer(SftOptions(**options)).training_budget(None, None, groups, 0)


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 4), shares)
def test_number_of_steps_equals_number_of_batches(num_samples, batch_size, epochs, share):
    assume(share == 0 or num_validation(num_samples, share))
    order = order_of(num_samples, share, batch_size)
    found = steps_of(num_samples, epochs=epochs, global_batch_size=batch_size, validation_ratio=share)
    assert found == TrainingBudget(epochs * order.steps_per_epoch, None)


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 9), (5, 5), (50, 9)])
def test_max_steps_is_a_limit(max_steps, steps):
    assert steps_of(12, epochs=3, global_batch_size=4, max_steps=max_steps).steps == steps


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60).filter(any),
    st.integers(1, 2000),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_only_the_last_step_reaches_the_token_budget(tokens, budget, batch_size, seed):
    order = order_of(len(tokens), 0.0, batch_size, seed)
    found = training_schedule(SftOptions(epochs=None, tokens=budget), order, tokens).budget(tokens)
    assert found.tokens == order.num_tokens(tokens, found.steps) >= budget
    assert order.num_tokens(tokens, found.steps - 1) < budget


def test_max_steps_also_limits_training_by_tokens():
    options = SftOptions(epochs=None, tokens=1000, max_steps=2, global_batch_size=4)
    assert training_schedule(options, order_of(8), [5] * 8).budget([5] * 8) == TrainingBudget(2, 40)


def test_steps_by_tokens_are_unknown_without_lengths():
    assert steps_of(8, epochs=None, tokens=100) == TrainingBudget(None, None)


def test_unreachable_token_budget_is_an_error():
    with pytest.raises(SpecError, match="no sample within the length limit has any") as caught:
        training_schedule(SftOptions(epochs=None, tokens=9), order_of(4), [0] * 4)
    assert caught.value.problems[0].path == ("trainer", "tokens")


PART = {"tasks": ["ner"], "steps": 2}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"tokens": 10}, "epochs and tokens are set"),
        ({"steps": 10}, "epochs and steps are set"),
        ({"sequence": [PART]}, "epochs and sequence are set"),
        ({"epochs": None}, "none is set"),
    ],
)
def test_exactly_one_length_is_set(options, found):
    with pytest.raises(ValidationError, match=f"exactly one of `epochs`, .* sets the length of training, but {found}"):
        SftOptions(**options)


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 2}])
def test_exactly_one_length_of_a_part_is_set(length):
    with pytest.raises(ValidationError, match="needs exactly one of epochs, tokens and steps"):
        SftOptions(epochs=None, sequence=[{"tasks": ["ner"], **length}])


@pytest.mark.parametrize(("overlong", "trained"), [("refuse", 10), ("truncate", 4), ("skip", 0)])
def test_target_tokens_follow_on_overlength(overlong, trained):
    counts = [TokenCounts(text=5, image=1, target=4), TokenCounts(text=5, image=1, target=10)]
    assert count_target_tokens(counts, 10, overlong) == [4, trained]
    assert count_target_tokens(counts, None, overlong) == [4, 10]


class StopAfter:
    """A reporter that asks to stop when so many steps are done."""

    def __init__(self, recorder, steps):
        self._recorder, self._steps = recorder, steps

    def __getattr__(self, name):
        return getattr(self._recorder, name)

    def stop_requested(self):
        return len(self._recorder.recorded) >= self._steps


def test_interrupted_training_uses_the_predicted_steps_and_tokens(build_smoke, colour_samples, tmp_path, recorder):
    """Tokens are counted where they are trained: in the labels of the batches."""
    trained = []

    def start(reporter):
        trainer, model = SftTrainer(SftOptions(**options)), build_smoke()
        pack = model.pack
        model.pack = lambda batch: (
            trained.extend(int((each["labels"] != IGNORED).sum()) for each in batch) or pack(batch)
        )
        groups = [sample.id for sample in colour_samples]
        foretold = trainer.training_budget(model, [model.count(each) for each in colour_samples], groups, 11)
        run = TrainingRun(tmp_path / "run", 11, reporter)
        adamw = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-3}}))
        return foretold, lambda: trainer.train(model, adamw, colour_samples, groups, run)

    options = {"epochs": None, "tokens": 150, "global_batch_size": 5, "precision": "fp32"}
    first, second = recorder(), recorder()
    foretold, train = start(StopAfter(first, 2))
    with pytest.raises(StopRequestedError):
        train()
    again, train = start(second)
    train()
    assert again == foretold
    assert len(first.recorded) + len(second.recorded) == foretold.steps > 2
    assert sum(trained) == foretold.tokens
    assert foretold.tokens >= 150
