"""The checks before training: selected samples, errors, warnings and the report."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import runner.preflight.check_samples
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import DataError, RequirementError, RunnerError, SpecError, StepError
from runner.preflight.check_samples import (
    NUM_FIRST,
    NUM_LONGEST,
    NUM_SELECTED,
    CheckProgress,
    PromptLimits,
    SampleLengths,
    check_prompt_lengths,
    check_samples,
    select_samples,
)
from runner.preflight.sample_checker import SampleChecker
from runner.records import ImagePart, Rendered, TextPart
from runner.stages import StopRequestedError


@pytest.fixture
def run_checks(reporter):
    """A function that checks samples with a model and trainer options."""

    def run(model, samples, prompts=(), max_new_tokens=None, **options):
        trainer = SftTrainer(SftOptions(**options))
        limits = PromptLimits(prompts, max_new_tokens)
        return check_samples(SampleChecker.of(model, trainer), trainer, samples, len(samples), limits, reporter)

    return run


def test_valid_samples_are_checked_and_counted(run_checks, model, samples, reporter):
    prompts = [replace(sample, target=None) for sample in samples]
    report = run_checks(model, samples, prompts, max_new_tokens=100, target_suffix="\n")
    whole = [model.encode(sample, "\n") for sample in samples]
    longest = max(range(7), key=lambda place: len(whole[place]["input_ids"]))
    assert report.samples == 7
    assert report.encoded_whole == tuple(sample.id for sample in samples)
    assert report.tokens_trained == sum(int((each["labels"] != -100).sum()) for each in whole)
    assert (report.longest_id, report.longest) == (samples[longest].id, len(whole[longest]["input_ids"]))
    assert report.longest_prompt == max(len(model.encode(prompt)["input_ids"]) for prompt in prompts)
    assert (report.limit, report.truncated, report.respelt) == (model.context_length, (), ())
    assert reporter.told[-1] == (21, 21)
    assert not reporter.warnings


def _corrupt_images(rendered, features):
    """Remove an image token, as a truncation would, if pixels are read."""
    if "pixel_values" not in features or rendered.target is None:
        return features
    place = int((features["mm_token_type_ids"] == 1).nonzero()[0])
    kept = [at for at in range(len(features["input_ids"])) if at != place]
    return {name: each[kept] if each.dim() == 1 else each for name, each in features.items()}


def _corrupt_one(rendered, features):
    shifted = torch.cat([features["labels"][1:], torch.tensor([-100])])
    return {**features, "labels": shifted} if rendered.id == "s4" and rendered.target else features


def test_the_text_of_every_sample_is_checked(run_checks, faulty_model, samples):
    many = [replace(samples[place % 4], id=f"n{place}") for place in range(40)] + [samples[4]]
    with pytest.raises(StepError, match=r"^sample s4: the label at token \d+"):
        run_checks(faulty_model(_corrupt_one), many)


def test_images_of_the_selected_samples_are_checked(run_checks, faulty_model, samples):
    with pytest.raises(StepError, match=r"^sample s0: .* \(and 1 more, which `runner preview` shows\)$"):
        run_checks(faulty_model(_corrupt_images), samples)


def test_a_template_that_moves_the_answer_is_an_error(with_template):
    with pytest.raises(RequirementError, match="drops, repeats or moves the text of a question or of an answer"):
        with_template(lambda template: template.replace("in messages", "in messages | reverse"))


def test_a_template_that_changes_the_answer_is_an_error_with_the_sample_id(run_checks, with_template, samples):
    added = "{% if message.role == 'assistant' %}!{% endif %}{{ part.text }}"
    changed = with_template(lambda template: template.replace("{{ part.text }}", added))
    with pytest.raises(RunnerError, match=r"^sample s0: the chat template "):
        run_checks(changed, samples)


def test_a_sample_beyond_the_limit_is_refused_with_a_remedy(run_checks, model, samples):
    length = {sample.id: len(model.encode(sample)["input_ids"]) for sample in samples[:3]}
    longest = max(length, key=length.get)
    with pytest.raises(DataError) as refused:
        run_checks(model, samples[:3], max_length=length[longest] - 1)
    assert str(refused.value).startswith(f"sample {longest}: {length[longest]} tokens (")
    assert "model.max_pixels" in str(refused.value)
    assert "trainer.on_overlength" in str(refused.value)
    with pytest.raises(DataError, match=r"^7 of 7 training samples are too long; the longest: sample "):
        run_checks(model, samples, max_length=5)


def test_truncated_answers_are_counted_and_warned_about(run_checks, model, samples, reporter):
    prompt = max(model.count(sample).text + model.count(sample).image for sample in samples)
    report = run_checks(model, samples, max_length=prompt + 2, on_overlength="truncate")
    lengths = [len(model.encode(sample)["input_ids"]) for sample in samples]
    over = tuple(sample.id for sample, length in zip(samples, lengths, strict=True) if length > prompt + 2)
    assert report.truncated == over
    assert over
    trained = [
        length - model.count(each).text - model.count(each).image for each, length in zip(samples, lengths, strict=True)
    ]
    assert report.tokens_trained == sum(
        min(each, prompt + 2 - (length - each)) for each, length in zip(trained, lengths, strict=True)
    )
    [warning] = reporter.warnings
    assert warning.startswith(
        f"{len(over)} of 7 training samples have more than {prompt + 2} tokens, such as {over[0]}"
    )


def test_skipped_samples_are_named_and_neither_encoded_nor_counted(run_checks, model, samples, reporter):
    lengths = {sample.id: len(model.encode(sample)["input_ids"]) for sample in samples}
    limit = sorted(lengths.values())[3]
    report = run_checks(model, samples, max_length=limit, on_overlength="skip")
    over = tuple(name for name, length in lengths.items() if length > limit)
    assert over
    assert (report.samples, report.skipped, report.truncated) == (7, over, ())
    assert set(report.encoded_whole) == set(lengths) - set(over)
    assert report.longest == limit
    kept = [model.encode(sample) for sample in samples if sample.id not in over]
    assert report.tokens_trained == sum(int((each["labels"] != -100).sum()) for each in kept)
    told = f"{len(over)} of 7 training samples have more than {limit} tokens and are skipped: {', '.join(over)}"
    assert reporter.warnings == [f"{told} (events.jsonl lists them)"]


def test_skipping_all_samples_is_refused(run_checks, model, samples):
    with pytest.raises(DataError, match="all 7 training samples have more than 5 tokens and are skipped"):
        run_checks(model, samples, max_length=5, on_overlength="skip")


def test_a_prompt_beyond_the_limit_is_refused_even_if_answers_are_truncated(run_checks, model, samples):
    count = model.count(samples[2])
    with pytest.raises(DataError, match=r"^sample s2: .* only the answer can be truncated"):
        run_checks(model, [samples[6], samples[2]], max_length=count.text + count.image, on_overlength="truncate")


def test_a_limit_beyond_the_context_of_the_model_is_refused(run_checks, model, samples):
    with pytest.raises(
        SpecError,
        match=r"^trainer\.max_length: max_length of 40,000 tokens exceeds the model.s context length of 32,768",
    ):
        run_checks(model, samples, max_length=40_000)


def test_characters_that_the_tokenizer_normalizes_are_reported(run_checks, model, samples, reporter):
    report = run_checks(model, [*samples, replace(samples[0], id="cafe", target="Cafe\u0301.")])
    assert report.respelt == ("cafe",)
    assert "in the answers of 1 of 8 training samples" in reporter.warnings[0]


def test_an_answer_truncated_without_reason_is_found(run_checks, faulty_model, model, samples, monkeypatch):
    limit = len(model.encode(samples[0])["input_ids"]) - 1

    def cut(rendered, features):
        short = "pixel_values" in features and rendered.target is not None
        return (
            {name: each[:limit] if each.dim() == 1 else each for name, each in features.items()} if short else features
        )

    with pytest.raises(StepError, match=r"^sample s0: .* with a truncated answer, but \d+ tokens were counted"):
        monkeypatch.setattr(
            runner.preflight.check_samples,
            "measure_lengths",
            lambda *_: SampleLengths(limit - 1, trained=4, respelt=False),
        )
        run_checks(faulty_model(cut), samples[:1], max_length=limit, on_overlength="truncate")


def test_padding_that_loses_labels_is_found(run_checks, faulty_model, model, samples):
    broken = faulty_model(lambda rendered, features: features)
    broken.collate = lambda batch, side: model.collate(batch, "left")
    with pytest.raises(StepError, match="padding a batch on the right changes the input_ids"):
        run_checks(broken, samples)
    broken.collate = lambda batch, side: {
        **(collated := model.collate(batch, side)),
        "labels": collated["labels"].where(collated["labels"] != -100, 0),
    }
    with pytest.raises(StepError, match="padding a batch on the right changes the labels"):
        run_checks(broken, samples)


def test_the_checks_stop_on_request(run_checks, model, samples, reporter):
    reporter.stop_after = 3
    with pytest.raises(StopRequestedError):
        run_checks(model, samples)
    assert len(reporter.told) == 3


def _with_context_length(model, length):
    return SimpleNamespace(context_length=length, count=model.count)


def test_an_answer_must_fit_behind_the_longest_prompt(model, samples, reporter):
    def prompts(length, max_new_tokens):
        limits = PromptLimits(samples, max_new_tokens)
        return check_prompt_lengths(_with_context_length(model, length), limits, CheckProgress(reporter, len(samples)))

    longest = max(model.count(sample).text + model.count(sample).image for sample in samples)
    assert prompts(None, 10**6) == prompts(longest + 8, 8) == prompts(longest + 8, None) == longest
    with pytest.raises(
        SpecError,
        match=r"^generator.max_new_tokens: the prompt of sample s\d has .* exceeds the remaining context of 8 tokens",
    ):
        prompts(longest + 8, 9)
    with pytest.raises(DataError, match="leaves no tokens for an answer"):
        prompts(longest, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 900)), min_size=1, max_size=80))
def test_the_selected_samples_are_the_longest_the_first_and_each_arrangement(drawn):
    picture, words = ImagePart(None), TextPart("x")
    rendered = [Rendered(str(place), (*[picture] * images, words)) for place, (images, _) in enumerate(drawn)]
    lengths = [length for _, length in drawn]
    chosen = select_samples(rendered, lengths)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(NUM_SELECTED, len(drawn))
    assert set(range(min(NUM_FIRST, len(drawn)))) <= set(chosen)
    assert sorted(lengths)[-NUM_LONGEST:] == sorted(lengths[place] for place in chosen)[-NUM_LONGEST:]
    assert {images for images, _ in drawn} == {drawn[place][0] for place in chosen}
