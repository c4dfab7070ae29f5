from types import SimpleNamespace

import pytest
import torch

from plugins.trainer import encoded
from plugins.trainer.encoded import EncodedSamples
from runner.records import Rendered

SAMPLES = [Rendered(f"s{place}", ()) for place in range(3)]


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


def test_a_sample_is_encoded_once_and_comes_back_as_it_was(encode, calls, tmp_path):
    samples = EncodedSamples(SAMPLES, encode, tmp_path / "run")
    for place in (2, 0, 1, 0, 2, 2):
        features, expected = samples[place], encode(SAMPLES[place])
        assert features.keys() == expected.keys()
        for name, tensor in features.items():
            assert tensor.dtype == expected[name].dtype
            assert tensor.equal(expected[name])
    assert len(calls) == 6 + 3  # six by the test itself
    assert samples.id(1) == "s1"


def test_the_file_has_no_name_that_could_be_left_behind(encode, tmp_path):
    samples = EncodedSamples(SAMPLES, encode, tmp_path)
    assert samples[0]["input_ids"].tolist() == [0]
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_room_is_encoded_again(encode, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded.shutil, "disk_usage", lambda folder: SimpleNamespace(free=500))
    samples = EncodedSamples(SAMPLES, encode, tmp_path)  # each takes about 300 bytes
    for place in (0, 1, 0, 1):
        assert samples[place]["input_ids"].tolist() == list(range(place + 1))
    assert calls == ["s0", "s1", "s1"]


def test_what_fails_its_check_is_not_kept(tmp_path):
    tried = []

    def refuse(rendered):
        tried.append(rendered.id)
        raise ValueError(rendered.id)

    samples = EncodedSamples(SAMPLES, refuse, tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="s1"):
            samples[1]
    assert tried == ["s1", "s1"]
