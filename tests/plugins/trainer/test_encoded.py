import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plugins.trainer.encoded_samples import EncodedSamples, ImageFolder, SampleFiles, digest_of
from runner.records import ImagePart, Rendered

SAMPLES = [Rendered(f"s{place}", ()) for place in range(3)]


class Encoder:
    """Encodes by a function; image tensors are all but the ids."""

    def __init__(self, function):
        self.function, self.known_images = function, []

    def encode(self, rendered, images=None):
        features = self.function(rendered)
        if images is not None:
            self.known_images.append(rendered.id)
            features = {"input_ids": features["input_ids"], **images}
        return features, {"input_ids"}


@pytest.fixture
def calls():
    return []


@pytest.fixture
def encode(calls):
    """Encode a sample to tensors of several kinds that its id tells."""

    def made(rendered):
        calls.append(rendered.id)
        place = int(rendered.id[1:])
        return {
            "input_ids": torch.arange(place + 1),
            "pixel_values": torch.full((2, 3), float(place)).to(torch.bfloat16),
            "image_grid_thw": torch.arange(6).reshape(2, 3).T,
        }

    return made


@pytest.fixture
def files(tmp_path):
    return SampleFiles(tmp_path / "encoded" / "key", ["made"], pytest.fail)


def is_valid(rendered, features):
    """A sample is valid if it has the token ids that its id tells."""
    return features["input_ids"].tolist() == list(range(int(rendered.id[1:]) + 1))


def test_sample_is_encoded_once_and_read_back_unchanged(encode, calls, files):
    samples = EncodedSamples(SAMPLES, Encoder(encode), files, is_valid)
    for place in (2, 0, 1, 0, 2, 2):
        features, expected = samples[place], encode(SAMPLES[place])
        assert features.keys() == expected.keys()
        for name, tensor in features.items():
            assert tensor.dtype == expected[name].dtype
            assert tensor.equal(expected[name])
    assert len(calls) == 6 + 3  # six by the test itself
    assert samples.id(1) == "s1"


def test_without_files_samples_are_encoded_every_time(encode, calls):
    samples = EncodedSamples(SAMPLES, Encoder(encode), None, is_valid)
    assert [samples[1]["input_ids"].tolist() for _ in range(2)] == [[0, 1], [0, 1]]
    assert calls == ["s1", "s1"]


def test_sample_that_fails_its_check_is_not_stored(files, tmp_path):
    tried = []

    def refuse(rendered):
        tried.append(rendered.id)
        raise ValueError(rendered.id)

    samples = EncodedSamples(SAMPLES, Encoder(refuse), files, is_valid)
    for _ in range(2):
        with pytest.raises(ValueError, match="s1"):
            samples[1]
    assert tried == ["s1", "s1"]
    assert not list(Path(tmp_path).rglob("*.safetensors"))


def replace_file(files, place, features):
    """Replace a sample's file, complete and with the digest of its content, as another program can."""
    files.write(SAMPLES[place], features)


def test_content_of_a_file_that_fails_the_check_is_encoded_again(encode, calls, tmp_path):
    told = []
    files = SampleFiles(tmp_path / "encoded" / "key", ["made"], told.append)
    replace_file(files, 1, {"input_ids": torch.tensor([7, 7])})
    samples = EncodedSamples(SAMPLES, Encoder(encode), files, is_valid)
    assert samples[1]["input_ids"].tolist() == [0, 1]
    assert calls == ["s1"]
    assert "not the encoded sample s1 that was checked" in told[0]
    assert samples[1]["input_ids"].tolist() == [0, 1]
    assert len(told) == len(calls) == 1


