import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from plugins.trainer import loss as cross_entropy
from plugins.trainer.loss import summed_cross_entropy


def _case(positions, words, bias, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(6, words, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn))
    hidden = torch.randn(positions, 6, generator=drawn, requires_grad=True)
    return head, hidden, torch.randint(words, (positions,), generator=drawn)


def _gradients(loss, head, hidden, scale=1.0):
    return torch.autograd.grad(loss * scale, [hidden, *head.parameters()])


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 12), st.booleans(), st.integers(1, 5), st.integers(0, 5))
def test_loss_and_gradients_equal_torch_for_any_chunk_size(positions, words, bias, size, seed):
    head, hidden, labels = _case(positions, words, bias, seed)
    expected = functional.cross_entropy(head(hidden), labels, reduction="sum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "MAX_LOGIT_BYTES", size * 4 * words)
        ours = summed_cross_entropy(hidden, labels, head)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    pairs = zip(_gradients(ours, head, hidden, 0.3), _gradients(expected, head, hidden, 0.3), strict=True)
    for own, wanted in pairs:
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)


def test_frozen_head_gets_no_gradient_but_propagates_one():
    head, hidden, labels = _case(5, 7, bias=True)
    expected = torch.autograd.grad(functional.cross_entropy(head(hidden), labels, reduction="sum"), hidden)[0]
    head.requires_grad_(False)
    summed_cross_entropy(hidden, labels, head).backward()
    torch.testing.assert_close(hidden.grad, expected)
    assert head.weight.grad is None


def test_without_grad_mode_no_graph_is_built():
    head, hidden, labels = _case(5, 7, bias=False)
    with torch.no_grad():
        loss = summed_cross_entropy(hidden, labels, head)
    torch.testing.assert_close(loss, functional.cross_entropy(head(hidden), labels, reduction="sum").detach())
    assert loss.grad_fn is None


def test_bfloat16_gradients_are_float32_and_equal_torch():
    head, hidden, labels = _case(40, 30, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = summed_cross_entropy(hidden, labels, head)
        expected = functional.cross_entropy(head(hidden).float(), labels, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
    for own, wanted in zip(_gradients(ours, head, hidden), _gradients(expected, head, hidden), strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(own, wanted, rtol=0.02, atol=0.05)


def test_memory_does_not_grow_with_the_number_of_labels(monkeypatch):
    monkeypatch.setattr(cross_entropy, "MAX_LOGIT_BYTES", 4 * 10_000 * 8)
    head = torch.nn.Linear(4, 10_000, bias=False)

    def most(positions):
        hidden, labels = torch.randn(positions, 4, requires_grad=True), torch.randint(10_000, (positions,))
        with torch.profiler.profile(profile_memory=True) as profiler:
            summed_cross_entropy(hidden, labels, head).backward()
        head.weight.grad = None
        held, highest = 0, 0
        for event in sorted(profiler.profiler.kineto_results.events(), key=lambda each: each.start_ns()):
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        return highest

    assert most(400) < 1.2 * most(40)
