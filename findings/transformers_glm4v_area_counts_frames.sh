#!/bin/sh
# transformers 5.23.0: the limits of GLM-4.1V's image processor hold half of the pixels that Qwen2-VL's hold.
#
# Both image processors have `size: {shortest_edge, longest_edge}`, limits of the area of an image in pixels, and both turn
# a still image into two equal frames of a temporal patch. Qwen2-VL's compares height x width with the limits; GLM-4.1V's
# compares height x width x frames. A limit that is copied from one family to the other, or computed as tokens times
# the area of a token, therefore gives half of the tokens. With the files of GLM-4.1V-9B (`longest_edge: 9633792`), an image
# has at most 6,144 tokens of 28 x 28 pixels, not 12,288. For an image of 4000 x 3000 and three limits, seen on 2026-12-01:
#
#     longest_edge 1003520: Qwen2-VL 1230 tokens, GLM-4.1V 609
#     longest_edge 4816896: Qwen2-VL 6030 tokens, GLM-4.1V 3072
#     longest_edge 9633792: Qwen2-VL 12288 tokens, GLM-4.1V 6030
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow
cat > "$folder/tokens.py" <<'PYTHON'
from PIL import Image
from transformers import Glm4vImageProcessorPil, Qwen2VLImageProcessorPil

photograph = Image.new("RGB", (4000, 3000))


def num_tokens(image_processor_class, longest_edge):
    processor = image_processor_class(size={"shortest_edge": 12_544, "longest_edge": longest_edge})
    grid = processor(images=[photograph], return_tensors="pt")["image_grid_thw"]
    return int(grid.prod()) // processor.merge_size**2


for longest_edge in (1_003_520, 4_816_896, 9_633_792):
    qwen, glm = (num_tokens(each, longest_edge) for each in (Qwen2VLImageProcessorPil, Glm4vImageProcessorPil))
    print(f"longest_edge {longest_edge}: Qwen2-VL {qwen} tokens, GLM-4.1V {glm}")
PYTHON
"$folder/venv/bin/python" "$folder/tokens.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
longest_edge 1003520: Qwen2-VL 1230 tokens, GLM-4.1V 609
longest_edge 4816896: Qwen2-VL 6030 tokens, GLM-4.1V 3072
longest_edge 9633792: Qwen2-VL 12288 tokens, GLM-4.1V 6030
TEXT
diff "$folder/expected" "$folder/seen"
