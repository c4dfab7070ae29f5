"""The test of model types: its results agree with the file that the product reads, and it notices what is wrong."""

import json

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from bench.docs_table import marks, read_between, write_between
from bench.model_matrix.__main__ import DOCS, check_or_explain
from bench.model_matrix.checks import check_type
from bench.model_matrix.recipes import RECIPES
from bench.model_matrix.table import TABLE, table
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.image_text_to_text import LoadedImageTextToText
from plugins.model.tested_model_types import RESULTS_FILE, TypeResult, type_results

QUICK = ["aya_vision", "gemma3", "llava_next", "qwen2_5_vl", "qwen3_5"]


def test_the_results_cover_every_type_of_the_tested_version_and_stand_in_the_docs():
    content = json.loads(RESULTS_FILE.read_text())
    versions = {package: content[package] for package in ("transformers", "torch")}
    assert table(type_results(), versions) == read_between(DOCS, TABLE)
    assert sum(each.result == "passes" for each in type_results().values()) >= 30
    assert all(each.detail for each in type_results().values() if each.result != "passes")
    if transformers.__version__ == versions["transformers"]:
        assert type_results().keys() == MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()


def test_a_page_without_the_comments_is_not_written(tmp_path):
    page = tmp_path / "page.md"
    begin, end = marks(TABLE)
    page.write_text(f"before\n{begin}old\n{end}\nafter\n")
    write_between(page, TABLE, table({"llava": TypeResult("refused", "x", "a <b> | c")}, {"torch": "2"}))
    assert page.read_text().startswith(f"before\n{begin}Tested with torch 2: 0 of 1 types pass.")
    assert "| `llava` | a &lt;b> \\| c |" in page.read_text()
    assert page.read_text().endswith(f"{end}\nafter\n")
    page.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the comments"):
        write_between(page, TABLE, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_type_has_the_result_of_the_file(name):
    assert check_or_explain(name) == type_results()[name]


def test_a_type_without_a_recipe_is_not_tried():
    assert check_or_explain("llama4").detail.startswith("its image processor needs torchvision")
    assert check_or_explain("florence2").result == "not tried"


def _lose_a_token(monkeypatch):
    prompt = LoadedChatModel._prompt
    monkeypatch.setattr(LoadedChatModel, "_prompt", lambda *args: (prompt(*args)[0][:-1], prompt(*args)[1]))


def _count_wrong(monkeypatch):
    count = LoadedImageTextToText.num_image_features
    monkeypatch.setattr(LoadedImageTextToText, "num_image_features", lambda *args: count(*args) + 1)


def _ignore_padding(monkeypatch):
    collate = LoadedChatModel.collate

    def unmasked(self, batch, side):
        return {name: value for name, value in collate(self, batch, side).items() if name != "attention_mask"}

    monkeypatch.setattr(LoadedChatModel, "collate", unmasked)


def _lose_a_weight(monkeypatch):
    save = LoadedChatModel.save

    def other(self, folder, precision):
        self.module.get_output_embeddings().weight.data[:, 0] += 1
        save(self, folder, precision)
        self.module.get_output_embeddings().weight.data[:, 0] -= 1

    monkeypatch.setattr(LoadedChatModel, "save", other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "result", "detail"),
    [
        (_lose_a_token, "fails", "prompt and pixels: the prompt has"),
        (_count_wrong, "fails", "image tokens: 0 image tokens, 1 features"),
        (_ignore_padding, "fails", "batch: logits with padding on the left"),
        (_lose_a_weight, "fails", "saving: logits of the model loaded with the product"),
    ],
)
def test_what_differs_from_transformers_is_noticed(monkeypatch, change, result, detail):
    change(monkeypatch)
    verdict = check_type("llava", RECIPES["llava"])
    assert verdict.result == result
    assert verdict.detail.startswith(detail)
