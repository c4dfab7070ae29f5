"""The rules for parsing an answer, case by case and in both modes."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import TASKS, PfaOptions, prompt_text, target_text
from runner.records import is_blank

LABELS = ("person", "location", "organization", "other")
SUBSETS = [tasks for size in (1, 2, 3) for tasks in combinations(TASKS, size)]
MODES = ("lossless", "published")
LINES = (
    "Task 1 Answer: Two people pose.",
    "Task 2 Answer:",
    "NER:",
    ":other;VOGUE:person;Jan Taminiau",
    "image entities pair{'a': 'Jan Taminiau', 'b': 'VOGUE'}",
)
ANSWER = "\n".join(LINES)


def read(output, mode, tasks=TASKS):
    return PromptFormatAdapter(PfaOptions(tasks=tasks), LABELS).parse(output, mode)


def pairs(text, mode):
    return read(f"Task 2 Answer:\nNER:\n{text}", mode, ("ner",)).answer.pairs


def mapping(text, mode):
    return read(f"Task 2 Answer:\nimage entities pair{text}", mode, ("match",)).answer.mapping


@pytest.mark.parametrize(
    ("output", "summary"),
    [
        ("Task 1 Answer: One.\nTask 2 Answer: Two.", "One."),
        ("Task 1 Answer:\n\n One.\n Still  one. \n", "One.\n Still  one."),
        ("Task 1 Answer: A. Task 1 Answer: B.", "A. Task 1 Answer: B."),
        ("Task 2 Answer: Two.\nTask 1 Answer: One.", "One."),
        ("Task 1 Answer: NER: and image entities pair", "NER: and image entities pair"),
        ("task 1 answer: One.", ""),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_summary_is_the_text_from_its_marker_to_the_next_or_the_end(output, summary, mode):
    assert read(output, mode, ("summary",)).answer.summary == summary


@pytest.mark.parametrize(
    ("text", "lossless", "published"),
    [
        (":person;Ann:location;Rome", {("person", "Ann"), ("location", "Rome")}, "the same"),
        (":person; Ann\n  Lee \t", {("person", "Ann Lee")}, "the same"),
        (":person;Ann:person;Ann", {("person", "Ann")}, "the same"),
        (":person;ANN:person;Ann", {("person", "ANN"), ("person", "Ann")}, "the same"),
        ("", set(), "the same"),
        (":other;NER: The Film", {("other", "NER: The Film")}, {("other", "NER")}),
        (":other;Star Wars: Rogue One", {("other", "Star Wars: Rogue One")}, {("other", "Star Wars")}),
        (":other;at 10:30;late", {("other", "at 10:30;late")}, {("other", "at 10"), ("30", "late")}),
        (":other;A &amp ; B", {("other", "A &amp ; B")}, "the same"),
        (":event;Pride:other;Rome", {("other", "Rome")}, {("event", "Pride"), ("other", "Rome")}),
        (":other;Rome:event;Pride", {("other", "Rome:event;Pride")}, {("other", "Rome"), ("event", "Pride")}),
        (": person ;Ann", set(), {("person", "Ann")}),
        (":Person;Ann", set(), {("Person", "Ann")}),
        ("person;Ann", set(), {("person", "Ann")}),
        (":person;:other;Rome", {("other", "Rome")}, "the same"),
        (":;Ann:other;Rome", {("other", "Rome")}, "the same"),
        (":other;a:person;b", {("other", "a"), ("person", "b")}, "the same"),
        (":other;Rome\nimage entities pair{'a': 'x:person;Ann'}", {("other", "Rome")}, "the same"),
    ],
)
def test_pairs(text, lossless, published):
    assert pairs(text, "lossless") == lossless
    assert pairs(text, "published") == (lossless if published == "the same" else published)


@pytest.mark.parametrize("mode", MODES)
def test_unusual_label_sets(mode):
    output = "NER:\n:neutral;unique .:positive;boring .:positive;sad:sehr schlecht;ein Kuß"
    adapter = PromptFormatAdapter(PfaOptions(tasks=("ner",)), ("positive", "neutral", "negative", "sehr schlecht"))
    assert adapter.parse(output, mode).answer.pairs == {
        ("neutral", "unique ."),
        ("positive", "boring ."),
        ("positive", "sad"),
        ("sehr schlecht", "ein Kuß"),
    }


def test_marker_in_the_summary_misleads_the_published_rule_only():
    output = ANSWER.replace("Two people pose.", "The WINNER: 1:2;3 and an image entities pair {'a': 'x'}.")
    lossless = read(output, "lossless")
    assert lossless.ending == "clean"
    assert lossless.answer.pairs == {("other", "VOGUE"), ("person", "Jan Taminiau")}
    assert lossless.answer.mapping == {"a": "Jan Taminiau", "b": "VOGUE"}
    published = read(output, "published").answer
    assert published.summary == lossless.answer.summary
    assert published.pairs == {("2", "3 and an")}
    assert published.mapping == {}


@pytest.mark.parametrize(
    ("text", "lossless", "published"),
    [
        ("{'a': 'Ann', 'b': 'Rome'}", {"a": "Ann", "b": "Rome"}, "the same"),
        ("\n : {'a': ' Ann\\n Lee '} ", {"a": "Ann Lee"}, "the same"),
        ('{"a": "Victoria\'s Secret"}', {"a": "Victoria's Secret"}, "the same"),
        ("{'a': 'Victoria\\'s Secret'}", {"a": "Victoria's Secret"}, "the same"),
        ("{'a': '{x}', 'b': '}'}", {"a": "{x}", "b": "}"}, "the same"),
        ("{'a': 'Ann'} and so on", {"a": "Ann"}, "the same"),
        ("{}", {}, "the same"),
        ("{'a': 'Ann'} # }", {"a": "Ann"}, "the same"),
        ("{'a': 'Ann'} # \0}", {"a": "Ann"}, {}),  # Python takes no zero, not even in a comment.
        ("{'a': 'Ann'} # \ud800}", {"a": "Ann"}, {}),
        ("{'a': 'Ann'} {'b': 'Rome'}", {"a": "Ann"}, {}),
        ("{'a': 'Ann'}}", {"a": "Ann"}, {}),
        ("{'a': 'Victoria's Secret', 'b': 'Rome'}", {"a": "Victoria's Secret", "b": "Rome"}, {}),
        ("{'a': 'Ann', 'b': 'Rome'", {"a": "Ann", "b": "Rome"}, {}),
        ("{'a': 'Ann', 'b': 'Ro", {"a": "Ann"}, {}),
        ("'a': 'Ann', 'b': 'Rome'", {"a": "Ann", "b": "Rome"}, {}),
        ("{'a': 'Ann', 'b': None}", {"a": "Ann"}, {}),
        ("{'a': ['Ann']}", {}, {}),
        ("{'a', 'b'}", {}, {}),
        ("{\u2018a\u2019: \u2018Ann’s Bar\u2019, \u201cb\u201d: \u201cBo\u201d}", {"a": "Ann’s Bar", "b": "Bo"}, {}),
        ("{`a`: `Ann\u00b4, 'b\": 'Bo'}", {"a": "Ann", "b": "Bo"}, {}),
        ("{'a': \"Ann', 'b': 'Bo'}", {"b": "Bo"}, {}),
        ("{'a': 'Ann\\\\', 'b': 'Bo'", {"a": "Ann\\", "b": "Bo"}, {}),
        ("{'a': 'Ann\\'s', 'b': 'Bo'", {"a": "Ann's", "b": "Bo"}, {}),
        ("{'a': 'Ann’s'}", {"a": "Ann’s"}, "the same"),
        ("", {}, "the same"),
    ],
)
def test_mapping(text, lossless, published):
    assert mapping(text, "lossless") == lossless
    assert mapping(text, "published") == (lossless if published == "the same" else published)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("mode", MODES)
def test_answer_without_a_line_is_never_clean(line, mode):
    prediction = read("\n".join(each for each in LINES if each != line), mode)
    # Nobody named is a fair answer, and so is what can still be read without the heading of the second part.
    fair = {LINES[1]: "repaired", LINES[3]: "clean"}
    assert prediction.ending == fair.get(line, "malformed")


@given(
    st.sampled_from(MODES),
    st.integers(0, len(ANSWER)),
    st.integers(0, 30),
    st.sampled_from(["", "\n", "'", '"', "{", "}", ":", ";", "\\", "\0", "\ud800", "NER:", "Task 2 Answer:"]),
)
def test_damaged_answers_are_parsed_and_noted(mode, start, removed, put):
    prediction = read(ANSWER[:start] + put + ANSWER[start + removed :], mode)
    answer = prediction.answer
    assert answer.summary is not None and answer.pairs is not None and answer.mapping is not None
    assert (prediction.ending == "clean") == (not prediction.notes)


@given(st.sampled_from(MODES), st.integers(0, len(ANSWER) - 1))
def test_truncated_answer_is_never_clean(mode, length):
    assert read(ANSWER[:length], mode).ending != "clean"


@pytest.mark.parametrize(
    ("tasks", "wording"),
    [
        (("summary",), "Please answer the following image understanding task.\nTask 1: What is in this image?"),
        (
            ("ner",),
            "Please answer the following image understanding task.\nTask 2: Text: TWEET\n"
            "Based on the provided text, extract the entities based on the given labels. There are 2 types of "
            "labels: person and other.\nPlease output all label-entities pairs in set format. e.g. "
            "(:label1;entities1:label2;entities2).",
        ),
        (
            ("match",),
            "Please answer the following image understanding task.\nTask 2: Text: TWEET\n"
            "We segment one or more of the smaller images from the full image of task 1. Based on the provided "
            "text, extract their corresponding entities, and then output the extracted entity matching the number "
            "of the corresponding small pictures.\nPlease output image number with entities pairs. e.g. "
            "{'a': 'entities1', 'b': 'entities2'}.",
        ),
    ],
)
def test_prompt_of_a_single_task(tasks, wording):
    assert prompt_text(tasks, ("person", "other"), "TWEET") == wording


@pytest.mark.parametrize("tasks", [each for each in SUBSETS if "summary" in each and len(each) > 1], ids="-".join)
def test_summary_with_another_task_starts_as_published(tasks):
    fine = prompt_text(tasks[1:], LABELS, "TWEET").partition("\n")[2]
    assert prompt_text(tasks, LABELS, "TWEET") == (
        "Please answer the following two image understanding tasks.\n"
        "Output the answers to these two questions in order.\n"
        f"Task 1: What is in this image?\n{fine}"
    )


entities = st.text("Ab.'\"{}\\;, é猫\u200b", min_size=1, max_size=8).filter(lambda text: not is_blank(text))


@given(st.lists(st.tuples(st.sampled_from(LABELS), entities), max_size=3), st.lists(entities, max_size=3))
def test_a_rendered_target_has_no_problems(named, shown):
    named = [(label, " ".join(entity.split())) for label, entity in named]
    target = target_text(TASKS, "Two people pose.", named, dict(zip("abc", shown, strict=False)))
    for mode in MODES:
        problems = PromptFormatAdapter(PfaOptions(), LABELS).target_problems(target, mode)
        assert problems.losses == ()
        assert not [doubt for doubt in problems.doubts if "letter" in doubt or "label" in doubt]