def test_content_that_changes_after_its_check_is_not_used(encode, calls, tmp_path):
    told = []
    files = SampleFiles(tmp_path / "encoded" / "key", ["made"], told.append)
    for first in [EncodedSamples(SAMPLES, Encoder(encode), files, is_valid) for _ in range(2)]:
        before = first[1]  # encoded by the one, read and checked by the other
        replace_file(files, 1, {**before, "pixel_values": before["pixel_values"] + 1})
        assert first[1]["pixel_values"].equal(before["pixel_values"])
    assert calls == ["s1"] * 3
    assert len(told) == 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_changed_bit_is_not_used(encode, calls, files, place):
    """Whether the metadata or a tensor holds the bit."""
    samples = EncodedSamples(SAMPLES, Encoder(encode), files, is_valid)
    expected = samples[2]
    [file] = files._folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-1 if place else content.index(b"sha256") + 9] ^= 1
    file.write_bytes(content)
    os.utime(file, (0, 0))
    again = EncodedSamples(SAMPLES, Encoder(encode), files, is_valid)[2]
    assert all(again[name].equal(expected[name]) for name in expected)
    assert calls == ["s2", "s2"]


PICTURED = [replace(SAMPLES[2], id=f"s2/{task}", task=task, content=(ImagePart(Path("2.png")),)) for task in "xy"]


@pytest.fixture
def shared(tmp_path):
    """Files of samples, with images in a folder of their own."""
    images = ImageFolder(tmp_path / "encoded" / "images", ["features"])
    return SampleFiles(tmp_path / "encoded" / "key", ["made"], pytest.fail, images)


def test_prompts_of_a_sample_share_its_image_tensors(calls, shared):
    def encode(rendered):
        calls.append(rendered.id)
        return {"input_ids": torch.arange(3), "pixel_values": torch.ones(4, 5)}

    encoder = Encoder(encode)
    samples = EncodedSamples(PICTURED, encoder, shared, lambda rendered, features: True)
    first, second = samples[0], samples[1]
    assert first.keys() == second.keys() == {"input_ids", "pixel_values"}
    assert encoder.known_images == ["s2/y"]
    assert calls == ["s2/x", "s2/y"]
    again = EncodedSamples(PICTURED, Encoder(pytest.fail), shared, lambda rendered, features: True)
    assert all(again[index]["pixel_values"].equal(torch.ones(4, 5)) for index in (0, 1))
    folder = shared._images.path
    assert len(list(folder.iterdir())) == 1
    assert len(list(shared._folder.iterdir())) == 2
    sizes = sum(file.stat().st_size for each in (folder, shared._folder) for file in each.iterdir())
    assert shared.missing_bytes(sizes + 7, PICTURED) == (shared._folder, 7)


@pytest.mark.parametrize("damage", [None, b"half", {"pixel_values": torch.zeros(4, 5)}])
def test_image_tensors_that_are_lost_or_changed_are_encoded_again(calls, tmp_path, damage):
    told = []
    images = ImageFolder(tmp_path / "encoded" / "images", [])
    files = SampleFiles(tmp_path / "encoded" / "key", [], told.append, images)

    def encode(rendered):
        calls.append(rendered.id)
        return {"input_ids": torch.arange(3), "pixel_values": torch.ones(4, 5)}

    before = EncodedSamples(PICTURED, Encoder(encode), files, lambda rendered, features: True)
    _ = before[0]
    file = images.file(PICTURED[0])
    if damage is None:
        file.unlink()
    elif isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        save_file(damage, file, {"sha256": digest_of(damage)})
    again = EncodedSamples(PICTURED, Encoder(encode), files, lambda rendered, features: True)
    expected = damage["pixel_values"] if isinstance(damage, dict) else torch.ones(4, 5)
    assert again[0]["pixel_values"].equal(expected)
    assert len(calls) == 2
    file.unlink()
    save_file({"pixel_values": torch.zeros(4, 5)}, file, {"sha256": digest_of({"pixel_values": torch.zeros(4, 5)})})
    if isinstance(damage, dict):
        assert again[0]["pixel_values"].equal(expected)
    assert before[0]["pixel_values"].equal(torch.ones(4, 5)), "what it checked"
