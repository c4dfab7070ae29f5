import ast
import gc
import time
import warnings
from itertools import combinations, cycle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_parse import (
    ParseDiagnostics,
    collapse_whitespace,
    parse_mapping_lossless,
    parse_mapping_published,
)
from plugins.adapter.pfa_prompt import TASKS, PfaOptions
from runner.records import Entity, Sample, Segment, segment_letters

LABELS = ("person", "location", "organization", "other")
SUBSETS = [tasks for size in (1, 2, 3) for tasks in combinations(TASKS, size)]

ANSWER = """\
Task 1 Answer: Two people pose.
Task 2 Answer:
NER:
:other;VOGUE:person;Jan Taminiau
image entities pair{'a': 'Jan Taminiau', 'b': 'VOGUE'}"""


def read(output, mode="lossless", tasks=TASKS):
    return PromptFormatAdapter(PfaOptions(tasks=tasks), LABELS).parse(output, mode)


@pytest.mark.parametrize("mode", ["lossless", "published"])
def test_well_formed_answer_is_clean_in_both_modes(mode):
    prediction = read(ANSWER, mode)
    assert prediction.ending == "clean" and prediction.notes == ()
    assert prediction.answer.summary == "Two people pose."
    assert prediction.answer.pairs == {("other", "VOGUE"), ("person", "Jan Taminiau")}
    assert prediction.answer.mapping == {"a": "Jan Taminiau", "b": "VOGUE"}


delimiters = st.text(alphabet=":;,'\"{}\\#\n\t _aé🎈()", max_size=12)
pieces = st.sampled_from(["person", "other", ":", ";", "NER:", "Task 1 Answer:", "WINNER:", "'", "a"])
words = st.one_of(st.text(max_size=12), delimiters, st.lists(pieces, max_size=5).map("".join))
entity_texts = words.filter(
    lambda text: (
        collapse_whitespace(text)
        and "image entities pair" not in collapse_whitespace(text)
        and not any(f":{label};" in collapse_whitespace(text) for label in LABELS)
    )
)
summaries = words.filter(lambda text: text.strip() and "Task 2 Answer:" not in text)


@st.composite
def samples(draw):
    entities = draw(st.lists(st.builds(Entity, st.sampled_from(LABELS), entity_texts), max_size=4))
    shown = draw(st.lists(entity_texts, min_size=1, max_size=30))
    return Sample(
        id="1",
        text="some text",
        image=Path("/main.jpg"),
        summary=draw(summaries),
        entities=tuple(entities),
        segments=tuple(
            Segment(letter, Path(f"/{letter}.jpg"), entity, (0, 0, 1, 1))
            for letter, entity in zip(segment_letters(), shown, strict=False)
        ),
    )


@pytest.mark.parametrize("tasks", SUBSETS, ids="-".join)
@given(sample=samples())
def test_rendered_target_is_parsed_back_to_the_reference(tasks, sample):
    adapter = PromptFormatAdapter(PfaOptions(tasks=tasks), LABELS)
    prediction = adapter.parse(adapter.render_training(sample).target, "lossless")
    assert prediction.answer == adapter.reference(sample)
    assert prediction.ending == "clean", prediction.notes


# What tweets do to the format: tokens stand apart, and some are delimiters.
REAL = [
    "Victoria ' s Secret",
    "Star Wars : Rogue One",
    "A &amp ; B",
    '" The Wire "',
    "Paris , Texas",
    "10 : 30",
    "O'Neil",
]


