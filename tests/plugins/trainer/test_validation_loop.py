"""Generated answers during validation: schedule, model selection, and no effect on the training itself."""

import math

import pytest
import torch
from evaluator import LetterEvaluator
from pydantic import ValidationError

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep
from runner.stages import StopRequestedError, TrainingRun

GROUPS = {"vision": {"match": "*visual*", "lr": 2e-3}, "language": {"match": "*", "lr": 4e-3}}
PARTLY = {"vision": {"match": "*visual*", "frozen": True}, "language": {"match": "*", "lr": 4e-3, "lora": {"rank": 2}}}
ASIDE = {"validation_ratio": 0.25, "eval_generate_steps": 2}
RISING = {"metric": "validation/letters", "mode": "max"}


@pytest.fixture
def begin(build_smoke, colour_samples, tmp_path):
    """A function that trains the smoke-sized model for six steps, three of twelve samples aside; again, it goes on."""

    def begin(reporter, folder, evaluator=None, groups=GROUPS, **options):
        model = build_smoke()
        reporter.weights, progress = {}, reporter.progress

        def weigh(done, total, **shown):
            progress(done, total, **shown)
            reporter.weights[done] = _weights(model)

        reporter.progress = weigh
        optimizer = AdamWOptimizer(AdamWOptions(groups=groups, warmup_ratio=0.2))
        optimizer.prepare(model.module, 0)
        run = TrainingRun(tmp_path / folder, 11, reporter, evaluator=evaluator)
        options = {"epochs": 2, "global_batch_size": 3, "precision": "fp32", "validation_ratio": 0.25, **options}
        ids = [sample.id for sample in colour_samples]
        return SftTrainer(SftOptions(**options)).train(model, optimizer, colour_samples, ids, run)

    return begin


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def _figures(reporter, name):
    return [(step, values[name]) for step, values in reporter.recorded if name in values]


@pytest.mark.parametrize(
    ("precision", "groups"), [("fp32", GROUPS), ("bf16", GROUPS), ("fp32", PARTLY)], ids=["fp32", "bf16", "lora"]
)
def test_generation_does_not_change_training(begin, recorder, colour_samples, precision, groups):
    options = {"precision": precision, "gradient_checkpointing": precision == "bf16", "groups": groups}
    plain, asked, evaluator = recorder(), recorder(), LetterEvaluator(colour_samples)
    expected = _weights(begin(plain, "plain", **options))
    assert _weights(begin(asked, "asked", evaluator, **ASIDE, **options)).equal(expected)
    assert len(evaluator.asked) == 3
    for name in ("train/loss", "train/grad_norm", "validation/loss"):
        assert _figures(asked, name) == _figures(plain, name)


def test_stop_during_generation_is_resumed_later(begin, recorder, colour_samples):
    whole, parts = recorder(), [recorder(), recorder(), recorder()]
    expected = _weights(begin(whole, "whole", LetterEvaluator(colour_samples), **ASIDE))
    for stop_at, reporter in ((1, parts[0]), (1, parts[1])):
        # The first is stopped at its second time, after step 4; the next asks again there, and is stopped at the end.
        with pytest.raises(StopRequestedError):
            begin(reporter, "parts", LetterEvaluator(colour_samples, stop_at), **ASIDE)
    assert list(parts[0].weights) == [1, 2, 3, 4]
    assert list(parts[1].weights) == [5, 6]
    assert _weights(begin(parts[2], "parts", LetterEvaluator(colour_samples), **ASIDE)).equal(expected)
    assert not parts[2].weights
    for name in ("validation/letters", "validation/loss"):
        assert [each for part in parts for each in _figures(part, name)] == _figures(whole, name)


def test_kill_between_evaluations_keeps_their_history(begin, recorder, colour_samples):
    options = {**ASIDE, "save_steps": 3, "load_best_model_at_end": True, "metric_for_best_model": RISING}
    whole, first, second = recorder(), recorder(stop_after=3), recorder()
    expected = _weights(begin(whole, "whole", LetterEvaluator(colour_samples), **options))
    with pytest.raises(StopRequestedError):
        begin(first, "parts", LetterEvaluator(colour_samples), **options)
    assert _weights(begin(second, "parts", LetterEvaluator(colour_samples), **options)).equal(expected)
    assert [step for step, _ in _figures(second, "validation/letters")] == [4, 6]


