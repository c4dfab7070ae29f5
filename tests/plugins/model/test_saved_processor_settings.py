"""A model whose inputs would differ from those in training is refused, with both values."""

import json
import re
import shutil

import pytest
from transformers import AutoTokenizer

from runner.errors import RequirementError, SpecError


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def _refused(family, folder, **options):
    with pytest.raises(RequirementError) as caught:
        family.plugin(**{"size": "smoke", **options}).load(folder)
    told = str(caught.value)
    assert str(folder) in told
    return dict(re.findall(r"^  (\S+): trained with (.*)$", told, flags=re.MULTILINE))


def _edit(file, change):
    written = json.loads(file.read_text())
    change(written)
    file.write_text(json.dumps(written))


def test_a_trained_model_has_a_lock_and_loads(family, folder):
    lock = json.loads((folder / "processor_lock.json").read_text())
    assert lock.keys() == {"chat_template", "image_tokens", "pixels", "system_prompt", "tokenizer"}
    assert {"image_mean", "image_std", "size", "rescale_factor"} <= lock["pixels"].keys()
    assert family.plugin().load(folder)


def test_another_template_is_refused(family, folder):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ message.role }}", "{{ message.role | upper }}"))
    told = _refused(family, folder)
    assert told.keys() == {"chat_template", "system_prompt"}
    before, now = told["chat_template"].split(", now ")
    assert "message.role }}" in before
    assert "message.role | upper" in now


def test_code_in_a_saved_model_is_not_run_and_nobody_is_asked(family, folder, monkeypatch):
    questions = []
    monkeypatch.setattr("builtins.input", lambda question="": questions.append(question) or "y")
    marker = folder.parent / "was-run"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    code = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    for model_type in ("unknown", "bert"):
        _edit(folder / "config.json", lambda config: config.update(model_type=model_type, auto_map=code))  # noqa: B023
        with pytest.raises((SpecError, RequirementError), match=str(folder)):
            family.plugin().load(folder)
    assert not questions
    assert not marker.exists()


def test_a_saved_model_does_not_choose_the_code_of_its_attention(family, folder):
    _edit(folder / "config.json", lambda config: config.update(_attn_implementation="nobody/attention"))
    assert family.plugin().load(folder).module.config._attn_implementation == "sdpa"


def test_an_adapter_in_a_saved_model_is_refused(family, folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/base"}))
    with pytest.raises(RequirementError, match="contains an adapter"):
        family.plugin().load(folder)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"], indirect=True)
def test_another_system_prompt_is_reported_as_such(family, folder):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("helpful", "terse"))
    before, now = _refused(family, folder)["system_prompt"].split(", now ")
    assert "a helpful assistant" in before
    assert "a terse assistant" in now


def test_an_added_token_is_refused(family, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    place = len(tokenizer)
    tokenizer.add_tokens(["@somebody"])
    tokenizer.save_pretrained(folder)
    assert _refused(family, folder) == {"tokenizer.added_tokens.@somebody": f"nothing, now {place}"}


def test_other_merges_are_refused(family, folder):
    _edit(folder / "tokenizer.json", lambda written: written["model"]["merges"].pop())
    assert _refused(family, folder).keys() == {"tokenizer.merges"}


def test_other_image_settings_in_the_files_are_refused(family, folder):
    def darken(written):
        written["image_processor"]["image_mean"] = [0.1, 0.1, 0.1]

    _edit(folder / "processor_config.json", darken)
    (before, now), *others = (told.split(", now ") for told in _refused(family, folder).values())
    assert not others
    assert now == "[0.1, 0.1, 0.1]" != before


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"], indirect=True)
@pytest.mark.parametrize(("option", "edge"), [("max_pixels", "longest_edge"), ("min_pixels", "shortest_edge")])
def test_other_image_settings_in_the_spec_are_refused(family, folder, option, edge):
    was = json.loads((folder / "processor_lock.json").read_text())["pixels"]["size"][edge]
    assert _refused(family, folder, **{option: 1024}) == {f"pixels.size.{edge}": f"{was}, now 1024"}
    assert family.plugin(size="smoke", **{option: was}).load(folder)


@pytest.mark.parametrize("family", ["internvl"], indirect=True)
def test_other_tiles_in_the_spec_are_refused(family, folder):
    assert _refused(family, folder, max_tiles=4) == {"pixels.max_patches": "2, now 4"}


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_the_lock_is_also_checked_for_a_trained_model_used_as_checkpoint(family, folder):
    plugin = family.plugin(checkpoint=str(folder), max_pixels=1024)
    with pytest.raises(RequirementError, match="longest_edge: trained with 2304, now 1024"):
        plugin.load(plugin.checkpoint())
    assert family.plugin().checkpoint() is None


def test_a_further_trained_model_gets_a_new_lock(family, folder, tmp_path):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("message.role", "message.role | upper"))
    family.plugin(checkpoint=str(folder)).build([], 0).save(tmp_path / "again", "fp32")
    assert family.plugin().load(tmp_path / "again")
    with pytest.raises(RequirementError):
        family.plugin().load(folder)