@pytest.mark.parametrize("tasks", SUBSETS, ids="-".join)
@pytest.mark.parametrize("shown", [(), REAL, ["A &amp ; B"] * 27], ids=["nothing", "all", "one in 27 boxes"])
@pytest.mark.parametrize("named", [(), [*REAL, *REAL]], ids=["nobody", "each twice"])
def test_entities_of_real_tweets_are_parsed_back(tasks, shown, named):
    sample = Sample(
        id="1",
        text="RT @ x : WINNER : at 10 : 30 ; NER : :person;Ann",
        image=Path("/main.jpg"),
        summary="A sign reads 'THE WINNER: 1;2' {image entities pair}.",
        entities=tuple(Entity(label, text) for label, text in zip(cycle(LABELS), named, strict=False)),
        segments=tuple(
            Segment(letter, Path("/a.jpg"), text, (0, 0, 1, 1))
            for letter, text in zip(segment_letters(), shown, strict=False)
        ),
    )
    adapter = PromptFormatAdapter(PfaOptions(tasks=tasks), LABELS)
    prediction = adapter.parse(adapter.render_training(sample).target, "lossless")
    assert prediction.answer == adapter.reference(sample)
    assert prediction.ending == "clean"


def test_real_delimiters_survive_lossless_and_break_published():
    answer = (
        "Task 1 Answer: THE WINNER: Ann\nTask 2 Answer:\nNER:\n"
        ":other;Star Wars : Rogue One:other;A &amp ; B\nimage entities pair{'a': 'A &amp ; B'}"
    )
    lossless = read(answer)
    assert lossless.ending == "clean"
    assert lossless.answer.pairs == {("other", "Star Wars : Rogue One"), ("other", "A &amp ; B")}
    published = read(answer, "published")
    assert published.answer.pairs == {("other", "Star Wars"), ("other", "A &amp ; B")}
    assert published.ending == "repaired"


def test_published_rule_exactly():
    output = "x NER:lead;in:person ; Ann  Lee:;half:nothing:new;B;C\nimage entities pair none {'a': 'B'} end}"
    prediction = read(output, "published", ("ner", "match"))
    assert prediction.answer.pairs == {("lead", "in"), ("person", "Ann Lee"), ("new", "B;C")}
    assert prediction.answer.mapping == {}  # from the first { to the last } is no literal
    assert prediction.ending == "malformed"


def test_lossless_uses_the_shortest_literal_and_published_the_longest_span():
    output = ANSWER + " and {'c': 'x'}"
    assert read(output).answer.mapping == {"a": "Jan Taminiau", "b": "VOGUE"}
    assert read(output).ending == "repaired"
    assert read(output, "published").answer.mapping == {}


def test_lossless_starts_pairs_only_at_known_labels_without_spaces():
    output = "Task 2 Answer:\nNER:\n:person;Ann : other ; B:Person;C:other;:location;Rome"
    prediction = read(output, tasks=("ner",))
    assert prediction.answer.pairs == {("person", "Ann : other ; B:Person;C"), ("location", "Rome")}
    assert prediction.notes == ("1 label(s) without entity dropped",)


def test_longer_label_takes_precedence_over_its_prefix():
    adapter = PromptFormatAdapter(PfaOptions(tasks=("ner",)), ("a", "a.b", "a b"))
    answer = adapter.parse("Task 2 Answer:\nNER:\n:a;1:a.b;2:a b;3:axb;4", "lossless").answer
    assert answer.pairs == {("a", "1"), ("a.b", "2"), ("a b", "3:axb;4")}


