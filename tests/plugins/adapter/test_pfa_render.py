from itertools import combinations
from pathlib import Path

import pytest
from pydantic import ValidationError

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import TASKS, PfaOptions, label_sentence
from runner.errors import DataError, SpecError
from runner.records import Entity, ImagePart, Sample, Segment, TextPart

LABELS = ("person", "location", "organization", "other")
SUBSETS = [tasks for size in (1, 2, 3) for tasks in combinations(TASKS, size)]

PUBLISHED_PROMPT = """\
Please answer the following two image understanding tasks.
Output the answers to these two questions in order.
Task 1: What is in this image?
Task 2: Text: Jan Taminiau and Suneet Varma at VOGUE FASHION NIGHT OUT
We segment one or more of the smaller images from the full image of task 1. Based on the provided text, \
extract their corresponding entities based on the given labels, and then output the extracted label-entity \
pair matching the number of the corresponding small pictures. There are 4 types of labels: person, location, \
organization and other.
Please output all label-entities pairs in set format. e.g. (:label1;entities1:label2;entities2).
And output image number with entities pairs. e.g. {'a': 'entities1', 'b': 'entities2'}."""

PUBLISHED_TARGET = """\
Task 1 Answer: This image shows two individuals posing for a photo.
Task 2 Answer:
NER:
:other;VOGUE FASHION NIGHT OUT:person;Jan Taminiau:person;Suneet Varma
image entities pair{'a': 'Jan Taminiau', 'b': 'Suneet Varma'}"""


def make_sample(**changes):
    fields = {
        "id": "7",
        "text": "Jan Taminiau and Suneet Varma at VOGUE FASHION NIGHT OUT",
        "image": Path("/data/main.jpg"),
        "summary": "This image shows two individuals posing for a photo.",
        "entities": (
            Entity("other", "VOGUE FASHION NIGHT OUT"),
            Entity("person", "Jan Taminiau"),
            Entity("person", "Suneet Varma"),
        ),
        "segments": (
            Segment("a", Path("/data/a.jpg"), "Jan Taminiau", (0, 0, 5, 5)),
            Segment("b", Path("/data/b.jpg"), "Suneet Varma", (5, 0, 9, 5)),
        ),
    }
    return Sample(**{**fields, **changes})


def make_adapter(labels=LABELS, **options):
    return PromptFormatAdapter(PfaOptions(**options), labels)


def test_prompt_and_target_equal_the_published_ones_exactly():
    rendered = make_adapter().render_training(make_sample())
    assert rendered.prompt == PUBLISHED_PROMPT
    assert rendered.target == PUBLISHED_TARGET
    assert rendered.images == (Path("/data/main.jpg"), Path("/data/a.jpg"), Path("/data/b.jpg"))
    assert isinstance(rendered.content[-1], TextPart) and len(rendered.content) == 4


def test_prompt_has_no_target_and_the_same_content():
    adapter = make_adapter()
    prompt = adapter.render_prompt(make_sample(summary=None))
    assert prompt.target is None
    assert prompt.content == adapter.render_training(make_sample()).content


def test_lettered_images_follow_their_letters_in_order():
    rendered = make_adapter(images="lettered").render_prompt(make_sample())
    main, *between, text = rendered.content
    assert main == ImagePart(Path("/data/main.jpg"))
    assert between == [
        TextPart("a:"),
        ImagePart(Path("/data/a.jpg")),
        TextPart("b:"),
        ImagePart(Path("/data/b.jpg")),
    ]
    assert text == TextPart(PUBLISHED_PROMPT)


