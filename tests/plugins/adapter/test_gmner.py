"""The adapter `gmner`: what it writes for entities and boxes is read back exactly, and any answer can be read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from plugins.adapter.gmner import GmnerAdapter
from plugins.adapter.gmner_parse import parse_boxes
from plugins.adapter.gmner_prompt import TASKS, GmnerAdapterOptions
from runner.errors import DataError, SpecError
from runner.records import Entity, ImagePart, Sample, Segment
from runner.stages import BoxFrame, RelativeFrame, ResizedFrame, TaskAdapter

LABELS = ("person", "location", "organization", "other")
FORMATS = ("lines", "e2e")
FRAMES = (
    BoxFrame(),
    RelativeFrame(units=1000),
    RelativeFrame(units=1000, before="<box>", after="</box>", separator=", "),
    ResizedFrame(multiple=28, min_pixels=3136, max_pixels=100_000),
)
TWO = ("Jan Taminiau", "Suneet Varma")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("images") / "main.png"
    Image.new("RGB", (200, 100)).save(file)
    return file


def make_sample(image, entities=(("other", "VOGUE"), ("person", TWO[0]), ("person", TWO[1])), segments=None, **changes):
    segments = {"a": (TWO[0], (10, 20, 40, 90)), "b": (TWO[1], (50, 0, 99, 99))} if segments is None else segments
    fields = {
        "id": "7",
        "text": "Jan Taminiau and Suneet Varma at VOGUE",
        "image": image,
        "summary": "Two people pose.",
        "entities": tuple(Entity(*entity) for entity in entities),
        "segments": tuple(Segment(letter, None, *each) for letter, each in segments.items()),
    }
    return Sample(**{**fields, **changes})


def make_adapter(frame=None, labels=LABELS, **options):
    adapter = GmnerAdapter(
        GmnerAdapterOptions(**{"frame": "original" if frame is None else "model", **options}), labels
    )
    return adapter if frame is None else adapter.in_frame(frame)


def read(output, **options):
    return make_adapter(**options).parse(output, "lossless")


def entities(prediction):
    return [(each.label, each.text, each.boxes) for each in prediction.answer.grounded]


PROMPT = """\
Please answer the following image understanding task.
Task 2: Text: Jan Taminiau and Suneet Varma at VOGUE
Extract the entities of the text with their labels, and locate each of them in the image. There are 4 types of labels: \
person, location, organization and other.
Write one line for each entity, in the order of the text: entity|label|[x1,y1,x2,y2]
x1, y1, x2 and y2 are left, top, right and bottom of a box that shows the entity, in pixels of the image.
If several boxes show an entity, write them as [[x1,y1,x2,y2],[x3,y3,x4,y4]].
If the image does not show an entity, write None for its box. If there is no entity, write None."""


def test_prompt_and_target_in_lines(image):
    rendered = make_adapter().render_training(make_sample(image))
    assert rendered.prompt == PROMPT
    assert rendered.content[0] == ImagePart(image)
    assert rendered.target == ("VOGUE|other|None\nJan Taminiau|person|[10,20,40,90]\nSuneet Varma|person|[50,0,99,99]")


def test_prompt_and_target_in_the_format_of_e2e_gmner(image):
    rendered = make_adapter(RelativeFrame(units=1000), format="e2e", boxes="first").render_training(make_sample(image))
    assert "separated by semicolons, each as entity|label|[x1,y1,x2,y2]" in rendered.prompt
    assert "numbers from 0 to 1000 for the width and for the height of the image" in rendered.prompt
    assert "several boxes" not in rendered.prompt
    assert rendered.target == (
        "VOGUE|other|None; Jan Taminiau|person|[50,200,200,900]; Suneet Varma|person|[250,0,495,990]"
    )


def test_a_summary_comes_first_with_headings(image):
    adapter = make_adapter(tasks=TASKS)
    rendered = adapter.render_training(make_sample(image, entities=(), segments={}))
    assert rendered.prompt.startswith("Please answer the following two image understanding tasks.\n")
    assert "Task 1: What is in this image?\nTask 2: Text: " in rendered.prompt
    assert rendered.target == "Task 1 Answer: Two people pose.\nTask 2 Answer:\nNone"
    parsed = adapter.parse(rendered.target, "lossless")
    assert (parsed.ending, parsed.answer) == ("clean", adapter.reference(make_sample(image, (), {})))


words = st.text("ab |;[]0,<>.:'N\u00e9e\u0301\u2028", min_size=1, max_size=12)
mentions = words | st.sampled_from(
    [";) LOL", "a|b", "a;b|c", "None", "[1,2,3,4]", "Task 2 Answer:", "x|person", "|", ";"]
)
coordinates = st.tuples(st.integers(0, 100), st.integers(0, 49), st.integers(101, 200), st.integers(50, 100))


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), mentions, st.lists(coordinates, max_size=3)), max_size=5),
    st.sampled_from(FORMATS),
    st.sampled_from(FRAMES),
    st.sampled_from([("gmner",), TASKS]),
)
def test_a_target_is_parsed_back_to_its_entities_and_boxes_or_refused(image, found, list_format, frame, tasks):
    shown = [(text, box) for _, text, boxes in found for box in boxes]
    segments = {f"{number}": each for number, each in enumerate(shown)}
    sample = make_sample(image, [(label, text) for label, text, _ in found], segments)
    adapter = make_adapter(frame, format=list_format, tasks=tasks)
    try:
        target = adapter.render_training(sample).target
    except DataError as error:
        # Only a text that contains a whole entry, or the heading, is refused.
        assert "cannot be read back" in str(error)
        assert any("|" in text or "Task 2" in text for _, text, _ in found)
        return
    parsed, reference = adapter.parse(target, "lossless"), adapter.reference(sample)
    assert parsed.ending == "clean"
    assert parsed.answer.pairs == reference.pairs
    assert parsed.answer.summary == reference.summary
    for got, right in zip(parsed.answer.grounded, reference.grounded, strict=True):
        assert (got.label, got.text) == (right.label, right.text)
        for box, exact in zip(got.boxes, right.boxes, strict=True):
            assert all(abs(side - other) <= 0.5 for side, other in zip(box, exact, strict=True))


@given(
    st.text() | st.text("ab|;\n[]0123,. None<>personTask 12Answer:"), st.sampled_from([("gmner",), ("summary",), TASKS])
)
def test_any_text_can_be_parsed(output, tasks):
    parsed = read(output, tasks=tasks)
    assert (parsed.answer.grounded is None) == ("gmner" not in tasks)
    assert (parsed.answer.summary is None) == ("summary" not in tasks)
    assert (parsed.ending == "clean") == (not parsed.notes)


def test_long_texts_are_parsed_in_linear_time():
    for unit in ("a|", ";", "a;b|", "[1,", "<", "|person|[1,2,3,4];", "a|person|[1 2 3;"):
        read(unit * 100_000)


@pytest.mark.parametrize(
    ("output", "expected", "ending"),
    [
        ("None", [], "clean"),
        (" none. ", [], "clean"),
        ("", [], "malformed"),
        ("I see Ann.", [], "malformed"),
        ("Ann|person|None", [("person", "Ann", ())], "clean"),
        ("Ann | person | none", [("person", "Ann", ())], "clean"),
        ("Ann|person|[1, 2, 3, 4]", [("person", "Ann", ((1, 2, 3, 4),))], "clean"),
        ("Ann|person|[[1,2,3,4],[5,6,7,8.5]];", [("person", "Ann", ((1, 2, 3, 4), (5, 6, 7, 8.5)))], "clean"),
        ("Ann|person|<box>[[1, 2, 3, 4]]</box>", [("person", "Ann", ((1, 2, 3, 4),))], "clean"),
        ("Ann|person|(1,2),(3,4)", [("person", "Ann", ((1, 2, 3, 4),))], "clean"),
        ("Ann|person|None;\nRome|location|None", [("person", "Ann", ()), ("location", "Rome", ())], "clean"),
        ("Here:\nAnn|person|None", [("person", "Ann", ())], "repaired"),
        ("Ann|human|None", [("human", "Ann", ())], "repaired"),
        ("|person|None\nAnn|person|None", [("person", "Ann", ())], "repaired"),
        ("Ann|person|[1,2,3]; Rome|location|None", [("person", "Ann", None), ("location", "Rome", ())], "malformed"),
        ("Ann|person|[1,2,3,99999999999999]", [("person", "Ann", None)], "malformed"),
        ("Ann|person|left", [("person", "Ann", None)], "malformed"),
        ("Ann|person|[1,2,3,4]; Rome|loca", [("person", "Ann", ((1, 2, 3, 4),))], "repaired"),
        ("Ann|person|None; Ann|person|None", [("person", "Ann", ()), ("person", "Ann", ())], "clean"),
    ],
)
@pytest.mark.parametrize("list_format", FORMATS)
def test_what_is_read_from_an_answer(output, expected, ending, list_format):
    parsed = read(output, format=list_format)
    assert (entities(parsed), parsed.ending) == (expected, ending)


@pytest.mark.parametrize(
    "text", ["", "[]", "[1,2,3]", "none none", "[1,2,x,4]", "1e5,2,3,4", "[" + "1" * 10 + ",2,3,4]"]
)
def test_boxes_that_cannot_be_read(text):
    assert parse_boxes(text) is None


def test_the_reference_has_all_boxes_and_the_target_those_that_the_option_names(image):
    boxes = {"a": ("Ann", (0, 0, 10, 10)), "b": ("Ann", (0, 0, 50, 50)), "c": ("Bob", (1, 1, 9, 9))}
    sample = make_sample(image, [("person", "Ann"), ("other", "Ann"), ("person", "Eve")], boxes)
    targets = {
        choice: make_adapter(boxes=choice).render_training(sample).target for choice in ("all", "largest", "first")
    }
    assert targets["all"].splitlines()[0] == "Ann|person|[[0,0,10,10],[0,0,50,50]]"
    assert targets["largest"].splitlines() == ["Ann|person|[0,0,50,50]", "Ann|other|[0,0,50,50]", "Eve|person|None"]
    assert targets["first"].splitlines()[0] == "Ann|person|[0,0,10,10]"
    for choice in targets:
        grounded = make_adapter(boxes=choice).reference(sample).grounded
        assert [len(entity.boxes) for entity in grounded] == [2, 2, 0]


def test_texts_in_any_unicode_form_and_white_space_share_their_boxes(image):
    sample = make_sample(image, [("person", "Jose\u0301  B")], {"a": ("Jos\u00e9 B", (1, 2, 3, 4))})
    (entity,) = make_adapter().reference(sample).grounded
    assert (entity.text, len(entity.boxes)) == ("Jos\u00e9 B", 1)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"image": None}, {}, "has no main image"),
        ({"text": " "}, {}, "has no text"),
        ({"summary": None}, {"tasks": TASKS}, "has no summary to train on"),
        ({"summary": "x Task 2 Answer: y"}, {"tasks": TASKS}, "cannot be read back"),
        ({"entities": [("person", "a|person|None;b")]}, {}, "cannot be read back"),
        ({"image": Path("/nowhere/at all.jpg")}, {}, "sample 7: image .* cannot be used"),
    ],
)
def test_unusable_samples_are_named(image, changes, options, message):
    with pytest.raises(DataError, match=message):
        make_adapter(**options).render_training(make_sample(**{"image": image, **changes}))


def test_labels_that_do_not_fit_the_format_or_are_missing_are_named():
    with pytest.raises(SpecError, match=r"'a\|b' cannot be read back .* without vertical bar and semicolon"):
        make_adapter(labels=["a|b"])
    with pytest.raises(SpecError, match="'person' is missing"):
        GmnerAdapter(GmnerAdapterOptions(frame="original", labels=("other",)), ["person"])
    with pytest.raises(ValidationError, match="in the order of the answer"):
        GmnerAdapterOptions(tasks=("gmner", "summary"))


def test_without_a_frame_the_error_names_the_option(image):
    adapter = GmnerAdapter(GmnerAdapterOptions(), LABELS)
    with pytest.raises(SpecError, match="write `thousand` or `original`"):
        adapter.render_prompt(make_sample(image))
    assert adapter.for_task("summary").render_prompt(make_sample(image)).prompt.endswith("What is in this image?")


def test_only_the_frame_of_the_model_is_asked_for():
    assert GmnerAdapterOptions().needs_box_frame
    assert not GmnerAdapterOptions(frame="thousand").needs_box_frame
    assert not GmnerAdapterOptions(tasks=("summary",)).needs_box_frame


def test_tasks_of_samples_and_targets(image):
    assert GmnerAdapter.tasks_of([make_sample(image)]) == TASKS
    assert GmnerAdapter.tasks_of([make_sample(image, summary=None)]) == ("gmner",)
    assert GmnerAdapter.tasks_of(["Task 1 Answer: a | b"]) == ("summary", "gmner")
    assert GmnerAdapter.tasks_of(["Task 1 Answer: ab", "Task 1 Answer: c\nTask 2 Answer:\nNone"]) == ("summary",)


def test_each_task_can_be_asked_by_its_own_prompt_with_a_context(image):
    adapter = make_adapter(tasks=TASKS)
    assert isinstance(adapter, TaskAdapter)
    sample = make_sample(image)
    alone = {task: adapter.for_task(task).render_training(sample) for task in TASKS}
    assert alone["summary"].target == "Task 1 Answer: Two people pose."
    assert alone["gmner"].target.startswith("VOGUE|other|None\n")
    shown = adapter.with_context(alone["summary"], {"gmner": alone["gmner"].target})
    assert shown.prompt.endswith(
        "\nEntities with labels and boxes: VOGUE|other|None; Jan Taminiau|person|[10,20,40,90]; "
        "Suneet Varma|person|[50,0,99,99]"
    )
    assert adapter.has_context(shown)
    assert not adapter.has_context(alone["summary"])
    assert adapter.context_answer("summary", alone["summary"].target) == "Two people pose."
    assert "nothing is said" in adapter.with_context(shown, {"summary": adapter.neutral_answer("summary")}).prompt
