"""Jitter of boxes: in training alone, deterministic, inside the image, and with the guard on the IoU."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plugins.adapter.box_jitter import BoxJitter, jitter_box
from plugins.adapter.gmner import GmnerAdapter
from plugins.adapter.gmner_prompt import GmnerAdapterOptions
from runner.errors import StepError
from runner.records import Entity, Sample, Segment
from runner.regime import Regime
from runner.spec.regime_section import RegimeOptions
from runner.stages import intersection_over_union

LABELS = ("person", "other")
SIZE = (400, 300)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    file = tmp_path_factory.mktemp("images") / "main.png"
    Image.new("RGB", SIZE).save(file)
    return [
        Sample(
            **{"id": f"{number}", "text": f"Ann meets Bob {number}", "image": file, "summary": f"People {number}."},
            entities=(Entity("person", "Ann"), Entity("person", "Bob")),
            segments=(Segment("a", None, "Ann", (20, 30, 220, 200 + number)),),
        )
        for number in range(6)
    ]


def make_adapter(**jitter):
    return GmnerAdapter(
        GmnerAdapterOptions(frame="original", tasks=("summary", "gmner"), box_jitter=BoxJitter(**jitter)), LABELS
    )


def make_regime(seed=3, adapter=None, draws=3, **options):
    adapter = adapter or make_adapter(draws=draws)
    return Regime(RegimeOptions(**options), adapter, seed, draws)


def grounded(adapter, rendered):
    return adapter.parse(rendered.target, "lossless").answer.grounded


sides = st.floats(0, 400, allow_nan=False)


@given(
    st.tuples(sides, sides, sides, sides).map(lambda box: (*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:]))),
    st.floats(0, 1),
    st.floats(0, 0.99),
    st.floats(0.05, 1),
    st.integers(1, 10),
)
def test_a_changed_box_overlaps_and_stays_inside_or_is_the_box(box, shift, scale, min_iou, seed):
    options = BoxJitter(shift=shift, scale=scale, min_iou=min_iou)
    changed = jitter_box(box, (400, 400), options, random.Random(seed))
    assert changed == jitter_box(box, (400, 400), options, random.Random(seed))
    if changed != box:
        assert intersection_over_union(changed, box) >= min_iou
        assert all(side == int(side) and 0 <= side <= 400 for side in changed)


def test_shifts_and_sizes_stay_below_their_limits_and_small_boxes_change_half_as_much():
    box, small = (1000.0, 1000.0, 2000.0, 1500.0), (1000.0, 1000.0, 1030.0, 1030.0)
    options = BoxJitter(shift=0.1, scale=0.2, min_iou=0.01)
    drawn = [jitter_box(box, (4000, 4000), options, random.Random(seed)) for seed in range(400)]
    shifts = [(left + right) / 2 - 1500 for left, _, right, _ in drawn]
    widths = [right - left for left, _, right, _ in drawn]
    assert max(map(abs, shifts)) <= 100 + 1
    assert 800 - 1 <= min(widths) < 850
    assert 1150 < max(widths) <= 1200 + 1
    assert 40 < sum(map(abs, shifts)) / len(shifts) < 60  # a uniform distribution would have 50
    drawn = [jitter_box(small, (4000, 4000), options, random.Random(seed)) for seed in range(400)]
    assert max(abs((left + right) / 2 - 1015) for left, _, right, _ in drawn) <= 1.5 + 1


def test_without_an_overlapping_change_the_box_is_written():
    options = BoxJitter(shift=1, scale=0.9, min_iou=1, tries=2)
    assert jitter_box((10.5, 10.5, 90.5, 90.5), (400, 300), options, random.Random(1)) == (10.5, 10.5, 90.5, 90.5)


def test_only_targets_of_training_change(samples):
    adapter = make_adapter()
    sample = samples[0]
    plain = adapter.render_training(sample)
    drawn = [adapter.draw_target(sample, draw, 3) for draw in range(8)]
    assert len({rendered.target for rendered in drawn}) > 4
    for rendered in drawn:
        assert (rendered.id, rendered.content) == (plain.id, plain.content)
        [ann, bob] = grounded(adapter, rendered)
        assert bob.boxes == ()
        assert intersection_over_union(ann.boxes[0], (20, 30, 220, 200)) >= 0.6
    assert adapter.draw_target(sample, 2, 3) == drawn[2]
    assert adapter.draw_target(sample, 2, 4) != drawn[2]
    assert adapter.reference(sample).grounded[0].boxes == ((20, 30, 220, 200),)
    without = GmnerAdapter(GmnerAdapterOptions(frame="original", tasks=("summary", "gmner")), LABELS)
    assert without.draw_target(sample, 2, 3) == without.render_training(sample) == plain


def test_each_draw_is_a_list_of_examples_and_validation_uses_the_right_boxes(samples):
    regime = make_regime()
    examples = regime.training_examples(samples, [sample.id for sample in samples])
    assert len(examples.draws) == 3
    assert [example.target for example in examples.plain] == [
        regime.adapter.render_training(sample).target for sample in samples
    ]
    assert len({tuple(example.target for example in draw) for draw in (*examples.draws, examples.plain)}) == 4
    assert all([each.id for each in draw] == [each.id for each in examples.plain] for draw in examples.draws)
    assert examples == make_regime().training_examples(samples, [sample.id for sample in samples])
    regime.check_examples(samples, examples, [sample.id for sample in samples])


def test_contexts_show_the_right_boxes_and_are_drawn_in_turn_with_the_targets(samples):
    groups = [sample.id for sample in samples]
    regime = make_regime(
        prompts="per_task", context={"summary": ("gmner",)}, context_content="shuffled", context_draws=2, draws=5
    )
    examples = regime.training_examples(samples, groups)
    assert len(examples.draws) == 5
    regime.check_examples(samples, examples, groups)
    shown = {example.target for example in examples.plain if example.task == "gmner"}
    for draw in examples.draws:
        for example in (each for each in draw if each.task == "summary"):
            context = example.prompt.rpartition("boxes: ")[2]
            assert context in {target.replace("\n", "; ") for target in shown}


def test_a_target_that_is_not_the_drawn_one_is_found(samples):
    groups = [sample.id for sample in samples]
    examples = make_regime().training_examples(samples, groups)
    with pytest.raises(StepError, match="sample 0: the prompt of training"):
        make_regime(seed=4).check_examples(samples, examples, groups)


def test_options_say_how_many_targets_are_drawn():
    assert GmnerAdapterOptions().num_target_draws == 0
    assert GmnerAdapterOptions(box_jitter={"draws": 4}).num_target_draws == 4
    assert GmnerAdapterOptions(tasks=("summary",), box_jitter={}).num_target_draws == 0
