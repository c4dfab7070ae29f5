"""The proof before training: which samples it looks at, what it stops, and what it notes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import runner.preflight.check_samples
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import DataError, RunnerError, SpecError, StepError
from runner.preflight.check_samples import (
    CHOSEN,
    FIRST,
    LONGEST,
    Progress,
    SampleLengths,
    check_prompts,
    check_samples,
    select_samples,
)
from runner.preflight.sample_checker import SampleChecker
from runner.records import ImagePart, Rendered, TextPart
from runner.stages import StopRequestedError


@pytest.fixture
def proven(reporter):
    """A function that proves samples with a model and trainer options."""

    def run(model, samples, prompts=(), max_new_tokens=None, **options):
        trainer = SftTrainer(SftOptions(**options))
        return check_samples(SampleChecker.of(model, trainer), trainer, samples, prompts, max_new_tokens, reporter)

    return run


def test_right_samples_are_proven_and_counted(proven, model, samples, reporter):
    prompts = [replace(sample, target=None) for sample in samples]
    proof = proven(model, samples, prompts, max_new_tokens=100, target_suffix="\n")
    whole = [model.encode(sample, "\n") for sample in samples]
    longest = max(range(7), key=lambda place: len(whole[place]["input_ids"]))
    assert proof.samples == 7
    assert proof.encoded_whole == tuple(sample.id for sample in samples)
    assert proof.tokens_trained == sum(int((each["labels"] != -100).sum()) for each in whole)
    assert (proof.longest_id, proof.longest) == (samples[longest].id, len(whole[longest]["input_ids"]))
    assert proof.longest_prompt == max(len(model.encode(prompt)["input_ids"]) for prompt in prompts)
    assert (proof.limit, proof.truncated, proof.respelt) == (model.context_length, (), ())
    assert reporter.told[-1] == (21, 21)
    assert not reporter.warnings


def _spoil_images(rendered, features):
    """Lose a place of an image, as a truncation does, where pixels are read."""
    if "pixel_values" not in features or rendered.target is None:
        return features
    place = int((features["mm_token_type_ids"] == 1).nonzero()[0])
    kept = [at for at in range(len(features["input_ids"])) if at != place]
    return {name: each[kept] if each.dim() == 1 else each for name, each in features.items()}


def _spoil_one(rendered, features):
    shifted = torch.cat([features["labels"][1:], torch.tensor([-100])])
    return {**features, "labels": shifted} if rendered.id == "s4" and rendered.target else features


def test_the_words_of_every_sample_are_looked_at(proven, spoilt, samples):
    many = [replace(samples[place % 4], id=f"n{place}") for place in range(40)] + [samples[4]]
    with pytest.raises(StepError, match=r"^sample s4: the label at token \d+"):
        proven(spoilt(_spoil_one), many)


def test_images_are_looked_at_in_those_that_are_encoded_whole(proven, spoilt, samples):
    with pytest.raises(StepError, match=r"^sample s0: .* \(and 1 more, which `runner preview` shows\)$"):
        proven(spoilt(_spoil_images), samples)


def test_a_template_that_moves_the_answer_stops_with_the_samples_id(proven, with_template, samples):
    moved = with_template(lambda template: template.replace("in messages", "in messages | reverse"))
    with pytest.raises(RunnerError, match=r"^sample s0: the chat template "):
        proven(moved, samples)


def test_a_sample_beyond_the_limit_is_refused_with_what_would_be_right(proven, model, samples):
    length = {sample.id: len(model.encode(sample)["input_ids"]) for sample in samples[:3]}
    longest = max(length, key=length.get)
    with pytest.raises(DataError) as refused:
        proven(model, samples[:3], max_length=length[longest] - 1)
    assert str(refused.value).startswith(f"sample {longest}: {length[longest]} tokens (")
    assert "model.max_pixels" in str(refused.value)
    assert "trainer.on_overlength" in str(refused.value)
    with pytest.raises(DataError, match=r"^7 of 7 training samples are too long, this one most of all: sample "):
        proven(model, samples, max_length=5)


def test_truncated_answers_are_counted_and_told(proven, model, samples, reporter):
    prompt = max(model.count(sample).text + model.count(sample).image for sample in samples)
    proof = proven(model, samples, max_length=prompt + 2, on_overlength="truncate")
    lengths = [len(model.encode(sample)["input_ids"]) for sample in samples]
    over = tuple(sample.id for sample, length in zip(samples, lengths, strict=True) if length > prompt + 2)
    assert proof.truncated == over
    assert over
    trained = [
        length - model.count(each).text - model.count(each).image for each, length in zip(samples, lengths, strict=True)
    ]
    assert proof.tokens_trained == sum(
        min(each, prompt + 2 - (length - each)) for each, length in zip(trained, lengths, strict=True)
    )
    [warning] = reporter.warnings
    assert warning.startswith(
        f"{len(over)} of 7 training samples are longer than {prompt + 2} tokens, such as {over[0]}"
    )


def test_samples_that_are_left_out_are_named_and_neither_encoded_nor_counted(proven, model, samples, reporter):
    lengths = {sample.id: len(model.encode(sample)["input_ids"]) for sample in samples}
    limit = sorted(lengths.values())[3]
    proof = proven(model, samples, max_length=limit, on_overlength="skip")
    over = tuple(name for name, length in lengths.items() if length > limit)
    assert over
    assert (proof.samples, proof.skipped, proof.truncated) == (7, over, ())
    assert set(proof.encoded_whole) == set(lengths) - set(over)
    assert proof.longest == limit
    kept = [model.encode(sample) for sample in samples if sample.id not in over]
    assert proof.tokens_trained == sum(int((each["labels"] != -100).sum()) for each in kept)
    told = f"{len(over)} of 7 training samples are longer than {limit} tokens and left out: {', '.join(over)};"
    assert reporter.warnings == [f"{told} events.jsonl lists them"]


def test_where_all_would_be_left_out_nothing_is_trained(proven, model, samples):
    with pytest.raises(DataError, match="all 7 training samples are longer than 5 tokens, and left out"):
        proven(model, samples, max_length=5, on_overlength="skip")


def test_a_prompt_beyond_the_limit_is_refused_though_answers_may_be_cut(proven, model, samples):
    count = model.count(samples[2])
    with pytest.raises(DataError, match=r"^sample s2: .* an answer alone may be cut"):
        proven(model, [samples[6], samples[2]], max_length=count.text + count.image, on_overlength="truncate")


def test_a_limit_beyond_the_models_is_refused(proven, model, samples):
    with pytest.raises(SpecError, match=r"^trainer\.max_length: samples of 40,000 tokens are more than the 32,768"):
        proven(model, samples, max_length=40_000)


def test_characters_that_the_tokenizer_composes_are_told(proven, model, samples, reporter):
    proof = proven(model, [*samples, replace(samples[0], id="cafe", target="Cafe\u0301.")])
    assert proof.respelt == ("cafe",)
    assert "in the answers of 1 of 8 training samples" in reporter.warnings[0]


def test_an_answer_that_is_cut_for_no_reason_is_found(proven, spoilt, model, samples, monkeypatch):
    limit = len(model.encode(samples[0])["input_ids"]) - 1

    def cut(rendered, features):
        short = "pixel_values" in features and rendered.target is not None
        return (
            {name: each[:limit] if each.dim() == 1 else each for name, each in features.items()} if short else features
        )

    with pytest.raises(StepError, match=r"^sample s0: .* the end of the answer cut off, where \d+ were counted"):
        monkeypatch.setattr(
            runner.preflight.check_samples,
            "measure_lengths",
            lambda *_: SampleLengths(limit - 1, trained=4, respelt=False),
        )
        proven(spoilt(cut), samples[:1], max_length=limit, on_overlength="truncate")


def test_padding_that_loses_labels_is_found(proven, spoilt, model, samples):
    broken = spoilt(lambda rendered, features: features)
    broken.collate = lambda batch, side: model.collate(batch, "left")
    with pytest.raises(StepError, match="padding a batch on the right changes the input_ids"):
        proven(broken, samples)
    broken.collate = lambda batch, side: {
        **(collated := model.collate(batch, side)),
        "labels": collated["labels"].where(collated["labels"] != -100, 0),
    }
    with pytest.raises(StepError, match="padding a batch on the right changes the labels"):
        proven(broken, samples)


def test_a_proof_hears_that_it_is_to_stop(proven, model, samples, reporter):
    reporter.stop_after = 3
    with pytest.raises(StopRequestedError):
        proven(model, samples)
    assert len(reporter.told) == 3


def _room(model, length):
    return SimpleNamespace(context_length=length, count=model.count)


def test_an_answer_must_find_room_behind_the_longest_prompt(model, samples, reporter):
    def prompts(length, max_new_tokens):
        return check_prompts(_room(model, length), samples, max_new_tokens, Progress(reporter, len(samples)))

    longest = max(model.count(sample).text + model.count(sample).image for sample in samples)
    assert prompts(None, 10**6) == prompts(longest + 8, 8) == prompts(longest + 8, None) == longest
    with pytest.raises(SpecError, match=r"^generator.max_new_tokens: the prompt of sample s\d has .*; 8 do"):
        prompts(longest + 8, 9)
    with pytest.raises(DataError, match="no answer can be written"):
        prompts(longest, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 900)), min_size=1, max_size=80))
def test_the_samples_encoded_whole_are_the_telling_ones(drawn):
    picture, words = ImagePart(None), TextPart("x")
    rendered = [Rendered(str(place), (*[picture] * images, words)) for place, (images, _) in enumerate(drawn)]
    lengths = [length for _, length in drawn]
    chosen = select_samples(rendered, lengths)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(CHOSEN, len(drawn))
    assert set(range(min(FIRST, len(drawn)))) <= set(chosen)
    assert sorted(lengths)[-LONGEST:] == sorted(lengths[place] for place in chosen)[-LONGEST:]
    assert {images for images, _ in drawn} == {drawn[place][0] for place in chosen}
