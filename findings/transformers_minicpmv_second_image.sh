#!/bin/sh
# transformers 5.23.0 with torch 2.13.0: MiniCPM-V 4.6 sees an image differently if another image stands before it.
#
# The vision tower of MiniCPM-V 4.6 takes the patches of all images of a call in one row, with the rows and columns of each
# image in `target_sizes`. In its default mode, `16x`, the features of an image depend on its place: the first image has
# the features that it has alone, every later one has others, by more than the largest value of the features. The same
# image given three times has three different features. In the mode `4x`, which leaves out the merger in the middle of the
# tower, all places agree. The attention implementation (`eager` or `sdpa`) makes no difference. A model that is trained on
# several images in a prompt, or in batches, therefore learns from features that depend on the order of the images.
# For an image of 8 x 8 patches and a tower of two layers with random weights, seen on 2026-12-01:
#
#     16x: places with the features of the image alone: [True, False, False]
#     4x: places with the features of the image alone: [True, True, True]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow
cat > "$folder/places.py" <<'PYTHON'
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

logging.set_verbosity_error()
small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
config = AutoConfig.for_model(
    "minicpmv4_6",
    vision_config={**small, "patch_size": 14, "image_size": 980},
    text_config={**small, "num_key_value_heads": 2, "vocab_size": 64, "head_dim": 16},
)
torch.manual_seed(0)
model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval().base_model
ROWS = COLUMNS = 8
image = torch.randn(1, 3, 14, 14 * ROWS * COLUMNS)


@torch.no_grad()
def features(number, mode):
    """The features of the same image, given `number` times in one call."""
    sizes = torch.tensor([[ROWS, COLUMNS]] * number, dtype=torch.int32)
    output = model.get_image_features(torch.cat([image] * number, dim=3), sizes, downsample_mode=mode)
    return torch.cat(list(output.pooler_output)).reshape(number, -1)


for mode in ("16x", "4x"):
    [alone] = features(1, mode)
    places = [torch.allclose(place, alone, atol=1e-5) for place in features(3, mode)]
    print(f"{mode}: places with the features of the image alone: {places}")
PYTHON
"$folder/venv/bin/python" "$folder/places.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
16x: places with the features of the image alone: [True, False, False]
4x: places with the features of the image alone: [True, True, True]
TEXT
diff "$folder/expected" "$folder/seen"
