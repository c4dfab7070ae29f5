import pytest
from pydantic import ValidationError

from plugins.model.model_options_and_small_sizes import Qwen25VLOptions
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


def test_the_smoke_options_of_a_checkpoint_are_valid_and_small():
    options = Qwen25VLOptions(checkpoint="a/b", min_pixels=401408, attention="flash_attention_2")
    twin = Qwen25VLOptions(**{**options.model_dump(), **options.smoke()})
    assert (twin.checkpoint, twin.size, twin.min_pixels, twin.attention) == (None, "smoke", None, "sdpa")
