"""The frame of boxes in a plan: pinned and compared for adapters with boxes, absent for the others."""

import json

import pytest

from runner.errors import SpecError, StepError
from runner.preflight.preview import load_preview
from runner.resolved_plan import create_adapter, plan_json, read_plan, resolve
from runner.spec.load import load_spec
from tests.test_resolved_plan import SPEC, Quiet

LABELS = ("person", "location", "organization", "other")
BOXES = SPEC.replace("type: pfa", "type: gmner")


@pytest.fixture
def load(tmp_path, tmp_path_factory):
    shared = tmp_path_factory.getbasetemp() / "synthetic"

    def load(*overrides, text=BOXES):
        path = tmp_path / "small.yaml"
        path.write_text(text.format(data=shared))
        return load_spec(path, overrides).spec

    return load


def test_a_plan_pins_the_frame_for_an_adapter_with_boxes_only(load):
    plan = resolve(load(), Quiet())
    assert plan.pins.box_frame == {
        **{"type": "ResizedFrame", "multiple": 16, "min_pixels": 256, "max_pixels": 2304},
        **{"before": "", "after": "", "separator": ","},
    }
    assert resolve(read_plan(plan_json(plan.spec)), Quiet()) == plan
    published = resolve(load(text=SPEC), Quiet())
    assert "box_frame" not in json.loads(plan_json(published.spec))["pinned"]
    for frame in ("thousand", "original"):
        assert resolve(load(f"adapter.frame={frame}"), Quiet()).pins.box_frame is None


def test_only_plans_with_boxes_depend_on_the_code_of_the_frame(load):
    def code(*overrides, text=BOXES):
        return resolve(load(*overrides, text=text), Quiet()).pins.code["model.qwen2_5_vl"]

    assert "runner.stages.box_frame" in code()
    assert code("adapter.frame=original") == code(text=SPEC)
    assert "plugins.model.chat.resize_settings" not in code(text=SPEC)


def test_an_edit_of_the_parser_scores_again_and_trains_nothing(load):
    code = resolve(load(), Quiet()).pins.code
    assert "plugins.adapter.gmner_parse" not in code["adapter.gmner"]
    assert "plugins.adapter.gmner_parse" in code["adapter.gmner.parse"]
    assert "plugins.adapter.box_jitter" in code["adapter.gmner"]


def test_the_adapter_of_a_plan_writes_in_the_pinned_frame(load):
    spec = resolve(load(), Quiet()).spec
    assert create_adapter(spec, LABELS)._frame.as_json() == spec.pinned.box_frame
    other = spec.pinned.model_copy(update={"box_frame": {"type": "BoxFrame"}})
    with pytest.raises(StepError, match=r"adapter\.frame: boxes would be written in the frame"):
        create_adapter(spec.model_copy(update={"pinned": other}), LABELS)


def test_prompts_of_a_preview_and_targets_have_numbers_of_the_frame(load):
    preview = load_preview(load("model.min_pixels=9216", "model.max_pixels=9216"), "train", Quiet())
    rendered = preview.rendered[0]
    sides = [int(side) for box in rendered.target.split("[")[1:] for side in box.split("]")[0].split(",")]
    # Images of 48 x 48 pixels are enlarged to 96 x 96, and their cells of 16 pixels to 32.
    assert sides
    assert all(side % 32 == 0 and side <= 96 for side in sides)
    assert "in pixels of the image" in rendered.prompt


def test_a_family_without_a_known_frame_is_refused_with_the_option_to_set(load):
    with pytest.raises(SpecError, match="'llava_onevision' does not say in which frame"):
        resolve(load("model.type=llava_onevision"), Quiet())
    assert resolve(load("model.type=llava_onevision", "adapter.frame=thousand"), Quiet()).pins.box_frame is None


def test_without_a_model_the_frame_must_be_set(load):
    overrides = ("model=none", "optimizer=none", "trainer=none", "generator={type: constant, answer: None}")
    with pytest.raises(SpecError, match="write `thousand` or `original`"):
        load(*overrides)
    assert load(*overrides, "adapter.frame=thousand").model is None
