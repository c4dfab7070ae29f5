"""Attention within samples, images and windows: the same bits as segment by segment, with fewer calls."""

from collections import Counter
from contextlib import contextmanager
from itertools import accumulate, pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from plugins.model.chat import segment_attention as attention
from plugins.model.chat import vision_tower
from plugins.model.chat.vision_tower import PatchProjection, prepare_attention


def _tensors(length, heads=2, key_heads=2, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, count, length, width) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def _one_by_one(layer, tensors, lengths, **told):
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in tensors), strict=True)
    return torch.cat([sdpa_attention_forward(layer, *part, None, **told)[0] for part in parts], dim=1)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    key_heads=st.sampled_from([1, 2, 4]),
    is_causal=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_output_and_gradients_have_the_bits_of_one_call_per_segment(lengths, key_heads, is_causal):
    layer = SimpleNamespace(is_causal=is_causal, num_key_value_groups=4 // key_heads)
    results = []
    for compute in (_one_by_one, lambda layer, tensors, lengths: attention.segment_attention(layer, *tensors, lengths)):
        tensors = _tensors(sum(lengths), heads=4, key_heads=key_heads)
        output = compute(layer, tensors, lengths)
        output.square().sum().backward()
        results.append([output, *(tensor.grad for tensor in tensors)])
    for expected, actual in zip(*results, strict=True):
        assert actual.equal(expected)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_a_layout_covers_every_position_once(lengths):
    layout = attention._layout(tuple(lengths), torch.device("cpu"))
    assert Counter(dict((length, number) for number, length in layout.batches)) == Counter(lengths)
    assert layout.boundaries.tolist() == list(accumulate(lengths, initial=0))
    assert layout.longest == max(lengths)
    if layout.order is None:
        assert sorted(lengths, key=lengths.index) == lengths
    else:
        positions = torch.arange(sum(lengths))
        assert positions[layout.order][layout.restore].equal(positions)
        spans = [list(range(*span)) for span in pairwise(layout.boundaries.tolist())]
        moved = [place for length in dict.fromkeys(lengths) for span in spans if len(span) == length for place in span]
        assert layout.order.tolist() == moved


def test_a_layout_that_was_made_for_generation_serves_the_training_too():
    layer, lengths = SimpleNamespace(is_causal=True), [3, 5, 3]
    with torch.inference_mode():
        attention.segment_attention(layer, *_tensors(11), lengths)
    tensors = _tensors(11)
    attention.segment_attention(layer, *tensors, lengths).sum().backward()
    assert all(tensor.grad is not None for tensor in tensors)


@contextmanager
def _as_on_a_gpu(monkeypatch, precision=torch.bfloat16):
    """Let the attention see tensors as on a GPU, where it computes in half precision."""
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_half_precision", lambda value: precision)
        yield patch


@pytest.mark.parametrize("is_causal", [False, True])
def test_on_a_gpu_one_call_of_torch_covers_all_segments(monkeypatch, is_causal):
    assert attention.has_varlen_attention()  # the arguments exist in the torch that the tests install
    calls = []

    def varlen(query, key, value, boundaries, key_boundaries, longest, longest_key, **told):
        calls.append((boundaries.tolist(), boundaries.dtype, key_boundaries is boundaries, longest, longest_key, told))
        assert (query.shape, key.shape, query.dtype) == ((10, 4, 8), (10, 2, 8), torch.bfloat16)
        layer = SimpleNamespace(is_causal=told["window_size"] == (-1, 0), num_key_value_groups=2)
        rows = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
        return _one_by_one(layer, rows, boundaries.diff().tolist(), scaling=told["scale"])[0]

    layer = SimpleNamespace(is_causal=is_causal, num_key_value_groups=2)
    tensors = _tensors(10, heads=4, key_heads=2)
    expected = attention.segment_attention(layer, *tensors, [4, 1, 5], scaling=0.3)
    with _as_on_a_gpu(monkeypatch) as patch:
        patch.setattr(attention, "varlen_attn", varlen)
        patch.setattr(attention, "has_varlen_attention", lambda: True)
        output = attention.segment_attention(layer, *tensors, [4, 1, 5], scaling=0.3)
    window = (-1, 0) if is_causal else (-1, -1)
    told = {"scale": 0.3, "window_size": window, "enable_gqa": True}
    assert calls == [([0, 4, 5, 10], torch.int32, True, 5, 5, told)]
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.05)


def test_without_torch_s_own_an_installed_flash_attention_is_used(monkeypatch):
    told = {}

    def flash(module, query, key, value, mask, **settings):
        told.update(settings)
        return query.transpose(1, 2), None

    with _as_on_a_gpu(monkeypatch) as patch:
        patch.setattr(attention, "has_varlen_attention", lambda: False)
        patch.setattr(attention, "is_flash_attn_2_available", lambda: True)
        patch.setattr(attention, "flash_attention_forward", flash)
        attention.segment_attention(SimpleNamespace(is_causal=True), *_tensors(5), [2, 3], scaling=0.5)
    assert told.pop("cu_seq_lens_q").tolist() == told.pop("cu_seq_lens_k").tolist() == [0, 2, 5]
    assert told == {"scaling": 0.5, "is_causal": True, "max_length_q": 3, "max_length_k": 3}