@pytest.mark.parametrize(
    ("mapping", "read_as", "ending"),
    [
        ("{'a': 'Ann', 'b': 'Bo'}", {"a": "Ann", "b": "Bo"}, "clean"),
        ('{"a": "Ann\'s"}', {"a": "Ann's"}, "clean"),
        ("{'a': ' Ann\\n Lee ',}", {"a": "Ann Lee"}, "clean"),
        ("{}", {}, "clean"),
        ("{'a': 'Ann', 'a': 'Bo'}", {"a": "Bo"}, "repaired"),
        ("s: {'a': 'Ann'}", {"a": "Ann"}, "repaired"),
        ("{'a': 'Victoria's Secret', 'b': 'Bo'}", {"a": "Victoria's Secret", "b": "Bo"}, "repaired"),
        ("{'a': 'O\\'Neil', 'b': 'B", {"a": "O'Neil"}, "repaired"),
        ("'a': 'Ann', 'b': 'Bo'", {"a": "Ann", "b": "Bo"}, "repaired"),
        ("{{'a': 'Ann'}}", {"a": "Ann"}, "repaired"),
        ("{'a': 1, 'b': 'Bo'}", {"b": "Bo"}, "repaired"),
        ("{'a': 1}", {}, "malformed"),
        ("{'a'}", {}, "malformed"),
        ("{a: Ann}", {}, "malformed"),
        ("", {}, "malformed"),
    ],
)
def test_mapping_in_lossless_mode(mapping, read_as, ending):
    prediction = read(f"Task 2 Answer:\nimage entities pair{mapping}", tasks=("match",))
    assert (prediction.answer.mapping, prediction.ending) == (read_as, ending)


@pytest.mark.parametrize(
    ("output", "ending", "note_text"),
    [
        (ANSWER.replace("Task 2 Answer:\n", ""), "repaired", "no 'Task 2 Answer:'"),
        ("Sure! " + ANSWER, "repaired", "text before 'Task 1 Answer:'"),
        (ANSWER.replace("NER:", "here NER:"), "repaired", "text before 'NER:'"),
        (ANSWER.replace("NER:\n", "NER: so "), "repaired", "text before the first label-entity pair"),
        (ANSWER + " done", "repaired", "text after the image-entity mapping"),
        (ANSWER.replace("Task 1 Answer:", ""), "malformed", "no 'Task 1 Answer:'"),
        (ANSWER.replace("Two people pose.", ""), "malformed", "the summary is empty"),
        (ANSWER.replace("NER:", ""), "malformed", "no 'NER:'"),
        (ANSWER.replace(":other;VOGUE:person;Jan Taminiau", "nobody"), "malformed", "no label-entity pair"),
        (ANSWER[: ANSWER.index("image")], "malformed", "no 'image entities pair'"),
        ("", "malformed", "no 'Task 1 Answer:'"),
    ],
)
def test_endings_and_their_notes(output, ending, note_text):
    prediction = read(output)
    assert prediction.ending == ending
    assert any(note_text in note for note in prediction.notes)


def test_parts_in_another_order_are_parsed_and_noted():
    task_1, task_2 = ANSWER.split("Task 2 Answer:")
    prediction = read("Task 2 Answer:" + task_2 + "\n" + task_1)
    assert prediction.answer == read(ANSWER).answer
    assert prediction.ending == "repaired"


def test_parts_that_were_not_requested_are_none_and_noted():
    for tasks in (("summary",), ("ner",), ("match",)):
        prediction = read(ANSWER, tasks=tasks)
        assert prediction.ending == "repaired"
        given_parts = (prediction.answer.summary, prediction.answer.pairs, prediction.answer.mapping)
        assert [part is None for part in given_parts] == [task not in tasks for task in TASKS]


def test_an_entity_that_contains_an_anchor_is_not_parsed_back():
    prediction = read("Task 2 Answer:\nNER:\n:other;a:person;b", tasks=("ner",))
    assert prediction.answer.pairs == {("other", "a"), ("person", "b")}


def literal_by_brute_force(text, ends):
    """Return the first candidate that Python itself parses as a dictionary of strings to strings."""
    for end in ends:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = ast.literal_eval(text[text.index("{") : end])
        except (ValueError, TypeError, SyntaxError):
            continue
        if isinstance(value, dict) and all(isinstance(each, str) for item in value.items() for each in item):
            return {collapse_whitespace(key): collapse_whitespace(entity) for key, entity in value.items()}
    return None


tokens = ["{", "}", "'", '"', "'''", ":", ",", "#", "\\", "\n", " ", "(", ")", "r", "b", "1", "a"]
snippets = st.sampled_from([*tokens, "'a'", "'b': 'c'", "'b': 'c', "])


