#!/bin/sh
# transformers 5.23.0 with torch 2.13.0: the name of a registered attention function decides how often it is called.
#
# Vision towers of Qwen2.5-VL attend within windows. Transformers calls an attention function that was registered with
# `AttentionInterface.register` once for each window of each layer, unless the word "flash" occurs anywhere in its name:
# then it is called once for each layer, with the boundaries of all windows in `cu_seq_lens_q`. Nothing else about the
# function is looked at. The same function under the names `within_windows` and `not_a_flash_kernel` gives the same
# features. (The tower's own `set_attn_implementation` refuses the second name, because it looks for a kernel of that
# name on the hub; the model's method for its parts does not look.) For one image of 16 x 24 patches and a tower of four
# blocks, of which one sees the whole image, seen on 2026-12-01:
#
#     within_windows: 19 calls, boundaries given in 0
#     not_a_flash_kernel: 4 calls, boundaries given in 4
#     largest difference of the features: 0.0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow
cat > "$folder/calls.py" <<'PYTHON'
import torch
from transformers import AttentionInterface, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging

logging.set_verbosity_error()
calls = []


def attention(module, query, key, value, attention_mask, cu_seq_lens_q=None, **settings):
    calls.append(cu_seq_lens_q is not None)
    lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **settings)[0] for part in parts], dim=1), None


vision = {"depth": 4, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16,
          "fullatt_block_indexes": [3]}
text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 16, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
torch.manual_seed(0)
config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=5, video_token_id=6)
model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
tower = model.model.visual
pixels, grid = torch.randn(16 * 24, 3 * 2 * 14 * 14), torch.tensor([[1, 16, 24]])
features = []
for name in ("within_windows", "not_a_flash_kernel"):
    AttentionInterface.register(name, attention)
    model.set_attn_implementation({"vision_config": name})
    calls.clear()
    with torch.no_grad():
        features.append(tower(pixels, grid_thw=grid).pooler_output)
    print(f"{name}: {len(calls)} calls, boundaries given in {sum(calls)}")
print(f"largest difference of the features: {float((features[0] - features[1]).abs().max())}")
PYTHON
"$folder/venv/bin/python" "$folder/calls.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
within_windows: 19 calls, boundaries given in 0
not_a_flash_kernel: 4 calls, boundaries given in 4
largest difference of the features: 0.0
TEXT
diff "$folder/expected" "$folder/seen"
