"""Muon in float32 equals torch's Muon except for bfloat16 rounding."""

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.optimizer.muon import CpuMuon, orthogonalize

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SIZES = st.integers(1, 40)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(kind, matrices, gradients, **options):
    matrices = [torch.nn.Parameter(each.clone()) for each in matrices]
    optimizer = kind([{"params": matrices[:1], "lr": 0.1}, {"params": matrices[1:]}], lr=0.02, **options)
    for of_step in gradients:
        for matrix, gradient in zip(matrices, of_step, strict=True):
            matrix.grad = None if gradient is None else gradient.clone()
        optimizer.step()
    return matrices, optimizer


@given(seed=st.integers(0, 2**31), rows=SIZES, columns=SIZES, scale=st.floats(1e-3, 1e3))
def test_orthogonalize_keeps_singular_vectors_with_values_near_one(seed, rows, columns, scale):
    left, _, right = torch.linalg.svd(drawn(seed, rows, columns), full_matrices=False)
    values = torch.linspace(0.2, 1, min(rows, columns)) * scale
    result = orthogonalize(left @ values.diag() @ right, COEFFICIENTS, 5, 1e-7)
    inner = left.T @ result @ right.T
    assert ((inner.diag() > 0.6) & (inner.diag() < 1.3)).all()
    assert (inner - inner.diag().diag()).abs().max() < 1e-3
    assert result.dtype == torch.float32


@given(seed=st.integers(0, 2**31), decay=st.sampled_from([0.0, 0.1]), nesterov=st.booleans())
def test_steps_equal_torch_within_bfloat16_rounding(seed, decay, nesterov):
    shapes = ((24, 8), (8, 24), (16, 16))
    matrices = [drawn(seed + number, *shape) for number, shape in enumerate(shapes)]
    gradients = [[drawn(seed + 10 * step + number, *shape) for number, shape in enumerate(shapes)] for step in (1, 2)]
    gradients.append([None, gradients[0][1], None])
    options = {"weight_decay": decay, "momentum": 0.9, "nesterov": nesterov}
    ours, optimizer = stepped(CpuMuon, matrices, gradients, **options)
    theirs, reference = stepped(torch.optim.Muon, matrices, gradients, **options)
    for before, mine, other, lr in zip(matrices, ours, theirs, (0.1, 0.02, 0.02), strict=True):
        assert (mine - before).norm() > lr
        assert (mine - other).norm() < 0.05 * (other - before).norm()
    states = [each.state_dict()["state"] for each in (optimizer, reference)]
    for number in range(3):
        torch.testing.assert_close(states[0][number], states[1][number])


def test_checkpoint_of_torch_muon_can_be_resumed():
    matrices = [drawn(1, 4, 4), drawn(2, 4, 4)]
    gradients = [[drawn(3, 4, 4), drawn(4, 4, 4)]]
    _, saved = stepped(torch.optim.Muon, matrices, gradients)
    _, resumed = stepped(CpuMuon, matrices, [])
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    [first, _] = resumed.param_groups
    [matrix] = first["params"]
    before = resumed.state[matrix]["momentum_buffer"].clone()
    matrix.grad = torch.ones(4, 4)
    resumed.step()
    torch.testing.assert_close(resumed.state[matrix]["momentum_buffer"], 0.95 * before + 0.05)


def test_weights_keep_their_dtype_and_closure_loss_is_returned():
    matrix = torch.nn.Parameter(drawn(0, 4, 4).bfloat16())
    optimizer = CpuMuon([matrix], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = matrix.sum()
        loss.backward()
        return loss

    before = matrix.detach().clone()
    assert optimizer.step(closure) == before.sum()
    assert matrix.dtype == torch.bfloat16 and not matrix.equal(before)