@given(st.lists(snippets, max_size=14).map(lambda drawn: "{" + "".join(drawn) + "}"))
@example("{'a': 'b', # it's }\n 'c': 'd'}")
@example("{'a': 'b' \"c\", 'd': r'\\'}'}")
@example("{(('a')): ('b')}")
@example("{'b': 'c'} # }")
@example("{'''x}''': 'y'}")
@example("{'''a''b''': \"\"\"c\"\"d\"\"\"}")
@example("{'''a\\\\''': ''}")
@example("{'a\\\r\n': 'b\\\n'}")
@example("{'a': 'b' \\\n, }")
@example("{'a': '\\x1'}")
@example("{'a': 'Ann', \r\\\r}")
def test_literals_are_parsed_as_by_python(text):
    closes = [index + 1 for index, letter in enumerate(text) if letter == "}"]
    shortest, whole = literal_by_brute_force(text, closes), literal_by_brute_force(text, closes[-1:])
    if shortest is not None:
        assert parse_mapping_lossless(text, ParseDiagnostics()) == shortest
    assert parse_mapping_published(text, ParseDiagnostics()) == (whole or {})


@given(st.one_of(st.text(), st.lists(snippets | pieces | st.just("image entities pair")).map("".join)))
@pytest.mark.parametrize("mode", ["lossless", "published"])
def test_any_text_is_parsed_without_errors_and_has_every_requested_part(mode, output):
    prediction = read(output, mode)
    assert None not in (prediction.answer.summary, prediction.answer.pairs, prediction.answer.mapping)
    assert (prediction.ending == "clean") == (not prediction.notes)


def seconds(output, mode):
    """Measure CPU seconds of the parser, without the garbage collector."""
    gc.disable()
    try:
        started = time.process_time()
        read(output, mode)
        return time.process_time() - started
    finally:
        gc.enable()


HOSTILE = [
    "{",
    "}",
    ":",
    ";",
    "(",
    ")",
    "'",
    '"',
    "\\",
    "#",
    "\n",
    "\0",
    "\ud800",
    "-",
    "r'",
    "'''",
    "f''",
    "''",
    "('a'",
]
HOSTILE += [
    "'a': '",
    "'a':",
    "'a'" + " " * 50,
    "'" + " " * 50,
    "'a': 'b', ",
    "'a': 'b'\n",
    "'a': 'O'x ",
    "'a' ",
    "'\\d'",
]
HOSTILE += [
    "NER:",
    ":person;",
    ":person",
    ":x;",
    "image entities pair{",
    "Task 1 Answer:",
    "{'a':",
    "{'a': 'b'}",
    "\u2018a\u2019:",
]


@pytest.mark.parametrize("mode", ["lossless", "published"])
@pytest.mark.parametrize("piece", HOSTILE)
def test_four_times_the_text_takes_about_four_times_as_long(mode, piece):
    """Quadratic time would give sixteen. One of many measurements is enough, because load only increases the time."""

    def hostile(length):
        body = piece * (length // len(piece))
        mapping = f"image entities pair{{'a': 'x', {body}}}"
        return f"Task 1 Answer: {body}\nTask 2 Answer:\nNER:\n{body}\n{mapping}", f"image entities pair{body}"

    short, long = hostile(50_000), hostile(200_000)
    for one, four in zip(short, long, strict=True):
        assert any(seconds(four, mode) < 8 * seconds(one, mode) + 0.001 for _ in range(6))


def test_many_labels_cost_no_more_than_few():
    output = "NER:\n" + ":person;Ann :x" * 20_000
    many = PromptFormatAdapter(PfaOptions(), (*LABELS, *(f"label{number}" for number in range(20_000))))
    for mode in many.parse_modes:
        assert many.parse(output, mode).answer.pairs == read(output, mode).answer.pairs
