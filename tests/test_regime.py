"""The regime turns samples into examples and prompts, and merges answers to single tasks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from plugins.adapter.shown_answers import NEUTRAL_ANSWER
from runner.errors import DataError, SpecError, StepError
from runner.records import Answer, Entity, Sample, Segment, TextPart
from runner.regime import Regime, merge_predictions, parse_row, shuffle_between_groups
from runner.spec.regime_section import RegimeOptions

LABELS = ("person", "location", "organization", "other")
TASKS = ("summary", "ner", "match")
ALL = {task: [other for other in TASKS if other != task] for task in TASKS}


def sample(number):
    entities = (Entity("person", f"Ann {number}"), Entity("location", f"Town {number}"))
    segments = (Segment("a", Path(f"{number}-a.png"), entities[0].text, (0, 0, 1, 1)),)
    return Sample(f"n{number}", f"text {number}", Path(f"{number}.png"), f"A view of {number}.", entities, segments)


SAMPLES = [sample(number) for number in range(6)]
GROUPS = ["a", "a", "b", "c", "d", "e"]


def regime(seed=0, tasks=TASKS, **options):
    options = {"prompts": "per_task", **options}
    return Regime(RegimeOptions(**options), PromptFormatAdapter(PfaOptions(tasks=tasks), LABELS), seed)


def test_one_pass_is_what_the_adapter_renders():
    one_pass = regime(prompts="one_pass")
    examples = one_pass.training_examples(SAMPLES, GROUPS)
    rendered = [one_pass.adapter.render_training(each) for each in SAMPLES]
    assert examples.first == examples.plain == examples.distinct == rendered
    assert examples.groups(GROUPS) == GROUPS
    assert one_pass.prompts(SAMPLES, (), 0) == [one_pass.adapter.render_prompt(each) for each in SAMPLES]
    assert one_pass.passes == [[""]]


@pytest.mark.parametrize("prompts", ["one_pass", "per_task"])
def test_a_task_that_no_training_sample_answers_is_refused_by_name(prompts):
    """As in a corpus without boxes. One sample without segments among others is an example with an empty mapping."""
    bare = [replace(each, segments=()) for each in SAMPLES]
    with pytest.raises(DataError, match=r"an answer to the task match: .* Write adapter\.tasks: \[summary, ner\]"):
        regime(prompts=prompts).training_examples(bare, GROUPS)
    assert regime(prompts=prompts, tasks=("summary", "ner")).training_examples(bare, GROUPS).first
    mixed = regime(prompts=prompts).training_examples([*bare[:5], SAMPLES[5]], GROUPS)
    assert "image entities pair{}" in mixed.first[len(TASKS) - 1 if prompts == "per_task" else 0].target


def test_a_sample_without_entities_or_segments_is_an_example_that_parses_back():
    """As `keep: all` builds."""
    empty = replace(SAMPLES[0], entities=(), segments=())
    for tasks in (("ner",), ("ner", "match"), TASKS):
        adapter = regime(tasks=tasks).adapter
        parsed = adapter.parse(adapter.render_training(empty).target, "lossless")
        assert (parsed.answer, parsed.ending) == (adapter.reference(empty), "clean")


def test_each_task_of_each_sample_is_an_example_with_the_prompt_of_the_task_alone():
    examples = regime().training_examples(SAMPLES, GROUPS)
    assert [each.id for each in examples.first[:4]] == ["n0/summary", "n0/ner", "n0/match", "n1/summary"]
    assert [(each.task, each.sample_id) for each in examples.first[2:4]] == [("match", "n0"), ("summary", "n1")]
    for task, example in zip(TASKS, examples.first, strict=False):
        alone = PromptFormatAdapter(PfaOptions(tasks=(task,)), LABELS).render_training(SAMPLES[0])
        assert (example.content, example.target) == (alone.content, alone.target)
    assert examples.distinct == examples.first == examples.plain
    assert examples.groups(GROUPS)[:7] == ["a"] * 6 + ["b"]


def test_a_gold_context_shows_the_answers_to_the_named_tasks_only():
    conditioned = regime(context={"ner": ["summary"], "match": ["summary", "ner"]})
    examples = conditioned.training_examples(SAMPLES, GROUPS)
    summary, ner, match = examples.first[:3]
    assert summary is examples.plain[0]
    assert ner.target == examples.plain[1].target
    assert ner.prompt.startswith(examples.plain[1].prompt)
    assert ner.prompt.endswith("the image decides.\nSummary of the image: A view of 0.")
    assert match.prompt.endswith(
        "Summary of the image: A view of 0.\nLabel-entities pairs: :person;Ann 0:location;Town 0"
    )
    assert match.images == examples.plain[2].images
    assert len(examples.distinct) == 5 * len(SAMPLES)
    assert conditioned.prompts(SAMPLES, (), 0) == [replace(each, target=None) for each in examples.plain]


@pytest.mark.parametrize("seed", range(4))
def test_a_shuffled_context_is_that_of_another_group_and_drawn_anew(seed):
    shuffled = regime(seed, context=ALL, context_content="shuffled", context_draws=3)
    examples = shuffled.training_examples(SAMPLES, GROUPS)
    assert len(examples.draws) == 3
    for draw in examples.draws:
        assert [(each.id, each.target) for each in draw] == [(each.id, each.target) for each in examples.plain]
        shown = [next(n for n in range(6) if f"A view of {n}." in draw[3 * index + 1].prompt) for index in range(6)]
        assert sorted(shown) == list(range(6))
        assert all(GROUPS[donor] != GROUPS[index] for index, donor in enumerate(shown))
    assert len({draw[1].prompt for draw in examples.draws}) > 1
    assert shuffled.training_examples(SAMPLES, GROUPS) == examples


@pytest.mark.parametrize("content", ["gold", "shuffled", "neutral"])
def test_the_checks_accept_what_was_rendered(content):
    checked = regime(context=ALL, context_content=content)
    checked.check_examples(SAMPLES, checked.training_examples(SAMPLES, GROUPS), GROUPS)
    digests = checked.check_prompts(checked.prompts(SAMPLES, (), 0))
    assert digests == regime().check_prompts(regime().prompts(SAMPLES, (), 0))
    assert len(set(digests.values())) == 3
    assert digests != checked.check_prompts(checked.prompts(SAMPLES[1:], (), 0))


def test_a_neutral_context_differs_from_gold_in_the_answers_only():
    gold, neutral = (regime(context=ALL, context_content=each) for each in ("gold", "neutral"))
    for one, other in zip(
        gold.training_examples(SAMPLES, GROUPS).first, neutral.training_examples(SAMPLES, GROUPS).first, strict=True
    ):
        lines, neutral_lines = one.prompt.split("\n"), other.prompt.split("\n")
        assert len(lines) == len(neutral_lines)
        for line, neutral_line in zip(lines, neutral_lines, strict=True):
            assert line == neutral_line or neutral_line == f"{line.partition(': ')[0]}: {NEUTRAL_ANSWER}"
        assert other.prompt.count(NEUTRAL_ANSWER) == 2


def changed(examples, index, **fields):
    draw = list(examples.first)
    draw[index] = replace(draw[index], **fields)
    return replace(examples, draws=[draw])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda examples: changed(examples, 0, content=examples.first[1].content),
        lambda examples: changed(examples, 1, content=examples.plain[1].content),
        lambda examples: changed(examples, 1, target=f"{examples.first[1].target} and the context"),
        lambda examples: changed(examples, 1, content=(*examples.first[1].content[:-1], TextPart("another text"))),
        lambda examples: changed(examples, 4, content=examples.first[1].content),
    ],
    ids=["context not named", "no context", "another target", "another text", "the context of another sample"],
)
def test_examples_that_differ_from_the_spec_are_refused(spoil):
    checked = regime(context={"ner": ["summary"]})
    examples = checked.training_examples(SAMPLES, GROUPS)
    checked.check_examples(SAMPLES, examples, GROUPS)
    with pytest.raises(StepError, match=r"is not the prompt of generation with the context that the spec names"):
        checked.check_examples(SAMPLES, spoil(examples), GROUPS)


def test_different_prompts_in_training_and_generation_are_refused():
    checked = regime()
    examples = checked.training_examples(SAMPLES, GROUPS)
    plain = [replace(examples.plain[0], content=(TextPart("another question"),)), *examples.plain[1:]]
    with pytest.raises(StepError, match=r"n0/summary: the adapter renders different prompts"):
        checked.check_examples(SAMPLES, replace(examples, plain=plain), GROUPS)


def test_a_shuffled_context_of_the_own_group_is_refused():
    checked = regime(context=ALL, context_content="shuffled")
    examples = checked.training_examples(SAMPLES, GROUPS)
    same = ["a"] * 4 + ["b", "c"]
    with pytest.raises(SpecError, match="4 of 6 training samples share"):
        checked.check_examples(SAMPLES, examples, same)
    checked._donors = lambda groups, draw: [1, 0, 3, 2, 5, 4]
    with pytest.raises(StepError, match="of the same group"):
        checked.check_examples(SAMPLES, examples, GROUPS)


def test_a_context_in_a_prompt_for_generation_is_refused():
    checked = regime(context=ALL)
    leaked = checked.training_examples(SAMPLES, GROUPS).first
    with pytest.raises(StepError, match="n0/summary: the prompt for generation shows a context"):
        checked.check_prompts(leaked)


@given(st.lists(st.integers(0, 8), max_size=60), st.integers(0, 5))
def test_each_element_gets_one_of_another_group_or_there_is_none(numbers, seed):
    groups = [str(number) for number in numbers]
    if groups and 2 * max(Counter(groups).values()) > len(groups):
        with pytest.raises(SpecError) as caught:
            shuffle_between_groups(groups, str(seed))
        assert caught.value.problems[0].path == ("regime", "context_content")
        return
    assigned = shuffle_between_groups(groups, str(seed))
    assert sorted(assigned) == list(range(len(groups)))
    assert all(groups[donor] != group for group, donor in zip(groups, assigned, strict=True))
    assert assigned == shuffle_between_groups(groups, str(seed))


def test_a_pipeline_answers_in_passes_and_shows_predictions():
    piped = regime(pipeline={"match": ["ner", "summary"], "ner": ["summary"]})
    assert piped.passes == [["summary"], ["ner"], ["match"]]
    prompts = piped.prompts(SAMPLES[:2], (), 0)
    outputs = {}
    for number in range(3):
        asked = piped.prompts_of_pass(number, prompts, outputs)
        assert [each.task for each in asked] == piped.passes[number] * 2
        outputs |= {each.id: f"Task 1 Answer: {each.id} seen" for each in asked}
    assert asked[1].prompt.endswith(
        "Summary of the image: n1/summary seen\nLabel-entities pairs: Task 1 Answer: n1/ner seen"
    )
    longest = piped.longest_prompts(prompts)
    assert [each.id for each in longest] == [f"n{n}/{task}" for task in TASKS for n in (0, 1)]
    assert sum(each.prompt.count(NEUTRAL_ANSWER) for each in longest) == 2 * 3
    assert piped.max_shown_predictions == 2


def test_tasks_without_a_pipeline_are_asked_in_one_pass():
    assert regime().passes == [list(TASKS)]
    assert regime(pipeline={"match": ["ner"]}).passes == [["summary", "ner"], ["match"]]


def test_answers_to_single_tasks_are_one_prediction():
    merged = regime()
    rows = {
        "n0/summary": {"output": "Task 1 Answer: NER: a view.", "finished": True},
        "n0/ner": {"output": "Task 2 Answer:\nNER:\n:person;Ann 0", "finished": True},
        "n0/match": {"output": "nothing", "finished": False},
    }
    row = merged.answer_row("n0", rows)
    assert (row["id"], row["finished"], list(row["outputs"])) == ("n0", False, list(TASKS))
    prediction = parse_row(merged.adapter, row, "lossless")
    assert prediction.answer == Answer("NER: a view.", frozenset({("person", "Ann 0")}), {})
    assert prediction.ending == "malformed"
    assert all(note.startswith("match: ") for note in prediction.notes)
    assert prediction.notes
    # The same answers in one text would not be told apart.
    assert merged.adapter.parse(row["output"], "lossless") != prediction


@given(st.sampled_from(SAMPLES), st.sampled_from(["lossless", "published"]))
def test_right_answers_to_single_tasks_are_the_reference(each, mode):
    merged = regime()
    examples = merged.training_examples([each], ["a"]).first
    rows = {example.id: {"output": example.target, "finished": True} for example in examples}
    prediction = parse_row(merged.adapter, merged.answer_row(each.id, rows), mode)
    assert prediction.answer == merged.adapter.reference(each)
    assert prediction.ending == "clean"


def test_a_task_without_answer_counts_as_an_empty_answer():
    adapter = regime().adapter
    row = {"output": "", "outputs": {"summary": "Task 1 Answer: A view."}}
    assert parse_row(adapter, row, "lossless").answer == Answer("A view.", frozenset(), {})


def test_merged_predictions_end_as_the_worst():
    adapter = regime().adapter
    texts = {"summary": "Task 1 Answer: A view.", "ner": "Task 2 Answer:\nNER:\n:person;Ann"}
    predictions = {task: adapter.for_task(task).parse(text, "lossless") for task, text in texts.items()}
    assert merge_predictions(predictions).ending == "clean"
    assert merge_predictions(predictions | {"match": adapter.for_task("match").parse("", "lossless")}).ending == (
        "malformed"
    )
