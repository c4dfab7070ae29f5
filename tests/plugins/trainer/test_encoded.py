from pathlib import Path

import pytest
import torch

from plugins.trainer.encoded_samples import EncodedSamples, SampleFiles
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


@pytest.fixture
def files(tmp_path):
    return SampleFiles(tmp_path / "encoded" / "key", ["made"], pytest.fail)


def test_sample_is_encoded_once_and_read_back_unchanged(encode, calls, files):
    samples = EncodedSamples(SAMPLES, encode, files)
    for place in (2, 0, 1, 0, 2, 2):
        features, expected = samples[place], encode(SAMPLES[place])
        assert features.keys() == expected.keys()
        for name, tensor in features.items():
            assert tensor.dtype == expected[name].dtype
            assert tensor.equal(expected[name])
    assert len(calls) == 6 + 3  # six by the test itself
    assert samples.id(1) == "s1"


def test_without_files_samples_are_encoded_every_time(encode, calls):
    samples = EncodedSamples(SAMPLES, encode, None)
    assert [samples[1]["input_ids"].tolist() for _ in range(2)] == [[0, 1], [0, 1]]
    assert calls == ["s1", "s1"]


def test_sample_that_fails_its_check_is_not_stored(files, tmp_path):
    tried = []

    def refuse(rendered):
        tried.append(rendered.id)
        raise ValueError(rendered.id)

    samples = EncodedSamples(SAMPLES, refuse, files)
    for _ in range(2):
        with pytest.raises(ValueError, match="s1"):
            samples[1]
    assert tried == ["s1", "s1"]
    assert not list(Path(tmp_path).rglob("*.safetensors"))
