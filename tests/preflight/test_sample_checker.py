"""Each way in which something else than the answer can carry loss is found, and what is right is not complained of."""

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


def inspector(model, **options):
    return SampleChecker.of(model, SftTrainer(SftOptions(**options)))


def found(model, sample, **options):
    looking = inspector(model, **options)
    return looking.inspect(sample, looking.encode(sample), looking.prompt_ids(sample))


@pytest.mark.parametrize("target_suffix", ["", "\n", " and so on"])
def test_a_right_sample_has_no_problem(model, samples, target_suffix):
    for sample in samples:
        seen = found(model, sample, target_suffix=target_suffix)
        assert seen.problems == ()
        assert seen.trained_text == f"{sample.target}<|im_end|>{target_suffix}"
        assert not seen.truncated
        assert not seen.respelt
        count = model.count(sample)
        assert (seen.num_image_tokens, seen.num_tokens - seen.num_trained) == (count.image, count.image + count.text)
        assert inspector(model).inspect_turn(sample) == ()


@given(
    target=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_no_text_is_complained_of(model, samples, target, prompt):
    sample = replace(samples[0], content=(*samples[0].content, TextPart(prompt)), target=target)
    looking = inspector(model)
    assert looking.inspect_words(sample).problems == ()


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


def _hole(rendered, features):
    labels = features["labels"].clone()
    labels[-3] = IGNORED
    return _labelled(features, labels)


def _another_prompt(rendered, features):
    return features if rendered.target is None else _without(features, 1)


FAULTS = {
    _shifted_early: r"the label at token \d+ is 'Number', and the token that stands there is .* one place too early",
    _shifted_late: r"labels belong at the tokens themselves, and all of them stand one place too late",
    _image_in_loss: r"an image token carries loss, at token \d+ of \d+",
    _all_masked: "no token carries loss",
    _whole_conversation: r"expected 'Number 0.<\|im_end\|>' and found '<\|im_start\|>system",
    _image_token_lost: "3 image tokens stand for 4 features of 1 images",
    _no_end_token: r"at character 9 expected 'Number 0.<\|im_end\|>' and found 'Number 0.'",
    _hole: r"the tokens that carry loss are interrupted after token \d+",
    _another_prompt: r"prompt in training is not the one that an answer is generated from: at character \d+ expected",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_found(spoilt, samples, fault):
    seen = found(spoilt(fault), samples[0])
    assert any(re.search(FAULTS[fault], problem) for problem in seen.problems), seen.problems


def test_a_fault_stops_with_the_samples_id(spoilt, samples):
    looking = inspector(spoilt(_shifted_early))
    with pytest.raises(StepError, match=r"^sample s2: the label at token"):
        looking.check(samples[2], looking.encode(samples[2]))


def test_a_check_while_training_leaves_the_vision_tower_alone(spoilt, samples):
    lossy = spoilt(_image_token_lost)
    lossy.num_image_features = lambda features: pytest.fail("a model may have to run its vision tower for this")
    looking = inspector(lossy)
    with pytest.raises(StepError, match=r"^sample s0: 3 image tokens stand for 4 features"):
        looking.check(samples[0], looking.encode(samples[0]))


def test_a_missing_suffix_is_found(model, samples):
    looking = inspector(model, target_suffix="\n")
    bare = model.encode(samples[0])
    [problem] = looking.inspect(samples[0], bare).problems
    assert problem.endswith(r"expected 'Number 0.<|im_end|>\n' and found 'Number 0.<|im_end|>'")


def test_an_end_token_inside_the_answer_is_found_though_its_text_is_right(spoilt, model, samples):
    sample = replace(samples[0], target="One <|im_end|> two.")
    assert found(model, sample).problems == ()
    first, second = (model.encode(replace(sample, target=text)) for text in ("One ", " two."))
    prompt = int((first["labels"] == IGNORED).sum())
    joined = {
        name: torch.cat([first[name], second[name][prompt:]]) for name in ("input_ids", "labels", "mm_token_type_ids")
    }
    naive = spoilt(lambda rendered, features: features if rendered.target is None else {**features, **joined})
    [problem] = found(naive, sample).problems
    assert problem.startswith("a token that ends an answer stands inside it: at character 14 expected")


def test_a_template_that_writes_before_the_answer_is_found(with_template, samples):
    wrapped = with_template(
        lambda template: template.replace(
            "{% for part in message.content %}",
            "{% if message.role == 'assistant' %}(thinking){% endif %}{% for part in message.content %}",
        )
    )
    [problem] = inspector(wrapped).inspect_turn(samples[0])
    assert "assistantNumber0.' and found" in problem
    assert "assistant(think" in problem


def test_a_text_that_the_prompt_lacks_is_found(spoilt, model, samples):
    words = spoilt(lambda rendered, features: model.encode(replace(rendered, content=rendered.content[:-1])))
    [problem] = found(words, samples[0]).problems
    assert problem == "the prompt lacks a text of the sample, or has it out of order: 'What are these 0 things?'"


def test_a_tokenizer_that_composes_characters_is_told_and_refused_nothing(model, samples):
    sample = replace(samples[0], target="Cafe\u0301 in Malmo\u0308.")
    seen = found(model, sample)
    assert (seen.problems, seen.respelt) == ((), True)
    assert seen.trained_text == "Caf\u00e9 in Malm\u00f6.<|im_end|>"


def test_an_answer_cut_at_the_limit_is_no_problem_where_the_trainer_cuts(model, samples):
    whole = found(model, samples[6])
    limit = whole.num_tokens - 4
    cut = found(model, samples[6], max_length=limit, on_overlength="truncate")
    assert (cut.num_tokens, cut.truncated, cut.problems) == (limit, True, ())
    assert "<|im_end|>" not in cut.trained_text
    assert whole.trained_text.startswith(cut.trained_text)
    refusing = inspector(model, max_length=limit)
    short = inspector(model, max_length=limit, on_overlength="truncate").encode(samples[6])
    assert any("are not the answer" in problem for problem in refusing.inspect(samples[6], short).problems)


def test_without_a_trainer_a_sample_is_looked_at_all_the_same(model, samples):
    looking = SampleChecker.of(model, None)
    assert looking.inspect(samples[0], looking.encode(samples[0])).trained_text == "Number 0.<|im_end|>"
    assert looking.limit == model.context_length
    prompt = replace(samples[0], target=None)
    assert looking.inspect_prompt(prompt, model.encode(prompt)) == ()
