import random

import numpy
import pytest
import torch

from plugins.trainer.train_step import preserve_training_state
from plugins.trainer.training_state import rng_states


def _module():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    module[2].eval()
    return module


def test_modes_attributes_buffers_and_rng_states_are_restored():
    module = _module()
    weights, mean, before = module[0].weight, module[1].running_mean, rng_states()
    with pytest.raises(ValueError, match="amid"), preserve_training_state(module):
        module.eval()
        module[0].left = torch.ones(3)
        module[0].bias.data += 1
        module[1].running_mean = torch.full((2,), 5.0)
        random.random(), numpy.random.rand(), torch.rand(2)
        raise ValueError("amid")
    assert [part.training for part in module] == [True, True, False]
    assert module.training
    assert not hasattr(module[0], "left")
    assert module[0].weight is weights
    assert module[1].running_mean is mean
    after = rng_states()
    assert after.pop("torch").equal(before.pop("torch"))
    assert after == before


def test_module_can_be_trained_afterwards():
    module = _module()
    with preserve_training_state(module), torch.inference_mode():
        module(torch.ones(4, 2))
    module(torch.ones(4, 2)).sum().backward()
    assert module[0].weight.grad is not None
