import importlib
import pickle
import random
import warnings
from collections import Counter

import numpy
import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, BytesStorageMetadata

from plugins.trainer.training_state import TrainingState, rng_states, set_rng_states
from runner.errors import StepError


def parts(seed):
    """A module of which one layer is frozen and one never used, two optimizers, and schedules."""
    torch.manual_seed(seed)
    module = torch.nn.ModuleDict({name: torch.nn.Linear(3, 3) for name in ("used", "frozen", "unused")})
    module.register_buffer("mean", torch.randn(3))
    module.register_buffer("table", torch.randn(3), persistent=False)
    module["frozen"].requires_grad_(False)
    matrices = [module["used"].weight, module["unused"].weight]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.1),
        torch.optim.AdamW([module["used"].bias, module["unused"].bias], lr=0.2, fused=True),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: 0.5**step) for each in optimizers]
    return module, optimizers, schedules


def step(module, optimizers, schedules):
    module["used"](torch.ones(2, 3)).square().sum().backward()
    for each in (*optimizers, *schedules):
        each.step()
    for each in optimizers:
        each.zero_grad()


@pytest.fixture
def written(tmp_path):
    """What has taken two steps, its folder and its rates."""
    trained = parts(seed=1)
    step(*trained)
    step(*trained)
    state = TrainingState(*trained)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.write(tmp_path)
    return trained, tmp_path, state.lr_state()


def test_loaded_state_continues_like_the_saved_one(written):
    trained, folder, rates = written
    fresh = parts(seed=2)
    fresh[0]["frozen"].load_state_dict(trained[0]["frozen"].state_dict())
    state = TrainingState(*fresh)
    state.read(folder)
    state.load_lr_state(rates)
    for _ in range(3):
        for each in (trained, fresh):
            step(*each)
        assert all(
            ours.equal(theirs) for ours, theirs in zip(fresh[0].parameters(), trained[0].parameters(), strict=True)
        )
        assert state.lr_state() == TrainingState(*trained).lr_state()
    assert fresh[0].mean.equal(trained[0].mean)
    assert not fresh[0].table.equal(trained[0].table)


def test_parameters_without_gradient_get_no_moments(written):
    _, folder, _ = written
    module, optimizers, schedules = parts(seed=2)
    step(module, optimizers, schedules)
    module["unused"](torch.ones(2, 3)).sum().backward()
    for each in optimizers:
        each.step()
    TrainingState(module, optimizers, schedules).read(folder)
    for optimizer, kind in zip(optimizers, ("weight", "bias"), strict=True):
        assert set(optimizer.state) == {getattr(module["used"], kind)}


def test_frozen_weights_are_not_saved(written):
    trained, folder, _ = written
    names = FileSystemReader(folder).read_metadata().state_dict_metadata.keys()
    assert {name for name in names if name.startswith("weights/")} == {
        "weights/used.weight",
        "weights/used.bias",
        "weights/unused.weight",
        "weights/unused.bias",
        "weights/mean",
    }
    assert TrainingState(*trained).num_trainable() == 24


def test_read_weights_does_not_load_moments(written):
    trained, folder, _ = written
    fresh = parts(seed=2)
    TrainingState(*fresh).read_weights(folder)
    assert fresh[0]["used"].weight.equal(trained[0]["used"].weight)
    assert not any(optimizer.state for optimizer in fresh[1])


def test_rng_states_are_restored_from_a_file(tmp_path):
    def draw():
        return random.random(), numpy.random.rand(), float(torch.rand(()))

    torch.save(rng_states(), tmp_path / "random.pt")
    drawn = draw()
    assert draw() != drawn
    set_rng_states(torch.load(tmp_path / "random.pt", weights_only=True))
    assert draw() == drawn


def another_object(metadata):
    metadata.planner_data = Counter("abc")


def an_object_in_place_of_a_tensor(metadata):
    metadata.state_dict_metadata["weights/used.bias"] = BytesStorageMetadata()


def tensors_outside(metadata):
    for place in metadata.storage_data.values():
        place.relative_path = f"../{place.relative_path}"


def transformed_tensors(metadata):
    for place in metadata.storage_data.values():
        place.transform_descriptors = ("zstd",)


def a_huge_moment(metadata):
    metadata.state_dict_metadata["moments/used.bias/exp_avg"].size = torch.Size([2**60])


@pytest.mark.parametrize(
    "change", [another_object, an_object_in_place_of_a_tensor, tensors_outside, transformed_tensors, a_huge_moment]
)
def test_a_checkpoint_that_describes_more_than_its_own_tensors_is_refused(written, change):
    _, folder, _ = written
    metadata = FileSystemReader(folder).read_metadata()
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    state = TrainingState(*parts(seed=2))
    with pytest.raises(StepError, match=f"{folder}.*(does not load|larger than)"):
        state.read(folder)
    if change is not a_huge_moment:
        with pytest.raises(StepError, match=f"{folder}.*does not load"):
            state.read_weights(folder)


def test_a_checkpoint_of_a_python_that_pickles_enums_by_name_is_read(written, monkeypatch):
    """As Python 3.11.2 of Debian 12 does."""
    trained, folder, _ = written
    metadata = FileSystemReader(folder).read_metadata()
    by_name = lambda member, protocol: (getattr, (type(member), member.name))  # noqa: E731
    monkeypatch.setattr(_MEM_FORMAT_ENCODING, "__reduce_ex__", by_name)
    content = pickle.dumps(metadata)
    assert b"getattr" in content
    (folder / ".metadata").write_bytes(content)
    fresh = parts(seed=2)
    TrainingState(*fresh).read(folder)
    assert fresh[0]["used"].weight.equal(trained[0]["used"].weight)


class Attribute:
    """Pickled as an attribute of a class or module."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_MEM_FORMAT_ENCODING, "mro"),
        (_MEM_FORMAT_ENCODING, "_member_map_"),
        (torch.Size, "numel"),
        ("text", "upper"),
        (_MEM_FORMAT_ENCODING, ["TORCH_CONTIGUOUS_FORMAT"]),
    ],
)
def test_no_other_attribute_is_read(tmp_path, owner, name):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Attribute(owner, name)))
    with pytest.raises(StepError, match=r"does not load it"):
        TrainingState(*parts(seed=2)).read_weights(tmp_path)


@pytest.mark.parametrize("content", [None, 1, {"state_dict_metadata": {}}, Counter()])
def test_metadata_of_another_type_is_refused(tmp_path, content):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(StepError, match="does not load it"):
        TrainingState(*parts(seed=2)).read_weights(tmp_path)


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch.distributed.checkpoint.metadata", "Metadata"), ("torch.serialization", "_get_layout")],
)
def test_a_checkpoint_does_not_change_the_classes_of_this_process(tmp_path, module, name):
    changed = f"c{module}\n{name}\n".encode()
    attributes = pickle.dumps((None, {"changed_by_a_file": 1}), protocol=2)[2:-1]
    (tmp_path / ".metadata").write_bytes(b"\x80\x02" + changed + attributes + b"b.")
    with pytest.raises(StepError, match=f"changes .*{name}.*does not load it"):
        TrainingState(*parts(seed=2)).read_weights(tmp_path)
    assert not hasattr(getattr(importlib.import_module(module), name), "changed_by_a_file")


def test_a_tensor_file_that_is_a_link_is_refused(written, tmp_path):
    _, folder, _ = written
    for file in folder.glob("*.distcp"):
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StepError, match="not a tensor file of the checkpoint"):
        TrainingState(*parts(seed=2)).read(folder)
