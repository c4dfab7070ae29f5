"""Few-shot examples are drawn from the training split by the seed, and are the same for all prompts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.errors import SpecError
from runner.prompt_rendering import render_few_shot
from runner.records import Entity, Sample, Segment

LABELS = ("person", "other")
ADAPTER = PromptFormatAdapter(PfaOptions(), LABELS)


def sample(number, text=None, image=None, segment=None):
    entity = f"Name {number}"
    segments = (Segment("a", Path(segment or f"{number}-a.png"), entity, (0, 0, 1, 1)),)
    return Sample(
        f"n{number}",
        text or f"text {number}",
        Path(image or f"{number}.png"),
        f"summary {number}",
        (Entity("person", entity),),
        segments,
    )


TRAIN = [sample(number) for number in range(20)]
TEST = [sample(number) for number in range(100, 103)]


def test_no_examples_give_the_prompt_alone():
    assert render_few_shot(ADAPTER, TEST, (), 0, 1) == [ADAPTER.render_prompt(each) for each in TEST]


@given(number=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_all_prompts_share_examples_and_larger_numbers_extend_them(number, seed):
    prompts = render_few_shot(ADAPTER, TEST, TRAIN, number, seed)
    examples = prompts[0].examples
    assert all(prompt.examples == examples for prompt in prompts)
    assert len({example.id for example in examples}) == number
    assert set(examples) <= {ADAPTER.render_training(each) for each in TRAIN}
    assert [prompt.content for prompt in prompts] == [ADAPTER.render_prompt(each).content for each in TEST]
    fewer = render_few_shot(ADAPTER, TEST, TRAIN, number - 1, seed)
    assert fewer[0].examples == examples[:-1]


def test_another_seed_draws_other_examples():
    draws = {render_few_shot(ADAPTER, TEST, TRAIN, 3, seed)[0].examples for seed in range(10)}
    assert len(draws) > 5


@pytest.mark.parametrize(
    "shared",
    [
        sample(7, text="text 101"),
        sample(7, image="102.png"),
        sample(7, segment="100-a.png"),
        sample(101, text="other", image="other.png", segment="other-a.png"),
    ],
    ids=["text", "image", "segment", "id"],
)
def test_samples_that_overlap_a_prompt_are_never_examples(shared):
    with pytest.raises(SpecError, match="2 examples are required, but only 1 samples of the training split") as caught:
        render_few_shot(ADAPTER, TEST, [shared, sample(1)], 2, 0)
    assert caught.value.problems[0].path == ("generator", "num_few_shot")
    examples = render_few_shot(ADAPTER, TEST, [shared, sample(1)], 1, 0)[0].examples
    assert [example.id for example in examples] == ["n1"]


@pytest.mark.parametrize(
    ("text", "image"), [("TEXT\u00a0 101", "own"), ("\uff54ext 101", "own"), ("own", "of the test")]
)
def test_the_same_content_in_another_file_or_form_is_never_an_example(tmp_path, text, image):
    """The definition is that of the leak check: images by their bytes, texts without case, spacing and width."""
    (tmp_path / "test.png").write_bytes(b"of the test")
    (tmp_path / "copy.png").write_bytes(image.encode())
    question = sample(101, image=tmp_path / "test.png")
    copy = sample(7, text=text, image=tmp_path / "copy.png")
    [prompt] = render_few_shot(ADAPTER, [question], [copy, sample(1)], 1, 0)
    assert [example.id for example in prompt.examples] == ["n1"]
    with pytest.raises(SpecError, match="only 1 samples of the training split share neither text nor image"):
        render_few_shot(ADAPTER, [question], [copy, sample(1)], 2, 0)


@given(number=st.integers(1, 15), seed=st.integers(0, 2**32 - 1), aside=st.sets(st.integers(0, 19), max_size=5))
def test_validation_prompts_use_the_examples_of_the_test_split_except_themselves(number, seed, aside):
    questions = [TRAIN[place] for place in sorted(aside)] or [TRAIN[0]]
    ids = {question.id for question in questions}
    of_test = [each.id for each in render_few_shot(ADAPTER, TEST, TRAIN, 20, seed)[0].examples]
    shown = render_few_shot(ADAPTER, questions, TRAIN, number, seed, TEST)[0].examples
    assert [each.id for each in shown] == [name for name in of_test if name not in ids][:number]


def test_too_few_examples_besides_validation_samples_are_refused():
    message = "only 18 samples of the training split share neither text nor image with the test split or the validation"
    with pytest.raises(SpecError, match=message):
        render_few_shot(ADAPTER, TRAIN[:2], TRAIN, 19, 0, TEST)
