#!/bin/sh
# transformers 5.23.0: Qwen2-VL's image processor shrinks a strip of 14 pixels' height to a third, and not one of 15.
#
# The image processor rounds the sides of an image to multiples of 28 pixels, and enlarges an image whose rounded area is
# below `shortest_edge`. A height of at most 14 pixels is rounded to 0, so that the area of the image is taken for 0. The
# step that should enlarge it then scales the whole image to the minimum area, whatever its width: a strip of 2600 x 14,
# which has eleven times the minimum area, is reduced to 784 x 28. One more pixel, and it keeps its width. Segments that
# are cut around a line of text look like this. Qwen2.5-VL, Qwen3-VL and Qwen3.5 use the same image processor.
# With the limits of Qwen2.5-VL's files (3136 and 12845056 pixels), seen on 2026-12-01:
#
#     2600 x 13: 29 tokens
#     2600 x 14: 28 tokens
#     2600 x 15: 93 tokens
#     2600 x 28: 93 tokens
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow
cat > "$folder/strips.py" <<'PYTHON'
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3_136, "longest_edge": 12_845_056})
for height in (13, 14, 15, 28):
    grid = processor(images=[Image.new("RGB", (2600, height))], return_tensors="pt")["image_grid_thw"]
    print(f"2600 x {height}: {int(grid.prod()) // processor.merge_size**2} tokens")
PYTHON
"$folder/venv/bin/python" "$folder/strips.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
2600 x 13: 29 tokens
2600 x 14: 28 tokens
2600 x 15: 93 tokens
2600 x 28: 93 tokens
TEXT
diff "$folder/expected" "$folder/seen"
