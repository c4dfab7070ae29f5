import pytest
from pydantic import ValidationError

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from runner.errors import RequirementError
from runner.stages import LocatedStr


@pytest.mark.parametrize("given", [{}, {"checkpoint": "a/b", "size": "tiny"}])
def test_exactly_one_source_of_the_weights(given):
    with pytest.raises(ValidationError, match=r"either `checkpoint` .* or `size`"):
        Qwen25VLOptions(**given)


def test_a_path_is_relative_to_the_spec_and_a_hub_name_is_unchanged(tmp_path):
    (tmp_path / "models" / "seven").mkdir(parents=True)

    def resolved(text):
        return Qwen25VLOptions(checkpoint=LocatedStr(text, tmp_path / "specs")).checkpoint

    assert resolved("../models/none") == str(tmp_path / "models" / "none")
    assert resolved("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert Qwen25VLOptions(checkpoint=LocatedStr("models/seven", tmp_path)).checkpoint == str(tmp_path / "models/seven")
    assert resolved(str(tmp_path)) == str(tmp_path)


def test_pixel_areas_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="min_pixels"):
        Qwen25VLOptions(size="tiny", min_pixels=5000, max_pixels=400)


@pytest.mark.parametrize(
    "name", ["sdpa", "flash_attention_3", "kernels-community/flash-attn2", "kernels-community/vllm-flash-attn3@v1.2"]
)
def test_attention_implementations_with_packages_and_kernels_of_the_hub_are_accepted(name):
    assert Qwen25VLOptions(size="tiny", attention=name).attention == name


@pytest.mark.parametrize("name", ["flash", "someone/flash-attn2", "kernels-community/", "kernels-community/a/b", ""])
def test_other_attention_implementations_are_refused_with_the_valid_ones(name):
    with pytest.raises(ValidationError, match=r"sdpa, eager, flash_attention_2, flash_attention_3, or a kernel"):
        Qwen25VLOptions(size="tiny", attention=name)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("flash_attention_2", "flash-attn"),
        ("flash_attention_3", "flash-attn-3"),
        ("kernels-community/flash-attn2", "kernels"),
    ],
)
def test_a_missing_package_is_named_but_planning_needs_none(name, package):
    model = Qwen25VLModel(Qwen25VLOptions(size="smoke", attention=name))
    with pytest.raises(RequirementError, match=f"{name} needs the package {package} and a CUDA GPU"):
        model.build(["some text"], 0)
    assert model.model_spec(["some text"]).supports_packing


def test_the_smoke_options_of_a_checkpoint_are_valid_and_small():
    options = Qwen25VLOptions(checkpoint="a/b", min_pixels=401408, attention="flash_attention_2")
    twin = Qwen25VLOptions(**{**options.model_dump(), **options.smoke()})
    assert (twin.checkpoint, twin.size, twin.min_pixels, twin.attention) == (None, "smoke", None, "sdpa")
