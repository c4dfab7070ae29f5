"""A checkpoint is identified by all files from which transformers would load it, and by no others."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from plugins.model.chat import find_checkpoint
from plugins.model.chat.chat_model import read_config
from plugins.model.chat.processor_and_images import find_processor_class
from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from runner.errors import RequirementError, SpecError

COMMIT = "c" * 40


@pytest.fixture(scope="module")
def saved(build_smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    build_smoke().save(folder, "fp32")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved model, two levels below the test's folder, so that files may lie beside it."""
    return shutil.copytree(saved, tmp_path / "models" / "model")


def revision(folder, **options):
    return Qwen25VLOptions(checkpoint=str(folder), **options).exact_revision()


def weights(folder, **options):
    module = Qwen25VLModel(Qwen25VLOptions(checkpoint=str(folder), **options)).build([], 0).module
    return torch.cat([parameter.flatten() for parameter in module.parameters()])


def divide(folder, place):
    """Replace the weights by two files in a place relative to the folder, and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    (folder / place).mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"{place}part-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def add_one(file):
    """Change the weights in a file and keep its size and time."""
    status = file.stat()
    if file.suffix == ".bin":
        torch.save({name: value + 1 for name, value in torch.load(file).items()}, file)
    else:
        save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("place", ["", "below/it/", "../beside/"])
def test_each_file_that_an_index_names_counts(saved, folder, place):
    divide(folder, place)
    assert weights(folder).equal(weights(saved))
    for number in (0, 1):
        before = revision(folder)
        add_one(folder / f"{place}part-{number}.safetensors")
        assert revision(folder) != before
    (folder / f"{place}part-1.safetensors").unlink()
    with pytest.raises(RequirementError, match=r"part-1.safetensors is missing, which .*index.json names"):
        revision(folder)


def test_a_file_that_the_configuration_names_counts(saved, folder):
    (folder / "inner").mkdir()
    (folder / "model.safetensors").rename(folder / "inner" / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "inner/weights.safetensors"}))
    assert weights(folder).equal(weights(saved))
    before = revision(folder)
    add_one(folder / "inner" / "weights.safetensors")
    assert revision(folder) != before


def test_pickled_weights_are_loaded_and_counted_only_on_request(saved, folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    with_both = revision(folder)
    assert with_both == revision(saved), "with both formats, the pickled weights are not loaded"
    (folder / "model.safetensors").unlink()
    for action in (revision, weights):
        with pytest.raises((RequirementError, OSError), match=r"pickle|safetensors"):
            action(folder)
    assert weights(folder, pickled_weights=True).equal(weights(saved))
    before = revision(folder, pickled_weights=True)
    assert before != with_both
    add_one(folder / "pytorch_model.bin")
    assert revision(folder, pickled_weights=True) != before


def test_an_additional_chat_template_counts(folder):
    before = revision(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "short.jinja").write_text("{{ messages }}")
    assert revision(folder) != before


def test_an_adapter_is_refused_because_its_base_is_elsewhere(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/base"}))
    with pytest.raises(RequirementError, match=r"contains an adapter.*merge_and_unload"):
        revision(folder)


def write_index(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index(folder, names):
    """Replace the weights by an index."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), r"config.json must contain a JSON object"),
        (lambda folder: write_index(folder, {}), "names no files with weights"),
        (lambda folder: write_index(folder, {"weight_map": {}}), "names no files with weights"),
        (lambda folder: (folder / "config.json").write_text("[" * 5000), r"config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b'{"a": "\xff"}'), r"config.json is not valid JSON"),
        *(
            (
                lambda folder, name=name: (folder / "config.json").write_text(
                    json.dumps({"transformers_weights": name})
                ),
                r"config.json: 'transformers_weights' contains .*, which is not the name of a file",
            )
            for name in (5, [], {}, "", "a\0b", "a" * 300)
        ),
        *(
            (
                lambda folder, names=names: index(folder, names),
                r"index.json: 'weight_map' contains .* not the name of a file",
            )
            for names in ({"a": 5}, {"a": ["b"]}, ["a"], 5, {"a": "b" * 300})
        ),
    ],
)
def test_an_incomplete_checkpoint_is_an_error_that_names_the_file(folder, damage, told):
    damage(folder)
    with pytest.raises(RequirementError, match=told):
        revision(folder)


def test_weights_that_the_files_lack_are_not_drawn_at_random(folder):
    tensors = load_file(folder / "model.safetensors")
    left_out = next(name for name in tensors if name.endswith("patch_embed.proj.weight"))
    save_file({name: tensors[name] for name in tensors if name != left_out}, folder / "model.safetensors")
    with pytest.raises(RequirementError, match=r"lack weights of the model: .*patch_embed.proj.weight \(1 in all\)"):
        weights(folder)


def test_folders_and_broken_links_do_not_count(folder):
    before = revision(folder)
    (folder / "logs.json").mkdir()
    (folder / "old.json").symlink_to(folder / "absent.json")
    assert revision(folder) == before


def test_the_digest_of_a_file_is_cached_until_the_file_changes(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(find_checkpoint, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(find_checkpoint, "user_cache_dir", lambda name: tmp_path / "cache" / name)
    before = revision(folder)
    read = []
    digest = find_checkpoint.hashlib.file_digest
    monkeypatch.setattr(
        find_checkpoint.hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name)
    )
    assert revision(folder) == before
    assert not read
    add_one(folder / "model.safetensors")
    assert revision(folder) != before
    assert len(read) == 1


def test_a_commit_is_not_looked_up_again_and_a_branch_that_moved_is_not_followed(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--somebody--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")

    def look_up(*_args, **_options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("plugins.model.chat.find_checkpoint.HfApi", look_up)
    planned = Qwen25VLOptions(checkpoint="somebody/model", revision="main").pinned_to(COMMIT)
    assert planned.exact_revision() == COMMIT


def test_damaged_weights_and_settings_are_errors_that_name_the_folder(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequirementError, match=r"the files with weights in .*model are damaged"):
        weights(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RequirementError, match=r"the processor of .* cannot be loaded \(the key 'added_tokens' is"):
        Qwen25VLModel(Qwen25VLOptions(checkpoint=str(folder))).model_spec([])


@pytest.mark.parametrize("name", [5, ["Qwen2VLProcessor"], "pipeline", "no_such_class", "AutoModel"])
def test_only_a_class_of_processors_is_taken_from_a_checkpoint(tmp_path, name):
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": name}))
    with pytest.raises(RequirementError, match="transformers has no processor for"):
        find_processor_class(tmp_path, PreTrainedConfig())
    (tmp_path / "processor_config.json").write_text("[" * 5000)
    with pytest.raises(RequirementError, match=r"processor_config\.json is not valid JSON"):
        find_processor_class(tmp_path, PreTrainedConfig())


@pytest.mark.parametrize("content", ["[" * 5000, "5", "[]", '{"model_type": 5}', '{"model_type": []}', "{}"])
def test_a_configuration_of_any_json_is_an_error_of_the_spec(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SpecError, match="is not a checkpoint of an architecture in transformers"):
        read_config(tmp_path)