def test_dropout_is_left_to_sdpa(monkeypatch):
    with _as_on_a_gpu(monkeypatch) as patch:
        patch.setattr(attention, "varlen_attn", None)  # calling it would fail
        tensors = _tensors(5)
        attention.segment_attention(SimpleNamespace(is_causal=True), *tensors, [2, 3], dropout=0.1)


def _deep_model():
    """A model with the vision tower's depth, windows and layers with whole images of Qwen2.5-VL-7B, but narrow."""
    vision = {"depth": 32, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 28,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]},
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=5, video_token_id=6)
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")


PICTURES = torch.tensor([[1, 72, 74], [1, 20, 16], [1, 16, 24], [1, 12, 12], [1, 24, 14]])
"""A picture of a megapixel and four segments, in patches of 14 pixels: 95 windows."""


def _inputs():
    num_patches = int(PICTURES.prod(dim=1).sum())
    ids = torch.full((1, num_patches // 4 + 4), 5)
    ids[0, -4:] = 7
    pixels = torch.randn(num_patches, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    return {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": PICTURES, "position_ids": positions}


class _Calls(TorchFunctionMode):
    """Counts attention calls, and calls that would wait for a GPU."""

    WAITS = frozenset(
        {"item", "tolist", "__bool__", "__int__", "__float__", "__format__", "nonzero", "unique_consecutive"}
    )

    def __init__(self):
        super().__init__()
        self.attention, self.waits, self.is_host = 0, [], False

    def __torch_function__(self, function, types, arguments=(), told=None):
        name = getattr(function, "__name__", "")
        if not self.is_host:
            self.attention += name == "scaled_dot_product_attention"
            is_mask = name == "__getitem__" and getattr(arguments[1], "dtype", None) == torch.bool
            if name in self.WAITS or is_mask or (name == "repeat_interleave" and torch.is_tensor(arguments[1])):
                self.waits.append(name)
        return function(*arguments, **(told or {}))


def test_the_vision_tower_of_the_7b_calls_attention_once_for_windows_of_equal_size(monkeypatch):
    model, inputs = _deep_model(), _inputs()
    results = []
    for is_prepared in (False, True):
        if is_prepared:
            assert prepare_attention(model)
        calls = _Calls()
        add_inputs = vision_tower._host_inputs

        def on_the_host(*arguments, calls=calls, add_inputs=add_inputs):
            calls.is_host = True  # tensors on the CPU, whatever the device
            calls.waits.append("sizes of the images")
            made = add_inputs(*arguments)
            calls.is_host = False
            return made

        monkeypatch.setattr(vision_tower, "_host_inputs", on_the_host)
        model.zero_grad()
        with calls:
            hidden = model.model(**inputs, use_cache=False).last_hidden_state
        monkeypatch.undo()
        hidden.square().sum().backward()
        results.append([hidden, *(parameter.grad for parameter in model.model.parameters())])
        if is_prepared:
            assert calls.attention <= 200, calls.attention
            assert len(calls.waits) <= 4, calls.waits
        else:
            assert calls.attention > 2_600
            assert len(calls.waits) > 40
    for expected, actual in zip(*results, strict=True):
        assert actual.equal(expected)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_patch_embedding_is_a_matrix_product(seed):
    torch.manual_seed(seed)
    convolution = torch.nn.Conv3d(3, 32, (2, 14, 14), (2, 14, 14), bias=bool(seed % 2))
    patches = torch.randn(20, 3, 2, 14, 14).requires_grad_()
    results = []
    for compute in (convolution, lambda patches: PatchProjection.as_product(convolution, patches)):
        convolution.zero_grad()
        patches.grad = None
        output = compute(patches)
        output.square().sum().backward()
        results.append([output, patches.grad, *(parameter.grad.clone() for parameter in convolution.parameters())])
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        # Sums of 1,176 products, in another order.
        bound = 4 * 1_176**0.5 * torch.finfo(torch.float32).eps * expected.abs().max()
        assert (actual - expected).abs().max() <= bound


def test_a_prepared_patch_embedding_keeps_its_weights_and_on_a_cpu_its_bits(build_smoke):
    projection = build_smoke().module.model.visual.patch_embed.proj
    assert isinstance(projection, PatchProjection)
    assert [name for name, _ in projection.named_parameters()] == ["weight"]
    patches = torch.randn(5, *projection.weight.shape[1:])
    expected = torch.nn.functional.conv3d(patches, projection.weight, None, projection.stride)
    assert projection(patches).equal(expected)