def test_first_samples_are_evaluated_when_due_and_undefined_metrics_are_not_reported(begin, recorder, colour_samples):
    reporter, evaluator = recorder(), LetterEvaluator(colour_samples)
    begin(reporter, "run", evaluator, validation_ratio=0.25, eval_generate_steps=4, eval_generate_samples=2)
    assert [step for step, _ in _figures(reporter, "validation/letters")] == [4, 6]
    assert evaluator.prepared == [3, 4]  # of 3, 4 and 8
    assert evaluator.asked == [[3, 4]] * 2
    assert not _figures(reporter, "validation/nothing")


def test_a_validation_loss_that_is_not_finite_is_reported(begin, recorder, monkeypatch):
    losses = [1.0, math.inf]
    monkeypatch.setattr(TrainStep, "validation_loss", lambda self, batches: losses.pop(0))
    reporter = recorder()
    begin(reporter, "run", epochs=2)
    assert _figures(reporter, "validation/loss") == [(3, 1.0), (6, math.inf)]


def test_answers_equal_those_of_the_saved_model(begin, recorder, colour_samples, tmp_path):
    reporter, evaluator = recorder(), LetterEvaluator(colour_samples)
    begin(reporter, "run", evaluator, epochs=6, **ASIDE).save(tmp_path / "model", "fp32")
    saved = Qwen25VLModel(Qwen25VLOptions(size="smoke")).load(tmp_path / "model")
    counts = evaluator.evaluate(saved, evaluator.prepared)
    told = _figures(reporter, "validation/letters")
    assert told[-1] == (18, evaluator.aggregate(counts)["letters"])
    assert len({value for _, value in told}) > 1


class FixedMetrics(LetterEvaluator):
    """Returns the given metric values in order."""

    def __init__(self, *figures):
        self.left = list(figures)

    def prepare(self, model, places):
        pass

    def evaluate(self, model, places):
        return [{} for _ in places]

    def aggregate(self, counts):
        return {"letters": self.left.pop(0)}


def test_best_model_is_selected_by_a_metric_of_answers(begin, recorder):
    reporter = recorder()
    options = {
        **ASIDE,
        "eval_generate_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": RISING,
        "early_stopping_patience": 3,
    }
    model = begin(reporter, "run", FixedMetrics(0.1, 0.5, None, 0.5, 0.4), **options)
    assert _weights(model).equal(reporter.weights[2])
    assert reporter.warnings == [
        "stopped early after step 5 of 6: validation/letters was best after step 2, "
        "and 3 evaluation(s) since then were no better"
    ]


def test_last_weights_are_the_result_if_the_metric_was_never_defined(begin, recorder):
    reporter = recorder()
    model = begin(
        reporter,
        "run",
        FixedMetrics(None, None, None),
        **ASIDE,
        load_best_model_at_end=True,
        metric_for_best_model=RISING,
    )
    assert _weights(model).equal(reporter.weights[6])
    assert "validation/letters was never measured, so the last weights are the result" in reporter.warnings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_generate_steps": 5}, "set validation_ratio"),
        ({"eval_generate_samples": 5, "validation_ratio": 0.1}, "set eval_generate_steps"),
        ({"metric_for_best_model": RISING, "validation_ratio": 0.1}, "metric_for_best_model has no effect"),
        (
            {
                "metric_for_best_model": {"metric": "validation/loss", "mode": "max"},
                "load_best_model_at_end": True,
                "validation_ratio": 0.1,
            },
            "set its mode to min",
        ),
        (
            {
                "metric_for_best_model": {"metric": "validation/letters"},
                "load_best_model_at_end": True,
                "validation_ratio": 0.1,
            },
            "mode",
        ),
    ],
)
def test_options_without_effect_are_errors(options, message):
    with pytest.raises(ValidationError, match=message):
        SftOptions(**options)
