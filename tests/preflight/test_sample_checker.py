"""Every fault in labels and prompts is found, and valid samples have no problem."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import StepError
from runner.preflight.sample_checker import SampleChecker
from runner.records import IGNORED, TextPart


def make_checker(model, **options):
    return SampleChecker.of(model, SftTrainer(SftOptions(**options)))


def found(model, sample, **options):
    checker = make_checker(model, **options)
    return checker.inspect(sample, checker.encode(sample), checker.prompt_ids(sample))


@pytest.mark.parametrize("target_suffix", ["", "\n", " and so on"])
def test_a_valid_sample_has_no_problem(model, samples, target_suffix):
    for sample in samples:
        check = found(model, sample, target_suffix=target_suffix)
        assert check.problems == ()
        assert check.trained_text == f"{sample.target}<|im_end|>{target_suffix}"
        assert not check.truncated
        assert not check.respelt
        count = model.count(sample)
        assert (check.num_image_tokens, check.num_tokens - check.num_trained) == (count.image, count.image + count.text)
        assert make_checker(model).chat_template_problems(sample) == ()


@given(
    target=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_any_text_is_valid(model, samples, target, prompt):
    sample = replace(samples[0], content=(*samples[0].content, TextPart(prompt)), target=target)
    checker = make_checker(model)
    assert checker.inspect_without_pixels(sample).problems == ()


def test_checking_a_sample_without_pixels_tokenizes_its_prompt_once(model, samples, monkeypatch):
    template, decode, prompts, decoded = model._template, model.decode_raw, [], []
    encode_prompt = template.encode_prompt
    monkeypatch.setattr(template, "encode_prompt", lambda *given: prompts.append(given) or encode_prompt(*given))
    monkeypatch.setattr(model, "decode_raw", lambda ids: decoded.append(list(ids)) or decode(ids))
    sample = replace(samples[0], id="not encoded before")
    assert make_checker(model).inspect_without_pixels(sample).problems == ()
    assert len(prompts) == 1
    assert len(decoded) == 2  # answer and prompt


def _labelled(features, labels):
    return {**features, "labels": labels}


def _shifted_early(rendered, features):
    return _labelled(features, torch.cat([features["labels"][1:], torch.tensor([IGNORED])]))


def _shifted_late(rendered, features):
    return _labelled(features, torch.cat([torch.tensor([IGNORED]), features["labels"][:-1]]))


def _image_in_loss(rendered, features):
    labels, images = features["labels"].clone(), features["mm_token_type_ids"] == 1
    labels[images.nonzero()[-1]] = features["input_ids"][images][0]
    return _labelled(features, labels)


def _all_masked(rendered, features):
    return _labelled(features, torch.full_like(features["labels"], IGNORED))


def _whole_conversation(rendered, features):
    return _labelled(features, torch.where(features["mm_token_type_ids"] == 1, IGNORED, features["input_ids"]))


def _without(features, place):
    kept = [at for at in range(len(features["input_ids"])) if at != place % len(features["input_ids"])]
    return {name: each[kept] if each.dim() == 1 else each for name, each in features.items()}


def _image_token_lost(rendered, features):
    return _without(features, int((features["mm_token_type_ids"] == 1).nonzero()[0]))


def _no_end_token(rendered, features):
    return features if rendered.target is None else _without(features, -1)


def _gap(rendered, features):
    labels = features["labels"].clone()
    labels[-3] = IGNORED
    return _labelled(features, labels)


def _another_prompt(rendered, features):
    return features if rendered.target is None else _without(features, 1)


FAULTS = {
    _shifted_early: r"the label at token \d+ is 'Number', but the token there is .* one token too early",
    _shifted_late: r"a label belongs at its own token; all labels are one token too late",
    _image_in_loss: r"an image token carries loss, at token \d+ of \d+",
    _all_masked: "no token carries loss",
    _whole_conversation: r"expected 'Number 0.<\|im_end\|>' and found '<\|im_start\|>system",
    _image_token_lost: "there are 3 image tokens for 4 features of 1 images",
    _no_end_token: r"at character 9 expected 'Number 0.<\|im_end\|>' and found 'Number 0.'",
    _gap: r"the tokens with loss are not contiguous: there is a gap after token \d+",
    _another_prompt: r"prompt in training differs from the prompt of generation: at character \d+ expected",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_found(faulty_model, samples, fault):
    check = found(faulty_model(fault), samples[0])
    assert any(re.search(FAULTS[fault], problem) for problem in check.problems), check.problems


def test_a_fault_is_an_error_with_the_sample_id(faulty_model, samples):
    checker = make_checker(faulty_model(_shifted_early))
    with pytest.raises(StepError, match=r"^sample s2: the label at token"):
        checker.check(samples[2], checker.encode(samples[2]))


def test_a_check_during_training_does_not_run_the_vision_encoder(faulty_model, samples):
    lossy = faulty_model(_image_token_lost)
    lossy.num_image_features = lambda features: pytest.fail("a model may have to run its vision tower for this")
    checker = make_checker(lossy)
    with pytest.raises(StepError, match=r"^sample s0: there are 3 image tokens for 4 features"):
        checker.check(samples[0], checker.encode(samples[0]))


def test_a_missing_suffix_is_found(model, samples):
    checker = make_checker(model, target_suffix="\n")
    bare = model.encode(samples[0])
    [problem] = checker.inspect(samples[0], bare).problems
    assert problem.endswith(r"expected 'Number 0.<|im_end|>\n' and found 'Number 0.<|im_end|>'")


def test_an_end_token_inside_the_answer_is_found_though_its_text_is_right(faulty_model, model, samples):
    sample = replace(samples[0], target="One <|im_end|> two.")
    assert found(model, sample).problems == ()
    first, second = (model.encode(replace(sample, target=text)) for text in ("One ", " two."))
    prompt = int((first["labels"] == IGNORED).sum())
    joined = {
        name: torch.cat([first[name], second[name][prompt:]]) for name in ("input_ids", "labels", "mm_token_type_ids")
    }
    naive = faulty_model(lambda rendered, features: features if rendered.target is None else {**features, **joined})
    [problem] = found(naive, sample).problems
    assert problem.startswith("the answer contains a token that ends generation: at character 14 expected")


def test_a_template_that_writes_before_the_answer_is_found(with_template, samples):
    wrapped = with_template(
        lambda template: template.replace(
            "{% for part in message.content %}",
            "{% if message.role == 'assistant' %}(thinking){% endif %}{% for part in message.content %}",
        )
    )
    [problem] = make_checker(wrapped).chat_template_problems(samples[0])
    assert "assistantNumber0.' and found" in problem
    assert "assistant(think" in problem


def test_a_text_that_is_missing_in_the_prompt_is_found(faulty_model, model, samples):
    words = faulty_model(lambda rendered, features: model.encode(replace(rendered, content=rendered.content[:-1])))
    [problem] = found(words, samples[0]).problems
    assert problem == "a text of the sample is missing in the prompt, or out of order: 'What are these 0 things?'"


def test_a_tokenizer_that_normalizes_characters_is_reported_and_accepted(model, samples):
    sample = replace(samples[0], target="Cafe\u0301 in Malmo\u0308.")
    check = found(model, sample)
    assert (check.problems, check.respelt) == ((), True)
    assert check.trained_text == "Caf\u00e9 in Malm\u00f6.<|im_end|>"


def test_an_answer_truncated_at_the_limit_is_valid_if_the_trainer_truncates(model, samples):
    whole = found(model, samples[6])
    limit = whole.num_tokens - 4
    cut = found(model, samples[6], max_length=limit, on_overlength="truncate")
    assert (cut.num_tokens, cut.truncated, cut.problems) == (limit, True, ())
    assert "<|im_end|>" not in cut.trained_text
    assert whole.trained_text.startswith(cut.trained_text)
    refusing = make_checker(model, max_length=limit)
    short = make_checker(model, max_length=limit, on_overlength="truncate").encode(samples[6])
    assert any("are not the answer" in problem for problem in refusing.inspect(samples[6], short).problems)


def test_a_sample_is_checked_without_a_trainer(model, samples):
    checker = SampleChecker.of(model, None)
    assert checker.inspect(samples[0], checker.encode(samples[0])).trained_text == "Number 0.<|im_end|>"
    assert checker.limit == model.context_length
    prompt = replace(samples[0], target=None)
    assert checker.inspect_prompt(prompt, model.encode(prompt)) == ()
