"""Answers to validation samples are generated, parsed and scored like those of the test split."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.errors import DataError, SpecError, StepError
from runner.records import Completion, Entity, Sample, Segment
from runner.regime import Regime
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.spec.regime_section import RegimeOptions
from runner.stages import SelectionMetric, TokenCounts
from runner.trial.score import score_corpus
from runner.trial.trial_components import TrialContext
from runner.trial.validation_generator import LiveWeights, ValidationGenerator

LABELS = ("person", "other")
METRICS = ("ner_f1", "rouge", "ner_f1_by_label")
ADAPTER = PromptFormatAdapter(PfaOptions(), LABELS)


def sample(number, image=None):
    entities = tuple(Entity("person", f"Name {number} {place}") for place in range(1 + number % 3))
    segments = (Segment("a", Path(f"{number}-a.png"), entities[0].text, (0, 0, 1, 1)),)
    picture = Path(image or f"{number}.png")
    return Sample(f"n{number}", f"text {number}", picture, f"A summary of {number}.", entities, segments)


TRAIN = [sample(number) for number in range(12)]
TEST = [sample(number) for number in range(100, 103)]


class Reporter:
    def __init__(self):
        self.told, self.warnings = [], []

    def progress(self, done, total, **shown):
        self.told.append((done, total))

    def warn(self, message):
        self.warnings.append(message)

    def stop_requested(self):
        return False


class Generator:
    """Answers every third sample with an empty text and the others correctly; records its prompts."""

    def __init__(self):
        self.asked = []

    def generate(self, weights, prompts, done, reporter):
        assert weights.load() == "the model"
        reporter.warn("as it is")
        self.asked.append(list(prompts))
        for prompt in reversed(prompts):
            place = int(prompt.id[1:])
            yield Completion(prompt.id, ADAPTER.render_training(TRAIN[place]).target if place % 3 else "")


@pytest.fixture
def context():
    """The parts of a trial context that the evaluator uses."""
    generator = make_section("generator", {"type": "transformers", "num_few_shot": 2, "max_new_tokens": 10})
    reporter = Reporter()
    context = SimpleNamespace(
        regime=Regime(RegimeOptions(), ADAPTER, 5),
        spec=SimpleNamespace(generator_options=generator.options, trainer_options=None, seed=5, max_hash_distance=None),
        adapter=ADAPTER,
        generator=Generator(),
        metrics={name: create_plugin(make_section("metric", {"type": name})) for name in METRICS},
        samples={"train": TRAIN, "test": TEST}.__getitem__,
        reporter=lambda stage: reporter,
        told=reporter,
    )
    for method in ("_prompts", "prompt_limits", "validation_prompts"):
        setattr(context, method, partial(getattr(TrialContext, method), context))
    context.test_prompts = TrialContext.test_prompts.func(context)
    return context


@pytest.fixture
def evaluator(context):
    return ValidationGenerator(context, TRAIN)


def model(room):
    return SimpleNamespace(context_length=room, count=lambda rendered: TokenCounts(50, 10, 0))


def test_values_equal_the_score_step_for_any_distribution_over_ranks(evaluator, context):
    places = [1, 2, 3, 5, 8]
    evaluator.prepare(model(None), places)
    shares = [evaluator.evaluate("the model", share) for share in (places[::2], places[1::2], [])]
    assert shares[2] == []
    counts = [shares[place % 2][place // 2] for place in range(5)]
    outputs = {f"n{place}": ADAPTER.render_training(TRAIN[place]).target if place % 3 else "" for place in places}
    references = {f"n{place}": ADAPTER.reference(TRAIN[place]) for place in places}
    parse, mode = (lambda key, mode: ADAPTER.parse(outputs[key], mode)), ADAPTER.parse_modes[0]
    whole = score_corpus(context.metrics, references, parse, mode, Reporter())
    assert evaluator.aggregate(counts) == whole.metrics
    assert 0 < whole.metrics["ner_f1"] < 1
    assert context.told.warnings == ["as it is"]


def test_few_shot_examples_are_those_of_the_test_split_except_the_samples(evaluator, context):
    shown = [example.id for example in context.test_prompts[0].examples]
    free = [place for place in range(12) if f"n{place}" not in shown]
    evaluator.prepare(model(None), free[:2])
    evaluator.evaluate("the model", free[1:2])
    [[prompt]] = context.generator.asked
    assert [example.id for example in prompt.examples] == shown
    asked = int(shown[0][1:])
    evaluator.prepare(model(None), [asked])
    evaluator.evaluate("the model", [asked])
    again = [example.id for example in context.generator.asked[1][0].examples]
    assert again[0] == shown[1]
    assert shown[0] not in again
    assert len(again) == 2


def test_prompt_lengths_are_checked_before_the_training(evaluator):
    evaluator.prepare(model(70), [1, 2])
    with pytest.raises(SpecError, match=r"^generator.max_new_tokens: the prompt of sample n1 has 60 tokens"):
        evaluator.prepare(model(69), [1, 2])
    with pytest.raises(DataError, match="leaves no tokens for an answer"):
        evaluator.prepare(model(60), [1])


def test_only_the_main_rank_reports(evaluator, context, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    evaluator.prepare(model(None), [1])
    evaluator.evaluate("the model", [1])
    assert context.told.told == context.told.warnings == []


def test_a_missing_answer_stops_the_training(evaluator, monkeypatch):
    evaluator.prepare(model(None), [1, 2])
    monkeypatch.setattr(Generator, "generate", lambda *_: iter([Completion("n1", "")]))
    with pytest.raises(StepError, match="gave no answer to sample n2"):
        evaluator.evaluate("the model", [1, 2])


def test_live_weights_have_no_folder():
    with pytest.raises(SpecError, match=r"^trainer.eval_generate_steps: the generator reads weights from a folder"):
        LiveWeights(None).folder()


def best_by(name):
    return SimpleNamespace(selection_metric=SelectionMetric(metric=name, mode="max"))


def test_metrics_that_are_undefined_on_the_validation_samples_are_null(context):
    samples = [replace(sample, summary="一只猫") for sample in TRAIN]
    evaluator = ValidationGenerator(context, samples)
    context.spec.trainer_options = best_by("validation/ner_f1")
    evaluator.prepare(model(None), [1, 2])
    values = evaluator.aggregate(evaluator.evaluate("the model", [1, 2]))
    assert values["rouge1"] is None and values["ner_f1"] == 1
    [warning, _] = context.told.warnings
    assert warning.startswith("validation samples: ROUGE is null")


@pytest.mark.parametrize("name", ["rougeL", "image_entity_accuracy"])
def test_model_cannot_be_selected_by_an_undefined_metric(context, name):
    samples = [replace(sample, summary="一只猫", segments=()) for sample in TRAIN]
    context.spec.trainer_options = best_by(f"validation/{name}")
    context.metrics["image_entity_accuracy"] = create_plugin(make_section("metric", {"type": "image_entity_accuracy"}))
    with pytest.raises(SpecError, match=f"validation/{name} is undefined on the 2 validation samples") as error:
        ValidationGenerator(context, samples).prepare(model(None), [1, 2])
    assert error.value.problems[0].path == ("trainer", "metric_for_best_model", "metric")
    ValidationGenerator(context, TRAIN).prepare(model(None), [1, 2])
