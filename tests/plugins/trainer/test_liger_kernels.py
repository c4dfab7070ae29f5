"""Liger's kernels up to the call: a stand-in takes the place of the package, whose kernels need a GPU."""

import sys
from types import ModuleType

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from plugins.trainer import liger_kernels
from plugins.trainer.liger_kernels import apply_liger_kernels
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import RequirementError, SpecError
from runner.stages import TrainingRun


@pytest.fixture
def module(build_smoke):
    return build_smoke().module


@pytest.fixture
def calls(monkeypatch, module):
    """The calls of the stand-in, which also replaces a class for later models, as the package does."""
    calls = []

    def apply(model, **kernels):
        modeling.Qwen2_5_VLRMSNorm = object
        calls.append((model, kernels))

    package = ModuleType("liger_kernel.transformers.monkey_patch")
    package.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2_5_vl": apply}
    package._apply_liger_kernel_to_instance = apply
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", ModuleType("liger_kernel.transformers"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", package)
    monkeypatch.setattr(liger_kernels, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return calls


def test_norms_and_feed_forward_blocks_of_this_model_alone_are_replaced(module, calls):
    norm = modeling.Qwen2_5_VLRMSNorm
    apply_liger_kernels(module)
    [(patched, kernels)] = calls
    assert patched is module
    assert kernels == dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy", "layer_norm"), False)
    assert modeling.Qwen2_5_VLRMSNorm is norm


def test_a_model_without_kernels_is_refused(module, calls):
    module.config.model_type = "other"
    with pytest.raises(SpecError, match="no kernels for models of type other; set use_liger_kernel: false"):
        apply_liger_kernels(module)
    assert not calls


@pytest.mark.parametrize(("is_installed", "has_gpu"), [(False, True), (True, False)])
def test_without_the_package_or_a_gpu_the_training_does_not_begin(
    build_smoke, tmp_path, monkeypatch, is_installed, has_gpu
):
    model = build_smoke()
    monkeypatch.setattr(liger_kernels, "find_spec", lambda name: object() if is_installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    trainer = SftTrainer(SftOptions(use_liger_kernel=True))
    with pytest.raises(RequirementError, match=r"needs a CUDA GPU and the package liger-kernel.*mmre-runner\[liger\]"):
        trainer.train(model, None, [], [], TrainingRun(tmp_path, 0, None))
    assert SftOptions(use_liger_kernel=True).smoke()["use_liger_kernel"] is False