@pytest.mark.parametrize("tasks", SUBSETS, ids="-".join)
def test_subset_of_tasks_has_only_its_own_markers(tasks):
    rendered = make_adapter(tasks=tasks).render_training(make_sample())
    markers = {"summary": "Task 1 Answer:", "ner": "NER:", "match": "image entities pair"}
    for task, marker in markers.items():
        assert (marker in rendered.target) == (task in tasks)
    assert ("Task 2 Answer:" in rendered.target) == (tasks != ("summary",))
    assert ("Task 1: What is in this image?" in rendered.prompt) == ("summary" in tasks)
    assert ("types of labels" in rendered.prompt) == ("ner" in tasks)
    assert ("two" in rendered.prompt) == ("summary" in tasks and len(tasks) > 1)
    assert len(rendered.images) == (3 if "match" in tasks else 1)


def test_extraction_without_summary_is_the_published_second_part():
    rendered = make_adapter(tasks=("ner", "match")).render_training(make_sample())
    published = PUBLISHED_PROMPT[PUBLISHED_PROMPT.index("Task 2:") :]
    assert rendered.prompt == f"Please answer the following image understanding task.\n{published}"
    assert rendered.target == PUBLISHED_TARGET[PUBLISHED_TARGET.index("Task 2 Answer:") :]


def test_targets_of_single_tasks():
    targets = {
        tasks[0]: make_adapter(tasks=tasks).render_training(make_sample()).target
        for tasks in SUBSETS
        if len(tasks) == 1
    }
    assert targets == {
        "summary": "Task 1 Answer: This image shows two individuals posing for a photo.",
        "ner": "Task 2 Answer:\nNER:\n:other;VOGUE FASHION NIGHT OUT:person;Jan Taminiau:person;Suneet Varma",
        "match": "Task 2 Answer:\nimage entities pair{'a': 'Jan Taminiau', 'b': 'Suneet Varma'}",
    }


def test_labels_are_listed_for_any_number():
    assert label_sentence(["person"]) == "There is 1 type of label: person."
    assert label_sentence(["good", "bad"]) == "There are 2 types of labels: good and bad."
    prompt = make_adapter(labels=("good", "bad")).render_prompt(make_sample()).prompt
    assert "small pictures. There are 2 types of labels: good and bad.\nPlease" in prompt


def test_a_repeated_pair_is_twice_in_the_target_and_once_in_the_reference():
    sample = make_sample(entities=(Entity("person", "Jan"), Entity("person", "Jan")))
    adapter = make_adapter()
    assert "\n:person;Jan:person;Jan\n" in adapter.render_training(sample).target
    assert adapter.reference(sample).pairs == {("person", "Jan")}


def test_white_space_in_entities_is_collapsed_in_target_and_reference():
    sample = make_sample(
        entities=(Entity("person", " Jan\n Taminiau "),),
        segments=(Segment("a", Path("/a"), "Jan\tTaminiau", (0, 0, 1, 1)),),
    )
    adapter = make_adapter()
    assert adapter.render_training(sample).target.endswith(
        "\n:person;Jan Taminiau\nimage entities pair{'a': 'Jan Taminiau'}"
    )
    assert adapter.reference(sample).mapping == {"a": "Jan Taminiau"}


def test_mapping_is_written_as_python_writes_a_dictionary():
    sample = make_sample(segments=(Segment("a", Path("/a"), 'Victoria\'s "S"', (0, 0, 1, 1)),))
    assert make_adapter().render_training(sample).target.endswith("""pair{'a': 'Victoria\\'s "S"'}""")


def test_reference_is_none_without_the_task_or_without_a_summary():
    reference = make_adapter(tasks=("ner",)).reference(make_sample())
    assert (reference.summary, reference.mapping) == (None, None) and len(reference.pairs) == 3
    assert make_adapter().reference(make_sample(summary=None)).summary is None


