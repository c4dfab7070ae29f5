"""Model types that did not pass the project's test are refused by name, before anything heavy is imported."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.model.family_options import ImageTextToTextOptions
from plugins.model.tested_model_types import folder_model_type, refusal, type_results
from tests.command import run_in_process

NAMES = sorted(type_results())


@pytest.mark.parametrize("name", NAMES)
def test_only_types_that_pass_are_used(name):
    tested = type_results()[name]
    reason = refusal(name, untested=False)
    assert (reason is None) == (tested.result == "passes")
    assert reason is None or (repr(name) in reason and tested.detail in reason)
    # A type that fails cannot be used at all; one that nobody tried can, if the user says so.
    assert (refusal(name, untested=True) is None) == (tested.result in ("passes", "not tried"))


@given(st.text(max_size=12).filter(lambda name: name not in NAMES))
def test_an_unknown_type_needs_the_option(name):
    assert "model.untested: true" in refusal(name, untested=False)
    assert refusal(name, untested=True) is None


def test_the_nearest_type_is_named():
    assert "such as qwen3_vl," in refusal("qwen3-vl", untested=False)


def test_options_read_the_type_of_a_local_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mllama"}))
    for untested in (True, False):
        with pytest.raises(ValidationError, match="of the type 'mllama' are refused: "):
            ImageTextToTextOptions(checkpoint=str(tmp_path), untested=untested)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of_next_year"}))
    with pytest.raises(ValidationError, match="'of_next_year' are untested"):
        ImageTextToTextOptions(checkpoint=str(tmp_path))
    ImageTextToTextOptions(checkpoint=str(tmp_path), untested=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    ImageTextToTextOptions(checkpoint=str(tmp_path))
    ImageTextToTextOptions(checkpoint="somebody/mllama")  # nothing is asked of the hub


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": 3}', "{"])
def test_a_damaged_configuration_has_no_type(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert folder_model_type(tmp_path) is None
    assert folder_model_type(tmp_path / "absent") is None


def test_validate_refuses_the_type_at_its_place(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "mllama"}))
    (tmp_path / "spec.yaml").write_text(
        "name: small\n"
        "data: {type: synthetic, path: data, train: 12, test: 4}\n"
        "adapter: {type: pfa}\n"
        "model: {type: image_text_to_text, checkpoint: ./other}\n"
        "metrics: [{type: ner_f1}]\n"
    )
    done = run_in_process(["validate", "spec.yaml", "--json"], tmp_path, os.environ)
    assert done.returncode == 2
    errors = json.loads(done.stdout)["errors"]
    assert any("'mllama' are refused" in error["message"] and error["line"] == 4 for error in errors)