def test_entities_need_only_text_and_a_summary_needs_only_an_image():
    text_alone = make_sample(image=None, segments=(), summary=None)
    assert make_adapter(tasks=("ner",)).render_training(text_alone).images == ()
    image_alone = make_sample(text="", entities=(), segments=())
    assert make_adapter(tasks=("summary",)).render_training(image_alone).images == (Path("/data/main.jpg"),)


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        (TASKS, {"summary": None}, "no summary"),
        (TASKS, {"summary": "  "}, "no summary"),
        (TASKS, {"image": None}, "no main image"),
        (("match",), {"segments": (Segment("a", None, "Jan", (0, 0, 1, 1)),)}, "no image of a segment"),
        (("ner",), {"text": " \n"}, "no text"),
    ],
)
def test_sample_without_a_required_input_is_refused(tasks, changes, message):
    with pytest.raises(DataError, match=f"sample '7' has {message}.*adapter.tasks"):
        make_adapter(tasks=tasks).render_training(make_sample(**changes))


def test_labels_of_the_options_are_listed_in_their_order():
    adapter = PromptFormatAdapter(PfaOptions(labels=("other", "person", "event")), ("person", "other"))
    prompt = adapter.render_prompt(make_sample()).prompt
    assert "There are 3 types of labels: other, person and event." in prompt


def test_labels_of_the_options_must_cover_the_data_set():
    with pytest.raises(SpecError) as caught:
        PromptFormatAdapter(PfaOptions(labels=("person", "location", "organisation", "other")), LABELS)
    assert caught.value.problems[0].path == ("adapter", "labels")
    assert "'organization'" in str(caught.value) and "did you mean 'organisation'?" in str(caught.value)


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        (("ner",), {"entities": (Entity("other", "Ann:person;Bo"),)}, r"entities \['Ann:person;Bo'\]"),
        (("ner", "match"), {"entities": (Entity("other", "an image entities pair"),)}, "entities"),
        (TASKS, {"summary": "It reads Task 2 Answer: no."}, "summary 'It reads Task 2 Answer: no.'"),
        (("summary",), {"summary": "It reads Task 2 Answer: no."}, "summary"),
    ],
)
def test_target_that_cannot_be_parsed_back_is_refused_except_with_the_published_rule(tasks, changes, message):
    sample = make_sample(**changes)
    with pytest.raises(DataError, match=f"sample '7': its {message}.*cannot be read back.*adapter.parse: published"):
        make_adapter(tasks=tasks).render_training(sample)
    assert make_adapter(tasks=tasks, parse="published").render_training(sample).target


def test_text_that_only_resembles_a_delimiter_is_accepted():
    entities = ("a:Person;b", "a: person;b", "at 10:30;late", ":person", "person;", "NER:", "a:", ";", "Task 2 Answer:")
    sample = make_sample(
        summary="NER: :person;Ann image entities pair{'a': 'x'} Task 1 Answer:",
        entities=tuple(Entity("person", text) for text in entities),
        segments=tuple(
            Segment(letter, Path(f"/{letter}"), text, (0, 0, 1, 1))
            for letter, text in zip(
                "abcdefghi", ("image entities pair", "}", "'", "a:person;b", *entities), strict=False
            )
        ),
    )
    adapter = make_adapter()
    assert adapter.parse(adapter.render_training(sample).target, "lossless").answer == adapter.reference(sample)


@pytest.mark.parametrize("label", ["per:son", "a;b", " person", "a  b", ""])
def test_labels_of_the_data_set_must_fit_the_format(label):
    with pytest.raises(SpecError, match="cannot be read back"):
        make_adapter(labels=("person", label))


@pytest.mark.parametrize(
    "options",
    [
        {"tasks": []},
        {"tasks": ["ner", "summary"]},
        {"tasks": ["ner", "ner"]},
        {"tasks": ["translate"]},
        {"labels": []},
        {"labels": ["person", "person"]},
        {"labels": ["per:son"]},
        {"labels": [" person"]},
        {"labels": ["very  good"]},
        {"parse": "strict"},
    ],
)
def test_invalid_options(options):
    with pytest.raises(ValidationError):
        PfaOptions(**options)


def test_chosen_parse_mode_comes_first():
    assert make_adapter().parse_modes == ("lossless", "published")
    assert make_adapter(parse="published").parse_modes == ("published", "lossless")
